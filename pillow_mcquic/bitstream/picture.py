"""Pixels of any kind -> the bytes of a file."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..quality import Quality
from . import alpha, container, exact_squares, vp8l
from .exact_squares import Squares
from .file_header import MODES, NO_MODEL, Header
from .grids import Box, TileGrid
from .tiles import Tile

Pixels = NDArray[np.uint8]

TILE_SIDE = 2048
LARGE = 1 << 22  # pixels, beyond which a picture is coded in tiles


def split_channels(pixels: Pixels) -> tuple[str, Pixels, Pixels | None]:
    """Array (H, W), (H, W, 1..4) -> mode, RGB (H, W, 3), alpha (H, W) or None; ValueError otherwise."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        what = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"pixels must be a uint8 array, got {what}")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or not 1 <= pixels.shape[2] <= 4 or 0 in pixels.shape:
        raise ValueError(f"pixels must be (H, W) or (H, W, 1..4), not empty, got {pixels.shape}")
    channels = pixels.shape[2]
    transparency = pixels[:, :, -1] if channels in (2, 4) else None
    colours = pixels[:, :, :3] if channels >= 3 else np.repeat(pixels[:, :, :1], 3, 2)
    return MODES[channels], np.ascontiguousarray(colours), transparency


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a file is written of, beside codes.

    Parameters
    ----------
    mode, colours, alpha : of `split_channels`.
    metadata : payloads by chunk type.
    exact_effort : method and quality of `vp8l.encode`.
    tile_side : of the tiles it is coded in; None for none.
    """

    mode: str
    colours: Pixels
    alpha: Pixels | None
    metadata: dict[bytes, bytes]
    exact_effort: dict[str, int]
    tile_side: int | None

    @classmethod
    def of(cls, pixels: Pixels, exact_effort: dict[str, int], metadata: Mapping[bytes, bytes] | None = None) -> Picture:
        """The picture of an array, in tiles if it is large; ValueError as of `split_channels`."""
        mode, colours, transparency = split_channels(pixels)
        height, width = colours.shape[:2]
        large = width * height > LARGE or max(width, height) >= vp8l.MAX_SIDE
        return cls(mode, colours, transparency, dict(metadata or {}), exact_effort, TILE_SIDE if large else None)

    @property
    def tiles(self) -> TileGrid:
        """The tiles; one where there are none."""
        height, width = self.colours.shape[:2]
        return TileGrid(width, height, self.tile_side)

    def write_lossless(self) -> bytes:
        """The file with all pixels as they are."""
        boxes = map(self.tiles.box, range(len(self.tiles)))
        return self.write(None, NO_MODEL, [self.whole(self.colours[box.slices], box) for box in boxes])

    def whole(self, colours: Pixels, box: Box) -> Tile:
        """The tile of a box with all squares exact, of these colours (H, W, 3)."""
        pixels = self._stored(colours)
        if self.alpha is not None:
            pixels = np.dstack([pixels, self.alpha[box.slices]])
        return Tile(None, exact_squares.pack(pixels, None, **self.exact_effort), whole=True)

    def mixed(self, colours: Pixels, squares: Squares) -> Tile:
        """The tile of some exact squares, which hold these colours (H, W, 3); codes are still to come."""
        return Tile(None, exact_squares.pack(self._stored(colours), squares, **self.exact_effort), whole=False)

    def write(self, quality: Quality | None, model: bytes, tiles: Sequence[Tile]) -> bytes:
        """The file of its tiles, to which alpha is added.

        quality, model: as of `Header`; the model that of codes where there are any.
        """
        learned = any(tile.codes is not None for tile in tiles)
        exact = any(tile.exact is not None for tile in tiles)
        width, height = self.tiles.width, self.tiles.height
        header = Header(width, height, self.mode, quality, model if learned else NO_MODEL, exact, self.tile_side)
        return container.write(header, self.metadata, [self._with_alpha(*tile) for tile in enumerate(tiles)])

    def _with_alpha(self, number: int, tile: Tile) -> Tile:
        if self.alpha is None or tile.whole:
            return tile
        if number not in self._packed_alpha:
            plane = self.alpha[self.tiles.box(number).slices]
            self._packed_alpha[number] = alpha.pack(np.ascontiguousarray(plane))
        return dataclasses.replace(tile, alpha=self._packed_alpha[number])

    def _stored(self, colours: Pixels) -> Pixels:
        """Colours (H, W, 3) as files have them: (H, W) for grey."""
        return np.ascontiguousarray(colours[:, :, 0] if self.mode in ("L", "LA") else colours)

    @functools.cached_property
    def _packed_alpha(self) -> dict[int, bytes]:
        """Payloads of alpha by tile, as far as they were needed: a search for a size writes a picture often."""
        return {}
