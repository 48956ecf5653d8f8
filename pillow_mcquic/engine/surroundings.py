"""What an encoder knows around the part of a picture that it codes: pixels of a tile depend on the tiles next to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from ..bitstream.grids import Box
from .windows import Window, box_of, window_of, windows_in


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A part of level 1, and what is around it.

    Parameters
    ----------
    latent : (B, channels, h, w), of the part and around it; around it not quantised, but near what will be there.
    features : (B, hyper_width, h, w), of the same positions.
    inside : the part, in positions of these.
    """

    latent: Tensor
    features: Tensor
    inside: Box

    def windows(self, positions: int, reach: int) -> Iterator[tuple[Window, Window]]:
        """Cut the part as `windows` does, in positions of the latent; margins go beyond it."""
        height, width = self.latent.shape[2:]
        return windows_in(self.inside, Box(0, 0, width, height), positions, reach)

    def own(self, window: Window) -> Window:
        """What of a window lies in the part, in positions of the part."""
        return window_of(box_of(window).cut(self.inside).seen_from(self.inside))

    def place(self, window: Window) -> Window:
        """What of a window lies in the part, in positions of the window."""
        return window_of(box_of(window).cut(self.inside).seen_from(box_of(window)))

    def around(self, window: Window, latent: Tensor) -> Tensor:
        """The latent in a window, where the part is as given: (B, channels, ...), of `own(window)`."""
        if box_of(window).cut(self.inside) == box_of(window):
            return latent
        seen = self.latent[window].clone()
        seen[self.place(window)] = latent
        return seen
