"""Exact squares: which squares of 16x16 are stored without loss, and their pixels (docs/format.md, section 6)."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadFileError
from . import vp8l
from .grids import SQUARE, Box, Grid
from .tiles import Tile

NAME = "exact squares"  # in errors

Squares = NDArray[np.bool_]  # (rows, columns) of level 1's grid: whether a square is exact


def box_of(squares: Squares, width: int, height: int) -> Box:
    """The least box of whole squares, cropped to the picture, that holds all exact ones, of which there is one."""
    rows, columns = np.flatnonzero(squares.any(1)), np.flatnonzero(squares.any(0))
    right, bottom = (int(columns[-1]) + 1) * SQUARE, (int(rows[-1]) + 1) * SQUARE
    return Box(int(columns[0]) * SQUARE, int(rows[0]) * SQUARE, min(width, right), min(height, bottom))


def magnify(squares: Squares, side: int, height: int, width: int) -> NDArray[np.bool_]:
    """Which pixels of a picture, `side` to a square's side, lie in exact squares: (height, width)."""
    return squares.repeat(side, 0)[:height].repeat(side, 1)[:, :width]


def pack_map(squares: Squares) -> bytes:
    """The map of exact squares: rows of bits, each exclusive-or the row above, deflated."""
    above = np.vstack([np.zeros_like(squares[:1]), squares[:-1]])
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(np.packbits(squares ^ above, axis=1).tobytes()) + deflate.flush()


def unpack_map(packed: bytes, rows: int, columns: int) -> tuple[Squares, bytes]:
    """The inverse of `pack_map`, and what follows the map; BadFileError when it is no map of that size."""
    stride = -(-columns // 8)
    inflate = zlib.decompressobj(wbits=-15)
    try:
        raw = inflate.decompress(packed, rows * stride + 1)
    except zlib.error as error:
        raise BadFileError(f"damaged .mcq file: map of exact squares: {error}") from error
    if len(raw) != rows * stride or not inflate.eof:
        raise BadFileError(f"damaged .mcq file: its map of exact squares is not one of {columns}x{rows}")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, stride), axis=1)
    squares = np.bitwise_xor.accumulate(bits[:, :columns], axis=0).astype(np.bool_)
    if bits[:, columns:].any() or not squares.any() or squares.all():
        raise BadFileError("damaged .mcq file: its map of exact squares says what the header should")
    return squares, inflate.unused_data


def pack(pixels: NDArray[np.uint8], squares: Squares | None, *, method: int, quality: int) -> bytes:
    """Payload of the exact chunk.

    Parameters
    ----------
    pixels : (H, W), (H, W, 2..4) where all squares are exact, else (H, W) or (H, W, 3).
    squares : which are exact: some, but not all; or None for all.
    method, quality : of `vp8l.encode`.
    """
    if squares is None:
        if pixels.ndim == 3 and pixels.shape[2] == 2:  # grey + alpha
            pixels = pixels[:, :, [0, 0, 0, 1]]
        return vp8l.encode(pixels, method=method, quality=quality)
    height, width = pixels.shape[:2]
    box = box_of(squares, width, height)
    exact = magnify(squares, SQUARE, height, width)[box.slices]
    row, column = np.argwhere(squares)[0] * SQUARE
    fill = pixels[row, column]  # a colour that is there: a stream of few colours stays one
    part = np.where(exact if pixels.ndim == 2 else exact[:, :, None], pixels[box.slices], fill)
    return pack_map(squares) + vp8l.encode(part, method=method, quality=quality)


@dataclasses.dataclass(frozen=True)
class ExactSquares:
    """What an exact chunk holds: `pixels` of `box`, of which those in `squares` count; None for all of a picture."""

    squares: Squares | None
    box: Box
    pixels: NDArray[np.uint8]

    def mask(self, scale: int = 1) -> NDArray[np.bool_]:
        """Which pixels of the box count, at 1/`scale` of the sides."""
        assert self.squares is not None
        width, height = (-(-side // scale) for side in self.box.size)
        top, left = self.box.top // SQUARE, self.box.left // SQUARE
        return magnify(self.squares[top:, left:], SQUARE // scale, height, width)


def unpack(payload: bytes, width: int, height: int, mode: str, *, whole: bool) -> ExactSquares:
    """The inverse of `pack`; BadFileError when it is damaged.

    mode: L, LA, RGB or RGBA, of the picture; whole: whether all squares are exact.  Pixels are (h, w) or (h, w, 2..4);
    with alpha only of a whole picture.
    """
    if whole:
        channels = {"L": 1, "LA": 4, "RGB": 3, "RGBA": 4}[mode]
        pixels = vp8l.decode(payload, width, height, channels, NAME)
        pixels = np.ascontiguousarray(pixels[:, :, 1::2]) if mode == "LA" else pixels
        return ExactSquares(None, Box(0, 0, width, height), pixels)
    squares, stream = unpack_map(payload, -(-height // SQUARE), -(-width // SQUARE))
    box = box_of(squares, width, height)
    return ExactSquares(squares, box, vp8l.decode(stream, *box.size, 1 if mode.startswith("L") else 3, NAME))


def count(tile: Tile, squares_of: Grid) -> int:
    """How many squares of a tile of so many rows and columns are exact; BadFileError where its map is damaged."""
    if tile.exact is None or tile.whole:
        return 0 if tile.exact is None else squares_of[0] * squares_of[1]
    return int(unpack_map(tile.exact, *squares_of)[0].sum())


def reduced(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Pixels at 1/`scale` of the sides, rounded up: means of what is there."""
    return pixels if scale == 1 else np.asarray(Image.fromarray(pixels).reduce(scale))


def put(exact: ExactSquares, into: NDArray[np.uint8], part: Box, scale: int = 1) -> None:
    """Put exact squares over pixels.

    into: (h, w, channels) of a part of the tile, which is a box of it at 1/`scale` of the sides.
    """
    small, whole = reduced(exact.pixels, scale), exact.box.reduced(scale)
    common = whole.cut(part)
    source, place = common.seen_from(whole).slices, common.seen_from(part).slices
    pixels = small.reshape(*small.shape[:2], -1)[source]
    if exact.squares is None:
        into[place] = pixels
    else:
        mask = exact.mask(scale)[source]
        into[place][mask] = pixels[mask]
