"""The command line, as a user runs it."""

from __future__ import annotations

import errno
import io
import os
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from pillow_mcquic import cli

from .conftest import PHOTO, psnr


@pytest.fixture
def folder(tmp_path: Path, small: Image.Image) -> Path:
    """in/a.png, in/sub/b.jpg with metadata, in/notes.txt"""
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    small.save(source / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    small.save(source / "sub" / "b.jpg", exif=exif, dpi=(96, 96), comment=b"hello")
    (source / "notes.txt").write_text("no image")
    return source


def test_folder_there_and_back(
    folder: Path, tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["encode", str(folder), "-o", str(tmp_path / "mcq"), "-q", "6"]) == 0
    assert "encoded 2 of 2 files" in capsys.readouterr().out
    assert cli.main(["decode", str(tmp_path / "mcq"), "-o", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert psnr(image, small) > 30
    with Image.open(tmp_path / "out" / "sub" / "b.png") as image:
        assert image.getexif()[0x0112] == 3
        assert image.info["dpi"] == pytest.approx((96, 96), abs=0.02)
    with Image.open(tmp_path / "mcq" / "sub" / "b.mcq") as image:
        assert image.info["comment"] == b"hello"
        assert image.info["dpi"] == (96, 96)


def test_default_output_lies_beside_the_input(folder: Path) -> None:
    assert cli.main(["encode", str(folder / "*.png")]) == 0
    assert (folder / "a.mcq").exists()


def test_one_file_to_a_named_file(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(tmp_path / "x.mcq"), "--bpp", "0.3"]) == 0
    assert (tmp_path / "x.mcq").stat().st_size * 8 / (150 * 101) == pytest.approx(0.3, rel=0.03)
    assert cli.main(["decode", str(tmp_path / "x.mcq"), "-o", str(tmp_path / "y.webp")]) == 0
    with Image.open(tmp_path / "y.webp") as image:
        assert image.format == "WEBP"


def test_nothing_is_overwritten_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mcq").write_text("precious")
    assert cli.main(["encode", str(folder / "a.png")]) == 1
    assert "exists" in capsys.readouterr().err
    assert (folder / "a.mcq").read_text() == "precious"
    assert cli.main(["encode", "--overwrite", str(folder / "a.png")]) == 0
    assert (folder / "a.mcq").read_bytes()[:4] == b"\x8bMCQ"


def test_a_run_that_was_stopped_can_be_repeated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mcq").write_text("done before")
    assert cli.main(["encode", "--skip-existing", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 files" in out
    assert "encoded 1 of 1 files" in out
    assert (folder / "a.mcq").read_text() == "done before"
    assert (folder / "sub" / "b.mcq").exists()


def test_a_failure_is_counted_and_the_rest_is_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("I;16", (5, 5)).save(folder / "deep.png")
    out = tmp_path / "mcq"
    assert cli.main(["encode", str(folder), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert "encoded 2 of 4 files" in printed.out
    assert "2 failed" in printed.out
    assert "broken.png" in printed.err
    assert "cannot save mode I;16" in printed.err
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.mcq", "b.mcq"]


def test_failed_overwrite_keeps_the_old_file(folder: Path) -> None:
    Image.new("I;16", (5, 5)).save(folder / "deep.png")
    (folder / "deep.mcq").write_text("precious")
    assert cli.main(["encode", "--overwrite", str(folder / "deep.png")]) == 1
    assert (folder / "deep.mcq").read_text() == "precious"
    assert list(folder.glob(".*")) == []


def test_full_disk_is_named_and_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = folder / "a.mcq"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(target), "--overwrite"]) == 1
    assert f"cannot write {target}: No space left on device" in capsys.readouterr().err
    assert target.read_bytes() == b"old"
    assert not list(folder.glob(".mcq-*"))


def test_two_inputs_never_share_an_output(folder: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    small.save(folder / "a.bmp")
    assert cli.main(["encode", "--overwrite", str(folder / "a.*")]) == 1
    assert "already the output" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["encode", "nowhere.png"], 2, "no such file"),
        (["encode", "{folder}/notes.txt"], 1, "cannot identify"),
        (["encode", "{folder}/a.png", "-q", "9"], 2, "from 1"),
        (["encode", "{folder}/a.png", "-o", "-"], 2, "standard output"),
        (["decode", "{folder}/a.png", "-o", "{folder}/x.jpg"], 1, "is no .mcq file"),
        (["encode", "{folder}/a.png", "--max-bytes", "10"], 1, "too small"),
        (["encode", "{folder}/a.png", "{folder}/sub/b.jpg", "-o", "{folder}/notes.txt"], 2, "must name a folder"),
        (["decode", "{folder}"], 2, "no images"),
        (["decode", "{folder}/a.png", "--format", "xyz"], 2, "no image format"),
        (["decode", "{folder}/a.png", "--format", "psd"], 2, "no image format"),
        (["encode", "{folder}/a.png", "-o", "{folder}/x.jpg"], 2, "must end in .mcq"),
        (["encode", ""], 2, "an input is empty"),
        (["try", "{folder}/a.png", "-o", "{folder}/a.png"], 2, "exists"),
        (["try", "{folder}/a.png", "-o", "{folder}/x.mcq"], 2, "no suffix"),
        (["try", "{folder}/a.png", "-o", "{folder}/a.png", "--overwrite"], 2, "is the picture itself"),
        (["try", "{folder}/a.png", "-q", "0"], 2, "from 1"),
        (["compare", "{folder}/a.png", "-o", "{folder}/a.png", "--overwrite"], 2, "must end in .html"),
        (["info", "{folder}/a.png"], 1, "a.png: not an .mcq file"),
        (["verify", "{folder}/a.png"], 1, "not an .mcq file"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], status: int, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([a.format(folder=folder) for a in arguments]) == status
    assert message in capsys.readouterr().err


def test_info_and_verify(tmp_path: Path, small_file: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.mcq"
    path.write_bytes(small_file)
    assert cli.main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    for part in (
        "150x101 RGB, quality 4",
        "model ",
        f"{len(small_file)} bytes",
        "chunk C (codes): ",
        "bpp",
    ):
        assert part in printed
    assert cli.main(["verify", str(path)]) == 0
    path.write_bytes(small_file[:-3])
    assert cli.main(["verify", "--quick", str(tmp_path)]) == 1
    assert "truncated" in capsys.readouterr().err


def test_version_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    printed = capsys.readouterr().out
    for part in ("pillow_mcquic", "weights", "pillow", "torch", "constriction", "device"):
        assert part in printed
    assert cli.main(["model"]) == 0
    assert "kMAC/pixel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PILLOW_MCQUIC_MODEL", "00112233", "PILLOW_MCQUIC_MODEL is 00112233, which is not here (known: "),
        ("PILLOW_MCQUIC_MODEL", "best", "must be 8 hexadecimal digits"),
        ("PILLOW_MCQUIC_PRECISION", "half", "PILLOW_MCQUIC_PRECISION: precision must be one of"),
        ("PILLOW_MCQUIC_DEVICE", "gpu", "PILLOW_MCQUIC_DEVICE: device must be"),
    ],
)
def test_a_wrong_setting_of_the_environment_is_named(
    variable: str,
    value: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(folder / "new.mcq")]) == 1
    assert message in capsys.readouterr().err


def test_try_prints_what_a_picture_cost(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try", str(folder / "a.png"), "-o", str(tmp_path / "seen.png")]) == 0
    printed = capsys.readouterr().out
    for part in ("bytes", "bpp", "PSNR", "encode", "decode"):
        assert part in printed
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size == (150, 101)


def test_an_eps_under_another_name_is_not_opened(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would start Ghostscript."""
    (folder / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open(folder / "x.png") as image:
        assert image.format == "EPS"
    assert cli.main(["encode", str(folder / "x.png")]) == 1
    assert "cannot identify" in capsys.readouterr().err


def test_overwriting_keeps_permissions_and_links(folder: Path) -> None:
    kept = folder / "kept.mcq"
    kept.write_text("old")
    kept.chmod(0o600)
    (folder / "link.mcq").symlink_to(kept)
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(folder / "link.mcq"), "--overwrite"]) == 0
    assert (folder / "link.mcq").is_symlink()
    assert kept.stat().st_mode & 0o777 == 0o600
    with Image.open(kept) as image:
        assert image.format == "MCQ"


def test_try_overwrites_nothing_unasked(folder: Path) -> None:
    (folder / "seen.mcq").write_text("precious")
    assert cli.main(["try", str(folder / "a.png"), "-o", str(folder / "seen.png")]) == 2
    assert (folder / "seen.mcq").read_text() == "precious"
    assert not (folder / "seen.png").exists()


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


def test_a_glob_of_folders_is_searched(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", f"{tmp_path}/i*", "-o", str(tmp_path / "mcq")]) == 0
    assert sorted(p.name for p in (tmp_path / "mcq").rglob("*.mcq")) == ["a.mcq", "b.mcq"]
    (folder / "a.png").unlink()  # one picture, still in a folder
    assert cli.main(["encode", f"{tmp_path}/i*", "-o", str(tmp_path / "new.mcq")]) == 0
    assert (tmp_path / "new.mcq" / "sub" / "b.mcq").is_file()


@pytest.mark.parametrize("made", [False, True])
def test_decoding_into_a_folder_with_a_dot(made: bool, tmp_path: Path, small_file: bytes) -> None:
    (tmp_path / "a.mcq").write_bytes(small_file)
    if made:
        (tmp_path / "out.d").mkdir()
    out = f"{tmp_path}/out.d" + ("" if made else "/")
    assert cli.main(["decode", str(tmp_path / "a.mcq"), "-o", out]) == 0
    assert (tmp_path / "out.d" / "a.png").is_file()


def test_what_was_refused_is_not_skipped_later(
    folder: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """a.png would have a.bmp's output: in a first run, and when that output is there."""
    small.save(folder / "a.bmp")
    for _ in range(2):
        assert cli.main(["encode", "--skip-existing", str(folder / "a.[bp]*")]) == 1
        assert "already the output of another input" in capsys.readouterr().err


def test_a_file_named_twice_is_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["encode", str(folder / "a.png"), str(folder / "*.png")]) == 0
    assert "encoded 1 of 1 files" in capsys.readouterr().out


def test_a_parent_that_is_a_file_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "--overwrite", "-o", f"{folder}/notes.txt/x.mcq"]) == 1
    assert "--overwrite" not in (said := capsys.readouterr().err)
    assert "cannot write" in said


def test_names_that_the_terminal_cannot_show(
    tmp_path: Path, small_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "写真.mcq"
    path.write_bytes(small_file)
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "cp1252", write_through=True))
    assert cli.main(["verify", str(path)]) == 0
    assert rb"\u5199\u771f.mcq: ok" in raw.getvalue()
    assert cli.main(["info", str(path)]) == 0
    assert cli.main(["encode", str(PHOTO), "-o", str(tmp_path / "写.mcq")]) == 0


def test_a_comment_does_not_steer_the_terminal(
    tmp_path: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    small.save(tmp_path / "a.mcq", comment=b"red \x1b[31m, \xc3\xa9t\xc3\xa9")
    assert cli.main(["info", str(tmp_path / "a.mcq")]) == 0
    assert r"comment: red \x1b[31m, été" in capsys.readouterr().out


def test_trailing_slash_names_a_folder(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "-o", f"{tmp_path}/new.v2/"]) == 0
    assert (tmp_path / "new.v2" / "a.mcq").is_file()


def test_one_output_under_two_names_is_one_output(
    folder: Path, small: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(folder / "a.bmp")
    monkeypatch.chdir(folder)
    assert cli.main(["encode", "a.png", str(folder / "a.bmp"), "--overwrite"]) == 1


def test_info_needs_no_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pillow_mcquic import container

    header = container.Header(20, 10, "RGB", 512, b"\1\2\3\4")
    (tmp_path / "x.mcq").write_bytes(container.write(header, b"1234", {b"c": b"hello", b"z": b"?"}))
    assert cli.main(["info", str(tmp_path / "x.mcq")]) == 0
    printed = capsys.readouterr().out
    for part in ("model 01020304", "comment: hello", "unknown, skipped"):
        assert part in printed
