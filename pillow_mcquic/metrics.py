"""How near a decoded picture is to its original; both (H, W, 3) uint8."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
STRIP_ROWS = 64  # compared at once: of a large picture differences would take several times its memory


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over all samples, dB; infinite for equal pictures."""
    squares = 0
    for i in range(0, len(a), STRIP_ROWS):
        strip = slice(i, i + STRIP_ROWS)
        squares += int(np.square(a[strip].astype(np.int32) - b[strip]).sum(dtype=np.int64))
    mse = squares / a.size
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def msssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale SSIM over RGB as -10 log10(1 - x), dB; needs pytorch-msssim, and sides above 160."""
    import torch
    from pytorch_msssim import ms_ssim

    x, y = (torch.from_numpy(v.copy()).permute(2, 0, 1)[None].float() for v in (a, b))
    return -10 * math.log10(max(1e-10, 1 - float(ms_ssim(x, y, data_range=255))))


def ssimulacra2(a: Pixels, b: Pixels) -> float:
    """SSIMULACRA2: 90 and more is hard to tell from the original, 50 medium, below 0 very low; needs its package."""
    from ssimulacra2 import compute_ssimulacra2

    files = [io.BytesIO(), io.BytesIO()]
    for pixels, file in zip((a, b), files, strict=True):
        Image.fromarray(pixels).save(file, "BMP")
    return float(compute_ssimulacra2(*files))
