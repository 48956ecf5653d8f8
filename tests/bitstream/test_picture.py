"""Pixels of any kind, and the chunks they become."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest

from pillow_mcquic.bitstream import container, exact_squares
from pillow_mcquic.bitstream.picture import Picture, split_channels
from pillow_mcquic.bitstream.tiles import Tile
from pillow_mcquic.quality import Quality

from ..files import chunks_of

FAST = {"method": 0, "quality": 0}
ID, CODES = b"\1\2\3\4", b"word" * 30


def pixels(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)


def kinds(data: bytes) -> bytes:
    return b"".join(chunks_of(container.read(io.BytesIO(data))))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels_tell_the_mode(channels: int, mode: str) -> None:
    found, colours, alpha = split_channels(pixels(channels))
    assert (found, colours.shape) == (mode, (40, 50, 3))
    assert (alpha is not None) == mode.endswith("A")


def test_learned_picture_has_codes_and_alpha() -> None:
    picture = Picture.of(pixels(4), FAST, {b"c": b"hi"})
    assert kinds(picture.write(Quality(1024), ID, [Tile(CODES, None, whole=False)])) == b"cAC"


def test_exact_squares_come_first() -> None:
    squares = np.zeros((3, 4), np.bool_)
    squares[1, 1] = True
    picture = Picture.of(pixels(4), FAST)
    tile = dataclasses.replace(picture.mixed(picture.colours, squares), codes=CODES)
    assert kinds(picture.write(Quality(1024), ID, [tile])) == b"XAC"


def test_picture_of_exact_squares_alone_keeps_alpha_among_its_pixels() -> None:
    picture = Picture.of(pixels(4), FAST)
    data = picture.write(Quality(1024), ID, [picture.whole(picture.colours, picture.tiles.whole)])
    file = container.read(io.BytesIO(data))
    assert kinds(data) == b"X"
    assert not file.header.learned
    assert file.header.quality == Quality(1024)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_picture_comes_back(channels: int) -> None:
    file = container.read(io.BytesIO(Picture.of(pixels(channels), FAST).write_lossless()))
    assert (file.header.quality, file.header.learned) == (None, False)
    exact = exact_squares.unpack(chunks_of(file)[b"X"], 50, 40, file.header.mode, whole=True)
    assert np.array_equal(exact.pixels.reshape(pixels(channels).shape), pixels(channels))


@pytest.mark.parametrize(("width", "height", "side"), [(2048, 2048, None), (2049, 2048, 2048), (16384, 1, 2048)])
def test_a_picture_beyond_four_megapixels_or_what_webp_can_is_in_tiles(
    width: int, height: int, side: int | None
) -> None:
    assert Picture.of(np.zeros((height, width), np.uint8), FAST).tile_side == side
