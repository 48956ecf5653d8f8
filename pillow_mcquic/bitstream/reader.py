"""Bounded reads from a file object, numbers of variable length, and checksums."""

from __future__ import annotations

import struct
import zlib
from typing import IO

from ..errors import BadFileError

MAX_NUMBER = (1 << 28) - 1  # that a varint holds


def varint(value: int) -> bytes:
    """Unsigned LEB128, at most 4 bytes."""
    if not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"varint value must be 0..{MAX_NUMBER}, got {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Bounded reads from a file object: what is announced is checked against what is there."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.taken, self.ahead = file, 0, b""

    def read(self, count: int, what: str) -> bytes:
        """Exactly `count` bytes, read piecemeal so that a forged length allocates nothing; BadFileError if short."""
        parts, missing = [self.ahead[:count]], count - len(self.ahead[:count])
        self.ahead = self.ahead[count:]
        while missing:
            part = self.file.read(min(missing, 1 << 20))
            if not part:
                raise BadFileError(f"truncated .mcq file: {what} needs {count} bytes, {count - missing} are there")
            parts.append(part)
            missing -= len(part)
        self.taken += count
        return b"".join(parts)

    def skip(self, count: int, what: str) -> None:
        """Pass over exactly `count` bytes; BadFileError if short."""
        for start in range(0, count, 1 << 20):
            self.read(min(1 << 20, count - start), what)

    def put_back(self, data: bytes) -> None:
        """Let the next reads give these bytes again."""
        self.ahead = data
        self.taken -= len(data)

    def varint(self, what: str) -> tuple[int, bytes]:
        """An unsigned LEB128 number and its bytes; only the shortest form is accepted."""
        value, raw = 0, b""
        for shift in (0, 7, 14, 21):
            raw += self.read(1, what)
            value |= (raw[-1] & 0x7F) << shift
            if raw[-1] < 0x80:
                if len(raw) > 1 and raw[-1] == 0:
                    raise BadFileError(f"damaged .mcq file: {what} is not in its shortest form")
                return value, raw
        raise BadFileError(f"damaged .mcq file: {what} has more than 4 bytes")


def crc(data: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(data))
