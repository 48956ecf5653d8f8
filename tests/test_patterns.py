"""Pictures that no network was made for: no whole quality makes them worse, and quality 8 is 30 dB at least."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from .conftest import from_bytes, psnr, to_bytes

Y, X = np.mgrid[0:256, 0:256]


def lines(width: int, degrees: float) -> np.ndarray:
    across = np.cos(np.radians(degrees)) * X + np.sin(np.radians(degrees)) * Y
    return np.uint8(across // width % 2 * 255)


def text() -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    for y in range(2, 250, 12):
        ImageDraw.Draw(image).text((3, y), "the quick brown fox jumps over the lazy", fill="black")
    return image


def pattern(name: str) -> Image.Image:
    rng = np.random.default_rng(0)
    primaries = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)], np.uint8)
    match name.split():
        case ["checks", size]:
            return Image.fromarray(np.uint8((X // int(size) + Y // int(size)) % 2 * 255)).convert("RGB")
        case ["lines", width, degrees]:
            return Image.fromarray(lines(int(width), float(degrees))).convert("RGB")
        case ["dither"]:
            return Image.fromarray(np.uint8(X)).convert("1").convert("RGB")
        case ["noise"]:
            return Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8))
        case ["colours"]:
            return Image.fromarray(primaries[rng.integers(0, 6, (16, 16))].repeat(16, 0).repeat(16, 1))
    return text()


@pytest.mark.parametrize(
    "name",
    [
        "checks 1",
        "checks 3",
        "lines 1 20",
        "lines 2 45",
        "lines 4 90",
        "dither",
        "noise",
        "colours",
        "text",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("checks 2", "lines 1 70", "lines 3 10")),
    ],
)
def test_pattern_gets_no_worse_with_quality(name: str) -> None:
    image = pattern(name)
    scores = [psnr(from_bytes(to_bytes(image, quality=quality)), image) for quality in range(1, 11)]
    assert all(high >= low - 0.05 for low, high in itertools.pairwise(scores))
    assert scores[7] >= 30
