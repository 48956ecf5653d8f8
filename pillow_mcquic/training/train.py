"""The training loop: photos in, checkpoint out; resumable to the step; one process or several (torchrun)."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..model.distortion import QUALITIES
from ..model.ms_ssim import Original
from . import data, start
from .muon import Muon
from .objective import Objective, new_objective
from .settings import Settings

# Where a change shows at once: matrices between pixels or level 1 and the networks of both transforms, but for
# analysis' first, and those that write the features of which pixels are made (docs/training-log.md, run 23)
EXPOSED = re.compile(
    r"model\.(analysis_head|synthesis_16\.0|synthesis_8\.\d+\.(leave|contract)|synthesis_head)\.weight"
)

# Steps; on CUDA its many small sums would be 3 % of all.  As often the ranks agree on the time.
ALLOCATE_EVERY = 8


def untrained(settings: Settings, klt: tuple[Tensor, Tensor, Tensor] | None = None) -> Objective:
    """The objective a run begins with; without `klt` its transforms are empty, to be filled with a state."""
    weights = settings.model.distortion.weight(1.0 + torch.arange(QUALITIES))
    return new_objective(settings.model, klt, weights, settings.lambda_reference)


def optimisers(objective: Objective, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the networks, Adam for everything else; `scale` multiplies a group's rate.

    `EXPOSED` matrices go slowly: a change of the same size costs a hundred times as much there.
    """
    still, slow, tables, rest = [], [], [], []
    exposed, inner = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue  # set by `Objective.allocate`, or fitted at export
        if "klt_synthesis" in name:
            still.append(parameter)
        elif "klt_" in name or ".words." in name:
            slow.append(parameter)
        elif ".logits." in name:
            tables.append(parameter)
        elif name.endswith(".weight") and parameter.ndim == 2:
            (exposed if EXPOSED.fullmatch(name) else inner).append(parameter)
        else:
            rest.append(parameter)
    adam = torch.optim.Adam(
        [
            {"params": rest, "scale": 1.0},
            {"params": slow, "scale": settings.slow},
            {"params": still, "scale": settings.still},
            {"params": tables, "scale": settings.tables},
        ],
        lr=settings.adam_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    muon = Muon(
        [{"params": inner, "scale": 1.0}, {"params": exposed, "scale": settings.slow}],
        lr=settings.muon_rate,
        weight_decay=0.0,
        momentum=0.95,
    )
    return [adam, muon]


def set_rates(opts: list[torch.optim.Optimizer], settings: Settings, factor: float) -> None:
    for optimiser, base in zip(opts, (settings.adam_rate, settings.muon_rate), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = base * group["scale"] * factor


@torch.no_grad()
def follow(average: Objective, objective: Objective, share: float) -> None:
    """Move `average`, a running mean of the weights, by `share` of the way to today's."""
    torch._foreach_lerp_(list(average.parameters()), list(objective.parameters()), share)
    for mean, today in zip(average.buffers(), objective.buffers(), strict=True):
        mean.copy_(today)


@torch.no_grad()
def limit_gradients(module: nn.Module, most: float) -> Tensor:
    """Shorten the gradient to a norm of at most `most`, in place; one that is not finite becomes 0.

    Returns 1 if it was not finite, else 0, (): on the device, as CUDA would idle while it waits for a decision.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    every = torch.cat([gradient.flatten() for gradient in gradients])
    norm = torch.linalg.vector_norm(every)
    finite = norm.isfinite()
    every = torch.where(finite, every * (most / (norm + 1e-6)).clamp(max=1), 0)
    parts = torch.split(every, [gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients, strict=True)])
    return torch.where(finite, 0.0, 1.0)


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)


@torch.no_grad()
def validate(
    objective: Objective,
    settings: Settings,
    photos: list[Any],
    device: torch.device,
    qualities: Sequence[int] = (1, 3, 5, 8),
) -> dict[str, float]:
    """Estimated rate (bpp), PSNR and MS-SSIM (dB), R-D and its log over whole photos and the given qualities, means."""
    import pytorch_msssim

    objective.eval()
    rates, psnrs, msssims, losses = [], [], [], []
    for q in qualities:
        quality = torch.tensor([float(q)], device=device)
        for photo in photos:
            x = torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255
            H, W = x.shape[2:]
            padded = F.pad(x, (0, -W % 16, 0, -H % 16), mode="replicate")
            with autocast(device):
                decoded, bits, _ = objective(padded, quality)
            levels = (decoded[:, :, :H, :W].float().clamp(0, 1) * 255).round() / 255
            mse = (levels - x).square().mean()
            similarity = pytorch_msssim.ms_ssim(levels, x, data_range=1.0)
            rate = float(bits.sum()) / (H * W)
            rates.append(rate)
            psnrs.append(-10 * math.log10(max(float(mse), 1e-9)))
            msssims.append(-10 * math.log10(max(1 - float(similarity), 1e-9)))
            losses.append(rate + float(settings.model.distortion.mixed(mse, similarity, quality)))
    objective.train()
    figures = {
        "bpp": rates,
        "psnr": psnrs,
        "msssim": msssims,
        "rd": losses,
        "log_rd": [math.log(loss) for loss in losses],
    }
    return {k: sum(v) / len(v) for k, v in figures.items()}


def relative_cost(rd: Tensor, quality: Tensor, settings: Settings) -> Tensor:
    """What rate and distortion together, bits per pixel (B,), cost in training.

    A log, so that a tenth less counts alike in every picture and at every quality, as in a BD-rate: the sum of R-D is
    mostly that of busy pictures at high quality.  Half of what is typical is added, lest empty crops outweigh all.
    """
    typical = settings.typical * settings.model.distortion.weight(quality).sqrt()
    return torch.log(rd + typical / 2)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then rename."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def train(
    settings: Settings,
    photos_folder: str,
    checkpoint: Path,
    *,
    val_folder: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    start_from: Path | None = None,
    checkpoint_minutes: float = 5.0,
    validate_every: int = 1000,
    log_every: int = 50,
    stop_after_minutes: float = math.inf,
    within: bool = False,
) -> None:
    """Train to `settings.steps`, from `checkpoint` if it exists, else from `start_from`'s weights or anew.

    within: the whole schedule takes `stop_after_minutes`, those before it was resumed included, however many steps that
    will be.
    Under torchrun every process takes `settings.batch` crops of its own a step (DDP).
    """
    if within and math.isinf(stop_after_minutes):
        raise ValueError("a schedule can be fitted into a time only when one is given: --minutes")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    where = torch.device(device)
    if world > 1:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
        if where.type == "cuda":
            where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(where)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    torch.backends.cudnn.allow_tf32 = False  # the class networks stand for integer ones

    def say(text: str) -> None:
        if rank == 0:
            print(text, flush=True)

    checkpoint.parent.mkdir(parents=True, exist_ok=True)  # before an hour of training, not after
    val = data.load_validation(val_folder) if val_folder else []
    photos = data.load_photos(photos_folder, settings.crop)
    pixels = sum(p.shape[0] * p.shape[1] for p in photos)
    channels = sum(b.groups * b.dim for b in settings.model.level1)
    resume = start.read_checkpoint(checkpoint) if checkpoint.exists() else None
    objective = untrained(settings, data.klt(photos, channels) if resume is None else None)
    if start_from is not None and resume is None:
        partial = start.adopt(objective, *start.read(start_from))
        say(f"# from {start_from}" + (f", new in whole or part: {', '.join(partial)}" if partial else ""))
    objective.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    opts = optimisers(objective, settings)
    step = 0
    if resume is not None:
        start.restore(objective, resume.get("live", resume["objective"]), checkpoint)
        for optimiser, state in zip(opts, resume["optimisers"], strict=True):
            scales = [group["scale"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            for group, scale in zip(optimiser.param_groups, scales, strict=True):
                group["scale"] = scale  # of these settings, not of those it was saved with
        step = resume["step"]
    average = copy.deepcopy(objective)  # what is validated and exported
    if resume is not None:
        start.restore(average, resume["objective"], checkpoint)
    module: nn.Module = nn.parallel.DistributedDataParallel(objective) if world > 1 else objective
    count = sum(p.numel() for p in objective.model.parameters())
    say(f"# {len(photos)} photos, {pixels / 1e6:.0f} MP; {count / 1e6:.2f} M parameters; from step {step}")
    say(f"# {json.dumps(settings.to_dict())}")

    def snapshot() -> dict[str, Any]:
        return {
            "objective": average.state_dict(),
            "live": objective.state_dict(),
            "optimisers": [o.state_dict() for o in opts],
            "step": step,
            "seconds": time.monotonic() - began,
            "settings": json.dumps(settings.to_dict()),
        }

    def say_validation() -> None:
        figures = validate(average, settings, val, where)
        say(f"{step} val " + " ".join(f"{k} {v:.4f}" for k, v in figures.items()))

    crops = data.Crops(photos, settings.crop, settings.batch, settings.seed, rank, settings.shrink)
    first, saved = step, time.monotonic()
    began = saved - (resume.get("seconds", 0.0) if resume is not None and within else 0.0)
    sums, lost, seen, mark = torch.zeros(3, device=where), torch.zeros((), device=where), 0, saved
    limit, seconds = stop_after_minutes * 60, 0.0

    def elapsed() -> float:
        """Seconds, by the clock of the first process: were one to stop alone, the others would wait for it."""
        mine = time.monotonic() - began
        if world > 1:
            told = torch.tensor(mine, device=where)
            dist.broadcast(told, 0)
            mine = float(told)
        return mine

    last = sys.maxsize if within else settings.steps
    for x, quality in crops.batches(range(step, last), where, data.loaders(where)):
        if world == 1 or (step - first) % ALLOCATE_EVERY == 0:
            seconds = elapsed()
        if seconds >= limit:
            break
        factor = settings.rate_factor(step, seconds / limit if within else step / settings.steps)
        set_rates(opts, settings, factor)
        x = x.float().div_(255).contiguous(memory_format=torch.channels_last)
        with autocast(where):
            decoded, bits, codebook_loss = module(x, quality)
        area = x[0, 0].numel()  # pixels of a crop
        rate = bits.sum(0) / area
        distortion = settings.model.distortion.of(decoded.float(), Original(x), quality)
        cost = relative_cost(rate + distortion, quality, settings)
        codebook_loss = codebook_loss / (len(x) * area)
        loss = cost.mean() + settings.codebook_loss * codebook_loss
        for optimiser in opts:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        not_finite = limit_gradients(objective, settings.clip)
        lost += not_finite
        for optimiser in opts:
            optimiser.found_inf = not_finite  # type: ignore[attr-defined]
            optimiser.step()
        if world > 1:
            for name, running in objective.named_buffers():
                if name.endswith("error_cost"):
                    dist.all_reduce(running)
                    running /= world
        if step % ALLOCATE_EVERY == 0:
            objective.allocate(min(1.0, ALLOCATE_EVERY * settings.allocation) * factor)
        follow(average, objective, settings.average_share(step))
        step += 1
        sums += torch.stack([part.detach().mean() for part in (rate, distortion, codebook_loss)])
        seen += 1
        now = time.monotonic()
        if step % log_every == 0:
            r, d, c = (sums / seen).tolist()
            per_second = seen / (now - mark)
            left = limit - (now - began)
            eta = left if within else min(left, (settings.steps - step) / per_second)
            say(
                f"{step} rate {r:.4f} distortion {d:.4f} rd {r + d:.4f} codebook_loss {c:.3f} "
                f"{per_second * settings.batch * world:.1f} images/s {now - began:.0f} s, ETA {eta / 60:.0f} min"
            )
            if count := int(lost):
                say(f"# {count} steps skipped: their gradient was not finite")
            seen, mark = 0, now
            sums.zero_()
            lost.zero_()
        if val and step % validate_every == 0 and rank == 0:
            say_validation()
            mark = time.monotonic()
        if rank == 0 and (now - saved > checkpoint_minutes * 60):
            save(checkpoint, snapshot())
            saved = now
    if rank == 0:
        save(checkpoint, snapshot())
        if val:
            say_validation()
    if world > 1:
        dist.destroy_process_group()


def main(args: Any) -> int:
    """Command `train`; see `__main__.py` for the arguments."""
    settings = Settings.read(args.settings) if args.settings else Settings()
    given = {k: v for k, v in (("steps", args.steps), ("batch", args.batch)) if v is not None}
    settings = dataclasses.replace(settings, **given)
    try:
        train(
            settings,
            args.photos,
            Path(args.checkpoint),
            val_folder=args.val,
            device=args.device,
            threads=args.threads,
            start_from=Path(args.start_from) if args.start_from else None,
            checkpoint_minutes=args.checkpoint_minutes,
            validate_every=args.validate_every,
            stop_after_minutes=args.minutes,
            within=args.within,
        )
    except (OSError, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0
