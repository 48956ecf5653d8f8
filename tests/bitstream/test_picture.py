"""Pixels of any kind, and the chunks they become."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pillow_mcquic.bitstream import container, exact_squares
from pillow_mcquic.bitstream.picture import Picture, split_channels
from pillow_mcquic.quality import Quality

FAST = {"method": 0, "quality": 0}
ID, CODES = b"\1\2\3\4", b"word" * 30


def pixels(channels: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)


def kinds(data: bytes) -> bytes:
    return b"".join(chunk.kind for chunk in container.read(io.BytesIO(data)).chunks)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_channels_tell_the_mode(channels: int, mode: str) -> None:
    found, colours, alpha = split_channels(pixels(channels))
    assert (found, colours.shape) == (mode, (40, 50, 3))
    assert (alpha is not None) == mode.endswith("A")


def test_learned_picture_has_codes_and_alpha() -> None:
    picture = Picture.of(pixels(4), FAST, {b"c": b"hi"})
    assert kinds(picture.write(Quality(1024), ID, CODES)) == b"cAC"


def test_exact_squares_come_first() -> None:
    squares = np.zeros((3, 4), np.bool_)
    squares[1, 1] = True
    picture = Picture.of(pixels(4), FAST)
    assert kinds(picture.write(Quality(1024), ID, CODES, squares, picture.colours)) == b"XAC"


def test_picture_of_exact_squares_alone_keeps_alpha_among_its_pixels() -> None:
    picture = Picture.of(pixels(4), FAST)
    data = picture.write(Quality(1024), ID, None, np.ones((3, 4), np.bool_), picture.colours)
    file = container.read(io.BytesIO(data))
    assert kinds(data) == b"X"
    assert not file.header.learned
    assert file.header.quality == Quality(1024)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_picture_comes_back(channels: int) -> None:
    file = container.read(io.BytesIO(Picture.of(pixels(channels), FAST).write_lossless()))
    assert (file.header.quality, file.header.learned) == (None, False)
    exact = exact_squares.unpack(file.get(b"X") or b"", 50, 40, file.header.mode, whole=True)
    assert np.array_equal(exact.pixels.reshape(pixels(channels).shape), pixels(channels))


def test_lossless_side_beyond_what_webp_can_is_named() -> None:
    with pytest.raises(ValueError, match="below 16384, got 16384x1"):
        Picture.of(np.zeros((1, 16384), np.uint8), FAST).write_lossless()
