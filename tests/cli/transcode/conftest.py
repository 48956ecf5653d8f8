"""A tree of pictures, and runs over it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pillow_mcquic import cli
from pillow_mcquic.cli.transcode.manifest import NAME


@pytest.fixture
def tree(tmp_path: Path, photo: Image.Image) -> Path:
    """src/a.png, src/b/c.jpg with metadata, src/b/d.webp, src/notes.txt"""
    source = tmp_path / "src"
    (source / "b").mkdir(parents=True)
    crop = photo.crop((90, 220, 218, 316))
    crop.save(source / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    crop.save(source / "b" / "c.jpg", exif=exif, comment=b"hello", quality=95)
    crop.save(source / "b" / "d.webp", lossless=True)
    (source / "notes.txt").write_text("no image")
    return source


def run(tree: Path, *options: str, target: str = "dst", status: int = 0) -> dict[str, Any]:
    """Transcode with one worker; the report."""
    report = tree.parent / "report.json"
    command = ["transcode", str(tree), str(tree.parent / target), "--workers", "1", "--report", str(report)]
    assert cli.main([*command, *options]) == status
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def names(report: dict[str, Any]) -> list[str]:
    return sorted(made["name"] for made in report["made"])


def recorded(folder: Path) -> list[str]:
    """Names of the pictures whose outcome the manifest of a target folder holds."""
    with contextlib.closing(sqlite3.connect(folder / NAME)) as database:
        return [
            os.fsdecode(name)
            for (name,) in database.execute("SELECT name FROM files WHERE outcome NOT NULL ORDER BY name")
        ]
