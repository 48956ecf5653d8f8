"""Fewer colours: few enough, near enough, and the same ones whatever was asked before."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic.engine.palette import Colours
from pillow_mcquic.metrics import psnr


def number_of_colours(pixels: np.ndarray) -> int:
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def everywhere(pixels: np.ndarray) -> np.ndarray:
    return np.ones(pixels.shape[:2], np.bool_)


@pytest.mark.parametrize("size", [2, 7, 64])
def test_picture_has_at_most_so_many_colours(small: Image.Image, size: int) -> None:
    pixels = np.asarray(small)
    reduced = Colours(pixels, everywhere(pixels)).reduced(size)
    assert reduced.shape == pixels.shape
    assert number_of_colours(reduced) <= size


def test_more_colours_are_nearer(small: Image.Image) -> None:
    pixels = np.asarray(small)
    colours = Colours(pixels, everywhere(pixels))
    scores = [psnr(pixels, colours.reduced(size)) for size in (4, 16, 64, 256)]
    assert scores == sorted(scores)
    assert scores[1] > 26
    assert scores[3] > 37


def test_few_colours_are_kept() -> None:
    pixels = np.array([[[0, 0, 0], [9, 200, 30]], [[255, 1, 2], [0, 0, 0]]], np.uint8)
    colours = Colours(pixels, everywhere(pixels))
    assert len(colours) == 3
    assert np.array_equal(colours.reduced(3), pixels)


def test_pixels_that_do_not_count_have_no_colours_of_their_own(small: Image.Image) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, 10:] = np.asarray(small)[:20, :10]
    where = np.zeros((20, 20), np.bool_)
    where[:, :10] = True
    assert number_of_colours(Colours(pixels, where).reduced(8)) == 1


def test_order_of_questions_does_not_matter(small: Image.Image) -> None:
    pixels = np.asarray(small)
    asked, fresh = Colours(pixels, everywhere(pixels)), Colours(pixels, everywhere(pixels))
    asked.reduced(64)
    assert np.array_equal(asked.reduced(8), fresh.reduced(8))


def test_noise_of_millions_of_colours_is_reduced() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    colours = Colours(pixels, everywhere(pixels))
    assert len(colours) <= 1 << 15
    assert number_of_colours(colours.reduced(16)) == 16
