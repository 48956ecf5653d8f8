"""What a file holds of each tile, and the table of tiles (docs/format.md, section 1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..errors import BadFileError
from .grids import Box
from .reader import Reader, varint

SIDES = {n: 1 << n for n in range(8, 14)}  # of tiles, by the number that headers have
# a 16x16 square costs at least 8 / 160 bits (checked at export), so a header cannot claim what its codes can't hold
MAX_SQUARES_PER_BYTE = 160
CONTEXT = 20  # squares around some, on which their pixels may depend: 17, and up to 3 to a position of level 3
LEARNED, EXACT, WHOLE = 1, 2, 4  # of a kind of tile: codes, exact squares, all squares exact
KINDS = (LEARNED, LEARNED | EXACT, EXACT | WHOLE, LEARNED | EXACT | WHOLE)


def least_length(squares: int) -> int:
    """Bytes that the codes of so many squares, or without any what is exact of them, have at least."""
    return -(-squares // MAX_SQUARES_PER_BYTE)


@dataclasses.dataclass(frozen=True)
class Tile:
    """What a file holds of a tile, or of a picture without tiles: payloads, None for what is not there.

    Parameters
    ----------
    codes : the code stream; also where all squares are exact, for the synthesis of tiles next to this one.
    exact : exact squares.
    whole : whether all squares are exact.
    alpha : None also where `exact` holds it, of a whole tile.
    """

    codes: bytes | None
    exact: bytes | None
    whole: bool
    alpha: bytes | None = None

    @property
    def kind(self) -> int:
        """As the table of tiles has it."""
        return LEARNED * (self.codes is not None) | EXACT * (self.exact is not None) | WHOLE * self.whole

    @property
    def parts(self) -> list[bytes]:
        """The payloads that are there, in the order of a file."""
        return [part for part in (self.exact, self.alpha, self.codes) if part is not None]

    def filled(self, squares: int) -> Tile:
        """With an exact part, if there are no codes, of the least length for so many squares."""
        if self.codes is not None or self.exact is None:
            return self
        return dataclasses.replace(self, exact=self.exact.ljust(least_length(squares), b"\0"))


@dataclasses.dataclass(frozen=True)
class Entry:
    """What the table of tiles says of one: its kind, and the lengths of its parts."""

    kind: int
    lengths: tuple[int, ...]

    def split(self, payload: bytes) -> Tile:
        """The tile of the payload of its chunk, of the length that the table says."""
        parts, start = list[bytes](), 0
        for length in self.lengths:
            parts.append(payload[start : start + length])
            start += length
        exact = parts.pop(0) if self.kind & EXACT else None
        codes = parts.pop() if self.kind & LEARNED else None
        return Tile(codes, exact, bool(self.kind & WHOLE), parts[0] if parts else None)


def pack_table(tiles: list[Tile]) -> bytes:
    """Payload of the table of tiles."""
    entries = (bytes([tile.kind]) + b"".join(varint(len(part)) for part in tile.parts) for tile in tiles)
    return b"".join(entries)


def unpack_table(reader: Reader, boxes: Iterator[Box], *, alpha: bool, learned: bool, exact: bool) -> list[Entry]:
    """The inverse of `pack_table`.

    Parameters
    ----------
    reader : of the payload, which is read as far as the table goes.
    boxes : of the tiles.
    alpha, learned, exact : what the header says: there is alpha, there are codes, there are exact squares.

    Raises
    ------
    BadFileError : when it is no such table, or so few bytes cannot hold so many squares.
    """
    entries = list[Entry]()
    for box in boxes:
        kind = reader.read(1, "the table of tiles")[0]
        if kind not in KINDS:
            raise BadFileError(f"damaged .mcq file: {kind} is no kind of tile")
        count = bool(kind & EXACT) + (alpha and not kind & WHOLE) + bool(kind & LEARNED)
        lengths = tuple(reader.varint("a length in the table of tiles")[0] for _ in range(count))
        if lengths[-1] < least_length(box.squares):
            width, height = box.size
            raise BadFileError(f"damaged .mcq file: {lengths[-1]} bytes cannot hold a tile of {width}x{height} pixels")
        entries.append(Entry(kind, lengths))
    kinds = {kind for entry in entries for kind in (LEARNED, EXACT) if entry.kind & kind}
    if (LEARNED in kinds, EXACT in kinds) != (learned, exact):
        raise BadFileError("damaged .mcq file: the table of tiles says what the header should")
    return entries
