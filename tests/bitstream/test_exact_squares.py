"""Exact squares: the map of them, their pixels, and what they look like in previews."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream import exact_squares
from pillow_mcquic.bitstream.grids import Box
from pillow_mcquic.bitstream.tiles import Tile
from pillow_mcquic.errors import BadFileError

from ..files import allocates_little

FAST = {"method": 0, "quality": 0}
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)  # 4 x 5 squares
SQUARES = np.zeros((4, 5), np.bool_)
SQUARES[1, 2] = SQUARES[3, 4] = True


@given(st.integers(1, 20), st.integers(1, 20), st.randoms(use_true_random=False))
def test_map_comes_back(rows: int, columns: int, random) -> None:  # type: ignore[no-untyped-def]
    squares = np.array([[random.random() < 0.5 for _ in range(columns)] for _ in range(rows)])
    if squares.any() and not squares.all():
        packed = exact_squares.pack_map(squares)
        found, rest = exact_squares.unpack_map(packed + b"what follows", rows, columns)
        assert np.array_equal(found, squares)
        assert rest == b"what follows"


def test_map_is_these_bits() -> None:
    """Rows exclusive-or the row above: 00000, 00100, 00100, 00001."""
    import zlib

    assert zlib.decompress(exact_squares.pack_map(SQUARES), wbits=-15) == bytes([0, 0b00100000, 0b00100000, 0b00001000])


@pytest.mark.parametrize(
    "raw",
    [b"", bytes(3), bytes(5), bytes(4), b"\xf8\0\0\0", b"\x04\0\0\0"],
    ids=["none", "short", "long", "no", "all", "x"],
)
def test_map_of_another_size_or_of_no_use_is_refused(raw: bytes) -> None:
    import zlib

    deflate = zlib.compressobj(wbits=-15)
    with pytest.raises(BadFileError, match="map of exact squares"):
        exact_squares.unpack_map(deflate.compress(raw) + deflate.flush(), 4, 5)


def test_map_that_would_inflate_to_gigabytes_is_cut_short() -> None:
    import zlib

    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(100_000_000)) + deflate.flush()
    with allocates_little(), pytest.raises(BadFileError, match="map of exact squares"):
        exact_squares.unpack_map(bomb, 4, 5)


def test_box_holds_all_exact_squares_and_ends_with_the_picture() -> None:
    box = exact_squares.box_of(SQUARES, 70, 50)
    assert (box.left, box.top, box.right, box.bottom) == (32, 16, 70, 50)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_exact_pixels_come_back_and_no_others_are_touched(mode: str) -> None:
    pixels = PIXELS if mode == "RGB" else np.ascontiguousarray(PIXELS[:, :, 0])
    payload = exact_squares.pack(pixels, SQUARES, **FAST)
    decoded = np.full_like(pixels, 7)
    planes = decoded.reshape(50, 70, -1)
    exact_squares.put(exact_squares.unpack(payload, 70, 50, mode, whole=False), planes, Box(0, 0, 70, 50))
    where = exact_squares.magnify(SQUARES, 16, 50, 70)
    assert np.array_equal(decoded[where], pixels[where])
    assert (decoded[~where] == 7).all()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_whole_picture_comes_back_with_alpha(mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, len(mode)), np.uint8)
    pixels = pixels[:, :, 0].copy() if mode == "L" else pixels
    payload = exact_squares.pack(pixels, None, **FAST)
    assert np.array_equal(exact_squares.unpack(payload, 70, 50, mode, whole=True).pixels, pixels)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_previews_show_means_of_exact_squares(scale: int) -> None:
    exact = exact_squares.unpack(exact_squares.pack(PIXELS, SQUARES, **FAST), 70, 50, "RGB", whole=False)
    small = np.zeros((-(-50 // scale), -(-70 // scale), 3), np.uint8)
    exact_squares.put(exact, small, Box(0, 0, 70, 50).reduced(scale), scale)
    side = 16 // scale
    mean = PIXELS[16:32, 32:48].reshape(side, scale, side, scale, 3).mean((1, 3))
    assert np.abs(small[side : 2 * side, 2 * side : 3 * side] - mean).max() <= 0.5 + 1e-6
    assert not small[:side].any()


def test_count_tells_how_many() -> None:
    mixed = Tile(b"codes", exact_squares.pack(PIXELS, SQUARES, **FAST), whole=False)
    assert exact_squares.count(mixed, (4, 5)) == 2
    assert exact_squares.count(Tile(None, b"any", whole=True), (4, 5)) == 20
    assert exact_squares.count(Tile(b"codes", None, whole=False), (4, 5)) == 0


def test_exact_pixels_come_back_in_a_part_alone() -> None:
    exact = exact_squares.unpack(exact_squares.pack(PIXELS, SQUARES, **FAST), 70, 50, "RGB", whole=False)
    part = np.full((20, 30, 3), 7, np.uint8)
    exact_squares.put(exact, part, Box(40, 20, 70, 40))
    assert np.array_equal(part[:12, :8], PIXELS[20:32, 40:48])
    assert (part[12:] == 7).all()
