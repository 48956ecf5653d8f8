"""Previews through Pillow's `draft` and `thumbnail`."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pillow_mcquic
from pillow_mcquic import decoding
from pillow_mcquic.bitstream import container

from ..conftest import psnr, to_bytes


@pytest.fixture(scope="module")
def cut(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 80, 200 + 301, 80 + 203))  # odd sides


@pytest.mark.parametrize(
    ("wanted", "scale"),
    [
        ((301, 203), 1),
        ((151, 90), 1),
        ((150, 101), 2),
        ((80, 60), 2),
        ((75, 50), 4),
        ((30, 20), 8),
        ((1, 1), 8),
        ((0, 0), 8),
    ],
)
def test_draft_takes_the_smallest_picture_that_is_large_enough(
    wanted: tuple[int, int], scale: int, cut: Image.Image
) -> None:
    image = Image.open(io.BytesIO(to_bytes(cut)))
    assert image.draft(None, wanted) == ("RGB", (0, 0, 301 / scale, 203 / scale))
    assert image.size == (-(-301 // scale), -(-203 // scale))
    np.testing.assert_array_equal(np.asarray(image), pillow_mcquic.decode(to_bytes(cut), scale=scale))


def test_draft_can_be_asked_again(cut: Image.Image) -> None:
    image = Image.open(io.BytesIO(to_bytes(cut)))
    image.draft("L", (10, 10))
    assert image.draft("RGB", (150, 100)) == ("RGB", (0, 0, 150.5, 101.5))
    assert image.size == (151, 102)
    image.load()
    assert image.draft(None, (10, 10)) is None
    assert image.size == (151, 102)


def test_draft_without_a_size_changes_nothing(cut: Image.Image) -> None:
    image = Image.open(io.BytesIO(to_bytes(cut)))
    assert image.draft("L", None) is None
    assert (image.mode, image.size) == ("RGB", (301, 203))


def test_thumbnail_decodes_a_preview(cut: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    data = to_bytes(cut)
    full = Image.open(io.BytesIO(data))
    full.load()
    full.thumbnail((32, 22))
    scales = []
    decode_file = decoding.decode_file

    def spy(file: container.File, scale: int = 1, **options: Any) -> NDArray[np.uint8]:
        scales.append(scale)
        return decode_file(file, scale, **options)

    monkeypatch.setattr(decoding, "decode_file", spy)
    image = Image.open(io.BytesIO(data))
    image.thumbnail((32, 22))
    assert scales == [4]  # thumbnail wants twice the size it ends with
    assert image.size == full.size == (32, 22)
    assert psnr(np.asarray(image), np.asarray(full)) > 33


def test_damage_is_noticed_in_a_draft_too(cut: Image.Image) -> None:
    data = bytearray(to_bytes(cut))
    data[-40] ^= 1
    image = Image.open(io.BytesIO(bytes(data)))
    image.draft(None, (30, 20))
    with pytest.raises(OSError, match="damaged"):
        image.load()
