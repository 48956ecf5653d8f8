"""The Zarr 3 codec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pillow_mcquic.adapters import stack

from .conftest import error


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


def test_zarr_lossless_is_kept_in_the_metadata(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(
        tmp_path / "exact.zarr",
        shape=pixels.shape,
        chunks=(1, *pixels.shape[1:]),
        dtype="uint8",
        serializer={"name": "mcq", "configuration": {"lossless": True}},
        compressors=None,
    )
    array[:] = pixels
    reopened = zarr.open_array(tmp_path / "exact.zarr")
    assert np.array_equal(reopened[:], pixels)
    assert reopened.serializer.to_dict()["configuration"] == {"level": None, "effort": 1, "lossless": True}
