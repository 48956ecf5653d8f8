"""What an encoder knows around the part of a picture that it codes: pixels of a tile depend on the tiles next to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from ..bitstream.grids import Box
from .windows import Window, windows_in


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A part of level 1, and what is around it.

    Parameters
    ----------
    latent : (B, channels, h, w), of the part and around it; around it not quantised, but near what will be there.
    inside : the part, in positions.
    """

    latent: Tensor
    inside: Box

    def windows(self, positions: int, reach: int) -> Iterator[tuple[Window, Window]]:
        """Cut the part as `windows` does, in positions of the latent; margins go beyond it."""
        height, width = self.latent.shape[2:]
        return windows_in(self.inside, Box(0, 0, width, height), positions, reach)

    def own(self, window: Window) -> Window:
        """What of a window lies in the part, in positions of the part."""
        return (..., *self._common(window).seen_from(self.inside).slices)

    def place(self, window: Window) -> Window:
        """What of a window lies in the part, in positions of the window."""
        return (..., *self._common(window).seen_from(_box(window)).slices)

    def around(self, window: Window, latent: Tensor) -> Tensor:
        """The latent in a window, where the part is as given: (B, channels, ...), of `own(window)`."""
        if self._common(window) == _box(window):
            return latent
        seen = self.latent[window].clone()
        seen[self.place(window)] = latent
        return seen

    def nearest(self, window: Window, features: Tensor) -> Tensor:
        """Features of the part (B, width, ...) in a window; beyond the part the nearest."""
        if self._common(window) == _box(window):
            return features[self.own(window)]
        (_, rows, columns), inside = window, self.inside
        ys = torch.arange(rows.start, rows.stop, device=features.device).clamp(inside.top, inside.bottom - 1)
        xs = torch.arange(columns.start, columns.stop, device=features.device).clamp(inside.left, inside.right - 1)
        return features.index_select(2, ys - inside.top).index_select(3, xs - inside.left)

    def _common(self, window: Window) -> Box:
        return _box(window).cut(self.inside)


def _box(window: Window) -> Box:
    _, rows, columns = window
    return Box(columns.start, rows.start, columns.stop, rows.stop)
