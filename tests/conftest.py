"""What tests share: crops of one photo that the repository ships, the shipped model, settings put back."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic import loading, metrics, runtime  # registers the format too

if TYPE_CHECKING:
    from pillow_mcquic.engine.bundle import DecoderBundle, EncoderBundle

PHOTO = Path(__file__).parent / "images" / "parrots.png"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs CUDA where there is none."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA here")


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
    return metrics.psnr(np.asarray(a), np.asarray(b))


@pytest.fixture(autouse=True)
def configured_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards, whatever device and precision a test configures."""
    monkeypatch.setattr(runtime, "chosen", dict(runtime.chosen))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Every test draws the same ones, whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def float32() -> None:
    """The networks run in float32."""
    runtime.configure(precision="float32")


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


@pytest.fixture(scope="session")
def encoder_bundle() -> EncoderBundle:
    """What the shipped model needs to encode."""
    return loading.load_encoder("cpu").bundle


@pytest.fixture(scope="session")
def bundle(encoder_bundle: EncoderBundle) -> DecoderBundle:
    """What the shipped model needs to decode."""
    return encoder_bundle.decoder


@pytest.fixture(params=[True, False], ids=["pruned", "dense"])
def pruning(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the codeword search picks out what it must search, as on a CPU, or searches all, as on CUDA."""
    monkeypatch.setattr("pillow_mcquic.model.nearest.PRUNING_DEVICES", {"cpu"} if request.param else set())
    for module in ("nearest", "expectation"):
        monkeypatch.setattr(f"pillow_mcquic.model.{module}.WIDE_BLOCK", 128)
    import torch

    from pillow_mcquic.model import nearest

    assert nearest.prunes(torch.device("cpu")) == request.param
    return bool(request.param)
