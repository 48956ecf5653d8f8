"""What README, guides and examples say, run as it stands; and what documents list."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pillow_mcquic
from pillow_mcquic.engine.bundle import DecoderBundle

ROOT = Path(__file__).parent.parent


README = (ROOT / "README.md").read_text("utf-8")


def python_of(text: str) -> str:
    """The Python of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


GUIDES = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "guides").glob("*.md")}
ROWS = dict(re.findall(r"^\| ([^|]+) \| (`.*`) \|$", GUIDES["libraries"], re.MULTILINE))


# what a reader has imported already: name -> module, or module:attribute
IMPORTS = {
    "torchvision": {"ImageFolder": "torchvision.datasets:ImageFolder"},
    "Hugging Face datasets": {"datasets": "datasets", "Dataset": "datasets:Dataset"},
    "imageio": {"iio": "imageio.v3"},
    "imagecodecs": {"imagecodecs": "imagecodecs"},
    "numcodecs, Zarr 2": {"numcodecs": "numcodecs"},
    "Zarr 3": {"zarr": "zarr"},
}


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Image.Image) -> dict[str, Any]:
    """The names a snippet may use, in a folder with photo.jpg, x.mcq and photos/parrot/a.mcq."""
    crop = photo.crop((200, 80, 328, 176))
    crop.save(tmp_path / "photo.jpg")
    crop.save(tmp_path / "x.mcq")
    (tmp_path / "photos" / "parrot").mkdir(parents=True)
    crop.save(tmp_path / "photos" / "parrot" / "a.mcq")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image.Image, "show", lambda self: self.load())
    array = np.array(crop)
    return {
        "pillow_mcquic": pillow_mcquic,
        "Image": Image,
        "torch": torch,
        "array": array,
        "tensor": torch.from_numpy(array).permute(2, 0, 1),
        "data": pillow_mcquic.encode(array),
    }


def test_the_table_has_a_row_for_every_library() -> None:
    assert {"numpy", "torch", "codes as tokens", "thumbnails", "a part of a picture", *IMPORTS} == set(ROWS)


@pytest.mark.parametrize("library", ROWS)
def test_row_of_the_table(library: str, names: dict[str, Any]) -> None:
    for name, source in IMPORTS.get(library, {}).items():
        module, _, attribute = source.partition(":")
        try:
            found = importlib.import_module(module)
        except (ImportError, RuntimeError) as error:  # torchvision built for another torch raises the latter
            pytest.skip(f"{module}: {error}")
        names[name] = getattr(found, attribute) if attribute else found
    before = dict(names)
    exec("\n".join(re.findall(r"`([^`]+)`", ROWS[library])), names)
    if library == "torchvision":
        assert names["dataset"][0][0].size == (128, 96)
    elif library == "Hugging Face datasets":
        with names["image"] as image:
            assert image.size == (128, 96)
    elif library == "thumbnails":
        assert (names["image"].size, names["small"].shape) == ((64, 48), (24, 32, 3))
    elif library == "a part of a picture":
        assert (names["part"].shape, names["tensor"].shape) == ((64, 64, 3), (3, 64, 64))
    elif library == "Zarr 3":
        assert abs(names["z"][0].astype(int) - before["array"][:64, :96]).mean() < 8
    elif library in ("torch", "codes as tokens"):
        assert abs(names["tensor"].int() - before["tensor"].int()).float().mean() < 8
    else:
        assert abs(names["array"].astype(int) - before["array"]).mean() < 8


def test_first_lines_of_the_readme(names: dict[str, Any]) -> None:
    exec(python_of(README), names)
    with Image.open("photo.mcq") as image:
        assert image.size == (128, 96)


def test_dataset_of_the_guide_to_workers(names: dict[str, Any]) -> None:
    exec(python_of(GUIDES["workers"]), names)
    photos = names["Photos"]()
    photos.paths = ["x.mcq"]
    assert photos[0].size == (128, 96)


@pytest.mark.slow
def test_example_learns_on_codes_and_on_pixels(photo: Image.Image, tmp_path: Path) -> None:
    """Crops of the left and of the right parrot; guessing would be right in half the cases."""
    for name, left in (("red", 60), ("blue", 420)):
        (tmp_path / name).mkdir()
        for i in range(40):
            at = left + 5 * i, 120 + 7 * i
            photo.crop((*at, at[0] + 64, at[1] + 64)).save(tmp_path / name / f"{i}.mcq", quality=3)
    command = [sys.executable, str(ROOT / "examples" / "classify_codes.py"), str(tmp_path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "80 pictures of 2 classes" in text
    for kind in ("codes", "pixels"):
        found = re.search(rf"on {kind}: ([0-9.]+)%", text)
        assert found
        assert float(found[1]) > 60


def test_format_lists_the_banks_of_the_bundled_weights(bundle: DecoderBundle) -> None:
    banks = [
        (number, bank.level, bank.groups, bank.dim, ", ".join(map(str, bank.stages)))
        for number, bank in enumerate(bundle.config.banks)
    ]
    text = (ROOT / "docs" / "format.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d) \| (\d) \| (\d+) \| (\d) \| ([\d, ]+) \|$", text, re.MULTILINE)
    assert [(*map(int, row[:4]), row[4]) for row in rows] == banks


def test_readme_is_short() -> None:
    assert len(README.split()) <= 700


def test_links_of_documents_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"


def test_lowest_versions_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = dict(re.match(r"([a-z]+)>=([0-9.]+)", line).groups() for line in project["dependencies"])
    lowest = dict(line.split("==") for line in (ROOT / ".ci" / "lowest.txt").read_text().splitlines() if "==" in line)

    def parts(version: str) -> list[int]:
        return [int(part) for part in version.split(".") if part != "0"]

    assert {name: parts(version) for name, version in wanted.items()} == {
        name: parts(version) for name, version in lowest.items()
    }
