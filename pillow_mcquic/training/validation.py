"""What a run is judged by: estimated rate and distortion over whole photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..engine.device import bfloat16_native
from ..metrics import decibels
from ..nn.reshape import pad_to_multiple
from .objective import Objective
from .settings import Settings


def autocast(device: torch.device) -> torch.autocast:
    """Context in which training's networks run: bfloat16 where it is fast."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16_native(device))


@torch.no_grad()
def validate(
    objective: Objective,
    settings: Settings,
    photos: list[Any],
    device: torch.device,
    qualities: Sequence[int] = (1, 3, 5, 8),
) -> dict[str, float]:
    """Rate (bpp), PSNR and MS-SSIM (dB), R-D and its log: means over photos (H, W, 3) uint8 and qualities."""
    import pytorch_msssim

    objective.eval()
    figures: dict[str, list[float]] = {name: [] for name in ("bpp", "psnr", "msssim", "rd", "log_rd")}
    for q in qualities:
        quality = torch.tensor([float(q)], device=device)
        for photo in photos:
            x = torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float() / 255
            H, W = x.shape[2:]
            with autocast(device):
                decoded, bits, _ = objective(pad_to_multiple(x, 16), quality)
            levels = (decoded[:, :, :H, :W].float().clamp(0, 1) * 255).round() / 255
            mse = (levels - x).square().mean()
            similarity = pytorch_msssim.ms_ssim(levels, x, data_range=1.0)
            rate = float(bits.sum()) / (H * W)
            loss = rate + float(settings.encoder.distortion.mixed(mse, similarity, quality))
            figures["bpp"].append(rate)
            figures["psnr"].append(decibels(max(float(mse), 1e-9)))
            figures["msssim"].append(decibels(max(1 - float(similarity), 1e-9)))
            figures["rd"].append(loss)
            figures["log_rd"].append(math.log(loss))
    objective.train()
    return {name: sum(values) / len(values) for name, values in figures.items()}
