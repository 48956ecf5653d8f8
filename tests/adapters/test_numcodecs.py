"""The numcodecs codec."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from .conftest import error


def test_numcodecs_finds_the_codec_without_torch() -> None:
    pytest.importorskip("numcodecs")
    code = (
        "import sys, numcodecs; c = numcodecs.get_codec({'id': 'mcq', 'level': 5});"
        "print(c.get_config(), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'id': 'mcq', 'level': 5, 'effort': 1, 'lossless': False} False"


def test_numcodecs_there_and_back(pixels: NDArray[np.uint8]) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    codec = numcodecs.get_codec({"id": "mcq", "level": 6})
    encoded = codec.encode(pixels)
    decoded = codec.decode(encoded)
    assert decoded.shape == pixels.shape
    assert error(decoded, pixels) < 8
    out = np.empty_like(pixels)
    codec.decode(encoded, out=out)
    assert np.array_equal(out, decoded)
    codec.decode(encoded, out=(flat := bytearray(pixels.size)))
    assert flat == decoded.tobytes()
    with pytest.raises(ValueError, match="shape"):
        codec.decode(encoded, out=np.empty((4, 64, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        codec.encode(pixels.astype("f4"))


@pytest.mark.parametrize(("option", "value"), [("level", 99), ("effort", 7)])
def test_numcodecs_refuses_options_when_it_is_made(option: str, value: int) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    with pytest.raises(ValueError, match=str(value)):
        numcodecs.get_codec({"id": "mcq", option: value})


def test_an_array_in_fortran_order_is_refused(pixels: NDArray[np.uint8]) -> None:
    """Zarr 2 takes what comes back for that order, too: its pixels would be scrambled."""
    numcodecs = pytest.importorskip("numcodecs")
    with pytest.raises(ValueError, match="order='C'"):
        numcodecs.get_codec({"id": "mcq"}).encode(np.asfortranarray(pixels))


def test_numcodecs_lossless_is_kept_in_the_metadata(pixels: NDArray[np.uint8]) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    codec = numcodecs.get_codec({"id": "mcq", "lossless": True})
    assert codec.get_config() == {"id": "mcq", "level": None, "effort": 1, "lossless": True}
    again = numcodecs.get_codec(codec.get_config())
    assert np.array_equal(again.decode(again.encode(pixels)), pixels)
    with pytest.raises(ValueError, match="give only one of level and lossless"):
        numcodecs.get_codec({"id": "mcq", "level": 4, "lossless": True})
