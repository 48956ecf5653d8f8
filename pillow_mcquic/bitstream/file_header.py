"""The header of an `.mcq` file (docs/format.md, section 1). Standard library only."""

from __future__ import annotations

import dataclasses
import struct

from ..errors import BadFileError, NotMcqError
from ..quality import Quality
from .grids import SQUARE, Grids, TileGrid, grids_of
from .reader import MAX_NUMBER, Reader, crc, varint
from .tiles import SIDES

# non-ASCII, name, CR LF, ^Z, LF: damage by text-mode copies shows in the magic already
MAGIC = b"\x8bMCQ\r\n\x1a\n"
VERSION_MAJOR, VERSION_MINOR = 1, 0
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # the number of channels, the low nibble of a header's mode
EXACT_FLAG, TILES_FLAG = 0x10, 0x40  # of its high nibble: whether there are exact squares, and tiles
NO_MODEL = bytes(4)  # where all squares are exact: there are no codes, and no weights are needed
MAX_SIDE = MAX_NUMBER  # of a picture


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of its picture.

    quality : None for a lossless picture, which has no learned squares.
    model : the 4-byte id of the decoder's weights; `NO_MODEL` where all squares are exact.
    exact : whether there are exact squares.
    tile_side : of the tiles that it is coded in, pixels; None for none.
    """

    width: int
    height: int
    mode: str
    quality: Quality | None
    model: bytes = NO_MODEL
    exact: bool = False
    tile_side: int | None = None
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
    def alpha(self) -> bool:
        """Whether the picture has alpha."""
        return self.mode.endswith("A")

    @property
    def grids(self) -> Grids:
        """Rows and columns of the codes of each level."""
        return grids_of(self.width, self.height)

    @property
    def tiles(self) -> TileGrid:
        """The tiles; one where there are none."""
        return TileGrid(self.width, self.height, self.tile_side)


def write_header(header: Header) -> bytes:
    """The bytes of a header, magic and checksum included; ValueError for what the format cannot hold."""
    if not (header.exact or (header.learned and header.quality)):
        raise ValueError(f"a picture needs exact squares, or a quality and a model, got {header}")
    if not (1 <= header.width <= MAX_SIDE and 1 <= header.height <= MAX_SIDE):
        raise ValueError(f"width and height must be 1..{MAX_SIDE}, got {header.width}x{header.height}")
    mode = {name: number for number, name in MODES.items()}[header.mode]
    mode |= EXACT_FLAG * header.exact | TILES_FLAG * (header.tile_side is not None)
    steps = 0 if header.quality is None else header.quality.steps
    version = header.version[0] << 4 | header.version[1]
    fields = struct.pack("<BBH4s", version, mode, steps, header.model)
    side = b"" if header.tile_side is None else bytes([{side: n for n, side in SIDES.items()}[header.tile_side]])
    body = MAGIC + fields + varint(header.width) + varint(header.height) + side
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
    side = reader.read(1, "the side of tiles") if fields[0] & TILES_FLAG else b""
    if reader.read(4, "the header") != crc(magic + version + fields + raw_width + raw_height + side):
        raise BadFileError("damaged .mcq file: the header's checksum is wrong")
    return _parse_fields(fields, width, height, side, (major, minor))


def _parse_fields(fields: bytes, width: int, height: int, side: bytes, version: tuple[int, int]) -> Header:
    """The header of mode, quality and model; BadFileError for values that are not allowed."""
    flagged, steps, model = struct.unpack("<BH4s", fields)
    mode, exact, learned = flagged & 15, bool(flagged & EXACT_FLAG), model != NO_MODEL
    if mode > len(MODES) or flagged & ~(EXACT_FLAG | TILES_FLAG | 15):
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
    if side and side[0] not in SIDES:
        raise BadFileError(f"damaged .mcq file: the header says tiles of 2^{side[0]} pixels")
    return Header(width, height, MODES[mode], quality, model, exact, SIDES[side[0]] if side else None, version)
