"""A picture in tiles: each is parsed apart, and all networks of floats see across their borders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bitstream.grids import SQUARE, Box, TileGrid
from ..bitstream.tiles import CONTEXT
from ..nn.reshape import empty_planes
from ..quality import Quality
from .decoder import Coded, Decoder, Prepared
from .windows import assemble, box_of, window_of, windows_in, within

ALIGNMENT = 4  # squares to a side of a position of level 3


def context(squares: Box, whole: Box) -> Box:
    """The squares on which the pixels of some depend, from whole positions of level 3 on."""
    seen = squares.grown(CONTEXT, whole)
    return Box(seen.left // ALIGNMENT * ALIGNMENT, seen.top // ALIGNMENT * ALIGNMENT, seen.right, seen.bottom)


def in_squares(pixels: Box) -> Box:
    """The squares that pixels lie in."""
    return pixels.reduced(SQUARE)


def in_pixels(squares: Box) -> Box:
    """The pixels of squares."""
    return squares.magnified(SQUARE)


def at_level(squares: Box, level: int) -> Box:
    """The positions of a level that squares, from whole positions of level 3 on, lie in."""
    return squares.reduced(1 << level - 1)


def next_to_later(grid: TileGrid, number: int, other: int) -> bool:
    """Whether a tile is next to any behind another one."""
    row, column = divmod(number, grid.columns)
    its_row, its_column = divmod(other, grid.columns)
    below = row + 1 < grid.rows and its_row >= row
    return below or (column + 1 < grid.columns and its_row >= row - 1 and its_column >= column)


class Mosaic:
    """The learned squares of a picture, made tile by tile; a picture without tiles is one.

    Parameters
    ----------
    decoder, quality : of the picture.
    grid : its tiles.
    codes : gives the codes and classes of a tile, as far as the scale needs them.
    scale : of the pixels, as of `Decoder.images`.
    """

    def __init__(
        self, decoder: Decoder, quality: Quality, grid: TileGrid, codes: Callable[[int], Coded], scale: int = 1
    ) -> None:
        self.decoder, self.grid, self.codes, self.scale = decoder, grid, codes, scale
        self.q = decoder.quality_tensor(quality)
        self.known: dict[int, tuple[Coded, Tensor]] = {}  # tiles that were parsed, and their first banks

    @torch.inference_mode()
    def paint(self, number: int, area: Box, out: NDArray[np.uint8]) -> None:
        """Put the pixels of a tile that lie in `area` into an array of that area, at the scale: (h, w) or (h, w, 3).

        Tiles are painted in order; what none of the later ones needs is forgotten.
        """
        decoder, device, shown = self.decoder, self.decoder.device, area.reduced(self.scale)
        inside = in_squares(self.grid.box(number).cut(area))
        region = context(inside, in_squares(self.grid.whole))
        with device.networks():
            prepared = self._prepare(region)
            for inner, outer in windows_in(inside, region, device.window_positions, decoder.reach(self.scale)):
                place = box_of(inner).magnified(SQUARE // self.scale)
                small = empty_planes(1, 1 if out.ndim == 2 else 3, *place.size[::-1], torch.uint8, device.where)
                seen = window_of(box_of(outer).seen_from(region))
                decoder.show(prepared, seen, within(inner, outer), self.q, small, self.scale)
                _copy(small, place, shown, out)
        self.known = {other: known for other, known in self.known.items() if next_to_later(self.grid, number, other)}

    def _prepare(self, region: Box) -> Prepared:
        """Some squares of the picture on the way to their pixels, from all tiles that they touch."""
        parts = []
        for number in self.grid.touching(in_pixels(region).cut(self.grid.whole)):
            if number not in self.known:
                coded = self.codes(number)
                self.known[number] = coded, self.decoder.first_bank(coded, self.q)
            parts.append((in_squares(self.grid.box(number)), *self.known[number]))
        coded = Coded([], [])
        for place, bank in enumerate(self.decoder.config.banks[: len(parts[0][1].codes)]):
            own = at_level(region, bank.level)
            tiles = [(at_level(box, bank.level), coded_tile) for box, coded_tile, _ in parts]
            coded.codes.append(assemble(own, [(box, tile.codes[place]) for box, tile in tiles]))
            coded.classes.append(assemble(own, [(box, tile.classes[place]) for box, tile in tiles]))
        first = assemble(region, [(box, first) for box, _, first in parts])
        return Prepared(coded, self.decoder.features(coded, self.q), first)


def _copy(small: Tensor, place: Box, shown: Box, out: NDArray[np.uint8]) -> None:
    """Copy pixels (1, 1 or 3, ...) of a place in the picture to an array of what is shown of it."""
    common = place.cut(shown)
    pixels = small[0].permute(1, 2, 0)[common.seen_from(place).slices].cpu().numpy()
    out[common.seen_from(shown).slices] = pixels[:, :, 0] if out.ndim == 2 else pixels
