"""What an error in the picture costs, in bits: what training and latent refinement minimise beside the rate."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.grids import SQUARE
from ..metrics import LEAST_MSSSIM_SIDE
from ..nn.ms_ssim import C2, WEIGHTS, Original, ms_ssim

ANCHORS = 1, 8, 10  # qualities of `lambda_low`, `lambda_high` and `lambda_highest`
BY_SQUARE_SCALES = 4  # of MS-SSIM that `by_square` looks at
MSSSIM_SCALE = 2440.0  # makes both parts of the distortion weigh about the same at the same rate


@dataclasses.dataclass(frozen=True)
class Distortion:
    """lambda ((1 - s) 255^2 MSE + s 2440 (1 - MS-SSIM)), bits per pixel; lambda and the share s go with the quality.

    lambda is log-spaced from lambda_low (quality 1) to lambda_high (8), and faster from there to lambda_highest (10);
    s is `msssim` at quality 1 and `msssim_growth` more for each quality above.
    """

    lambda_low: float = 0.00082
    lambda_high: float = 0.034
    lambda_highest: float = 0.3
    msssim: float = 0.6
    msssim_growth: float = -0.04

    def __post_init__(self) -> None:
        ends = self.msssim, self.msssim + (ANCHORS[-1] - ANCHORS[0]) * self.msssim_growth
        if not 0 <= min(ends) <= max(ends) <= 1:
            raise ValueError(f"msssim and msssim_growth must keep the share in 0..1, quality 1 to 10 would have {ends}")

    def weight(self, quality: Tensor) -> Tensor:
        """lambda of each quality (any shape)."""
        growth = math.log(self.lambda_high / self.lambda_low) / (ANCHORS[1] - ANCHORS[0])
        beyond = math.log(self.lambda_highest / self.lambda_high) / (ANCHORS[2] - ANCHORS[1])
        low = torch.exp(math.log(self.lambda_low) + growth * (quality - ANCHORS[0]))
        high = torch.exp(math.log(self.lambda_high) + beyond * (quality - ANCHORS[1]))
        return torch.where(quality > ANCHORS[1], high, low)

    def share(self, quality: Tensor) -> Tensor:
        """Share of MS-SSIM at each quality (any shape)."""
        return self.msssim + self.msssim_growth * (quality - 1)

    def of(self, decoded: Tensor, original: Original, quality: Tensor) -> Tensor:
        """What each decoded picture costs, bits per pixel (B,), with gradients.

        decoded: (B, 3, H, W) float32, about 0..1.  Below sides of 161 the MSE takes MS-SSIM's share.
        """
        decoded = decoded.contiguous()  # as the original is: rows of pixels, one plane after another
        mse = (decoded - original.picture).square().mean((1, 2, 3))
        if min(decoded.shape[2:]) < LEAST_MSSSIM_SIDE or self.msssim == self.msssim_growth == 0:
            return self.weight(quality) * mse * 255**2
        return self.mixed(mse, ms_ssim(decoded, original), quality)

    def mixed(self, mse: Tensor, similarity: Tensor, quality: Tensor) -> Tensor:
        """The distortion of an MSE (of 0..1) and an MS-SSIM."""
        share = self.share(quality)
        return self.weight(quality) * ((1 - share) * mse * 255**2 + share * MSSSIM_SCALE * (1 - similarity))

    def by_square(self, decoded: Tensor, original: Tensor, quality: Tensor) -> Tensor:
        """About how much of `of` each square of 16x16 pixels causes, bits (h, w).

        decoded, original: (1, 3, h * 16, w * 16), 0..1; quality: of one picture.  MS-SSIM is a product over scales of
        means; near 1 it is one less the weighted sum of what each place lacks at each scale, and that is taken here,
        under windows of 8x8 pixels.
        """
        weight, share = float(self.weight(quality)), float(self.share(quality))
        squared = 255**2 * F.avg_pool2d((decoded - original).square().mean(1, keepdim=True), SQUARE)
        if min(decoded.shape[2:]) < LEAST_MSSSIM_SIDE:
            return weight * SQUARE**2 * squared[0, 0]
        lacking = torch.zeros_like(squared)
        a, b = decoded, original
        for scale in range(BY_SQUARE_SCALES):
            if scale:
                a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            maps = window_means(torch.cat([a, b, a.square() + b.square(), a * b]))
            mean_a, mean_b, squares, product = torch.split(maps, 1)
            structure = (2 * (product - mean_a * mean_b) + C2) / (squares - mean_a.square() - mean_b.square() + C2)
            lost = F.interpolate((1 - structure).mean(1, keepdim=True), squared.shape[2:], mode="area")
            lacking += lost * (sum(WEIGHTS[scale:]) if scale == BY_SQUARE_SCALES - 1 else WEIGHTS[scale])
        return (weight * SQUARE**2 * ((1 - share) * squared + share * MSSSIM_SCALE * lacking))[0, 0]


def window_means(x: Tensor) -> Tensor:
    """Means under windows of 8x8 pixels, every 4; sides are multiples of 2, at the border there are fewer pixels."""
    quarters = F.avg_pool2d(x, 4, ceil_mode=True)
    return F.avg_pool2d(F.pad(quarters, (1, 1, 1, 1), mode="replicate"), 2, stride=1)
