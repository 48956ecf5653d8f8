"""`mcq compare`: a page that shows a picture beside other codecs, at similar bytes."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pillow_mcquic import cli
from pillow_mcquic.cli import compare

CHROMIUM = shutil.which("chromium")


def content(page: Path) -> dict[str, Any]:
    """The data a page holds."""
    found = re.search(r'id="content">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    (parsed,) = json.loads(found[1])["pictures"]
    return dict(parsed)


def picture(url: str) -> np.ndarray[Any, Any]:
    data = base64.b64decode(url.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def page(photo: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    photo.crop((250, 60, 470, 240)).save(folder / "<!--<script>.png")
    command = ["compare", str(folder / "<!--<script>.png"), "--against", "webp,jpeg", "-q", "3", "6"]
    assert cli.main([*command, "-o", str(folder / "page.html")]) == 0
    return folder / "page.html"


def test_page_holds_every_picture_as_it_decodes(page: Path, photo: Image.Image) -> None:
    parsed = content(page)
    original = photo.crop((250, 60, 470, 240))
    assert np.array_equal(picture(parsed["original"]), np.asarray(original))
    assert [group["name"] for group in parsed["groups"]] == ["quality 3", "quality 6"]
    buffer = io.BytesIO()
    original.save(buffer, "MCQ", quality=3)
    first = parsed["groups"][0]["versions"][0]
    assert (first["codec"], first["bytes"]) == ("mcq", len(buffer.getvalue()))
    assert np.array_equal(picture(first["picture"]), np.asarray(Image.open(buffer)))
    assert first["metrics"]["PSNR (dB)"] > 25


def test_peers_take_the_nearest_number_of_bytes(page: Path, photo: Image.Image) -> None:
    original = photo.crop((250, 60, 470, 240))
    for group in content(page)["groups"]:
        mcq, *peers = group["versions"]
        assert [v["codec"] for v in peers] == ["webp", "jpeg"]
        for peer in peers:
            assert peer["difference"] == pytest.approx(100 * (peer["bytes"] / mcq["bytes"] - 1), abs=0.06)
            setting = int(peer["setting"].removeprefix("quality "))
            encode, _, _ = compare.named(peer["codec"])
            for other in (setting - 1, setting + 1):
                size = len(encode(original, min(100, max(1, other))))
                assert abs(size - mcq["bytes"]) >= abs(peer["bytes"] - mcq["bytes"])


def test_a_lossless_version_is_the_original(photo: Image.Image, tmp_path: Path) -> None:
    photo.crop((250, 60, 320, 140)).save(tmp_path / "x.png")
    command = ["compare", str(tmp_path / "x.png"), "--against", "webp", "-q", "lossless", "10"]
    assert cli.main([*command, "-o", str(tmp_path / "page.html")]) == 0
    lossless, best = content(tmp_path / "page.html")["groups"]
    assert (lossless["name"], best["name"]) == ("lossless", "quality 10")
    ours, webp = lossless["versions"]
    assert (ours["setting"], ours["difference"], ours["metrics"]["PSNR (dB)"]) == ("lossless", 0, "inf")
    assert webp["metrics"]["PSNR (dB)"] != "inf"


def test_page_asks_nothing_of_a_network(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "http" not in re.sub(r"data:image/webp;base64,[^\"]*", "", text)
    assert text.count("</script>") == 2  # a file's name ends no element


def test_large_picture_is_shown_in_part() -> None:
    large = np.zeros((1300, 1800, 3), np.uint8)
    assert "the middle 1600 x 1200 is shown" in compare.viewed("x", large, {})["note"]
    viewed = compare.viewed("x", large, {}, (64, 48))
    assert picture(viewed["original"]).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--against", "gif"], "must be of jpeg, webp, avif, jxl, got 'gif'"), (["-q", "11"], "quality must be from 1")],
)
def test_wrong_argument_is_named_at_once(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", "none.png", "-o", str(tmp_path / "p.html"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_page_is_not_overwritten_unasked(page: Path) -> None:
    assert cli.main(["compare", str(page.parent / "<!--<script>.png"), "-o", str(page)]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_browser_draws_the_page(page: Path, tmp_path: Path) -> None:
    assert CHROMIUM
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert dom.count("<tr>") == 4  # a head, mcq, webp, jpeg
    assert 'aria-pressed="true">quality 3<' in dom
    assert "&lt;!--&lt;script&gt;.png" in dom
