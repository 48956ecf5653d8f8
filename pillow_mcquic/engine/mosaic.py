"""A picture in tiles: each is parsed, and its latent made, apart; synthesis sees across their borders."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..bitstream.grids import SQUARE, Box, TileGrid
from ..nn.reshape import empty_planes
from ..quality import Quality
from .decoder import Coded, Decoder, Prepared
from .windows import Window, magnified, windows_in, within


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
        self.prepared: dict[int, Prepared] = {}

    @torch.inference_mode()
    def paint(self, number: int, area: Box, out: NDArray[np.uint8]) -> None:
        """Put the pixels of a tile that lie in `area` into an array of that area, at the scale: (h, w) or (h, w, 3).

        Tiles are painted in order; what none of the later ones needs is forgotten.
        """
        device, squares = self.decoder.device, _in_squares(self.grid.whole)
        inside = _in_squares(self.grid.box(number).cut(area))
        shown = area.reduced(self.scale)
        with device.networks():
            for inner, outer in windows_in(inside, squares, device.window_positions, self.decoder.reach(self.scale)):
                z1, features = self._gather(outer)
                side = SQUARE // self.scale
                place = magnified(inner, side)
                height, width = (part.stop - part.start for part in place[1:])
                small = empty_planes(1, 1 if out.ndim == 2 else 3, height, width, torch.uint8, device.where)
                self.decoder.show(z1, features, self.q, within(inner, outer), small, self.scale)
                _copy(small, Box(place[2].start, place[1].start, place[2].stop, place[1].stop), shown, out)
        self._forget(number)

    def _gather(self, window: Window) -> tuple[Tensor, Tensor]:
        """Quantised latent and features of level 1 in a window of the picture, from all tiles that it touches."""
        rows, columns = window[1:]
        seen = Box(columns.start, rows.start, columns.stop, rows.stop)
        pixels = Box(*(SQUARE * side for side in (seen.left, seen.top, seen.right, seen.bottom)))
        parts = []
        for number in self.grid.touching(pixels.cut(self.grid.whole)):
            tile = _in_squares(self.grid.box(number))
            common = seen.cut(tile)
            prepared, local = self._prepare(number), _window(common.seen_from(tile))
            latent = self.decoder.latent(prepared, local, self.q)
            parts.append((_window(common.seen_from(seen)), latent, prepared.features[local]))
        if len(parts) == 1:
            return parts[0][1:]
        width, height = seen.size
        _, z1, features = parts[0]
        whole = [empty_planes(1, x.shape[1], height, width, x.dtype, x.device) for x in (z1, features)]
        for place, latent, own in parts:
            whole[0][place], whole[1][place] = latent, own
        return whole[0], whole[1]

    def _prepare(self, number: int) -> Prepared:
        """A tile on the way to its pixels; made when it is first seen."""
        if number not in self.prepared:
            self.prepared[number] = self.decoder.prepare(self.codes(number), self.q)
        return self.prepared[number]

    def _forget(self, number: int) -> None:
        """Drop tiles that are not next to any behind this one."""
        row, column = divmod(number, self.grid.columns)
        more_rows, more_columns = row + 1 < self.grid.rows, column + 1 < self.grid.columns
        for other in list(self.prepared):
            its_row, its_column = divmod(other, self.grid.columns)
            below = more_rows and its_row >= row
            beside = more_columns and its_row >= row - 1 and its_column >= column
            if not (below or beside):
                del self.prepared[other]


def _in_squares(pixels: Box) -> Box:
    """The squares that pixels lie in."""
    return pixels.reduced(SQUARE)


def _window(squares: Box) -> Window:
    return (..., *squares.slices)


def _copy(small: Tensor, place: Box, shown: Box, out: NDArray[np.uint8]) -> None:
    """Copy pixels (1, 1 or 3, ...) of a place in the picture to an array of what is shown of it."""
    common = place.cut(shown)
    pixels = small[0].permute(1, 2, 0)[common.seen_from(place).slices].cpu().numpy()
    out[common.seen_from(shown).slices] = pixels[:, :, 0] if out.ndim == 2 else pixels
