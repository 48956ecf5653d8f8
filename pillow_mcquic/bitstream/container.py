"""The `.mcq` container: header, chunks, checksums (docs/format.md). Standard library only.

    magic (8) | version, mode, quality, model id, width, height | CRC-32 | chunk ... chunk
    chunk: type (1) | length (varint) | payload | CRC-32 of type, length and payload

An upper-case type is critical: a reader that does not know it must refuse the file.  A lower-case type is
optional: a reader skips it.  The chunks of the picture come last, and which of them there are the header tells.
"""

from __future__ import annotations

import dataclasses
import io
import math
import struct
from typing import IO

from ..errors import BadFileError, NotMcqError
from ..quality import Quality
from .grids import SQUARE, Grids, grids_of
from .reader import MAX_NUMBER, Reader, crc, varint

# non-ASCII, name, CR LF, ^Z, LF: damage by text-mode copies shows in the magic already
MAGIC = b"\x8bMCQ\r\n\x1a\n"
VERSION_MAJOR, VERSION_MINOR = 1, 0
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # the number of channels, the low nibble of a header's mode
EXACT_FLAG = 0x10  # of its high nibble: whether there are exact squares
NO_MODEL = bytes(4)  # where all squares are exact: there are no codes, and no weights are needed
MAX_SIDE = MAX_LENGTH = MAX_NUMBER  # of a picture, of a chunk's payload
# a 16x16 square costs at least 8 / 160 bits (checked at export), so a header cannot claim what its codes can't hold
MAX_SQUARES_PER_BYTE = 160

MAX_CHUNKS = 256  # before the picture: of nothing but tiny ones a file would take many times its size in memory

EXACT, ALPHA, CODES = b"X", b"A", b"C"  # in this order
EXIF, ICC, XMP, DPI, COMMENT = b"e", b"i", b"x", b"d", b"c"
# types of metadata, and what Pillow calls them in `info` and among the options of `save`
METADATA = {EXIF: "exif", ICC: "icc_profile", XMP: "xmp", DPI: "dpi", COMMENT: "comment"}
PICTURE = (EXACT, ALPHA, CODES)
KNOWN = frozenset({*METADATA, *PICTURE})


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    quality : None for a lossless picture, which has no learned squares.
    model : the 4-byte id of the decoder's weights; `NO_MODEL` where all squares are exact.
    exact : whether there are exact squares.
    """

    width: int
    height: int
    mode: str
    quality: Quality | None
    model: bytes = NO_MODEL
    exact: bool = False
    version: tuple[int, int] = (VERSION_MAJOR, VERSION_MINOR)

    @property
    def padded_size(self) -> tuple[int, int]:
        """Width and height of the whole 16x16 squares that hold the picture."""
        return -(-self.width // SQUARE) * SQUARE, -(-self.height // SQUARE) * SQUARE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the decoded array: (height, width) or (height, width, 2..4)."""
        channels = len(self.mode)
        return (self.height, self.width) if channels == 1 else (self.height, self.width, channels)

    @property
    def grey(self) -> bool:
        """Whether the picture has no colours, with alpha or without."""
        return self.mode in ("L", "LA")

    @property
    def learned(self) -> bool:
        """Whether there are learned squares, and so codes."""
        return self.model != NO_MODEL

    @property
    def grids(self) -> Grids:
        """Rows and columns of the codes of each level."""
        return grids_of(self.width, self.height)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One typed piece of a file; `size` counts its type, length and checksum too."""

    kind: bytes
    payload: bytes
    size: int


def write_header(header: Header) -> bytes:
    """The bytes of a header, magic and checksum included; ValueError for what the format cannot hold."""
    if not (header.exact or (header.learned and header.quality)):
        raise ValueError(f"a picture needs exact squares, or a quality and a model, got {header}")
    if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
        raise ValueError(f"width and height must be 1..{MAX_SIDE}, got {header.width}x{header.height}")
    mode = {name: number for number, name in MODES.items()}[header.mode] | (EXACT_FLAG if header.exact else 0)
    steps = 0 if header.quality is None else header.quality.steps
    version = header.version[0] << 4 | header.version[1]
    fields = struct.pack("<BBH4s", version, mode, steps, header.model)
    body = MAGIC + fields + varint(header.width) + varint(header.height)
    return body + crc(body)


def read_header(reader: Reader) -> Header:
    """Parse and check a header; NotMcqError without our magic, BadFileError for anything else that is wrong."""
    magic = reader.file.read(len(MAGIC))
    reader.taken += len(magic)
    if magic != MAGIC:
        raise NotMcqError("not an .mcq file")
    version = reader.read(1, "the header")
    major, minor = version[0] >> 4, version[0] & 15
    if major != VERSION_MAJOR:
        raise BadFileError(
            f".mcq format version {major}.{minor} is not supported: this pillow_mcquic reads {VERSION_MAJOR}.x; "
            "a newer release may read it, or the file is damaged"
        )
    fields = reader.read(7, "the header")
    width, raw_width = reader.varint("the width")
    height, raw_height = reader.varint("the height")
    if reader.read(4, "the header") != crc(magic + version + fields + raw_width + raw_height):
        raise BadFileError("damaged .mcq file: the header's checksum is wrong")
    return _parse_fields(fields, width, height, (major, minor))


def _parse_fields(fields: bytes, width: int, height: int, version: tuple[int, int]) -> Header:
    """The header of mode, quality and model; BadFileError for values that are not allowed."""
    flagged, steps, model = struct.unpack("<BH4s", fields)
    mode, exact, learned = flagged & 15, bool(flagged & EXACT_FLAG), model != NO_MODEL
    if mode > len(MODES) or flagged > (EXACT_FLAG | 15):
        raise BadFileError(
            f"this .mcq file holds a kind of picture (mode {flagged}) that this pillow_mcquic does not know; "
            "a newer release may read it"
        )
    try:
        quality = Quality(steps) if steps or learned else None
    except ValueError:
        learned = exact = False
    if not mode or not width or not height or not (learned or exact):
        what = f"mode {flagged}, {width}x{height} pixels, quality {steps}/256"
        raise BadFileError(f"damaged .mcq file: the header says {what}")
    return Header(width, height, MODES[mode], quality, model, exact, version)


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
    """The chunks that hold the picture, in order."""
    alpha = header.mode.endswith("A") and header.learned
    there = {EXACT: header.exact, ALPHA: alpha, CODES: header.learned}
    return tuple(kind for kind in PICTURE if there[kind])


def _expect(reader: Reader, expected: bytes, header: Header) -> tuple[int, bytes]:
    """Payload length and head of the next chunk, which must be of this type; the last one must bear the claim."""
    kind, length, head = _chunk_head(reader)
    if kind != expected:
        raise BadFileError(f"damaged .mcq file: chunk {kind.decode()} in place of {expected.decode()}")
    if kind == _picture_kinds(header)[-1]:
        check_claim(header, length)
    return length, head


def measure_picture(reader: Reader, header: Header) -> int:
    """Bytes that the chunks of the picture take, from their heads; the claim of the header is checked.

    The file is moved; BadFileError as `read_picture`, as far as heads can tell.
    """
    size, kinds = 0, _picture_kinds(header)
    for expected in kinds:
        length, head = _expect(reader, expected, header)
        if expected != kinds[-1]:
            reader.file.seek(length + 4, io.SEEK_CUR)
        size += len(head) + length + 4
    return size


def least_length(header: Header) -> int:
    """Bytes that the codes, or without any the exact chunk, have at least."""
    rows, columns = header.grids[1]
    return -(-rows * columns // MAX_SQUARES_PER_BYTE)


def check_claim(header: Header, length: int) -> None:
    """BadFileError when so few bytes of codes, or of exact squares, cannot hold so large a picture."""
    if length < least_length(header):
        what = "codes" if header.learned else "exact squares"
        raise BadFileError(
            f"damaged .mcq file: {length} bytes of {what} cannot hold {header.width}x{header.height} pixels"
        )


@dataclasses.dataclass(frozen=True)
class File:
    """A whole file in memory, checked."""

    header: Header
    chunks: tuple[Chunk, ...]
    header_size: int

    def get(self, kind: bytes) -> bytes | None:
        """Payload of the chunk of a type, None without it."""
        return next((c.payload for c in self.chunks if c.kind == kind), None)

    @property
    def codes(self) -> bytes:
        """The code stream; empty where all squares are exact."""
        return self.get(CODES) or b""


def read(file: IO[bytes]) -> File:
    """Read a file up to the end of its picture; what follows is not touched.

    NotMcqError without our magic; BadFileError with a sentence for every other fault.
    """
    reader = Reader(file)
    header = read_header(reader)
    header_size = reader.taken
    metadata = read_metadata(reader, header)
    return File(header, (*metadata, *read_picture(reader, header)), header_size)


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


def read_picture(reader: Reader, header: Header) -> tuple[Chunk, ...]:
    """The chunks of the picture, checked: exact squares, alpha, codes, as far as it has them."""
    chunks = []
    for kind in _picture_kinds(header):
        length, head = _expect(reader, kind, header)
        chunks.append(_chunk_rest(reader, kind, length, head))
    return tuple(chunks)


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


def write(header: Header, chunks: dict[bytes, bytes]) -> bytes:
    """A whole file: header, then chunks by type in the order the format asks for.

    Without codes the exact chunk is filled up with zeros to the least length of such a picture.
    """
    if not header.learned:
        chunks = {**chunks, EXACT: chunks[EXACT].ljust(least_length(header), b"\0")}
    ordered = sorted(chunks.items(), key=lambda item: PICTURE.index(item[0]) if item[0] in PICTURE else -1)
    return b"".join([write_header(header), *(write_chunk(kind, payload) for kind, payload in ordered)])
