"""One picture: scores, qualities, failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli

from ...conftest import psnr
from .conftest import names, run


def test_scores_are_those_of_the_files(tree: Path) -> None:
    report = run(tree, "--bpp", "0.5")
    for made in report["made"]:
        with Image.open(tree / made["name"]) as image, Image.open(tree.parent / "dst" / made["target"]) as decoded:
            assert made["score"] == pytest.approx(psnr(image, decoded))
            assert made["quality"] == decoded.info["quality"]
        assert 8 * made["after"] / made["pixels"] == pytest.approx(0.5, rel=0.05)
    worst = [entry["score"] for entry in report["worst"]]
    assert worst == sorted(worst)


def test_failures_have_reasons_and_are_tried_again(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (tree / "a.png").read_bytes()
    (tree / "a.png").write_bytes(good[:200])
    (tree / "b" / "e.gif").write_bytes(b"GIF89a, not")
    report = run(tree, status=1)
    assert sorted(report["failures"]) == ["a.png", "b/e.gif"]
    assert report["failures"]["b/e.gif"] == "is no image that Pillow can read"
    assert "2 failed" in capsys.readouterr().out
    (tree / "a.png").write_bytes(good)
    report = run(tree, status=1)
    assert (names(report), list(report["failures"])) == (["a.png"], ["b/e.gif"])


def test_least_quality_that_reaches_a_score(tree: Path, photo: Image.Image) -> None:
    pytest.importorskip("ssimulacra2")
    for old in tree.rglob("*.*"):
        old.unlink()
    photo.crop((90, 220, 282, 348)).save(tree / "x.png")
    (made,) = run(tree, "--min-ssimulacra2", "40")["made"]
    assert made["score"] >= 40
    (below,) = run(tree, "-q", str(made["quality"] - 1 / 8), "--score", "ssimulacra2", target="below")["made"]
    assert below["score"] < 40
    report = run(tree, "--min-ssimulacra2", "99", status=1, target="never")
    assert "out of reach" in report["failures"]["x.png"]


def test_what_is_called_mcq_is_not_read_as_another_format(tree: Path) -> None:
    (tree / "x.mcq").write_bytes((tree / "a.png").read_bytes())
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--to", "bmp", "--workers", "1"]) == 1
    assert not list((tree.parent / "dst").rglob("*.bmp"))


def test_lossless_tree_keeps_every_pixel(tree: Path) -> None:
    report = run(tree, "--lossless")
    for made in report["made"]:
        with Image.open(tree / made["name"]) as image, Image.open(tree.parent / "dst" / made["target"]) as decoded:
            assert image.convert("RGB").tobytes() == decoded.tobytes()
    assert report["worst"][0]["score"] == 99
    assert run(tree, "--lossless")["skipped"] == 3
    assert len(run(tree, "-q", "4")["made"]) == 3  # another wish is another file
