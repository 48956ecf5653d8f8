"""Pixels that adapters encode."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


@pytest.fixture(scope="module")
def pixels(photo: Image.Image) -> NDArray[np.uint8]:
    """Four crops, (4, 48, 64, 3)."""
    return np.stack([np.asarray(photo.crop((80 * i, 60 * i, 80 * i + 64, 60 * i + 48))) for i in range(4)])


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(abs(a.astype(int) - b.astype(int)).mean())
