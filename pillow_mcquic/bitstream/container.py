"""The `.mcq` container: header, chunks, checksums (docs/format.md). Standard library only.

    magic (8) | version, mode, quality, model id, width, height, side of tiles | CRC-32 | chunk ... chunk
    chunk: type (1) | length (varint) | payload | CRC-32 of type, length and payload

An upper-case type is critical: a reader that does not know it must refuse the file.  A lower-case type is
optional: a reader skips it.  The chunks of the picture come last, and which of them there are the header tells.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import struct
from collections.abc import Callable
from typing import IO

from ..errors import BadFileError
from .file_header import Header, read_header, write_header
from .grids import Box
from .reader import MAX_NUMBER, Reader, crc, varint
from .tiles import Entry, Tile, least_length, pack_table, unpack_table

MAX_LENGTH = MAX_NUMBER  # of a chunk's payload
MAX_CHUNKS = 256  # before the picture: of nothing but tiny ones a file would take many times its size in memory

EXACT, ALPHA, CODES = b"X", b"A", b"C"  # in this order
TABLE, TILE = b"T", b"P"  # in place of these where there are tiles: the table of tiles, then each of them
EXIF, ICC, XMP, DPI, COMMENT = b"e", b"i", b"x", b"d", b"c"
# types of metadata, and what Pillow calls them in `info` and among the options of `save`
METADATA = {EXIF: "exif", ICC: "icc_profile", XMP: "xmp", DPI: "dpi", COMMENT: "comment"}
PICTURE = (EXACT, ALPHA, CODES, TABLE, TILE)
KNOWN = frozenset({*METADATA, *PICTURE})


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One typed piece of a file; `size` counts its type, length and checksum too."""

    kind: bytes
    payload: bytes
    size: int


def write_chunk(kind: bytes, payload: bytes) -> bytes:
    """The bytes of a chunk; ValueError beyond 256 MiB."""
    body = kind + varint(len(payload)) + payload
    return body + crc(body)


def _chunk_head(reader: Reader) -> tuple[bytes, int, bytes]:
    """Type, payload length, and the bytes both stand in; BadFileError for a type that must be known and is not."""
    kind = reader.read(1, "a chunk")
    if not kind.isalpha():
        raise BadFileError(f"damaged .mcq file: {kind!r} is no chunk type")
    if kind.isupper() and kind not in KNOWN:
        raise BadFileError(
            f"this .mcq file needs a feature (chunk {kind.decode()}) that this pillow_mcquic does not know; "
            "a newer release may read it"
        )
    length, raw = reader.varint(f"the length of chunk {kind.decode()}")
    return kind, length, kind + raw


def _chunk_rest(reader: Reader, kind: bytes, length: int, head: bytes) -> Chunk:
    """Payload and checksum of a chunk whose head has been read."""
    payload = reader.read(length, f"chunk {kind.decode()}")
    if reader.read(4, f"chunk {kind.decode()}") != crc(head + payload):
        raise BadFileError(f"damaged .mcq file: the checksum of chunk {kind.decode()} is wrong")
    return Chunk(kind, payload, len(head) + length + 4)


def _picture_kinds(header: Header) -> tuple[bytes, ...]:
    """The chunks that hold a picture without tiles, in order."""
    there = {EXACT: header.exact, ALPHA: header.alpha and header.learned, CODES: header.learned}
    return tuple(kind for kind, is_there in there.items() if is_there)


def _expect(reader: Reader, expected: bytes) -> tuple[int, bytes]:
    """Payload length and head of the next chunk, which must be of this type."""
    kind, length, head = _chunk_head(reader)
    if kind != expected:
        raise BadFileError(f"damaged .mcq file: chunk {kind.decode()} in place of {expected.decode()}")
    return length, head


def _expect_of_picture(reader: Reader, expected: bytes, header: Header) -> tuple[int, bytes]:
    """`_expect` in a picture without tiles: the last chunk must bear the claim of the header."""
    length, head = _expect(reader, expected)
    if expected == _picture_kinds(header)[-1] and length < least_length(header.tiles.whole.squares):
        what = "codes" if header.learned else "exact squares"
        raise BadFileError(
            f"damaged .mcq file: {length} bytes of {what} cannot hold {header.width}x{header.height} pixels"
        )
    return length, head


def measure_picture(reader: Reader, header: Header) -> int:
    """Bytes that the chunks of the picture take, from their heads; the claim of the header is checked.

    The file is moved; BadFileError as `read_picture`, as far as heads can tell.
    """
    if header.tile_side is not None:
        table, entries = _read_table(reader, header)
        return table.size + sum(_tile_size(entry) for entry in entries)
    size, kinds = 0, _picture_kinds(header)
    for expected in kinds:
        length, head = _expect_of_picture(reader, expected, header)
        if expected != kinds[-1]:
            reader.file.seek(length + 4, io.SEEK_CUR)
        size += len(head) + length + 4
    return size


def _tile_size(entry: Entry) -> int:
    """Bytes of the chunk of a tile."""
    length = sum(entry.lengths)
    return 1 + len(varint(length)) + length + 4


def _read_table(reader: Reader, header: Header) -> tuple[Chunk, list[Entry]]:
    """The table of tiles, and what it says."""
    chunk, grid = _chunk_rest(reader, TABLE, *_expect(reader, TABLE)), header.tiles
    payload = Reader(io.BytesIO(chunk.payload))
    boxes = map(grid.box, range(len(grid)))
    entries = unpack_table(payload, boxes, alpha=header.alpha, learned=header.learned, exact=header.exact)
    if payload.taken != len(chunk.payload):
        raise BadFileError("damaged .mcq file: the table of tiles is longer than it should be")
    return chunk, entries


@dataclasses.dataclass(frozen=True)
class File:
    """A file in memory, checked.

    `chunks` before those of the picture; of the `tiles` those that were not asked for, or are damaged where that was
    allowed, are None; `picture_size` is that of all chunks of the picture.
    """

    header: Header
    chunks: tuple[Chunk, ...]
    header_size: int
    tiles: tuple[Tile | None, ...]
    picture_size: int

    def get(self, kind: bytes) -> bytes | None:
        """Payload of the chunk of a type, None without it."""
        return next((c.payload for c in self.chunks if c.kind == kind), None)

    @property
    def codes(self) -> bytes:
        """The code stream of a picture without tiles; empty where all squares are exact."""
        (tile,) = self.tiles
        return (tile and tile.codes) or b""


def peek(file: IO[bytes]) -> Header:
    """The header of a file, which is not moved; errors as of `read`."""
    start = file.tell()
    header = read_header(Reader(file))
    file.seek(start)
    return header


def read(file: IO[bytes], box: Box | None = None, reach: int = 0) -> File:
    """Read a file up to the end of its picture; what follows is not touched.

    box: if given, only the tiles that have pixels within `reach` around it are kept, and checked.
    NotMcqError without our magic; BadFileError with a sentence for every other fault.
    """
    reader = Reader(file)
    header = read_header(reader)
    header_size = reader.taken
    metadata = read_metadata(reader, header)
    start = reader.taken
    tiles = read_picture(reader, header, box and box.grown(reach, header.tiles.whole))
    return File(header, tuple(metadata), header_size, tiles, reader.taken - start)


def read_metadata(reader: Reader, header: Header) -> list[Chunk]:
    """The chunks before those of the picture, checked."""
    chunks: list[Chunk] = []
    while True:
        kind, length, head = _chunk_head(reader)
        if kind in PICTURE:
            reader.put_back(head)
            return chunks
        if len(chunks) == MAX_CHUNKS:
            raise BadFileError(f"damaged .mcq file: more than {MAX_CHUNKS} chunks before the picture")
        if kind in KNOWN and any(chunk.kind == kind for chunk in chunks):
            raise BadFileError(f"damaged .mcq file: chunk {kind.decode()} occurs twice")
        chunks.append(_chunk_rest(reader, kind, length, head))
        if kind == DPI:
            unpack_dpi(chunks[-1].payload)


def read_picture(
    reader: Reader, header: Header, box: Box | None = None, *, tolerant: bool = False
) -> tuple[Tile | None, ...]:
    """The tiles of the picture, checked.

    Parameters
    ----------
    reader : before the chunks of the picture.
    box : if given, other tiles than those it touches are skipped: None.
    tolerant : whether tiles that are damaged, or cut off, are None; else BadFileError.
    """
    if header.tile_side is None:
        return (_attempt(lambda: _read_only_tile(reader, header), tolerant),)
    _, entries = _read_table(reader, header)
    wanted = range(len(entries)) if box is None else header.tiles.touching(box)
    found: list[Tile | None] = []
    for number, entry in enumerate(entries):
        if number in wanted:
            found.append(_attempt(functools.partial(_read_tile, reader, number, entry), tolerant))
        else:
            found.append(_attempt(functools.partial(reader.skip, _tile_size(entry), f"tile {number}"), tolerant))
    return tuple(found)


def _attempt(read: Callable[[], Tile | None], tolerant: bool) -> Tile | None:
    """What `read` gives; None where that raises BadFileError and that is allowed."""
    try:
        return read()
    except BadFileError:
        if not tolerant:
            raise
        return None


def _read_only_tile(reader: Reader, header: Header) -> Tile:
    """What stands in for a tile in a picture without."""
    kinds = _picture_kinds(header)
    chunks = [_chunk_rest(reader, kind, *_expect_of_picture(reader, kind, header)) for kind in kinds]
    payloads = {chunk.kind: chunk.payload for chunk in chunks}
    return Tile(payloads.get(CODES), payloads.get(EXACT), not header.learned, payloads.get(ALPHA))


def _read_tile(reader: Reader, number: int, entry: Entry) -> Tile:
    """A tile whose chunk is next; its place follows from the table, so damage to its head is no worse than any."""
    data, length = reader.read(_tile_size(entry), f"tile {number}"), sum(entry.lengths)
    head, payload = TILE + varint(length), data[-4 - length : -4]
    if data != head + payload + crc(head + payload):
        raise BadFileError(f"damaged .mcq file: the checksum of tile {number} is wrong")
    return entry.split(payload)


def pack_dpi(dpi: tuple[float, float]) -> bytes:
    """Payload of the dpi chunk: horizontal and vertical dots per inch, float64."""
    return struct.pack("<dd", *dpi)


def unpack_dpi(payload: bytes) -> tuple[float, float]:
    """The inverse of `pack_dpi`; BadFileError when it is no pair of positive numbers."""
    if len(payload) == 16:
        x, y = struct.unpack("<dd", payload)
        if math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0:
            return x, y
    raise BadFileError("damaged .mcq file: the dpi chunk is not two positive numbers")


def write(header: Header, metadata: dict[bytes, bytes], tiles: list[Tile]) -> bytes:
    """A whole file: header, metadata by chunk type, and the picture.

    tiles: all of them, or one for a picture without; what is exact is filled up with zeros to the least length.
    """
    grid = header.tiles
    filled = [tile.filled(grid.box(number).squares) for number, tile in enumerate(tiles)]
    chunks = list(metadata.items())
    if header.tile_side is None:
        (tile,) = filled
        of_picture = ((EXACT, tile.exact), (ALPHA, tile.alpha), (CODES, tile.codes))
        chunks += [(kind, payload) for kind, payload in of_picture if payload is not None]
    else:
        chunks += [(TABLE, pack_table(filled))] + [(TILE, b"".join(tile.parts)) for tile in filled]
    return b"".join([write_header(header), *(write_chunk(kind, payload) for kind, payload in chunks)])
