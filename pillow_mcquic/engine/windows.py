"""Windows of a picture: what a local function makes of them, one by one, is what it would make of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from types import EllipsisType

import torch
from torch import Tensor

from ..bitstream.grids import Box

Window = tuple[EllipsisType, slice, slice]  # of planes (..., h, w)


def windows(h: int, w: int, positions: int, reach: int) -> Iterator[tuple[Window, Window]]:
    """Cut a grid into even windows of at most so many positions: each without and with a margin of `reach`.

    Of whole rows, or of so many columns that the margins are least.
    """
    positions = max(1, positions)

    def size(parts: int) -> tuple[int, int]:
        columns = -(-w // parts)
        return _even_size(h, max(1, positions // columns)), columns

    def area(parts: int) -> int:
        rows, _ = size(parts)
        return (h + 2 * reach * (-(-h // rows) - 1)) * (w + 2 * reach * (parts - 1))

    rows, columns = size(min(range(-(-w // positions), -(-w // math.isqrt(positions)) + 1), key=area))
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            outer_rows = slice(max(0, top - reach), min(h, bottom + reach))
            outer_columns = slice(max(0, left - reach), min(w, right + reach))
            yield (..., slice(top, bottom), slice(left, right)), (..., outer_rows, outer_columns)


def windows_in(part: Box, whole: Box, positions: int, reach: int) -> Iterator[tuple[Window, Window]]:
    """Cut a part of a grid as `windows` does; the margins go as far as the whole grid does."""
    width, height = part.size
    for (_, rows, columns), _ in windows(height, width, positions, reach):
        left, top = part.left, part.top
        inner = Box(left + columns.start, top + rows.start, left + columns.stop, top + rows.stop)
        yield window_of(inner), window_of(inner.grown(reach, whole))


def window_of(box: Box) -> Window:
    """A box of positions as an index."""
    return (..., *box.slices)


def box_of(window: Window) -> Box:
    """The inverse of `window_of`."""
    _, rows, columns = window
    return Box(columns.start, rows.start, columns.stop, rows.stop)


def assemble(region: Box, parts: Sequence[tuple[Box, Tensor]]) -> Tensor:
    """Planes (..., h, w) of a region, from those of boxes that lie in it or reach into it; 0 where none does."""
    for box, planes in parts:
        if region.cut(box) == region:
            return planes[window_of(region.seen_from(box))]
    width, height = region.size
    whole = torch.zeros((*parts[0][1].shape[:-2], height, width), dtype=parts[0][1].dtype, device=parts[0][1].device)
    for box, planes in parts:
        common = region.cut(box)
        whole[window_of(common.seen_from(region))] = planes[window_of(common.seen_from(box))]
    return whole


def within(inner: Window, outer: Window) -> Window:
    """Where the window `inner` lies in what was cut out as `outer`."""
    rows, columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner[1:], outer[1:], strict=True))
    return ..., rows, columns


def magnified(window: Window, scale: int) -> Window:
    """A window of a grid `scale` times as fine."""
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in window[1:])
    return ..., rows, columns


def _even_size(length: int, most: int) -> int:
    """Size of the parts when `length` is cut into as few parts of at most `most` as possible, evenly."""
    return -(-length // -(-length // most))


def run_windowed(
    function: Callable[..., Tensor],
    inputs: Sequence[tuple[Tensor, int]],
    out: Tensor,
    scale: int,
    reach: int,
    positions: int,
) -> None:
    """Run a local function window by window, as if it had seen everything at once.

    Parameters
    ----------
    function : gets windows of the inputs, returns (B, C', h * scale, w * scale) of each.
    inputs : tensors (B, C, h * s, w * s) with their samples s to a side of a grid position.
    out : (B, C', H, W), where the results go, without their margins.
    scale : samples of `out` to a side of a grid position.
    reach : positions around a window that the function sees.
    positions : of all B pictures together in a window, the margin not counted.
    """
    B, _, H, W = out.shape
    for inner, outer in windows(H // scale, W // scale, positions // B, reach):
        result = function(*(t[magnified(outer, s)] for t, s in inputs))
        out[magnified(inner, scale)] = result[magnified(within(inner, outer), scale)]
