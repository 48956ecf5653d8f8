"""What tests share: crops of one photo that the repository ships, settings put back, random numbers."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic import runtime  # registers the format too

PHOTO = Path(__file__).parent / "images" / "parrots.png"


def to_bytes(image: Image.Image, **options: Any) -> bytes:
    """The `.mcq` file Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, "MCQ", **options)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Image.Image:
    """A loaded image from `.mcq` bytes."""
    with Image.open(io.BytesIO(data), formats=["MCQ"]) as image:
        image.load()
        return image


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio, dB."""
    mse = np.square(np.asarray(a, float) - np.asarray(b, float)).mean()
    return float(10 * np.log10(255**2 / mse)) if mse else float("inf")


@pytest.fixture(autouse=True)
def configured_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards, whatever device and precision a test configures."""
    monkeypatch.setattr(runtime, "_options", dict(runtime._options))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test draws the same ones, whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """768x512 RGB."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


@pytest.fixture(scope="session")
def small(photo: Image.Image) -> Image.Image:
    """A crop whose sides are multiples of nothing: 150x101 RGB."""
    return photo.crop((300, 80, 450, 181))


@pytest.fixture(scope="session")
def small_file(small: Image.Image) -> bytes:
    """`small` as an `.mcq` file of quality 4."""
    return to_bytes(small)


@pytest.fixture(params=[True, False], ids=["picked", "dense"])
def picking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the quantiser picks out what it must search, as on a CPU, or searches all at once, as on CUDA."""
    monkeypatch.setattr("pillow_mcquic.model.search.PICKING", {"cpu"} if request.param else set())
    for module in ("search", "expectation"):
        monkeypatch.setattr(f"pillow_mcquic.model.{module}.WIDE_CHUNK", 128)
    import torch

    from pillow_mcquic.model import search

    assert search.picks(torch.device("cpu")) == request.param
    return bool(request.param)
