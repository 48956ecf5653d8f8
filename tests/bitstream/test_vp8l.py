"""Bare VP8L streams: the pixels they were made of, their size checked first, and nothing but OSError for others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, features

from pillow_mcquic.bitstream import vp8l
from pillow_mcquic.errors import BadFileError

SHAPES = {1: (20, 30), 3: (20, 30, 3), 4: (20, 30, 4)}


def noise(channels: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, SHAPES[channels], np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pixels_are_kept_to_the_bit(channels: int) -> None:
    stream = vp8l.encode(noise(channels), method=0, quality=0)
    assert np.array_equal(vp8l.decode(stream, 30, 20, channels, "x"), noise(channels))


def test_colours_under_transparency_are_kept() -> None:
    pixels = noise(4)
    pixels[..., 3] = 0
    assert np.array_equal(vp8l.decode(vp8l.encode(pixels, method=6, quality=90), 30, 20, 4, "x"), pixels)


def test_stream_is_what_a_webp_file_holds() -> None:
    stream, file = vp8l.encode(noise(3), method=4, quality=75), io.BytesIO()
    Image.fromarray(noise(3)).save(file, "WEBP", lossless=True, method=4, quality=75, exact=True)
    assert stream[0] == 0x2F
    assert stream in file.getvalue()


def test_zeros_after_the_stream_are_not_read() -> None:
    stream = vp8l.encode(noise(3), method=0, quality=0) + bytes(1001)
    assert np.array_equal(vp8l.decode(stream, 30, 20, 3, "x"), noise(3))


@pytest.mark.parametrize("size", [(30, 21), (31, 20), (20, 30)])
def test_another_size_is_refused_before_it_is_decoded(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vp8l.Image, "open", None)
    with pytest.raises(BadFileError, match=f"x: the lossless stream is not one of {size[0]}x{size[1]} pixels"):
        vp8l.decode(vp8l.encode(noise(3), method=0, quality=0), *size, 3, "x")


def test_lossy_stream_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(3)).save(file, "WEBP", quality=50)
    with pytest.raises(BadFileError, match="lossless"):
        vp8l.decode(file.getvalue()[20:], 30, 20, 3, "x")


def test_every_cut_is_a_bad_file() -> None:
    stream = vp8l.encode(noise(3), method=0, quality=0)
    for length in range(0, len(stream) - 4, 7):
        with pytest.raises(BadFileError):
            vp8l.decode(stream[:length], 30, 20, 3, "x")


def test_pillow_without_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "webp")
    with pytest.raises(OSError, match=r"without WebP.*upgrade pillow"):
        vp8l.encode(noise(3), method=0, quality=0)
