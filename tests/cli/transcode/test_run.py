"""`mcq transcode`: trees to `.mcq` and back, stopped anywhere and repeated."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli

from ...conftest import psnr
from .conftest import names, run


def test_tree_there_and_back(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tree, "-q", "6")
    out = tree.parent / "dst"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.mcq")) == ["a.mcq", "b/c.mcq", "b/d.mcq"]
    with Image.open(out / "b" / "c.mcq") as image:
        assert (image.getexif()[0x0112], image.info["comment"], image.info["quality"]) == (6, b"hello", 6)
    assert (report["files"], report["failed"], report["skipped"]) == (3, 0, 0)
    sizes = [sum(p.stat().st_size for p in tree.rglob("*.*") if p.suffix != ".txt")]
    assert report["bytes_before"] == sizes[0]
    assert report["bytes_after"] == sum(p.stat().st_size for p in out.rglob("*.mcq"))
    assert f"{report['bytes_before']:,} -> {report['bytes_after']:,} bytes" in capsys.readouterr().out

    back = tree.parent / "back"
    assert cli.main(["transcode", str(out), str(back), "--to", "png", "--workers", "1"]) == 0
    with Image.open(back / "b" / "c.png") as image, Image.open(tree / "b" / "c.jpg") as original:
        assert image.getexif()[0x0112] == 6
        assert psnr(image, original) > 28


def test_repeated_run_does_nothing_twice(tree: Path) -> None:
    run(tree)
    before = {p: p.stat().st_mtime_ns for p in (tree.parent / "dst").rglob("*.mcq")}
    report = run(tree)
    assert (report["files"], report["skipped"]) == (0, 3)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_what_changed_is_done_again(tree: Path) -> None:
    run(tree)
    with Image.open(tree / "a.png") as image:
        image.rotate(90, expand=True).save(tree / "a.png")
    (tree.parent / "dst" / "b" / "c.mcq").unlink()
    assert names(run(tree)) == ["a.png", "b/c.jpg"]
    with Image.open(tree.parent / "dst" / "a.mcq") as image:
        assert image.size == (96, 128)
    assert len(names(run(tree, "-q", "2"))) == 3  # another quality is another file
    assert run(tree, "-q", "2")["skipped"] == 3


def test_pictures_inside_a_zip(tree: Path) -> None:
    archive = tree.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tree / "a.png", "deep/a.png")
    out = tree.parent / "unzipped"
    assert cli.main(["transcode", f"zip::{archive}", str(out), "--workers", "1"]) == 0
    with Image.open(out / "deep" / "a.mcq") as image, Image.open(tree / "a.png") as original:
        assert image.size == original.size


def test_report_replaces_only_a_report(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tree / "a.png").read_bytes()
    command = ["transcode", str(tree), str(tree.parent / "dst"), "--report", str(tree / "a.png")]
    assert cli.main(command) == 2
    assert "is no report of transcode" in capsys.readouterr().err
    assert (tree / "a.png").read_bytes() == before
    assert not (tree.parent / "dst").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["-q", "11"], 2, "quality must be from 1"),
        (["--bpp", "-1"], 2, "bpp must be a positive number"),
        (["--min-ssimulacra2", "100"], 2, "min_ssimulacra2 must be below 100"),
        (["--to", "xyz"], 2, "no image format to decode to has the suffix .xyz"),
        (["--workers", "99"], 2, "workers must be from 1"),
    ],
)
def test_bad_arguments(
    tree: Path, options: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), *options]) == status
    assert message in capsys.readouterr().err
    assert not (tree.parent / "dst").exists()


def test_missing_source_and_remote_target(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcode", str(tree / "nowhere"), str(tree.parent / "dst")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert cli.main(["transcode", str(tree), "memory://x"]) == 2
    assert "give --manifest" in capsys.readouterr().err
