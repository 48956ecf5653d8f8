"""Levels and their grids of positions over a picture; boxes of pixels; the grid of tiles of a large picture."""

from __future__ import annotations

import dataclasses

LEVELS = (3, 2, 1)  # in coding order: latents at 1/64, 1/32 and 1/16 of the picture's resolution
SQUARE = 16  # pixels to a side of what a position of level 1 stands for

Grid = tuple[int, int]  # rows, columns
Grids = dict[int, Grid]  # by level


def grids_of(width: int, height: int) -> Grids:
    """Rows and columns of each level for a picture of so many pixels, which is padded to whole positions."""
    rows, columns = -(-height // SQUARE), -(-width // SQUARE)
    return {level: (-(-rows // 2 ** (level - 1)), -(-columns // 2 ** (level - 1))) for level in LEVELS}


@dataclasses.dataclass(frozen=True)
class Box:
    """Pixels from (left, top) to before (right, bottom)."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def squares(self) -> int:
        """How many squares hold the pixels, counted from its own corner."""
        width, height = self.size
        return -(-width // SQUARE) * -(-height // SQUARE)

    def grown(self, by: int, within: Box) -> Box:
        """So many pixels more on each side, as far as there are."""
        return Box(self.left - by, self.top - by, self.right + by, self.bottom + by).cut(within)

    def cut(self, to: Box) -> Box:
        """What lies within another box too, without any pixels where they do not meet."""
        left, top = max(self.left, to.left), max(self.top, to.top)
        return Box(left, top, max(left, min(self.right, to.right)), max(top, min(self.bottom, to.bottom)))

    def seen_from(self, corner: Box) -> Box:
        """The same pixels counted from the corner of another box."""
        x, y = corner.left, corner.top
        return Box(self.left - x, self.top - y, self.right - x, self.bottom - y)

    def reduced(self, scale: int) -> Box:
        """The least box of a picture of 1/`scale` of the sides that shows all of these pixels."""
        return Box(self.left // scale, self.top // scale, -(-self.right // scale), -(-self.bottom // scale))

    def magnified(self, scale: int) -> Box:
        """The same part of a grid `scale` times as fine."""
        return Box(self.left * scale, self.top * scale, self.right * scale, self.bottom * scale)


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """The tiles of a picture, row by row: boxes of `side` pixels, a multiple of 64; one without a side."""

    width: int
    height: int
    side: int | None

    @property
    def whole(self) -> Box:
        """All pixels."""
        return Box(0, 0, self.width, self.height)

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return 1 if self.side is None else -(-self.width // self.side)

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return 1 if self.side is None else -(-self.height // self.side)

    def __len__(self) -> int:
        return self.rows * self.columns

    def box(self, number: int) -> Box:
        """The pixels of a tile."""
        if self.side is None:
            return self.whole
        row, column = divmod(number, self.columns)
        left, top = column * self.side, row * self.side
        return Box(left, top, left + self.side, top + self.side).cut(self.whole)

    def touching(self, box: Box) -> list[int]:
        """The tiles that pixels of a box, one at least, lie in."""
        if self.side is None:
            return [0]
        rows = range(box.top // self.side, -(-box.bottom // self.side))
        columns = range(box.left // self.side, -(-box.right // self.side))
        return [row * self.columns + column for row in rows for column in columns]
