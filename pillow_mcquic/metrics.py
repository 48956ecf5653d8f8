"""How near a decoded picture is to its original."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # (H, W, 3), or (H, W)
BLOCK_ROWS = 64  # compared at once: of a large picture differences would take several times its memory
LEAST_MSSSIM_SIDE = 161  # pixels
LEAST_SSIMULACRA2_SIDE = 8


def decibels(error: float, peak: float = 1.0) -> float:
    """An error as -10 log10(error / peak), infinite for none."""
    return 10 * math.log10(peak / error) if error else math.inf


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over all samples of two uint8 arrays, dB; infinite for equal pictures."""
    squares = 0
    for top in range(0, len(a), BLOCK_ROWS):
        rows = slice(top, top + BLOCK_ROWS)
        squares += int(np.square(a[rows].astype(np.int32) - b[rows]).sum(dtype=np.int64))
    return decibels(squares / a.size, 255**2)


def msssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale SSIM over RGB as -10 log10(1 - x), dB, for sides above 160; needs pytorch-msssim."""
    import torch
    from pytorch_msssim import ms_ssim

    x, y = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() for pixels in (a, b))
    return decibels(max(1e-10, 1 - float(ms_ssim(x, y, data_range=255))))


def ssimulacra2(a: Pixels, b: Pixels) -> float:
    """SSIMULACRA2: 90 and more is hard to tell from the original, 50 medium, below 0 very low; needs its package."""
    from ssimulacra2 import compute_ssimulacra2

    files = [io.BytesIO(), io.BytesIO()]
    for pixels, file in zip((a, b), files, strict=True):
        Image.fromarray(pixels).save(file, "BMP")
    return float(compute_ssimulacra2(*files))
