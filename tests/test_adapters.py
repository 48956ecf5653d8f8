"""`.mcq` under the habits of imagecodecs, numcodecs, Zarr and imageio."""

from __future__ import annotations

import io
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pillow_mcquic
from pillow_mcquic.adapters import stack
from pillow_mcquic.adapters.imagecodecs import MCQ, McqError, mcq_check, mcq_decode, mcq_encode, mcq_version

from .conftest import to_bytes


@pytest.fixture(scope="module")
def pixels(photo: Image.Image) -> NDArray[np.uint8]:
    """Four crops, (4, 48, 64, 3)."""
    return np.stack([np.asarray(photo.crop((80 * i, 60 * i, 80 * i + 64, 60 * i + 48))) for i in range(4)])


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(abs(a.astype(int) - b.astype(int)).mean())


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
    assert (MCQ.LEVEL_MIN, MCQ.LEVEL_DEFAULT, MCQ.LEVEL_MAX) == (1, 4, 8)
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
    with pytest.raises(McqError, match=r"1 .* 8"):
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


def test_pictures_of_different_shapes_do_not_stack(pixels: NDArray[np.uint8]) -> None:
    both = stack.encode(pixels[0]) + stack.encode(pixels[0, :20])
    with pytest.raises(ValueError, match="do not stack"):
        stack.decode(both)
    assert stack.decode(both, 1).shape == (20, 64, 3)


def test_numcodecs_finds_the_codec_without_torch() -> None:
    pytest.importorskip("numcodecs")
    code = (
        "import sys, numcodecs; c = numcodecs.get_codec({'id': 'mcq', 'level': 5});"
        "print(c.get_config(), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'id': 'mcq', 'level': 5, 'effort': 1} False"


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


def test_a_stack_is_measured_before_it_is_decoded(pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may stand for many pixels, and many such pictures for too many."""
    encoded = stack.encode(pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64)
    assert stack.decode(encoded, 1).shape == (48, 64, 3)
    assert stack.decode(encoded, shape=pixels.shape).shape == pixels.shape  # as large as expected
    monkeypatch.setattr(pillow_mcquic.codec, "decode_file", None)
    with pytest.raises(Image.DecompressionBombError):
        stack.decode(encoded)
    with pytest.raises(ValueError, match="shape"):
        stack.decode(encoded, shape=(48, 64, 3))


def test_an_array_in_fortran_order_is_refused(pixels: NDArray[np.uint8]) -> None:
    """Zarr 2 takes what comes back for that order, too: its pixels would be scrambled."""
    numcodecs = pytest.importorskip("numcodecs")
    with pytest.raises(ValueError, match="order='C'"):
        numcodecs.get_codec({"id": "mcq"}).encode(np.asfortranarray(pixels))


def chunk_files(folder: Path) -> list[Path]:
    """Those of the Zarr arrays in a folder."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "zarr.json")


def test_zarr_array_of_pictures(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(tmp_path / "photos.zarr", mode="w")
    array = root.create_array(
        "photos",
        shape=(5, 48, 64, 3),
        chunks=(2, 48, 64, 3),
        dtype="uint8",
        serializer={"name": "mcq", "configuration": {"level": 6}},
        compressors=None,
    )
    array[:4] = pixels
    zarr.consolidate_metadata(tmp_path / "photos.zarr")
    reread = zarr.open_consolidated(tmp_path / "photos.zarr")["photos"]
    assert error(reread[:4], pixels) < 8
    assert np.array_equal(reread[1], array[1])
    assert not reread[4].any() or error(reread[4], pixels[0] * 0) < 3
    assert 0 < sum(p.stat().st_size for p in chunk_files(tmp_path)) < pixels.nbytes / 5


def test_zarr_notices_a_chunk_of_another_shape(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        tmp_path / "x.zarr",
        shape=pixels.shape,
        chunks=(1, *pixels.shape[1:]),
        dtype="uint8",
        serializer={"name": "mcq", "configuration": {}},
        compressors=None,
    )
    array[:] = pixels
    chunk = chunk_files(tmp_path)[0]
    chunk.write_bytes(stack.encode(pixels[0].transpose(1, 0, 2)))
    with pytest.raises(OSError, match="shape"):
        array[:]


def test_zarr_names_an_unknown_setting(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    with pytest.raises(ValueError, match="lvel"):
        zarr.create_array(
            tmp_path / "x.zarr",
            shape=(48, 64, 3),
            dtype="uint8",
            serializer={"name": "mcq", "configuration": {"lvel": 5}},
            compressors=None,
        )


@pytest.mark.parametrize(
    ("dtype", "chunks", "named"), [("float32", (48, 64, 3), "uint8"), ("uint8", (48, 64, 7), "1..4")]
)
def test_zarr_says_what_it_stores(dtype: str, chunks: tuple[int, ...], named: str, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    with pytest.raises(ValueError, match=named):
        zarr.create_array(
            tmp_path / "x.zarr",
            shape=chunks,
            chunks=chunks,
            dtype=dtype,
            serializer={"name": "mcq", "configuration": {}},
            compressors=None,
        )


def test_imageio_reads_and_writes(tmp_path: Path, small: Image.Image) -> None:
    iio = pytest.importorskip("imageio.v3")
    path = tmp_path / "x.mcq"
    iio.imwrite(path, np.asarray(small), plugin="pillow", format="MCQ", quality=6)
    assert path.read_bytes() == to_bytes(small, quality=6)
    with Image.open(path) as image:
        assert np.array_equal(iio.imread(path), np.asarray(image))
    assert iio.improps(path).shape == (101, 150, 3)
    assert iio.immeta(path)["quality"] == 6
    assert np.array_equal(iio.imread(path.read_bytes(), plugin="pillow"), iio.imread(path))
