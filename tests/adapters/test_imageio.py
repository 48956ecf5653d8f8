"""imageio, through Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import to_bytes


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
