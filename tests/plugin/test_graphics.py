"""Text and screens: exact squares are there, sharp, and cheap; photos beside them stay learned."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pillow_mcquic import codec
from pillow_mcquic.bitstream import container, exact_squares, vp8l

from ..conftest import from_bytes, psnr, to_bytes
from ..files import chunks_of, file_of


@pytest.fixture(scope="module")
def page(photo: Image.Image) -> Image.Image:
    """Text on the left, a photo on the right: 384x256, in 24 x 16 squares."""
    image = Image.new("RGB", (384, 256), "white")
    draw = ImageDraw.Draw(image)
    for y in range(4, 240, 12):
        draw.text((4, y), "the quick brown fox jumps ov", fill=(10, 10, 60))
    image.paste(photo.crop((300, 80, 492, 336)), (192, 0))
    return image


def squares_of(data: bytes) -> np.ndarray:
    file = container.read(io.BytesIO(data))
    return exact_squares.unpack_map(chunks_of(file)[b"X"], *file.header.grids[1])[0]


def test_page_is_smaller_than_without_loss_and_its_text_is_sharp(page: Image.Image) -> None:
    data = to_bytes(page, quality=5)
    assert len(data) < 0.5 * len(to_bytes(page, lossless=True))
    assert psnr(from_bytes(data).crop((0, 0, 160, 256)), page.crop((0, 0, 160, 256))) > 30
    squares = squares_of(data)
    assert squares[:, :10].any()
    assert not squares[:, 14:].any()


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_page_of_another_mode_comes_back(mode: str, page: Image.Image) -> None:
    image = page.convert(mode)
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    decoded = from_bytes(to_bytes(image, quality=5))
    assert decoded.mode == mode
    assert psnr(decoded, image) > 26
    if mode.endswith("A"):
        assert decoded.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_preview_shows_exact_squares(page: Image.Image) -> None:
    with Image.open(io.BytesIO(to_bytes(page, quality=5))) as image:
        image.draft(None, (192, 128))
        assert psnr(image, page.reduce(2)) > 26


def test_page_gets_better_with_quality(page: Image.Image) -> None:
    scores = [psnr(from_bytes(to_bytes(page, quality=quality)), page) for quality in (2, 4, 6, 8)]
    assert scores == sorted(scores)


def test_budget_without_room_for_exact_squares_is_kept(page: Image.Image) -> None:
    data = to_bytes(page, max_bytes=1800)
    assert len(data) <= 1800
    assert from_bytes(data).size == page.size


def test_drawing_alone_needs_no_torch_to_open() -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 180, 180), outline="red", width=3)
    data = to_bytes(image, quality=6)
    assert not container.read(io.BytesIO(data)).header.learned
    assert from_bytes(data).info["quality"] == 6
    assert len(data) < 1200


@pytest.mark.parametrize("kind", [b"X", b"C"])
def test_damage_under_a_right_checksum_is_an_oserror_or_a_picture(kind: bytes, page: Image.Image) -> None:
    file = container.read(io.BytesIO(to_bytes(page, quality=5)))
    chunks = chunks_of(file)
    for at in range(0, len(chunks[kind]), max(1, len(chunks[kind]) // 25)):
        damaged = bytearray(chunks[kind])
        damaged[at] ^= 0x55
        with contextlib.suppress(OSError):
            decoded = from_bytes(file_of(file.header, chunks | {kind: bytes(damaged)}))
            assert decoded.size == page.size


def test_every_budget_that_some_quality_meets_is_met() -> None:
    """Sizes of text go down and up again with quality."""
    image = Image.new("RGB", (176, 208), "white")
    for y in range(2, 200, 12):
        ImageDraw.Draw(image).text((3, y), "the quick brown fox", fill="black")
    sizes = sorted({len(to_bytes(image, quality=quality)) for quality in (1, 1.5, 2)})
    for budget in (sizes[0], sizes[0] + 1, sizes[-1] - 1):
        assert len(to_bytes(image, max_bytes=budget)) <= budget


def test_decoded_arrays_can_be_written_to(page: Image.Image) -> None:
    for options in ({"lossless": True}, {"quality": 5}):
        codec.decode(to_bytes(page, **options))[0, 0] = 0


def test_without_webp_all_squares_are_learned(page: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vp8l.features, "check", lambda feature: False)
    image = page.crop((0, 0, 64, 48))
    image.putalpha(200)
    assert from_bytes(to_bytes(image, quality=5)).size == image.size
    with pytest.raises(OSError, match="without WebP"):
        to_bytes(image, lossless=True)
