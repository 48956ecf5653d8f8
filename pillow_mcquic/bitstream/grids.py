"""Levels, and their grids of positions over a picture."""

from __future__ import annotations

LEVELS = (3, 2, 1)  # in coding order: latents at 1/64, 1/32 and 1/16 of the picture's resolution
SQUARE = 16  # pixels to a side of what a position of level 1 stands for

Grid = tuple[int, int]  # rows, columns
Grids = dict[int, Grid]  # by level


def grids_of(width: int, height: int) -> Grids:
    """Rows and columns of each level for a picture of so many pixels, which is padded to whole positions."""
    rows, columns = -(-height // SQUARE), -(-width // SQUARE)
    return {level: (-(-rows // 2 ** (level - 1)), -(-columns // 2 ** (level - 1))) for level in LEVELS}
