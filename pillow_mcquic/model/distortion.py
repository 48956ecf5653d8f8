"""What an error in the picture costs, in bits: what training and the encoder's refinement minimise beside the rate."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

QUALITIES = 8
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Every window of the two finest scales would be three quarters of the work: a few of them have nearly the same mean (on
# decoded crops the figure moves by up to 4e-4, the gradient by 3 to 5 %).
STRIDES = (4, 2, 1, 1, 1)
SHORT_ROW, PIECE = 400, 32  # up to here a row is blurred in one (crops in training), beyond in pieces
LEAST_SIDE = 161  # of a picture that has an MS-SSIM
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
        ends = self.msssim, self.msssim + (QUALITIES - 1) * self.msssim_growth
        if not 0 <= min(ends) <= max(ends) <= 1:
            raise ValueError(f"msssim and msssim_growth must keep the share in 0..1, quality 1 to 8 would have {ends}")

    def weight(self, quality: Tensor) -> Tensor:
        """lambda of each quality (any shape)."""
        growth = math.log(self.lambda_high / self.lambda_low) / (QUALITIES - 1)
        return torch.exp(math.log(self.lambda_low) + growth * (quality - 1))

    def share(self, quality: Tensor) -> Tensor:
        """Share of MS-SSIM at each quality (any shape)."""
        return self.msssim + self.msssim_growth * (quality - 1)

    def of(self, decoded: Tensor, x: Tensor, quality: Tensor) -> Tensor:
        """What each decoded picture costs, bits per pixel (B,), with gradients.

        decoded, x: (B, 3, H, W) float32, about 0..1.  Below sides of `LEAST_SIDE` the MSE takes MS-SSIM's share.
        """
        mse = (decoded - x).square().flatten(1).mean(1)
        if min(x.shape[2:]) < LEAST_SIDE or self.msssim == self.msssim_growth == 0:
            return self.weight(quality) * mse * 255**2
        return self.mixed(mse, ms_ssim(decoded, x), quality)

    def mixed(self, mse: Tensor, similarity: Tensor, quality: Tensor) -> Tensor:
        """The distortion of an MSE (of 0..1) and an MS-SSIM."""
        share = self.share(quality)
        return self.weight(quality) * ((1 - share) * mse * 255**2 + share * MSSSIM_SCALE * (1 - similarity))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM (Wang, Simoncelli and Bovik, 2003) of each pair of pictures, with gradients.

    The usual figure in half of the usual time or less.  a, b: (B, C, H, W) float32 in 0..1, sides of `LEAST_SIDE` or
    more.  Returns (B,), the mean over channels.
    """
    a, b, factors = a.contiguous(), b.contiguous(), []
    for scale, stride in enumerate(STRIDES):
        mean_a, mean_b, square_a, square_b, product = (blur(x, stride) for x in (a, b, a * a, b * b, a * b))
        means = mean_a * mean_b
        squares = mean_a.square() + mean_b.square()
        factor = (2 * (product - means) + C2) / (square_a + square_b - squares + C2)
        if scale == len(STRIDES) - 1:
            factor = factor * (2 * means + C1) / (squares + C1)
        factors.append(factor.mean((2, 3)).relu())
        if scale < len(STRIDES) - 1:
            padding = [side % 2 for side in a.shape[2:]]
            a, b = (F.avg_pool2d(x, 2, padding=padding) for x in (a, b))
    powers = [factor**weight for factor, weight in zip(factors, WEIGHTS, strict=True)]
    return functools.reduce(torch.mul, powers).mean(1)


def blur(x: Tensor, stride: int) -> Tensor:
    """Means under Gaussian windows at every `stride`-th place where they fit: (B, C, H, W) -> (B, C, rows, columns)."""
    return blur_rows(blur_rows(x, stride).mT, stride).mT


def blur_rows(x: Tensor, stride: int) -> Tensor:
    """`blur` along the last dimension alone.

    By a product with a matrix, zeros and all, which on many small pictures takes half the time of a convolution.  For a
    long row that would be nearly all zeros: it is cut into pieces, and windows see that in which they begin and the
    next.
    """
    side, beyond = x.shape[-1], WINDOW - stride
    places = (side - WINDOW) // stride + 1
    if side <= SHORT_ROW:
        return x @ blur_matrix(places, side, stride, x)
    each = PIECE // stride  # windows begin in a piece
    pieces = -(-places // each)
    here, after = torch.split(blur_matrix(each, PIECE + beyond, stride, x), [PIECE, beyond])
    x = F.pad(x, (0, (pieces + 1) * PIECE - side)).unflatten(-1, (pieces + 1, PIECE))  # type: ignore[no-untyped-call]
    means: Tensor = (x @ here)[..., :-1, :] + (x[..., :beyond] @ after)[..., 1:, :]
    return means.flatten(-2)[..., :places]


def blur_matrix(places: int, side: int, stride: int, like: Tensor) -> Tensor:
    """Gaussian windows at every `stride`-th place, as a matrix (side, places) for tensors as `like`."""
    at = torch.arange(side, device=like.device)[:, None] - stride * torch.arange(places, device=like.device)
    line = torch.exp((at - WINDOW // 2).square().to(like.dtype) / (-2 * SIGMA**2)) * ((at >= 0) & (at < WINDOW))
    return line / line.sum(0)
