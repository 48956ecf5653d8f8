"""Metadata between formats: pixels first; what a format cannot hold is left out, and said."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pillow_mcquic import cli

LONG_EXIF = b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0" + struct.pack("<II", 70000, 26) + bytes(4) + b"x" * 70000


def decoded(folder: Path, suffix: str, small: Image.Image, **options: object) -> tuple[int, Image.Image]:
    """Status of `mcq decode` of a picture with metadata, and the new file, loaded."""
    small.save(folder / "a.mcq", **options)
    status = cli.main(["decode", str(folder / "a.mcq"), "--format", suffix])
    with Image.open(folder / f"a.{suffix}") as image:
        image.load()
        return status, image


@pytest.mark.parametrize(
    ("mode", "tags"),
    [
        ("RGB", {256: 4000, 257: 3000}),  # size of the original: a photo made smaller
        ("L", {258: (8, 8, 8), 262: 2, 277: 3}),  # bits, photometry and samples of a colour picture
        ("RGB", {262: 6}),
        ("RGB", {256: 64, 257: 48}),
        ("RGB", {273: (8,), 279: (100,), 322: 16, 323: 16}),  # strips and tiles
    ],
)
@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_exif_of_another_layout_does_not_spoil_the_file(
    mode: str, tags: dict[int, object], suffix: str, tmp_path: Path, small: Image.Image
) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    for tag, value in tags.items():
        exif[tag] = value
    picture = small.convert(mode)
    status, image = decoded(tmp_path, suffix, picture, exif=exif)
    assert (status, image.size, image.mode) == (0, picture.size, mode)
    assert image.getexif()[0x010F] == "Maker"
    if suffix != "jpg":
        with Image.open(tmp_path / "a.mcq") as original:
            assert np.array_equal(np.asarray(image), np.asarray(original))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_orientation_survives_without_its_prefix(suffix: str, tmp_path: Path, small: Image.Image) -> None:
    """EXIF of WebP and JPEG XL has no "Exif" in front."""
    exif = Image.Exif()
    exif[0x0112] = 6
    _, image = decoded(tmp_path, suffix, small, exif=exif.tobytes().removeprefix(b"Exif\0\0"))
    assert image.getexif()[0x0112] == 6


def test_a_tiff_keeps_its_orientation_too(tmp_path: Path, small: Image.Image) -> None:
    """Pillow turns it when it loads one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    _, image = decoded(tmp_path, "tif", small, exif=exif)
    assert image.size == small.size[::-1]


@pytest.mark.parametrize(
    ("options", "suffix", "named"),
    [
        ({"exif": b"Exif\0\0" + LONG_EXIF}, "jpg", "exif"),
        ({"xmp": b"<x/>" + b" " * 70000}, "jpg", "xmp"),
        ({"comment": b"x" * 70000}, "jpg", "comment"),
        ({"comment": b"x" * 70000}, "jp2", "comment"),
        ({"dpi": (4294967295.0, 4294967295.0)}, "png", "dpi"),
        ({"exif": b"Exif\0\0\xff\xff\xff\xff\0\0\0\x08\0\x04"}, "tif", "EXIF"),
        ({"exif": b"Exif\0\0\xff\xff\xff\xff\0\0\0\x08\0\x04"}, "avif", "EXIF"),
    ],
)
def test_what_a_format_cannot_hold_is_left_out_and_named(
    options: dict[str, object],
    suffix: str,
    named: str,
    tmp_path: Path,
    small: Image.Image,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, image = decoded(tmp_path, suffix, small, **options)
    assert (status, image.size) == (0, small.size)
    said = capsys.readouterr().err
    assert "a.mcq: left out" in said
    assert named in said


def test_layers_of_an_editor_do_not_travel(
    tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[37724] = 7
    tags[37724] = b"Adobe Photoshop Document Data Block\0" + bytes(200_000)
    tags[0x010F] = "Maker"
    small.save(tmp_path / "layers.tif", tiffinfo=tags)
    assert cli.main(["encode", str(tmp_path / "layers.tif")]) == 0
    assert "left out private blocks of an editor (EXIF tags 37724)" in capsys.readouterr().err
    assert (tmp_path / "layers.mcq").stat().st_size < 10_000
    with Image.open(tmp_path / "layers.mcq") as image:
        assert dict(image.getexif()) == {0x010F: "Maker"}


def test_exif_of_a_jpeg_is_stored_byte_for_byte(tmp_path: Path, small: Image.Image) -> None:
    exif = Image.Exif()
    exif[256], exif[0x010F] = 4000, "Maker"
    small.save(tmp_path / "a.jpg", exif=exif)
    cli.main(["encode", str(tmp_path / "a.jpg")])
    with Image.open(tmp_path / "a.jpg") as jpeg, Image.open(tmp_path / "a.mcq") as image:
        assert image.info["exif"] == jpeg.info["exif"]


def test_transcode_reports_what_was_left_out(
    tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    small.save(tmp_path / "in" / "a.mcq", comment=b"x" * 70000)
    assert cli.main(["transcode", str(tmp_path / "in"), str(tmp_path / "out"), "--to", "jpg", "--workers", "1"]) == 0
    assert "metadata left out of 1 files:\n  a.mcq: comment, which JPEG cannot hold" in capsys.readouterr().out
