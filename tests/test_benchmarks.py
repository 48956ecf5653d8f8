"""The parts of the benchmarks that are not figures."""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import peers, rd, report
from benchmarks.speed import STAGES


def test_bd_rate_of_shifted_curves() -> None:
    anchor = [(0.1 * 2**i, 25.0 + 3 * i) for i in range(5)]
    assert rd.bd_rate(anchor, [(0.8 * bpp, quality) for bpp, quality in anchor]) == pytest.approx(-0.2)
    assert rd.bd_rate(anchor, anchor) == pytest.approx(0)
    assert math.isnan(rd.bd_rate(anchor, [(bpp, quality + 50) for bpp, quality in anchor]))


def test_layers_of_the_original_cost_what_its_authors_ship() -> None:
    """285 and 398 thousand multiply-adds a pixel at 128 channels."""
    costs = [sum(layer.macs for layer in layers) / 1e3 for layers in peers.mcquic_layers(128)]
    assert costs == pytest.approx([285, 398], rel=0.02)


def test_speed_tells_stages_apart(photo: Image.Image, tmp_path: Path) -> None:
    """In a process of its own, as it clocks the codec at its seams."""
    photo.save(tmp_path / "x.png")
    code = (
        "import json, sys; from benchmarks import speed; print(json.dumps(speed.one_size(sys.argv[1], 0.1, 1, 4, 1)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parent.parent
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    found = json.loads(out.stdout)
    for direction in ("encode", "decode"):
        stages = {stage: found[direction][stage] for stage in STAGES}
        assert min(stages.values()) > 0
        assert sum(stages.values()) == pytest.approx(found[direction]["total"])


def test_tables_become_html() -> None:
    text = report.to_html("Some <text>.\n\n| a | b |\n|---|---|\n| 1 | x & y |\n")
    assert "<p>Some &lt;text&gt;.</p>" in text
    assert "<tr><th>a</th><th>b</th></tr><tr><td>1</td><td>x &amp; y</td></tr>" in text


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
    )
    report.run(args)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "http" not in re.sub(r"data:image/[a-z]*;base64,[^\"]*", "", text)
    assert '<img class="plot" src="data:image/png;base64,' in text
    assert "<td>webp</td>" in text
    assert "<tr><td>2</td><td>0.5</td></tr>" in text
    found = re.search(r'id="content">(.*?)</script>', text, re.DOTALL)
    assert found
    (picture,) = json.loads(found[1])["pictures"]
    assert [v["codec"] for v in picture["groups"][0]["versions"]] == ["mcq", "webp"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 8 + 11
