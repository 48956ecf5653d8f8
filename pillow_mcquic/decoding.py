"""A parsed file -> pixels, tile by tile: learned squares by the engine, exact ones and alpha put over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import loading
from .bitstream import alpha, exact_squares
from .bitstream.container import File
from .bitstream.file_header import Header
from .bitstream.grids import SQUARE, Box, grids_of
from .bitstream.tiles import CONTEXT, Tile
from .errors import BadFileError

if TYPE_CHECKING:
    import torch

    from .engine.decoder import Coded, Decoder
    from .engine.mosaic import Mosaic

REACH = CONTEXT * SQUARE  # pixels around a box whose tiles its pixels depend on
LOST = 128  # what is seen of a tile that is lost

Pixels = NDArray[np.uint8]


def decode_file(
    file: File,
    scale: int = 1,
    box: Box | None = None,
    *,
    tolerant: bool = False,
    device: torch.device | str | None = None,
) -> Pixels:
    """Decode a parsed file to uint8 (H, W) or (H, W, 2..4).

    Parameters
    ----------
    file : at least its tiles within `REACH` of the box.
    scale : 1, 2, 4 or 8 for the sides divided by it, rounded up.
    box : of the pixels that are wanted; by default all.
    tolerant : whether what cannot be decoded of tiles becomes grey; else OSError.
    device : of the networks, by default what is configured.
    """
    header, grid = file.header, file.header.tiles
    area = grid.whole if box is None else box
    width, height = area.reduced(scale).size
    out = np.empty((height, width, len(header.mode)), np.uint8)
    mosaic, lost = None, set[int]()
    for number in grid.touching(area):
        tile = file.tiles[number]
        if tile is not None and tile.codes is not None and mosaic is None:
            mosaic = _mosaic(file, scale, lost if tolerant else None, device)
        try:
            if tile is None:
                raise BadFileError("damaged .mcq file: a tile is lost")
            _decode_tile(tile, number, header, mosaic, scale, area, out)
        except BadFileError:
            if not tolerant:
                raise
            lost.add(number)
        if number in lost:
            part = _part(out, grid.box(number), area, scale)
            part[:] = LOST
            part[:, :, len(header.mode) - header.alpha :] = 255
    return out[:, :, 0] if len(header.mode) == 1 else out


def _mosaic(file: File, scale: int, lost: set[int] | None, device: torch.device | str | None) -> Mosaic:
    """The learned squares of a file; tiles whose codes are damaged are added to `lost`, without it OSError."""
    from .engine.mosaic import Mosaic

    header, quality = file.header, file.header.quality
    assert quality is not None
    decoder = loading.load_decoder(header.model, device)

    def codes(number: int) -> Coded:
        try:
            return read_codes(file, number, decoder, scale)
        except BadFileError:
            if lost is None:
                raise
            lost.add(number)
            return decoder.without_codes(quality, grids_of(*header.tiles.box(number).size), scale)

    return Mosaic(decoder, quality, header.tiles, codes, scale)


def read_codes(file: File, number: int, decoder: Decoder, scale: int = 1) -> Coded:
    """Codes and classes of a tile, as far as a scale needs them; all 0 where it has none; OSError for damage."""
    header, tile = file.header, file.tiles[number]
    assert header.quality is not None
    grids = grids_of(*header.tiles.box(number).size)
    if tile is None or tile.codes is None:
        return decoder.without_codes(header.quality, grids, scale)
    return decoder.read([tile.codes], header.quality, grids, scale)


def _decode_tile(
    tile: Tile, number: int, header: Header, mosaic: Mosaic | None, scale: int, area: Box, out: Pixels
) -> None:
    """Put a tile where it belongs in `out`, the pixels of `area`."""
    box = header.tiles.box(number)
    part, seen = _part(out, box, area, scale), box.cut(area).reduced(scale).seen_from(box.reduced(scale))
    colours = part if tile.whole else part[:, :, : len(header.mode) - header.alpha]
    # first, as it is soon done and may be damaged
    exact = unpack_exact(tile, header, box)
    if not tile.whole:
        assert mosaic is not None
        learned = out[:, :, : colours.shape[2]]
        mosaic.paint(number, area, learned[:, :, 0] if learned.shape[2] == 1 else learned)
    if exact is not None:
        exact_squares.put(exact, colours, seen, scale)
    if tile.alpha is not None:
        plane = exact_squares.reduced(alpha.unpack(tile.alpha, *box.size), scale)
        part[:, :, -1] = plane[seen.slices]


def _part(out: Pixels, box: Box, area: Box, scale: int) -> Pixels:
    """What lies of a box of the picture in `out`, the pixels of `area`."""
    return out[box.cut(area).reduced(scale).seen_from(area.reduced(scale)).slices]


def unpack_exact(tile: Tile, header: Header, box: Box) -> exact_squares.ExactSquares | None:
    """The exact squares of the tile of a box, None without any; OSError when they are damaged."""
    if tile.exact is None:
        return None
    return exact_squares.unpack(tile.exact, *box.size, header.mode, whole=tile.whole)
