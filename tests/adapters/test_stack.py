"""Stacks of pictures as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pillow_mcquic
from pillow_mcquic.adapters import stack


def test_pictures_of_different_shapes_do_not_stack(pixels: NDArray[np.uint8]) -> None:
    both = stack.encode(pixels[0]) + stack.encode(pixels[0, :20])
    with pytest.raises(ValueError, match="do not stack"):
        stack.decode(both)
    assert stack.decode(both, 1).shape == (20, 64, 3)


def test_a_stack_is_measured_before_it_is_decoded(pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes may stand for many pixels, and many such pictures for too many."""
    encoded = stack.encode(pixels)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64)
    assert stack.decode(encoded, 1).shape == (48, 64, 3)
    assert stack.decode(encoded, shape=pixels.shape).shape == pixels.shape  # as large as expected
    monkeypatch.setattr(pillow_mcquic.decoding, "decode_file", None)
    with pytest.raises(Image.DecompressionBombError):
        stack.decode(encoded)
    with pytest.raises(ValueError, match="shape"):
        stack.decode(encoded, shape=(48, 64, 3))
