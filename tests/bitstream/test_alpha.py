"""Alpha: without loss, and never inflated beyond the picture."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from pillow_mcquic.bitstream import alpha

from ..files import allocates_little


@pytest.mark.parametrize("kind", ["gradient", "noise", "binary", "flat"])
def test_alpha_is_lossless(kind: str) -> None:
    y, x = np.mgrid[0:70, 0:90]
    plane = {
        "gradient": (x + y) % 256,
        "noise": np.random.default_rng(0).integers(0, 256, (70, 90)),
        "binary": ((x - 45) ** 2 + (y - 35) ** 2 < 900) * 255,
        "flat": np.full((70, 90), 17),
    }[kind].astype(np.uint8)
    payload = alpha.pack(plane)
    assert np.array_equal(alpha.unpack(payload, 90, 70), plane)
    assert len(payload) < (6500 if kind == "noise" else 350)


def test_alpha_bomb_is_cut_short() -> None:
    bomb = b"\0" + zlib.compress(bytes(100_000_000))
    with allocates_little(), pytest.raises(OSError, match="alpha"):
        alpha.unpack(bomb, 100, 100)


@pytest.mark.parametrize("payload", [b"", b"\x03x", b"\0garbage", b"\0" + zlib.compress(b"short")])
def test_damaged_alpha_is_an_oserror(payload: bytes) -> None:
    with pytest.raises(OSError, match="alpha"):
        alpha.unpack(payload, 10, 10)


def test_smallest_of_the_ways_is_taken() -> None:
    """Dots at random suit VP8L, a slope of rows its filter."""
    dots = (np.random.default_rng(0).random((90, 120)) < 0.02).astype(np.uint8) * 255
    rows = np.repeat(np.cumsum(np.random.default_rng(0).integers(0, 256, 300)).astype(np.uint8)[:, None], 3, 1)
    assert alpha.pack(dots)[0] == 3
    assert alpha.pack(np.ascontiguousarray(rows))[0] in (1, 3)
    for plane in (dots, np.ascontiguousarray(rows)):
        assert np.array_equal(alpha.unpack(alpha.pack(plane), plane.shape[1], plane.shape[0]), plane)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_filters_are_these_differences(number: int) -> None:
    plane = np.array([[1, 3, 2], [9, 9, 255], [0, 4, 4]], np.uint8)
    stored = [plane, [[1, 2, 255], [9, 0, 246], [0, 4, 0]], [[1, 3, 2], [8, 6, 253], [247, 251, 5]]][number]
    payload = bytes([number]) + zlib.compress(np.asarray(stored, np.uint8).tobytes())
    assert np.array_equal(alpha.unpack(payload, 3, 3), plane)
