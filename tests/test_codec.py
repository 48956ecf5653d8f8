"""The codec: arrays to bytes and back, sizes, targets, arguments."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

import pillow_mcquic
from pillow_mcquic.bitstream import container

from .conftest import psnr


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 1, 3), (16, 16, 3), (17, 15, 4), (64, 64, 1), (33, 100, 2), (65, 3, 3), (2, 400, 3)]
)
def test_every_shape_comes_back(shape: tuple[int, ...], photo: Image.Image) -> None:
    pixels = np.asarray(photo.convert("RGBA"))[: shape[0], : shape[1]]
    pixels = pixels[:, :, 0] if len(shape) == 2 else np.ascontiguousarray(pixels[:, :, -shape[2] :])
    decoded = pillow_mcquic.decode(pillow_mcquic.encode(pixels))
    assert decoded.dtype == np.uint8
    assert decoded.shape == (shape[:2] if len(shape) == 2 or shape[2] == 1 else shape)


def test_plain_file_spends_at_most_33_bytes_on_structure(photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), quality=8)
    parsed = container.read(io.BytesIO(data))
    assert len(data) - len(parsed.codes) <= 33


def test_quality_rises_with_its_number(photo: Image.Image) -> None:
    crop = photo.crop((200, 100, 520, 356))
    pixels = np.asarray(crop)
    files = [pillow_mcquic.encode(pixels, quality=q) for q in (1, 2, 3, 3.5, 4, 5, 6, 7, 8, 9, 10)]
    sizes = [len(f) for f in files]
    qualities = [psnr(crop, Image.fromarray(pillow_mcquic.decode(f))) for f in files]
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[0] > 24
    assert qualities[-1] > 36


@pytest.mark.parametrize("quality", [4, 8, 10])
@pytest.mark.parametrize(("ground", "patch"), [(240, 5), (0, 255)])
def test_the_strongest_contrast_keeps_its_grey(quality: int, ground: int, patch: int) -> None:
    """The codebooks reach as far as black beside white, even where all around is flat."""
    pixels = np.full((128, 128, 3), ground, np.uint8)
    pixels[48:80, 48:80] = patch
    error = pillow_mcquic.decode(pillow_mcquic.encode(pixels, quality=quality)) - pixels.astype(float)
    squares = error.mean(2).reshape(8, 16, 8, 16).mean((1, 3))
    assert abs(squares).max() < 9  # 49 and more with codebooks that end too early


def test_same_input_same_bytes(small: Image.Image) -> None:
    pixels = np.asarray(small)
    assert pillow_mcquic.encode(pixels) == pillow_mcquic.encode(pixels.copy())


def test_writing_does_not_touch_the_input(small: Image.Image) -> None:
    pixels = np.array(small.resize((64, 48)))
    before = pixels.copy()
    pillow_mcquic.encode(pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("bpp", [0.12, 0.25, 0.4])
def test_target_bpp_is_met_within_3_percent(bpp: float, photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), target_bpp=bpp)
    assert abs(8 * len(data) / (768 * 512) / bpp - 1) <= 0.03


def test_target_out_of_reach_gives_the_nearest(small: Image.Image) -> None:
    pixels = np.asarray(small)
    assert pillow_mcquic.encode(pixels, target_bpp=0.0001) == pillow_mcquic.encode(pixels, quality=1)
    assert pillow_mcquic.encode(pixels, target_bpp=100.0) == pillow_mcquic.encode(pixels, quality=10)


def test_max_bytes_is_kept_and_used(photo: Image.Image) -> None:
    data = pillow_mcquic.encode(np.asarray(photo), max_bytes=12000)
    assert 0.99 * 12000 <= len(data) <= 12000


def test_max_bytes_below_reach_is_an_error_that_says_what_is_needed(small: Image.Image) -> None:
    pixels = np.asarray(small)
    needed = len(pillow_mcquic.encode(pixels, quality=1))
    with pytest.raises(ValueError, match=f"quality 1 needs {needed} bytes"):
        pillow_mcquic.encode(pixels, max_bytes=needed - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0.99}, "from 1"),
        ({"quality": 10.01}, "to 10"),
        ({"quality": float("nan")}, "from 1"),
        ({"quality": "3"}, "number"),
        ({"quality": True}, "number"),
        ({"target_bpp": 0}, "target_bpp"),
        ({"target_bpp": "x"}, "target_bpp"),
        ({"target_bpp": float("nan")}, "target_bpp"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 1.5}, "max_bytes"),
        ({"quality": 3, "max_bytes": 100}, "one of"),
    ],
)
def test_bad_options_name_themselves(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pillow_mcquic.encode(np.zeros((8, 8, 3), np.uint8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.zeros(8, np.uint8),
        [[1, 2]],
    ],
)
def test_bad_pixels_are_refused(pixels: object) -> None:
    with pytest.raises(ValueError, match="pixels must be"):
        pillow_mcquic.encode(pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("chunks", [{b"C": b""}, {b"A": b""}, {b"zz": b""}, {"c": b""}])
def test_bad_chunks_are_refused(chunks: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="chunks must have types"):
        pillow_mcquic.encode(np.zeros((8, 8, 3), np.uint8), chunks=chunks)


def test_metadata_may_be_most_of_max_bytes(small: Image.Image) -> None:
    pixels, chunks = np.asarray(small), {b"e": b"x" * 60000}
    least = len(pillow_mcquic.encode(pixels, quality=1, chunks=chunks))
    assert len(pillow_mcquic.encode(pixels, max_bytes=least + 4, chunks=chunks)) <= least + 4
