"""A folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


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
