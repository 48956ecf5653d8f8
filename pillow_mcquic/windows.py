"""Windows of a grid: what a local function makes of a picture part by part is what it would make of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Window = tuple[slice, slice, slice, slice]  # of (B, C, h, w)


def windows(h: int, w: int, positions: int, reach: int) -> Iterator[tuple[Window, Window]]:
    """Cut a grid into even windows of at most so many positions: each without and with a margin of `reach`.

    Of whole rows, or of so many columns that the margins are least.
    """
    positions = max(1, positions)

    def size(parts: int) -> tuple[int, int]:
        columns = -(-w // parts)
        return even_part(h, max(1, positions // columns)), columns

    def area(parts: int) -> int:
        rows, _ = size(parts)
        return (h + 2 * reach * (-(-h // rows) - 1)) * (w + 2 * reach * (parts - 1))

    rows, columns = size(min(range(-(-w // positions), -(-w // math.isqrt(positions)) + 1), key=area))
    for top in range(0, h, rows):
        for left in range(0, w, columns):
            bottom, right = min(h, top + rows), min(w, left + columns)
            inner = slice(top, bottom), slice(left, right)
            outer = (
                slice(max(0, top - reach), min(h, bottom + reach)),
                slice(max(0, left - reach), min(w, right + reach)),
            )
            yield (slice(None), slice(None), *inner), (slice(None), slice(None), *outer)


def within(inner: Window, outer: Window) -> Window:
    """Where the window `inner` lies in what was cut out as `outer`."""
    rows, columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner[2:], outer[2:], strict=True))
    return *inner[:2], rows, columns


def magnified(window: Window, scale: int) -> Window:
    """A window of a grid `scale` times as fine."""
    rows, columns = (slice(part.start * scale, part.stop * scale) for part in window[2:])
    return *window[:2], rows, columns


def even_part(length: int, most: int) -> int:
    """Size of the parts when `length` is cut into as few parts of at most `most` as possible, evenly."""
    return -(-length // -(-length // most))


def tiled(
    function: Callable[..., Tensor],
    inputs: Sequence[tuple[Tensor, int]],
    out: Tensor,
    scale: int,
    reach: int,
    positions: int,
) -> None:
    """Run a local function window by window, as if it had seen everything at once.

    inputs: tensors (B, C, h*s, w*s) with their samples s per grid position; the function gets their windows and
    returns (B, C', h*scale, w*scale) of each window, whose part inside the margin `reach` goes into `out`.
    `positions` bounds the area on the grid of a window of all B, margin not counted.
    """
    B, _, H, W = out.shape
    for inner, outer in windows(H // scale, W // scale, positions // B, reach):
        result = function(*(t[magnified(outer, s)] for t, s in inputs))
        out[magnified(inner, scale)] = result[magnified(within(inner, outer), scale)]
