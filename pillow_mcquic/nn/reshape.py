"""How pixels, patches, planes and rows become each other.

Images and latents are planes (B, C, H, W), channels-last in memory.  Matrix products see rows (positions, channels),
which are the same memory.  Patches are the pixels of a square, in the order (row, column, channel).
"""

from __future__ import annotations

import torch
from torch import Tensor


def empty_planes(
    B: int, C: int, h: int, w: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """(B, C, h, w) that is not set, channels-last."""
    return torch.empty((B, h, w, C), dtype=dtype, device=device).permute(0, 3, 1, 2)


def to_patches(x: Tensor, side: int) -> Tensor:
    """Planes (B, C, H, W) -> patches (B, H / side, W / side, side * side * C).

    From channels-last planes, as images lie in memory, this moves whole rows of a patch.
    """
    B, C, H, W = x.shape
    x = x.permute(0, 2, 3, 1).reshape(B, H // side, side, W // side, side * C).permute(0, 1, 3, 2, 4)
    return x.reshape(B, H // side, W // side, side * side * C)


def to_pixels(x: Tensor, side: int) -> Tensor:
    """Patches as of `to_patches` -> pixels (B, h * side, w * side, C), in memory of their own."""
    B, h, w, size = x.shape
    row = size // side
    x = x.reshape(B, h, w, side, row).permute(0, 1, 3, 2, 4)
    return x.reshape(B, h * side, w * side, row // side)


def quarters_to_pixels(x: Tensor) -> Tensor:
    """Patches of 16x16 as four of 8x8, (B, h, w, 2 * 2 * 8 * 8 * C) -> pixels (B, h * 16, w * 16, C)."""
    B, h, w, size = x.shape
    x = x.view(B, h, w, 2, 2, 8, size // 32).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(B, h * 16, w * 16, size // 256)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C).

    As one matrix: of the rows of a window torch would make a batch of products, with a copy of the weights for each.
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def to_planes(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_rows`, channels-last; `like` (B, ..., h, w) gives the other sizes."""
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def pad_to_multiple(x: Tensor, of: int) -> Tensor:
    """(B, C, H, W) of any type, with the last row and column repeated until both sides are multiples of `of`."""
    x = x.permute(0, 2, 3, 1)  # as it lies in memory, and so does what comes of it
    for dim in (1, 2):
        side = x.shape[dim]
        if side % of:
            x = x.index_select(dim, torch.arange(side + -side % of, device=x.device).clamp_(max=side - 1))
    return x.permute(0, 3, 1, 2)


def pad_ring(x: Tensor) -> Tensor:
    """(..., h, w) of any type -> (..., h + 2, w + 2), edges replicated."""
    x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], -2)
    return torch.cat([x[..., :1], x, x[..., -1:]], -1)


def neighbourhood(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 9 C, h, w): the 3x3 around every position, in the order (channel, row, column)."""
    B, _, h, w = x.shape
    return torch.nn.functional.unfold(pad_ring(x), 3).view(B, -1, h, w)


def repeat_2x2(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., h, w) with every position four times, cropped to the rows and columns of a finer grid."""
    return x.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., : grid[0], : grid[1]]
