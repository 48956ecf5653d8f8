"""`lossless=True`: every pixel comes back, whatever the mode, and what cannot is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ..conftest import from_bytes, to_bytes


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    image = image.convert(mode)
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize(
    ("mode", "stored"),
    [("1", "L"), ("L", "L"), ("LA", "LA"), ("P", "RGB"), ("PA", "RGBA"), ("RGB", "RGB"), ("RGBA", "RGBA")],
)
def test_pixels_come_back_in_mode(mode: str, stored: str, small: Image.Image) -> None:
    image = with_alpha(small, mode) if mode in ("LA", "RGBA") else small.convert(mode[0] if mode == "PA" else mode)
    image = image.convert("PA") if mode == "PA" else image
    decoded = from_bytes(to_bytes(image, lossless=True))
    assert decoded.mode == stored
    assert decoded.tobytes() == image.convert(stored).tobytes()


def test_colours_under_full_transparency_come_back(small: Image.Image) -> None:
    image = small.copy()
    image.putalpha(0)
    assert from_bytes(to_bytes(image, lossless=True)).tobytes() == image.tobytes()


def test_transparent_colour_becomes_alpha(small: Image.Image) -> None:
    image = small.convert("L")
    image.info["transparency"] = image.getpixel((5, 5))
    assert from_bytes(to_bytes(image, lossless=True)).tobytes() == image.convert("LA").tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (16, 16), (17, 33)])
def test_size_comes_back(size: tuple[int, int], photo: Image.Image) -> None:
    image = photo.crop((0, 0, *size))
    assert from_bytes(to_bytes(image, lossless=True)).tobytes() == image.tobytes()


def test_info_says_lossless_and_no_quality(small: Image.Image, small_file: bytes) -> None:
    info = from_bytes(to_bytes(small, lossless=True)).info
    assert info["lossless"] is True
    assert "quality" not in info
    assert from_bytes(small_file).info["lossless"] is False


def test_metadata_is_kept(small: Image.Image) -> None:
    decoded = from_bytes(to_bytes(small, lossless=True, comment=b"hi", dpi=(72, 72)))
    assert (decoded.info["comment"], decoded.info["dpi"]) == (b"hi", (72, 72))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGBX", "RGBa", "La", "HSV"])
def test_mode_that_would_change_is_refused(mode: str, small: Image.Image) -> None:
    image = small.convert("RGBA").convert("RGBa") if mode == "RGBa" else Image.new(mode, (20, 20))
    with pytest.raises(ValueError, match=f"cannot save mode {mode}.*convert"):
        to_bytes(image, lossless=True)


@pytest.mark.parametrize("other", [{"quality": 4}, {"max_bytes": 10_000}, {"target_bpp": 1}])
def test_another_wish_beside_it_is_refused(other: dict[str, float], small: Image.Image) -> None:
    with pytest.raises(ValueError, match=f"give only one of {next(iter(other))} and lossless"):
        to_bytes(small, lossless=True, **other)


@pytest.mark.parametrize("value", [1, "yes", 0.5])
def test_what_is_no_truth_value_is_refused(value: object, small: Image.Image) -> None:
    with pytest.raises(ValueError, match="lossless must be True or False"):
        to_bytes(small, lossless=value)


def test_false_is_the_default(small: Image.Image, small_file: bytes) -> None:
    assert to_bytes(small, lossless=False) == small_file


@pytest.mark.parametrize("scale", [2, 8])
def test_preview_is_the_mean_of_pixels(scale: int, photo: Image.Image) -> None:
    import io

    with Image.open(io.BytesIO(to_bytes(photo, lossless=True))) as image:
        image.draft(None, (photo.width // scale, photo.height // scale))
        assert image.tobytes() == photo.reduce(scale).tobytes()


def test_neither_saving_nor_opening_needs_torch(tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / "x.png")
    script = (
        "import sys, pillow_mcquic; from PIL import Image\n"
        "sys.modules['torch'] = None\n"
        f"Image.open({str(tmp_path / 'x.png')!r}).save({str(tmp_path / 'x.mcq')!r}, lossless=True)\n"
        f"Image.open({str(tmp_path / 'x.mcq')!r}).load()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_larger_effort_is_no_larger(small: Image.Image) -> None:
    assert len(to_bytes(small, lossless=True, effort=3)) <= len(to_bytes(small, lossless=True))


def test_lossless_files_are_about_as_large_as_webps(photo: Image.Image) -> None:
    import io

    webp = io.BytesIO()
    photo.save(webp, "WEBP", lossless=True, exact=True, method=6, quality=90)
    assert len(to_bytes(photo, lossless=True)) <= len(webp.getvalue()) + 20


def test_damage_is_an_oserror(small: Image.Image) -> None:
    data = to_bytes(small, lossless=True)
    for at in range(20, len(data), len(data) // 40):
        with pytest.raises(OSError, match="damaged"):
            from_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_array_protocol_gives_the_pixels(small: Image.Image) -> None:
    assert np.array_equal(np.asarray(from_bytes(to_bytes(small, lossless=True))), np.asarray(small))
