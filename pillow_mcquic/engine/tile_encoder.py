"""Codes of a picture tile by tile, as `mosaic` decodes them: a tile's means depend on the tiles next to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from ..bitstream.grids import SQUARE, Box, TileGrid, grids_of
from ..model.coding_state import CodingState
from ..model.model import Cascade
from ..nn.reshape import pad_to_multiple
from ..quality import Quality
from .decoder import Coded
from .encoder import Encoded, Encoder
from .mosaic import at_level, context, in_pixels, in_squares
from .surroundings import Surroundings
from .windows import assemble, window_of

MARGIN = 8 * SQUARE  # pixels around a tile that its analysis sees, and within which its synthesis is seen


@dataclasses.dataclass
class _Tile:
    """A tile on the way: its latents, and how far its codes have come."""

    y: dict[int, Tensor]  # level 1 with what is around
    state: CodingState[Quality]
    coded: Coded


class TileEncoder:
    """Codes of some tiles of a picture.

    Parameters
    ----------
    encoder, quality : that they are made with.
    grid : the tiles of the picture.
    pixels : gives (1, 3, H, W) uint8 of a box, on the encoder's device.
    """

    def __init__(self, encoder: Encoder, quality: Quality, grid: TileGrid, pixels: Callable[[Box], Tensor]) -> None:
        self.encoder, self.quality, self.grid, self.pixels = encoder, quality, grid, pixels
        self.q = encoder.decoder.quality_tensor(quality)
        self.tiles: dict[int, _Tile] = {}
        self.residuals: dict[int, dict[int, Tensor]] = {3: {}, 2: {}}  # of coarse levels, by tile

    def encode(self, numbers: Collection[int]) -> Iterator[tuple[int, Tensor, Encoded]]:
        """The number of each tile, its images with what is around, and what was encoded.

        Level 2 of a tile needs level 3 of those next to it, and level 1 needs their level 2.  So level 3 is two rows of
        tiles ahead, and level 2 one.
        """

        def row(number: int) -> list[int]:
            return [tile for tile in numbers if tile // self.grid.columns == number]

        for step in range(self.grid.rows + 2):
            for number in row(step):
                self._begin(number)
            for number in row(step - 1):
                self._choose_2(number)
            for number in row(step - 2):
                images = self._images(number)
                yield number, images, self._choose_1(number, images)
                del self.tiles[number]

    def _images(self, number: int) -> Tensor:
        """The pixels of a tile and around it, padded to whole squares."""
        return pad_to_multiple(self.pixels(self.grid.box(number).grown(MARGIN, self.grid.whole)), SQUARE)

    @torch.inference_mode()
    def _begin(self, number: int) -> None:
        """Analysis of a tile, and its level 3."""
        box, encoder = self.grid.box(number), self.encoder
        around, grids = box.grown(MARGIN, self.grid.whole), grids_of(*box.size)
        with encoder.device.networks():
            y = encoder.latents(self._images(number), self.q)
            inside = in_squares(box.seen_from(around))
            coarse = {level: y[level][window_of(at_level(inside, level))].clone() for level in (3, 2)}
            state = encoder.bundle.decoder.entropy_model.begin(self.quality, grids, 1, encoder.device.where)
            coded = encoder.choose_coarse(3, coarse[3], None, state, self.q)
        self.tiles[number] = _Tile({1: y[1], 2: coarse[2]}, state, coded)
        self.residuals[3][number] = encoder.decoder.residuals(3, coded)

    @torch.inference_mode()
    def _choose_2(self, number: int) -> None:
        """Level 2 of a tile, once level 3 is known around it."""
        tile, encoder = self.tiles[number], self.encoder
        with encoder.device.networks():
            region, cascade = self._cascade(number, (3,))
            own = at_level(in_squares(self.grid.box(number)), 2).seen_from(at_level(region, 2))
            assert cascade.mean is not None
            found = encoder.choose_coarse(2, tile.y[2], cascade.mean[window_of(own)], tile.state, self.q)
        tile.coded = tile.coded.followed_by(found)
        self.residuals[2][number] = encoder.decoder.residuals(2, found)

    @torch.inference_mode()
    def _choose_1(self, number: int, images: Tensor) -> Encoded:
        """Level 1 of a tile, once level 2 is known around it."""
        tile, box = self.tiles[number], self.grid.box(number)
        around = box.grown(MARGIN, self.grid.whole)
        with self.encoder.device.networks():
            region, cascade = self._cascade(number, (3, 2))
            assert cascade.features is not None
            features = cascade.features[window_of(in_squares(around).seen_from(region))]
            known = Surroundings(tile.y[1], features, in_squares(box.seen_from(around)))
            y1 = tile.y[1][window_of(known.inside)].clone()
            return self.encoder.choose_fine(images, y1, known, tile.coded, tile.state, self.q)

    def _cascade(self, number: int, levels: tuple[int, ...]) -> tuple[Box, Cascade]:
        """The squares that a tile depends on, and what coarse levels say there."""
        region = context(in_squares(self.grid.box(number)), in_squares(self.grid.whole))
        width, height = in_pixels(region).size
        cascade = Cascade(self.encoder.decoder.model, self.q, grids_of(width, height))
        near = self.grid.touching(in_pixels(region).cut(self.grid.whole))
        for level in levels:
            found = self.residuals[level]
            parts = [
                (at_level(in_squares(self.grid.box(other)), level), found[other]) for other in near if other in found
            ]
            cascade.push(level, assemble(at_level(region, level), parts))
        return region, cascade
