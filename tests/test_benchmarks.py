"""The parts of the benchmarks that are not figures."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import graphics, peers, rd, report
from benchmarks.speed import ONE_DIRECTION, STAGES


def test_bd_rate_of_shifted_curves() -> None:
    anchor = [(0.1 * 2**i, 25.0 + 3 * i) for i in range(5)]
    assert rd.bd_rate(anchor, [(0.8 * bpp, quality) for bpp, quality in anchor]) == pytest.approx(-0.2)
    assert rd.bd_rate(anchor, anchor) == pytest.approx(0)
    assert math.isnan(rd.bd_rate(anchor, [(bpp, quality + 50) for bpp, quality in anchor]))


def test_layers_of_the_original_cost_what_its_authors_ship() -> None:
    """285 and 398 thousand multiply-adds a pixel at 128 channels."""
    costs = [sum(layer.macs for layer in layers) / 1e3 for layers in peers.mcquic_layers(128)]
    assert costs == pytest.approx([285, 398], rel=0.02)


def graphics_row(image: str, codec: str, setting: float, bpp: float, score: float) -> rd.Row:
    return {"image": image, "codec": codec, "setting": setting, "bpp": bpp, "ssimulacra2": score, "psnr": score / 2}


def test_graphics_are_compared_by_the_fewest_bytes_that_reach_a_score() -> None:
    rows = [
        graphics_row("text_a.png", "mcq", 1, 0.5, 45),
        graphics_row("text_a.png", "mcq", 2, 2.0, 95),
        graphics_row("text_a.png", "avif-420", 20, 1.0, 75),
        graphics_row("text_a.png", "avif-420", 60, 4.0, 92),
        graphics_row("text_a.png", "webp-lossless", 100, 3.0, 100),
    ]
    assert graphics.fewest(rows[:2], 50) == 2.0
    text = graphics.table(rows, {"mcq"})
    assert "| text | 1 | 2.00 | 2.00 | 2.00 | 0.67 | 0.67 | 1.29 |" in text
    assert "| all | 1 |" in text


def test_a_picture_that_gets_worse_is_named() -> None:
    rows = [graphics_row(name, "mcq", q, 1.0, 60 + q * sign) for name, sign in (("a", 1), ("b", -1)) for q in (4, 5)]
    assert graphics.drops(rows) == ["b 4->5: -1.00, -0.50 dB"]


def test_speed_tells_stages_apart(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "x.png")
    command = [sys.executable, "-m", "benchmarks", "speed", "--images", str(tmp_path), "--megapixels", "0.1"]
    for direction in ("encode", "decode"):  # of what the first one leaves
        out = subprocess.run(
            [*command, "--threads", "1"],
            env={**os.environ, ONE_DIRECTION: f"{direction} {tmp_path}/x.mcq"},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(out.stdout)
        stages = [found[stage] for stage in STAGES]
        assert min(stages) > 0
        assert sum(stages) == pytest.approx(found["total"])
        assert found["megapixels"] == pytest.approx(0.1, rel=0.02)
        assert found["bpp"] == pytest.approx(8 * (tmp_path / "x.mcq").stat().st_size / found["megapixels"] / 1e6)


def test_rows_are_of_one_encoder(photo: Image.Image, tmp_path: Path) -> None:
    """Another metric asked for later is measured on the same bytes, or all are measured again."""
    small = photo.crop((0, 0, 96, 64))
    made = iter([b"12", b"12", b"1234"])
    codec = rd.Codec((1,), lambda *_: next(made), lambda data: np.full((64, 96, 3), len(data), np.uint8), "1")
    rows = rd.Rows(tmp_path / "rows.jsonl")
    first = rows.get(small, "x", "digest", codec, 1, ["psnr"])
    assert rows.get(small, "x", "digest", codec, 1, ["psnr"]) == first
    both = rows.get(small, "x", "digest", codec, 1, ["psnr", "ssimulacra2"])
    assert (both["bpp"], both["psnr"]) == (first["bpp"], first["psnr"])
    del rows.rows["digest", "x 1", 1]["ssimulacra2"]
    again = rows.get(small, "x", "digest", codec, 1, ["psnr", "ssimulacra2"])
    assert again["bpp"] == 2 * first["bpp"]
    assert again["psnr"] != first["psnr"]
    assert rd.Rows(tmp_path / "rows.jsonl").get(small, "x", "digest", codec, 1, ["psnr", "ssimulacra2"]) == again


def test_tables_become_html() -> None:
    text = report.to_html("Some <text>.\n\n| a | b |\n|---|---|\n| 1 | x & y |\n")
    assert "<p>Some &lt;text&gt;.</p>" in text
    assert re.findall(r"<t[hd]>(.*?)</t[hd]>", text) == ["a", "b", "1", "x &amp; y"]


def test_report_of_one_picture(photo: Image.Image, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "in").mkdir()
    photo.crop((250, 60, 430, 240)).save(tmp_path / "in" / "x.png")
    (tmp_path / "speed.md").write_text("| MP | s |\n|---|---|\n| 2 | 0.5 |\n")
    args = argparse.Namespace(
        images=str(tmp_path / "in"),
        codecs="mcq,webp",
        metrics="psnr",
        rows=str(tmp_path / "rows.jsonl"),
        out=str(tmp_path / "report.html"),
        pictures=1,
        quality=[3.0],
        against="webp",
        include=[str(tmp_path / "speed.md")],
        measured=None,
    )
    report.run(args)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "http" not in re.sub(r"data:image/[a-z]*;base64,[^\"]*", "", text)
    assert '<img class="plot" src="data:image/png;base64,' in text
    assert "<td>webp</td>" in text
    assert "<td>0.5</td>" in text
    found = re.search(r'id="content">(.*?)</script>', text, re.DOTALL)
    assert found
    (picture,) = json.loads(found[1])["pictures"]
    assert [v["codec"] for v in picture["groups"][0]["versions"]] == ["mcq", "webp"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 8 + 11
