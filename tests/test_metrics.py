"""How near pictures are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pillow_mcquic import metrics


def test_psnr_of_one_level_everywhere_is_48_dB() -> None:  # noqa: N802
    a = np.full((200, 30, 3), 100, np.uint8)
    assert metrics.psnr(a, a + 1) == pytest.approx(20 * math.log10(255))
    assert metrics.psnr(a, a) == math.inf


def test_psnr_counts_every_row() -> None:
    a = np.zeros((130, 10), np.uint8)
    b = a.copy()
    b[129] = 255
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(130))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.msssim, metrics.ssimulacra2])
def test_more_blur_scores_less(metric: object, photo: Image.Image) -> None:
    original = photo.crop((200, 80, 400, 260))
    blurred = [original.filter(ImageFilter.GaussianBlur(radius)) for radius in (1, 3)]
    near, far = (metric(np.asarray(original), np.asarray(image)) for image in blurred)
    assert near > far + 3


def test_decibels_of_no_error_are_infinite() -> None:
    assert metrics.decibels(0) == math.inf
    assert metrics.decibels(0.001) == pytest.approx(30)
