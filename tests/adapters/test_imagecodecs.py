"""The six names that every codec has in imagecodecs."""

from __future__ import annotations

import io
import mmap
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pillow_mcquic
from pillow_mcquic.adapters.imagecodecs import MCQ, McqError, mcq_check, mcq_decode, mcq_encode, mcq_version

from .conftest import error


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 1), (48, 64, 2), (48, 64, 3), (48, 64, 4), (3, 48, 64, 3)])
def test_imagecodecs_shapes(shape: tuple[int, ...], pixels: NDArray[np.uint8]) -> None:
    rgba = np.concatenate([pixels, pixels[..., :1]], -1)
    data = rgba[: shape[0], ..., : shape[-1]] if len(shape) == 4 else rgba[0, ..., : (*shape, 1)[2]].reshape(shape)
    encoded = mcq_encode(data, level=7)
    assert mcq_check(encoded)
    decoded = mcq_decode(encoded)
    assert decoded.shape == (shape if shape[-1] != 1 else shape[:-1])
    assert error(decoded.reshape(shape), data) < 8


def test_imagecodecs_constants_and_version() -> None:
    assert MCQ.available
    assert (MCQ.LEVEL_MIN, MCQ.LEVEL_DEFAULT, MCQ.LEVEL_MAX) == (1, 4, 10)
    assert mcq_version().startswith("pillow_mcquic ")
    assert not mcq_check(b"\x89PNG")


def test_imagecodecs_level_is_quality(pixels: NDArray[np.uint8]) -> None:
    assert mcq_encode(pixels[0], 2.5) == pillow_mcquic.encode(pixels[0], quality=2.5)
    assert mcq_encode(pixels[0]) == pillow_mcquic.encode(pixels[0])


def test_imagecodecs_out(pixels: NDArray[np.uint8]) -> None:
    encoded = mcq_encode(pixels[0])
    buffer = bytearray(len(encoded) + 50)
    assert bytes(mcq_encode(pixels[0], out=buffer)) == encoded
    assert buffer[: len(encoded)] == encoded
    out = np.empty_like(pixels[0])
    assert mcq_decode(encoded, out=out) is out
    assert np.array_equal(out, mcq_decode(encoded))
    with pytest.raises(McqError, match="do not fit"):
        mcq_encode(pixels[0], out=bytearray(10))
    for shape in ((5, 5, 3), (64, 48, 3), (48, 192)):  # as many samples in another order are another picture
        with pytest.raises(McqError, match="shape"):
            mcq_decode(encoded, out=np.empty(shape, np.uint8))
    with pytest.raises(McqError, match="array"):
        mcq_decode(encoded, out=bytearray(48 * 64 * 3))  # type: ignore[arg-type]
    assert np.array_equal(mcq_decode(encoded, out=np.empty((1, 48, 64, 3), np.uint8))[0], out)


def test_imagecodecs_stack_by_index(pixels: NDArray[np.uint8]) -> None:
    encoded = mcq_encode(pixels)
    assert mcq_decode(encoded).shape == pixels.shape
    assert np.array_equal(mcq_decode(encoded, 2), mcq_decode(encoded)[2])
    assert np.array_equal(mcq_decode(encoded, -1), mcq_decode(encoded)[3])
    with pytest.raises(McqError, match="from 0 to 3"):
        mcq_decode(encoded, 4)


def test_imagecodecs_errors(pixels: NDArray[np.uint8]) -> None:
    for bad in (pixels[0].astype(float), pixels[:, None], pixels[:0], 5):
        with pytest.raises(McqError):
            mcq_encode(bad)
    with pytest.raises(McqError, match=r"1 .* 10"):
        mcq_encode(pixels[0], level=11)
    for data in (b"", b"noise" * 10, mcq_encode(pixels[0])[:-3], "text"):
        with pytest.raises(McqError):
            mcq_decode(data)


@pytest.mark.parametrize("source", ["str", "path", "bytes", "bytesio", "file", "mmap"])
def test_imread_and_imwrite_of_imagecodecs(source: str, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    path = tmp_path / "x.mcq"
    imagecodecs.imwrite(str(path), pixels[0], codec=mcq_encode, level=6)
    with open(path, "rb") as file:
        data = {
            "str": str(path),
            "path": path,
            "bytes": path.read_bytes(),
            "bytesio": io.BytesIO(path.read_bytes()),
            "file": file,
            "mmap": mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
        }[source]
        assert np.array_equal(imagecodecs.imread(data, codec=mcq_decode), mcq_decode(path.read_bytes()))


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 2), (48, 64, 3), (48, 64, 4), (3, 48, 64, 3)])
def test_imagecodecs_lossless(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(mcq_decode(mcq_encode(data, lossless=True)), data)
    with pytest.raises(McqError, match="give only one of quality and lossless"):
        mcq_encode(data, 4, lossless=True)
