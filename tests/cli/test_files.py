"""What carries over between formats beside pixels."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from pillow_mcquic import cli


def test_frames_are_not_dropped_silently(
    tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path / "x.gif", save_all=True, append_images=[small.rotate(90)])
    assert cli.main(["encode", str(tmp_path / "x.gif")]) == 1
    assert "2 frames" in capsys.readouterr().err


def test_a_camera_file_with_a_preview_is_one_picture(tmp_path: Path, small: Image.Image) -> None:
    """Phones and cameras put a preview or a gain map beside the photo; Pillow calls such a JPEG MPO, of two frames."""
    small.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[small.resize((75, 50))])
    assert cli.main(["encode", str(tmp_path / "x.jpg")]) == 0
    with Image.open(tmp_path / "x.mcq") as image:
        assert image.size == small.size


def test_an_eps_under_another_name_is_not_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would start Ghostscript."""
    (folder / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(folder / "x.png") as image:
        assert image.format == "EPS"
    assert cli.main(["encode", str(folder / "x.png")]) == 1
    assert "cannot identify" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "P", "L"])
def test_tiff_there_and_back(mode: str, tmp_path: Path, small: Image.Image) -> None:
    """Pillow hands out the layout of a TIFF file as its EXIF; written into another TIFF it would destroy that."""
    small.convert(mode).save(tmp_path / "a.tif", dpi=(150, 150))
    assert cli.main(["encode", str(tmp_path / "a.tif")]) == 0
    assert cli.main(["decode", str(tmp_path / "a.mcq"), "-o", str(tmp_path / "b.tif")]) == 0
    with Image.open(tmp_path / "b.tif") as image:
        image.load()
        assert image.size == small.size
        assert image.info["dpi"] == (150, 150)


def test_odd_metadata_is_no_failure(tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / "exif.png", exif=b"Exif\0\0garbage!!")
    small.save(tmp_path / "dpi.png", dpi=(0, 0))
    assert cli.main(["encode", str(tmp_path)]) == 0
    assert cli.main(["decode", str(tmp_path), "-o", str(tmp_path / "out")]) == 0


def test_decoded_png_keeps_xmp_and_comment(tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / "a.mcq", xmp=b"<x/>", comment=b"hello")
    assert cli.main(["decode", str(tmp_path / "a.mcq")]) == 0
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info["Comment"] == "hello"
        assert image.info["xmp"] == b"<x/>"


def test_comment_of_a_png_comes_back(tmp_path: Path, small: Image.Image) -> None:
    small.save(tmp_path / "a.mcq", comment="grüße")
    assert cli.main(["decode", str(tmp_path / "a.mcq")]) == 0
    assert cli.main(["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.mcq")]) == 0
    with Image.open(tmp_path / "b.mcq") as image:
        assert image.info["comment"] == "grüße".encode()


def test_metadata_after_the_pixels_is_kept(tmp_path: Path, small: Image.Image) -> None:
    file = io.BytesIO()
    small.save(file, "PNG")
    text = b"iTXtXML:com.adobe.xmp\0\0\0\0\0<x/>"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:-12] + chunk + file.getvalue()[-12:])
    assert cli.main(["encode", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.mcq") as image:
        assert image.info["xmp"] == b"<x/>"


def test_a_tiff_is_turned_once(tmp_path: Path, small: Image.Image) -> None:
    """Pillow turns the pixels of a TIFF as it loads them, and takes the tag away."""
    small.save(tmp_path / "a.tif", tiffinfo={274: 6})
    assert cli.main(["encode", str(tmp_path / "a.tif")]) == 0
    with Image.open(tmp_path / "a.mcq") as image:
        assert image.size == (small.height, small.width)
        assert 274 not in image.getexif()


def test_text_named_dpi_is_no_resolution(tmp_path: Path, small: Image.Image) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("dpi", "300")
    small.save(tmp_path / "a.png", pnginfo=text)
    assert cli.main(["encode", str(tmp_path / "a.png")]) == 0


def test_a_profile_of_cmyk_does_not_go_with_rgb(tmp_path: Path, small: Image.Image) -> None:
    profile = bytes(12) + b"prtrCMYKLab " + bytes(104)
    small.convert("CMYK").save(tmp_path / "a.jpg", icc_profile=profile)
    assert cli.main(["encode", str(tmp_path / "a.jpg")]) == 0
    with Image.open(tmp_path / "a.mcq") as image:
        assert (image.mode, image.info.get("icc_profile")) == ("RGB", None)
