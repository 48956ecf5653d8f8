"""The training loop: photos in, checkpoint out; resumable to the step; one process or several (torchrun)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from ..nn.ms_ssim import Original
from . import checkpoints, data
from .initial import new_objective
from .learned_tables import LearnedTables
from .objective import Objective
from .optimisers import limit_gradients, optimisers, set_rates
from .settings import Settings
from .validation import autocast, validate

# Steps; on CUDA its many small sums would be 3 % of all.  As often the ranks agree on the time.
ALLOCATE_EVERY = 8
Tensors = tuple[Tensor, ...] | list[Tensor]


def relative_cost(rd: Tensor, quality: Tensor, settings: Settings) -> Tensor:
    """What rate and distortion together, bits per pixel (B,), cost in training.

    A log, so that a tenth less counts alike in every picture and at every quality, as in a BD-rate: the sum of R-D is
    mostly that of busy pictures at high quality.  Half of what is typical is added, lest empty crops outweigh all.
    """
    typical = settings.typical * settings.encoder.distortion.weight(quality).sqrt()
    return torch.log(rd + typical / 2)


class Run:
    """A training run: the objective, its running mean, its optimisers and how far it has come."""

    def __init__(self, settings: Settings, device: torch.device, klt: Any, resume: dict[str, Any] | None) -> None:
        self.settings, self.device, self.step = settings, device, 0
        self.seconds = 0.0  # by the clock, before this process
        self.objective = new_objective(settings, klt)
        self._resume = resume

    def begin(self, checkpoint: Path) -> None:
        """Move to the device and make optimisers; go on from `resume` where it was given."""
        objective, resume = self.objective, self._resume
        objective.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimisers = optimisers(objective, self.settings)
        parts = math.ceil(self.settings.batch / (self.settings.crops_at_once or self.settings.batch))
        for tables in objective.tables:
            assert isinstance(tables, LearnedTables)
            tables.passes *= parts  # the memory of what errors cost is one of steps
        if resume is not None:
            checkpoints.restore(objective, resume.get("live", resume["objective"]), checkpoint)
            for optimiser, state in zip(self.optimisers, resume["optimisers"], strict=True):
                scales = [group["scale"] for group in optimiser.param_groups]
                optimiser.load_state_dict(state)
                for group, scale in zip(optimiser.param_groups, scales, strict=True):
                    group["scale"] = scale  # of these settings, not of those it was saved with
            self.step, self.seconds = resume["step"], resume.get("seconds", 0.0)
        self.average = AveragedModel(objective, multi_avg_fn=self._follow)
        if resume is not None:
            checkpoints.restore(self.mean, resume["objective"], checkpoint)
            self.average.n_averaged.fill_(self.step)
        self._resume = None

    @property
    def mean(self) -> Objective:
        """The objective with the running mean of the weights."""
        module = self.average.module
        assert isinstance(module, Objective)
        return module

    def _follow(self, mean: Tensors, today: Tensors, _: Tensor | int) -> None:
        # by our own count of steps: theirs lies on the device, and to read it would wait for the device
        torch._foreach_lerp_(mean, today, self.settings.average_share(self.step))

    def snapshot(self, seconds: float) -> dict[str, Any]:
        """For `checkpoints.save`."""
        return {
            "objective": self.mean.state_dict(),
            "live": self.objective.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "step": self.step,
            "seconds": seconds,
            "settings": json.dumps(self.settings.to_dict()),
        }

    def take_step(self, module: nn.Module, x: Tensor, quality: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """One step on a batch of uint8 crops, at `factor` of the full rate.

        module: the objective, or what distributes it.  Returns means of rate, distortion and codebook loss (3,), and 1
        if the step was skipped as its gradient was not finite, else 0.
        """
        set_rates(self.optimisers, self.settings, factor)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        at_once = self.settings.crops_at_once or len(x)
        sums = torch.zeros(3, device=self.device)
        for crops, q in zip(torch.split(x, at_once), torch.split(quality, at_once), strict=True):
            loss, figures = self._loss(module, crops, q)
            (loss * (len(crops) / len(x))).backward()  # type: ignore[no-untyped-call]
            sums += figures * (len(crops) / len(x))
        not_finite = limit_gradients(self.objective, self.settings.clip)
        for optimiser in self.optimisers:
            optimiser.found_inf = not_finite  # type: ignore[attr-defined]
            optimiser.step()
        self._share_error_costs()
        if self.step % ALLOCATE_EVERY == 0:
            self.objective.allocate(min(1.0, ALLOCATE_EVERY * self.settings.allocation) * factor)
        self.average.update_parameters(self.objective)
        self.step += 1
        return sums, not_finite

    def _loss(self, module: nn.Module, crops: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        x = crops.float().div_(255).contiguous(memory_format=torch.channels_last)
        with autocast(self.device):
            decoded, bits, codebook_loss = module(x, quality)
        area = x[0, 0].numel()  # pixels of a crop
        rate = bits.sum(0) / area
        distortion = self.settings.encoder.distortion.of(decoded.float(), Original(x), quality)
        cost = relative_cost(rate + distortion, quality, self.settings)
        codebook_loss = codebook_loss / (len(x) * area)
        figures = torch.stack([part.detach().mean() for part in (rate, distortion, codebook_loss)])
        return cost.mean() + self.settings.codebook_loss * codebook_loss, figures

    def _share_error_costs(self) -> None:
        """Let all ranks have the mean of what errors cost."""
        if not dist.is_initialized():
            return
        for name, running in self.objective.named_buffers():
            if name.endswith("error_cost"):
                dist.all_reduce(running)
                running /= dist.get_world_size()


class Progress:
    """Lines about a run, now and then."""

    def __init__(self, rank: int, every: int) -> None:
        self.rank, self.every = rank, every
        self._forget()

    def say(self, text: str) -> None:
        """Print, in the first process only."""
        if self.rank == 0:
            print(text, flush=True)

    def _forget(self) -> None:
        self.sums: Tensor | float = 0.0
        self.lost: Tensor | float = 0.0
        self.steps, self.mark = 0, time.monotonic()

    def add(self, sums: Tensor, lost: Tensor) -> None:
        """Take in a step."""
        self.sums, self.lost, self.steps = self.sums + sums, self.lost + lost, self.steps + 1

    def report(self, step: int, crops: int, seconds: float, remaining_steps: int, remaining: float) -> None:
        """A line every so many steps; crops of a step; remaining: seconds until a time limit, if any."""
        if step % self.every or not isinstance(self.sums, Tensor):
            return
        rate, distortion, codebook_loss = (self.sums / self.steps).tolist()
        per_second = self.steps / (time.monotonic() - self.mark)
        eta = min(remaining, remaining_steps / per_second)
        self.say(
            f"{step} rate {rate:.4f} distortion {distortion:.4f} rd {rate + distortion:.4f} "
            f"codebook_loss {codebook_loss:.3f} {per_second * crops:.1f} images/s {seconds:.0f} s, "
            f"ETA {eta / 60:.0f} min"
        )
        if count := int(self.lost):
            self.say(f"# {count} steps skipped: their gradient was not finite")
        self._forget()


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
    rank, world, where = _join(device)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(settings.seed)
    torch.backends.cudnn.allow_tf32 = False  # the entropy networks stand for integer ones
    progress = Progress(rank, log_every)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)  # before an hour of training, not after
    val = data.load_validation(val_folder) if val_folder else []
    photos = data.load_photos(photos_folder, settings.crop)
    run = _begun(settings, photos, checkpoint, start_from, where, progress)
    module: nn.Module = nn.parallel.DistributedDataParallel(run.objective) if world > 1 else run.objective

    def say_validation() -> None:
        begun = time.monotonic()
        figures = validate(run.mean, settings, val, where)
        progress.say(f"{run.step} val " + " ".join(f"{k} {v:.4f}" for k, v in figures.items()))
        progress.mark += time.monotonic() - begun  # no part of the speed of training

    crops = data.Crops(photos, settings.crop, settings.batch, settings.seed, rank, settings.shrink)
    first, saved = run.step, time.monotonic()
    began = saved - (run.seconds if within else 0.0)
    limit, seconds = stop_after_minutes * 60, 0.0
    last = sys.maxsize if within else settings.steps
    for x, quality in crops.batches(range(run.step, last), where, data.loaders(where)):
        if world == 1 or (run.step - first) % ALLOCATE_EVERY == 0:
            seconds = _agreed(time.monotonic() - began, where)
        if seconds >= limit:
            break
        factor = settings.rate_factor(run.step, seconds / limit if within else run.step / settings.steps)
        progress.add(*run.take_step(module, x, quality, factor))
        now = time.monotonic()
        progress.report(run.step, settings.batch * world, now - began, last - run.step, limit - (now - began))
        if val and run.step % validate_every == 0 and rank == 0:
            say_validation()
        if rank == 0 and now - saved > checkpoint_minutes * 60:
            checkpoints.save(checkpoint, run.snapshot(now - began))
            saved = now
    if rank == 0:
        checkpoints.save(checkpoint, run.snapshot(time.monotonic() - began))
        if val:
            say_validation()
    if world > 1:
        dist.destroy_process_group()


def _begun(
    settings: Settings,
    photos: list[Any],
    checkpoint: Path,
    start_from: Path | None,
    where: torch.device,
    progress: Progress,
) -> Run:
    """The run of a checkpoint or a new one, and what it says of itself."""
    resume = checkpoints.read(checkpoint) if checkpoint.exists() else None
    klt = data.klt(photos, settings.model.channels(1)) if resume is None else None
    run = Run(settings, where, klt, resume)
    if start_from is not None and resume is None:
        partial = checkpoints.load_matching(run.objective, checkpoints.read_state(start_from))
        progress.say(f"# from {start_from}" + (f", new in whole or part: {', '.join(partial)}" if partial else ""))
    run.begin(checkpoint)
    parameters = sum(p.numel() for part in (run.objective.decoder, run.objective.encoder) for p in part.parameters())
    pixels = sum(p.shape[0] * p.shape[1] for p in photos)
    progress.say(
        f"# {len(photos)} photos, {pixels / 1e6:.0f} MP; {parameters / 1e6:.2f} M parameters; from step {run.step}"
    )
    progress.say(f"# {json.dumps(settings.to_dict())}")
    return run


def _join(device: str) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device of this one; under torchrun it joins the others."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    where = torch.device(device)
    if world > 1:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
        if where.type == "cuda":
            where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(where)
    return rank, world, where


def _agreed(seconds: float, where: torch.device) -> float:
    """Seconds by the clock of the first process: were one to stop alone, the others would wait for it."""
    if not dist.is_initialized():
        return seconds
    told = torch.tensor(seconds, device=where)
    dist.broadcast(told, 0)
    return float(told)


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
