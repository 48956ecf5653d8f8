"""Save options: quality, frames, modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..conftest import from_bytes, psnr, to_bytes


def test_default_quality_is_4(small: Image.Image, small_file: bytes) -> None:
    assert to_bytes(small, quality=4) == small_file
    assert from_bytes(small_file).info["quality"] == 4


@pytest.mark.parametrize(
    ("mode", "stored"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("La", "LA"),
        ("P", "RGB"),
        ("PA", "RGBA"),
        ("RGB", "RGB"),
        ("RGBX", "RGB"),
        ("RGBA", "RGBA"),
        ("RGBa", "RGBA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
    ],
)
def test_mode_is_stored_as(mode: str, stored: str, small: Image.Image) -> None:
    if mode == "PA":
        image = small.convert("P").convert("PA")
        image.putalpha(small.convert("L"))
    elif mode in ("LA", "RGBA", "La", "RGBa"):
        image = small.convert(mode[:-1].upper() + "A")
        image.putalpha(small.convert("L"))
        image = image.convert(mode)
    else:
        image = small.convert(mode)
    reopened = from_bytes(to_bytes(image, quality=8))
    assert reopened.mode == stored
    if stored.endswith("A"):
        assert reopened.getchannel("A").tobytes() == small.convert("L").tobytes()
    elif mode not in ("1", "P"):  # dithered pictures are noise
        assert psnr(reopened, image.convert(stored)) > 30


@pytest.mark.parametrize(("mode", "stored"), [("P", "RGBA"), ("RGB", "RGBA"), ("L", "LA")])
def test_transparency_in_info_becomes_alpha(mode: str, stored: str, small: Image.Image) -> None:
    image = small.convert(mode)
    image.info["transparency"] = image.getpixel((5, 5))
    reopened = from_bytes(to_bytes(image))
    assert reopened.mode == stored
    assert reopened.getpixel((5, 5))[-1] == 0
    assert reopened.getchannel("A").getextrema() == (0, 255)


@pytest.mark.parametrize("mode", ["I", "I;16", "F", "LAB", "HSV"])
def test_mode_without_a_place_is_refused_by_name(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match=f"cannot save mode {mode} as MCQ"):
        Image.new(mode, (8, 8)).save(path)
    assert not path.exists()


@pytest.mark.parametrize("quality", [0, 11, -1, "high", None.__class__, float("inf")])
def test_bad_quality_says_the_range_and_leaves_no_file(quality: object, tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match=r"quality must be .* 1 .* 10"):
        small.save(path, quality=quality)
    assert not path.exists()


def test_empty_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="size 0x5"):
        Image.new("RGB", (0, 5)).save(tmp_path / "x.mcq")


def test_save_all_with_one_frame_saves(small: Image.Image, small_file: bytes) -> None:
    assert to_bytes(small, save_all=True) == small_file


def test_save_all_with_more_frames_is_refused(tmp_path: Path, small: Image.Image) -> None:
    path = tmp_path / "x.mcq"
    with pytest.raises(ValueError, match="one image, got 2 frames"):
        small.save(path, save_all=True, append_images=[small])
    assert not path.exists()


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_what_is_advised_for_16_bits_keeps_the_picture(options: dict[str, Any]) -> None:
    """`convert("RGB")` would clip it."""
    ramp = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    image = Image.fromarray(ramp)
    with pytest.raises(ValueError, match="8 bits a sample") as error:
        to_bytes(image, **options)
    advised = eval(str(error.value).partition("with ")[2], {"Image": Image, "np": np, "image": image})
    assert np.array_equal(np.asarray(advised), (ramp / 257).round())
