"""Section 1: the file."""

from __future__ import annotations

import dataclasses
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError, NotMcqError
from . import exact

MAGIC = b"\x8bMCQ\r\n\x1a\n"
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
EXACT, TILED = 16, 64  # bits of the mode
LOWEST, HIGHEST = 256, 2560  # qualities
SQUARES_PER_BYTE = 160
KINDS = {1: "C", 3: "XC", 6: "X", 7: "XC"}  # of tiles: their parts, but for alpha


class DamagedFileError(BadFileError):
    """What the file says is not allowed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"damaged .mcq file: {what}")


class Bytes:
    """Bytes that are read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        """The next so many."""
        if self.at + count > len(self.data):
            raise DamagedFileError("it is cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """Unsigned LEB128 in its shortest form, at most 4 bytes."""
        value = 0
        for place in range(4):
            byte = self.take(1)[0]
            value |= (byte & 127) << 7 * place
            if byte < 128:
                if byte == 0 and place:
                    break
                return value
        raise DamagedFileError("a number is not in its shortest form")

    def checked(self, start: int) -> None:
        """The CRC-32 over everything since a place is next."""
        found = zlib.crc32(self.data[start : self.at])
        if found != int.from_bytes(self.take(4), "little"):
            raise DamagedFileError("a checksum is wrong")


@dataclasses.dataclass(frozen=True)
class Header:
    """The header; `side` of tiles, None without."""

    mode: str
    exact: bool
    quality: int
    model: bytes
    width: int
    height: int
    side: int | None

    @property
    def learned(self) -> bool:
        """Whether any square is."""
        return self.model != bytes(4)

    @property
    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, right and bottom of each tile, or of the picture."""
        side = self.side or max(self.width, self.height)
        return [
            (left, top, min(self.width, left + side), min(self.height, top + side))
            for top in range(0, self.height, side)
            for left in range(0, self.width, side)
        ]


def read_header(data: Bytes) -> Header:
    """Checks in their order: magic; major version; CRC; the other fields."""
    if data.data[:8] != MAGIC:
        raise NotMcqError("not an .mcq file")
    data.take(8)
    version = data.take(1)[0]
    if version >> 4 != 1:
        raise BadFileError(f"this .mcq file has format {version >> 4}.{version & 15}; upgrade pillow_mcquic")
    mode = data.take(1)[0]
    quality = int.from_bytes(data.take(2), "little")
    model = data.take(4)
    width, height = data.varint(), data.varint()
    exponent = data.take(1)[0] if mode & TILED else None
    data.checked(0)
    if mode & 15 not in MODES or mode & ~(15 | EXACT | TILED) or min(width, height) < 1:
        raise DamagedFileError("its header has values that are not allowed")
    if exponent is not None and not 8 <= exponent <= 13:
        raise DamagedFileError("its tiles have a side that is not allowed")
    header = Header(
        MODES[mode & 15], bool(mode & EXACT), quality, model, width, height, None if exponent is None else 1 << exponent
    )
    if quality and not LOWEST <= quality <= HIGHEST:
        raise DamagedFileError("its quality is not allowed")
    if (header.learned and not quality) or (not header.learned and not header.exact):
        raise DamagedFileError("its header contradicts itself")
    return header


@dataclasses.dataclass(frozen=True)
class Tile:
    """The parts of a tile, or of a picture without tiles: `X`, `A`, `C`; `whole`: all squares are exact."""

    parts: dict[str, bytes]
    whole: bool


@dataclasses.dataclass(frozen=True)
class File:
    """A file, read: metadata by type of chunk."""

    header: Header
    metadata: dict[str, bytes]
    tiles: list[Tile]


def read(source: bytes) -> File:
    """Read a file up to the end of its picture."""
    data = Bytes(source)
    header, metadata, count = read_header(data), dict[str, bytes](), 0
    while True:
        start = data.at
        kind = data.take(1)
        if not kind.isalpha() or not kind.isascii():
            raise DamagedFileError("a chunk has no type")
        if kind in b"XACTP":
            data.at = start
            break
        if kind.isupper():
            raise BadFileError(f"this .mcq file has a chunk {kind.decode()}, which is unknown; upgrade pillow_mcquic")
        count += 1
        if count > 256 or (kind.decode() in metadata and kind in b"eixdc"):
            raise DamagedFileError("it has too many chunks")
        metadata[kind.decode()] = payload = _rest(data, start)
        if kind == b"d":
            dots = struct.unpack("<dd", payload) if len(payload) == 16 else (0.0, 0.0)
            if not all(math.isfinite(each) and each > 0 for each in dots):
                raise DamagedFileError("its dots per inch are not two positive numbers")
    tiles = [_read_picture(data, header)] if header.side is None else _read_tiles(data, header)
    return File(header, {kind: payload for kind, payload in metadata.items() if kind in "eixdc"}, tiles)


def _rest(data: Bytes, start: int) -> bytes:
    """The payload of a chunk whose type was read."""
    payload = data.take(data.varint())
    data.checked(start)
    return payload


def _chunk(data: Bytes, kind: str) -> bytes:
    start = data.at
    if data.take(1) != kind.encode():
        raise DamagedFileError(f"its chunk {kind} is not where it should be")
    return _rest(data, start)


def _check_claim(length: int, width: int, height: int) -> None:
    """A square costs at least a twentieth of a bit."""
    if length * SQUARES_PER_BYTE < -(-width // 16) * -(-height // 16):
        raise DamagedFileError(f"{length} bytes cannot hold {width}x{height} pixels")


def _read_picture(data: Bytes, header: Header) -> Tile:
    kinds = ["X"] * header.exact + ["A"] * (header.learned and header.mode.endswith("A")) + ["C"] * header.learned
    parts = {}
    for kind in kinds:
        if kind == kinds[-1]:  # before anything is allocated: the length tells
            at = data.at
            data.take(1)
            _check_claim(data.varint(), header.width, header.height)
            data.at = at
        parts[kind] = _chunk(data, kind)
    return Tile(parts, not header.learned)


def _read_tiles(data: Bytes, header: Header) -> list[Tile]:
    table, entries = Bytes(_chunk(data, "T")), list[tuple[int, list[str], list[int]]]()
    for left, top, right, bottom in header.boxes:
        kind = table.take(1)[0]
        if kind not in KINDS:
            raise DamagedFileError("a tile has a kind that is not allowed")
        names = list(KINDS[kind])
        if kind in (1, 3) and header.mode.endswith("A"):
            names.insert(-1, "A")
        lengths = [table.varint() for _ in names]
        _check_claim(lengths[-1], right - left, bottom - top)
        entries.append((kind, names, lengths))
    if table.at != len(table.data):
        raise DamagedFileError("the table of tiles is too long")
    for name, expected in (("C", header.learned), ("X", header.exact)):
        if any(name in names for _, names, _ in entries) != expected:
            raise DamagedFileError("its tiles contradict its header")
    tiles = []
    for kind, names, lengths in entries:
        payload, parts = Bytes(_chunk(data, "P")), {}
        if len(payload.data) != sum(lengths):
            raise DamagedFileError("a tile is not as long as the table says")
        for name, length in zip(names, lengths, strict=True):
            parts[name] = payload.take(length)
        tiles.append(Tile(parts, kind in (6, 7)))
    return tiles


def alpha(payload: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The samples of `A`, (height, width)."""
    if payload[:1] == b"\3":
        return exact.vp8l(payload[1:], width, height)[:, :, 1]
    stream = zlib.decompressobj()
    if payload[:1] not in (b"\0", b"\1", b"\2"):
        raise DamagedFileError("its alpha has an unknown filter")
    try:
        raw = stream.decompress(payload[1:], width * height + 1)
    except zlib.error as error:
        raise DamagedFileError(f"its alpha: {error}") from error
    if len(raw) != width * height or not stream.eof or stream.unused_data:
        raise DamagedFileError("its alpha has another size")
    samples = np.frombuffer(raw, np.uint8).reshape(height, width)
    return samples if payload[0] == 0 else np.cumsum(samples, 2 - payload[0], dtype=np.uint8)
