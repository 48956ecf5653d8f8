"""Decoding at 1/2, 1/4 and 1/8 of the sides, by array and through Pillow's `draft` and `thumbnail`."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pillow_mcquic
from pillow_mcquic import codec, container
from pillow_mcquic.engine import Engine
from pillow_mcquic.model.network import PREVIEW_BANKS

from .conftest import psnr, to_bytes


@pytest.fixture(scope="module")
def cut(photo: Image.Image) -> Image.Image:
    return photo.crop((200, 80, 200 + 301, 80 + 203))  # odd sides


def shrunk(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).reduce(scale))


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("quality", [1, 4, 8])
def test_preview_is_the_full_decode_made_smaller(scale: int, quality: int, cut: Image.Image) -> None:
    data = to_bytes(cut, quality=quality)
    preview = pillow_mcquic.decode(data, scale=scale)
    assert preview.shape == (-(-203 // scale), -(-301 // scale), 3)
    assert psnr(preview, shrunk(pillow_mcquic.decode(data), scale)) > 29


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_preview_of_other_modes(mode: str, cut: Image.Image) -> None:
    image = cut.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(cut.size))
    data = to_bytes(image)
    preview = pillow_mcquic.decode(data, scale=4)
    full = Image.open(io.BytesIO(data))
    assert preview.shape == ((51, 76) if mode == "L" else (51, 76, len(mode)))
    expected = np.asarray(full.split()[-1].reduce(4))
    last = preview if mode == "L" else preview[:, :, -1]
    if mode == "L":
        assert psnr(last, expected) > 30
    else:
        np.testing.assert_array_equal(last, expected)  # alpha is lossless, so its preview is exact


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 40)])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_preview_of_small_pictures(size: tuple[int, int], scale: int, photo: Image.Image) -> None:
    preview = pillow_mcquic.decode(to_bytes(photo.crop((0, 0, *size))), scale=scale)
    assert preview.shape == (-(-size[1] // scale), -(-size[0] // scale), 3)


@pytest.mark.parametrize("scale", [0, 3, 16, -1, 2.5, 2.0, True, "2", None])
def test_other_scales_are_refused(scale: object, cut: Image.Image) -> None:
    with pytest.raises(ValueError, match="scale must be one of"):
        pillow_mcquic.decode(to_bytes(cut), scale=scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(("scale", "banks"), PREVIEW_BANKS.items())
def test_preview_reads_only_the_banks_it_needs(scale: int, banks: int, cut: Image.Image) -> None:
    file = container.read(io.BytesIO(to_bytes(cut)))
    engine = Engine(codec.load_weights(file.header.model))
    every, _ = engine.read_stream(file.codes, file.header)
    some, _ = engine.read_stream(file.codes, file.header, scale)
    symbols = sum(bank.symbols for bank in engine.weights.config.level1[:banks])
    assert len(some[0]) == symbols < len(every[0])
    np.testing.assert_array_equal(some[0], every[0][:symbols])


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
    decode_file = codec.decode_file

    def spy(file: container.File, scale: int = 1) -> NDArray[np.uint8]:
        scales.append(scale)
        return decode_file(file, scale)

    monkeypatch.setattr(codec, "decode_file", spy)
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
