"""Metadata goes in and comes out as with Pillow's own formats."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageOps

from ..conftest import from_bytes, to_bytes


def test_metadata_is_kept(small: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a parrot"
    reopened = from_bytes(
        to_bytes(
            small,
            exif=exif,
            icc_profile=b"profile",
            xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
            dpi=(300, 72.5),
            comment="né",
        )
    )
    assert dict(reopened.getexif()) == {0x0112: 6, 0x010E: "a parrot"}
    assert reopened.info["exif"] == exif.tobytes()
    assert reopened.info["icc_profile"] == b"profile"
    assert "xmpmeta" in reopened.getxmp()
    assert reopened.info["dpi"] == (300.0, 72.5)
    assert reopened.info["comment"] == "né".encode()
    assert reopened.size == small.size  # never rotated


def test_icc_profile_of_the_image_is_the_default(small: Image.Image) -> None:
    image = small.copy()
    image.info["icc_profile"] = b"its own"
    assert from_bytes(to_bytes(image)).info["icc_profile"] == b"its own"
    assert from_bytes(to_bytes(image, icc_profile=b"other")).info["icc_profile"] == b"other"
    assert "icc_profile" not in from_bytes(to_bytes(image, icc_profile=None)).info


def test_exif_of_the_image_is_not_copied_unasked(small: Image.Image) -> None:
    image = small.copy()
    image.info["exif"] = b"Exif\0\0old"
    assert "exif" not in from_bytes(to_bytes(image)).info


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("exif", 5),
        ("icc_profile", "text"),
        ("xmp", 3.0),
        ("comment", ["a"]),
        ("dpi", 300),
        ("dpi", (0, 1)),
        ("dpi", (1, 2, 3)),
    ],
)
def test_bad_metadata_names_the_option(option: str, value: object, small: Image.Image) -> None:
    with pytest.raises(ValueError, match=option):
        to_bytes(small, **{option: value})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_kept_and_left_to_the_viewer(orientation: int, small: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    reopened = from_bytes(to_bytes(small, exif=exif))
    assert reopened.size == small.size
    assert reopened.getexif()[0x0112] == orientation
    upright = ImageOps.exif_transpose(reopened)
    assert upright.size == (small.size if orientation < 5 else small.size[::-1])
    assert upright.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*", b"II*\0\x08\0\0\0\xff\xff", b"\0" * 50])
def test_invalid_exif_does_not_keep_a_picture_from_opening(exif: bytes, small: Image.Image) -> None:
    reopened = from_bytes(to_bytes(small, exif=exif))
    assert reopened.size == small.size
    assert reopened.info.get("exif", b"") == exif


def test_exif_bytes_of_a_jpeg_are_taken_as_they_are(small: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0132] = "2026:11:21 12:00:00"
    exif.get_ifd(0x8769)[0x9003] = "2026:11:21 12:00:00"
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", exif=exif)
    with Image.open(buffer) as jpeg:
        raw = jpeg.info["exif"]
        reopened = from_bytes(to_bytes(jpeg, exif=raw))
    assert reopened.info["exif"] == raw
    assert reopened.getexif()[0x0132] == "2026:11:21 12:00:00"
    assert reopened.getexif().get_ifd(0x8769)[0x9003] == "2026:11:21 12:00:00"


@pytest.mark.parametrize("xmp", ["<x>é</x>", "<x>é</x>".encode()])
def test_xmp_as_text_or_bytes(xmp: str | bytes, small: Image.Image) -> None:
    assert from_bytes(to_bytes(small, xmp=xmp)).info["xmp"] == "<x>é</x>".encode()


def test_large_metadata(small: Image.Image) -> None:
    profile = bytes(range(256)) * 8000  # 2 MB, as some printers' are
    assert from_bytes(to_bytes(small, icc_profile=profile)).info["icc_profile"] == profile


def test_metadata_is_there_before_the_picture_is_decoded(small: Image.Image) -> None:
    data = to_bytes(small, comment="early", icc_profile=b"profile")
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["comment"] == b"early"
        assert image.tile, "nothing is decoded yet"


def test_palette_with_transparency(small: Image.Image) -> None:
    image = small.quantize(16)
    image.info["transparency"] = 3
    reopened = from_bytes(to_bytes(image))
    assert reopened.mode == "RGBA"
    assert "transparency" not in reopened.info
    assert reopened.getchannel("A").tobytes() == image.convert("RGBA").getchannel("A").tobytes()
