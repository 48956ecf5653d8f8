"""`mcq encode`, `decode` and `try`, as a user runs them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic import cli

from ..conftest import psnr


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


def test_one_file_to_a_named_file(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(tmp_path / "x.mcq"), "--bpp", "0.3"]) == 0
    assert (tmp_path / "x.mcq").stat().st_size * 8 / (150 * 101) == pytest.approx(0.3, rel=0.03)
    assert cli.main(["decode", str(tmp_path / "x.mcq"), "-o", str(tmp_path / "y.webp")]) == 0
    with Image.open(tmp_path / "y.webp") as image:
        assert image.format == "WEBP"


def test_failed_overwrite_keeps_the_old_file(folder: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "broken.mcq").write_text("precious")
    assert cli.main(["encode", "--overwrite", str(folder / "broken.png")]) == 1
    assert (folder / "broken.mcq").read_text() == "precious"
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
    assert list(folder.glob(".mcq-*")) == []


def test_nothing_is_overwritten_unasked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mcq").write_text("precious")
    assert cli.main(["encode", str(folder / "a.png")]) == 1
    assert "exists" in capsys.readouterr().err
    assert (folder / "a.mcq").read_text() == "precious"
    assert cli.main(["encode", "--overwrite", str(folder / "a.png")]) == 0
    assert (folder / "a.mcq").read_bytes()[:4] == b"\x8bMCQ"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["encode", "nowhere.png"], 2, "no such file"),
        (["encode", "{folder}/notes.txt"], 1, "cannot identify"),
        (["encode", "{folder}/a.png", "-q", "11"], 2, "from 1"),
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


def test_try_prints_what_a_picture_cost(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try", str(folder / "a.png"), "-o", str(tmp_path / "seen.png")]) == 0
    printed = capsys.readouterr().out
    for part in ("bytes", "bpp", "PSNR", "encode", "decode"):
        assert part in printed
    with Image.open(tmp_path / "seen.png") as image:
        assert image.size == (150, 101)


def test_try_overwrites_nothing_unasked(folder: Path) -> None:
    (folder / "seen.mcq").write_text("precious")
    assert cli.main(["try", str(folder / "a.png"), "-o", str(folder / "seen.png")]) == 2
    assert (folder / "seen.mcq").read_text() == "precious"
    assert not (folder / "seen.png").exists()


def test_lossless_there_and_back(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "-o", str(tmp_path / "a.mcq"), "--lossless"]) == 0
    assert cli.main(["decode", str(tmp_path / "a.mcq"), "-o", str(tmp_path / "b.png")]) == 0
    with Image.open(folder / "a.png") as before, Image.open(tmp_path / "b.png") as after:
        assert before.tobytes() == after.tobytes()
    with pytest.raises(SystemExit):
        cli.main(["encode", str(folder / "a.png"), "--lossless", "-q", "4"])


def test_try_lossless(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try", str(folder / "a.png"), "--lossless"]) == 0
    printed = capsys.readouterr().out
    assert "150x101, lossless" in printed
    assert "PSNR inf dB" in printed


@pytest.mark.parametrize("command", ["encode", "try", "compare", "transcode"])
def test_16_bits_are_refused_or_scaled(command: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    ramp = np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)
    source = tmp_path / "in" / "deep.png"
    Image.fromarray(ramp).save(source)
    arguments = {
        "encode": [str(source), "-o", str(tmp_path / "deep.mcq"), "-q", "8"],
        "try": [str(source), "-o", str(tmp_path / "deep.png"), "-q", "8"],
        "compare": [str(source), "-o", str(tmp_path / "deep.html"), "--against", "webp", "-q", "8"],
        "transcode": [str(tmp_path / "in"), str(tmp_path), "-q", "8", "--workers", "1", "--overwrite"],
    }[command]
    assert cli.main([command, *arguments]) == 1
    assert not list(tmp_path.glob("deep.*"))
    assert cli.main([command, *arguments, "--scale-16"]) == 0
    for path in tmp_path.glob("deep.mcq"):
        with Image.open(path) as image:
            assert abs(np.asarray(image.convert("L")) - ramp / 257).mean() < 2
