"""Damage: plain mutations, and what the fuzzer (`benchmarks/fuzz.py`) runs and the tests replay on inputs it kept.

The first byte of a fuzzer's input says what the rest is: the bytes of a file, or the parts of one whose checksums
are then made right, so that the decoder itself is reached.
"""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator

import numpy as np

from pillow_mcquic import codec, decoding, weights_files
from pillow_mcquic.bitstream import alpha, container, exact_squares, file_header
from pillow_mcquic.bitstream.grids import TileGrid
from pillow_mcquic.bitstream.tiles import EXACT, KINDS, LEARNED, WHOLE, Tile
from pillow_mcquic.errors import NotMcqError
from pillow_mcquic.quality import Quality

from .files import file_of


def flips(data: bytes) -> Iterator[bytes]:
    """Every byte inverted, one at a time."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    """Every shorter length, from 0."""
    for length in range(len(data)):
        yield data[:length]


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bytes replaced, removed, inserted and repeated, one to eight times."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            at = rng.randrange(len(damaged) + 1)
            match rng.randrange(4):
                case 0:
                    damaged[at : at + 1] = rng.randbytes(1)
                case 1:
                    del damaged[at : at + rng.randint(1, 9)]
                case 2:
                    damaged[at:at] = rng.randbytes(rng.randint(1, 9))
                case 3:
                    damaged[at:at] = damaged[at : at + rng.randint(1, 40)]
        yield bytes(damaged)


def whole_file(data: bytes) -> bytes:
    """A file with right checksums from fuzzed parts: header fields, code stream, exact squares, alpha, metadata."""
    fields, rest = data[:8].ljust(8, b"\0"), data[8:]
    mode = file_header.MODES[1 + fields[0] % 4]
    width, height = 1 + fields[1] % 96, 1 + fields[2] % 96
    quality = Quality(256 + struct.unpack_from("<H", fields, 3)[0] % 2305)
    cut = fields[5] * len(rest) // 1024 * 4
    stream, other = rest[:cut], rest[cut:]
    exact, learned = bool(fields[0] & 48), not fields[0] & 32
    if fields[6] & 1:
        return tiled_file(mode, quality, 200 + fields[1], height, fields[7], other, stream)
    header = file_header.Header(
        width, height, mode, quality, weights_files.default_id() if learned else file_header.NO_MODEL, exact
    )
    chunks = {container.COMMENT: other[:20]}
    if exact:
        chunks[container.EXACT] = other if fields[0] & 128 else exact_payload(header, other)
    if learned:
        chunks[container.CODES] = stream
    if learned and mode.endswith("A"):
        chunks[container.ALPHA] = other if fields[0] & 64 else alpha.pack(np.zeros((height, width), "u1"))
    return file_of(header, chunks)


def tiled_file(mode: str, quality: Quality, width: int, height: int, kinds: int, data: bytes, stream: bytes) -> bytes:
    """A file of one or two tiles, of kinds that `kinds` tells; their exact squares and codes are fuzzed."""
    grid, tiles = TileGrid(width, height, 256), list[Tile]()
    for number in range(len(grid)):
        kind = KINDS[kinds >> 2 * number & 3]
        box = grid.box(number)
        whole, id = bool(kind & WHOLE), file_header.NO_MODEL if kind & WHOLE else b"any "
        own = file_header.Header(*box.size, mode, quality, id, bool(kind & EXACT))
        exact = exact_payload(own, data) if kind & EXACT else None
        plain = alpha.pack(np.zeros(box.size[::-1], "u1")) if mode.endswith("A") and not whole else None
        tiles.append(Tile(stream if kind & LEARNED else None, exact, whole, plain))
    model = weights_files.default_id() if any(tile.codes is not None for tile in tiles) else file_header.NO_MODEL
    exact_too = any(tile.exact is not None for tile in tiles)
    header = file_header.Header(width, height, mode, quality, model, exact_too, 256)
    return container.write(header, {}, tiles)


def exact_payload(header: file_header.Header, data: bytes) -> bytes:
    """Exact squares that are right but for some bytes: the first byte says how many, then come places and values."""
    rows, columns = header.grids[1]
    squares = np.zeros((rows, columns), np.bool_)
    squares[-1, : max(1, columns // 2)] = True
    pixels = np.arange(header.width * header.height * len(header.mode), dtype=np.uint8).reshape(header.shape)
    if header.learned and header.mode.endswith("A"):
        pixels = pixels[..., :-1].squeeze(-1) if header.mode == "LA" else pixels[..., :3]
    whole = not header.learned or squares.all()
    payload = bytearray(
        exact_squares.pack(np.ascontiguousarray(pixels), None if whole else squares, method=0, quality=0)
    )
    for at, value in zip(data[1 : 2 * (data[:1] or b"\0")[0] : 2], data[2::2], strict=False):
        payload[at * len(payload) // 256] ^= value
    return bytes(payload)


def one_input(data: bytes) -> None:
    """Decode one input; every exception that is not of the documented kinds passes through."""
    if not data:
        return
    file = data[1:] if data[0] % 2 else whole_file(data[1:])
    try:
        parsed = container.read(io.BytesIO(file))
        codec.check_sizes([parsed.header])
        pixels = decoding.decode_file(parsed)
    except (NotMcqError, OSError) as error:
        if not str(error):
            raise AssertionError("an error without a word") from error
        return
    if pixels.shape[:2] != (parsed.header.height, parsed.header.width):
        raise AssertionError(f"{pixels.shape} is not the size the header has")
