"""MS-SSIM (Wang, Simoncelli and Bovik, 2003) with gradients, in a fraction of the usual time.

Means under windows are sums down the columns, then along the rows of what is left, by products with small matrices.
Squares and products of pictures live for a few rows at a time, and what belongs to the original alone is found once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Every window of the two finest scales would be three quarters of the work: a few of them have nearly the same mean (on
# decoded crops the figure moves by up to 4e-4, the gradient by 3 to 5 %).
STRIDES = (4, 2, 1, 1, 1)
BLOCK_ROWS = 32  # rows, or columns, whose windows are taken at once
SHORT_SIDE = 100  # up to here all of them are: calls would take longer than the zeros in a larger matrix


class Original:
    """A picture, (B, C, H, W) float32 in 0..1, that others are compared with."""

    def __init__(self, picture: Tensor) -> None:
        self.picture = picture.contiguous()

    @functools.cached_property
    def scales(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """At every scale: the picture, and means of it and of its square under windows."""
        off = torch.autocast(self.picture.device.type, enabled=False)
        with torch.inference_mode(False), torch.no_grad(), off:  # whatever the first to ask has set
            scales, x = [], self.picture
            for i, stride in enumerate(STRIDES):
                x = halved(x) if i else x

                def maps(rows: slice, x: Tensor = x) -> Tensor:
                    return torch.stack([x[..., rows, :], x[..., rows, :].square()])

                scales.append((x, *window_means(maps, x.shape[2], stride)))
            return scales


def ms_ssim(picture: Tensor, original: Original) -> Tensor:
    """MS-SSIM of each picture, mean over channels, (B,).

    picture: (B, C, H, W) float32, about 0..1, sides of 161 or more.
    """
    a, factors = picture, []
    with torch.autocast(picture.device.type, enabled=False):
        for i, (stride, (b, mean_b, square_b)) in enumerate(zip(STRIDES, original.scales, strict=True)):
            a = halved(a) if i else a
            mean_a, square_a, product = WindowMeans.apply(a, b, stride)  # type: ignore[no-untyped-call]
            across = mean_a * mean_b
            squares = mean_a.square() + mean_b.square()
            factor = (2 * (product - across) + C2) / (square_a + square_b - squares + C2)
            if i == len(STRIDES) - 1:
                factor = factor * (2 * across + C1) / (squares + C1)
            factors.append(factor.mean((2, 3)).relu())
    powers = [factor**weight for factor, weight in zip(factors, WEIGHTS, strict=True)]
    result: Tensor = functools.reduce(torch.mul, powers).mean(1)
    return result


def halved(x: Tensor) -> Tensor:
    """The next coarser scale."""
    return F.avg_pool2d(x, 2, padding=[side % 2 for side in x.shape[2:]])


class WindowMeans(torch.autograd.Function):
    """`window_means` of a, a^2 and a b; gradients in a alone."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, stride: int) -> tuple[Tensor, ...]:
        ctx.save_for_backward(a, b)
        ctx.stride = stride

        def maps(rows: slice) -> Tensor:
            one, other = a[..., rows, :], b[..., rows, :]
            return torch.stack([one, one.square(), one * other])

        return window_means(maps, a.shape[2], stride).unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # under autocast, as in refinement, in bfloat16 like the rest of the way back: float32 gained nothing there
        a, b = ctx.saved_tensors
        inner = spread_columns(torch.stack(gradients), a.shape[3], ctx.stride).mT
        result = torch.zeros_like(a)
        for rows, places in blocks(a.shape[2], ctx.stride):
            first, square, product = window_matrix(places, ctx.stride, a).mT @ inner[..., places, :]
            result[..., rows, :] += first.addcmul_(a[..., rows, :], square, value=2).addcmul_(b[..., rows, :], product)
        return result, None, None


def window_means(maps: Callable[[slice], Tensor], height: int, stride: int) -> Tensor:
    """Means under Gaussian windows at every `stride`-th place where they fit.

    maps(rows): those rows of (..., height, W).  Returns (..., columns of places, rows of places), as they come.
    """
    down = mean_columns(maps, height, stride).mT
    return mean_columns(lambda rows: down[..., rows, :], down.shape[-2], stride)


def mean_columns(maps: Callable[[slice], Tensor], height: int, stride: int) -> Tensor:
    """`window_means` down the columns alone: (..., places, W)."""
    parts = []
    for rows, places in blocks(height, stride):
        x = maps(rows)
        parts.append(window_matrix(places, stride, x) @ x)
    return torch.cat(parts, -2)


def spread_columns(x: Tensor, height: int, stride: int) -> Tensor:
    """The transpose of `mean_columns`: (..., places, W) -> (..., height, W)."""
    result = x.new_zeros(*x.shape[:-2], height, x.shape[-1])
    for rows, places in blocks(height, stride):
        result[..., rows, :] += window_matrix(places, stride, x).mT @ x[..., places, :]
    return result


def blocks(height: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Cut the places of a side: rows that the windows of some places see, and which places these are."""
    count = (height - WINDOW) // stride + 1
    each = count if height <= SHORT_SIDE else BLOCK_ROWS // stride
    for first in range(0, count, each):
        last = min(first + each, count)
        yield slice(first * stride, (last - 1) * stride + WINDOW), slice(first, last)


def window_matrix(places: slice, stride: int, like: Tensor) -> Tensor:
    """The Gaussian windows of a block as a matrix (places, rows), for tensors as `like`."""
    return _window_matrix(places.stop - places.start, stride, like.dtype, like.device)


@functools.lru_cache(64)
def _window_matrix(count: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is made in inference mode has no place in a gradient
        first = stride * torch.arange(count, device=device)[:, None]
        at = torch.arange((count - 1) * stride + WINDOW, device=device) - first
        line = torch.exp((at - WINDOW // 2).square().to(dtype) / (-2 * SIGMA**2)) * ((at >= 0) & (at < WINDOW))
        return line / line.sum(1, keepdim=True)
