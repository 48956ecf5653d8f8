"""What an error in the picture costs, in bits: what training and latent refinement minimise beside the rate."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..metrics import LEAST_MSSSIM_SIDE
from ..nn.ms_ssim import Original, ms_ssim

ANCHORS = 1, 8  # qualities of `lambda_low` and `lambda_high`
MSSSIM_SCALE = 2440.0  # makes both parts of the distortion weigh about the same at the same rate


@dataclasses.dataclass(frozen=True)
class Distortion:
    """lambda ((1 - s) 255^2 MSE + s 2440 (1 - MS-SSIM)), bits per pixel; lambda and the share s go with the quality.

    lambda is log-spaced from lambda_low (quality 1) to lambda_high (8); s is `msssim` at quality 1 and `msssim_growth`
    more for each quality above.
    """

    lambda_low: float = 0.00082
    lambda_high: float = 0.034
    msssim: float = 0.6
    msssim_growth: float = -0.04

    def __post_init__(self) -> None:
        ends = self.msssim, self.msssim + (ANCHORS[1] - ANCHORS[0]) * self.msssim_growth
        if not 0 <= min(ends) <= max(ends) <= 1:
            raise ValueError(f"msssim and msssim_growth must keep the share in 0..1, quality 1 to 8 would have {ends}")

    def weight(self, quality: Tensor) -> Tensor:
        """lambda of each quality (any shape)."""
        growth = math.log(self.lambda_high / self.lambda_low) / (ANCHORS[1] - ANCHORS[0])
        return torch.exp(math.log(self.lambda_low) + growth * (quality - 1))

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
