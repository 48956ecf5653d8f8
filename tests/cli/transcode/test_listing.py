"""Which pictures are left to do, and whose files are whose."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli

from .conftest import names, run


def test_a_file_of_somebody_else_is_left_alone(tree: Path) -> None:
    out = tree.parent / "dst"
    out.mkdir()
    (out / "a.mcq").write_bytes(b"precious")
    report = run(tree, status=1)
    assert report["failures"] == {"a.png": "a.mcq exists (use --overwrite)"}
    assert (out / "a.mcq").read_bytes() == b"precious"
    (out / "b" / "c.mcq").write_bytes(b"mine now")
    assert run(tree, status=1)["failed"] == 2
    assert (out / "b" / "c.mcq").read_bytes() == b"mine now"
    assert names(run(tree, "--overwrite")) == ["a.png", "b/c.jpg"]


def test_a_file_of_the_same_size_is_not_taken_for_an_own_one(tree: Path) -> None:
    run(tree)
    theirs = tree.parent / "dst" / "a.mcq"
    theirs.write_bytes(bytes(theirs.stat().st_size))
    (tree / "a.png").touch()
    assert run(tree, status=1)["failures"] == {"a.png": "a.mcq exists (use --overwrite)"}
    assert not any(theirs.read_bytes())


def test_sources_of_one_name_keep_apart(tree: Path) -> None:
    with Image.open(tree / "a.png") as image:
        image.convert("L").save(tree / "a.jpg")
    run(tree)
    out = tree.parent / "dst"
    with Image.open(out / "a.mcq") as first, Image.open(out / "a.png.mcq") as second:
        assert (first.mode, second.mode) == ("L", "RGB")
    with Image.open(tree / "a.png") as image:
        image.save(tree / "a.bmp")  # sorts before both, but comes later
    assert [made["target"] for made in run(tree)["made"]] == ["a.bmp.mcq"]


def test_target_inside_the_source(tree: Path) -> None:
    run(tree, target="src/small")
    out = tree / "small"
    assert cli.main(["transcode", str(tree), str(out / "png"), "--to", "png", "--workers", "1"]) == 0
    assert (out / "png" / "small" / "b" / "c.png").exists()
    assert run(tree, target="src/small")["skipped"] == 3  # pictures in the target are no sources


def test_names_that_differ_in_case_alone_keep_apart(tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("IMG.JPG", "img.png", "Img.webp"):
        photo.crop((0, 0, 32, 32)).save(source / name)
    targets = [made["target"] for made in run(source)["made"]]
    assert len({target.casefold() for target in targets}) == 3


def test_target_above_the_source(tree: Path) -> None:
    assert len(names(run(tree / "b", target="."))) == 2
    assert (tree / "c.mcq").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_readable_file_is_a_failure(tree: Path) -> None:
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "pipe.png")
    report = run(tree, status=1)
    assert len(names(report)) == 3
    assert "gone.png" in report["failures"]
    assert report["failures"]["pipe.png"] == "cannot be read: is no file"


def test_a_name_does_not_lead_out_of_the_target(tree: Path) -> None:
    archive = tree.parent / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tree / "a.png", "../../evil.png")
    out = tree.parent / "x" / "y"
    assert cli.main(["transcode", f"zip::{archive}", str(out)]) == 1
    assert not list(tree.parent.glob("**/evil.mcq"))
