"""Pixels as a bare VP8L stream, the lossless half of WebP (RFC 9649), coded by Pillow (docs/format.md, section 6).

A bare stream is the payload of a WebP file's only chunk: it begins with its signature, its size and its version.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ..errors import BadFileError

MAX_SIDE = 1 << 14  # of a stream; libwebp writes one pixel less
SIGNATURE = 0x2F
FILE_HEAD = struct.Struct("<4sI4s4sI")  # RIFF, size of what follows, WEBP, VP8L, size of the stream
STREAM_HEAD = struct.Struct("<BI")  # signature; width - 1 and height - 1 (14 bits each), alpha, version (3 bits)


def available() -> bool:
    """Whether this Pillow can code such streams."""
    return bool(features.check("webp"))


def _check_pillow() -> None:
    if not available():
        raise OSError("this Pillow was built without WebP, which exact squares need: pip install --upgrade pillow")


def encode(pixels: NDArray[np.uint8], *, method: int, quality: int) -> bytes:
    """A stream of pixels (H, W), (H, W, 3) or (H, W, 4), sides below 16,384, which are kept to the bit.

    method (0..6) and quality (0..100) are libwebp's: larger ones search longer for a smaller stream.
    """
    _check_pillow()
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.convert("RGB" if pixels.ndim == 2 else image.mode).save(
        file, "WEBP", lossless=True, exact=True, method=method, quality=quality
    )
    data = file.getvalue()
    kind, size = FILE_HEAD.unpack_from(data)[3:]
    if kind != b"VP8L":
        raise OSError(f"this Pillow's WebP writes {kind!r} in place of a lossless stream: pip install --upgrade pillow")
    return data[FILE_HEAD.size : FILE_HEAD.size + size]


def decode(stream: bytes, width: int, height: int, channels: int, what: str) -> NDArray[np.uint8]:
    """The inverse of `encode`: (height, width) for 1 channel, else (height, width, 3 or 4); what: it is, for errors.

    What follows a stream is not read.  Raises BadFileError when its size is another, before it is decoded, and when it
    is damaged.
    """
    _check_pillow()
    if len(stream) < STREAM_HEAD.size:
        raise BadFileError(f"damaged .mcq file: {what}: the lossless stream is cut off")
    signature, fields = STREAM_HEAD.unpack_from(stream)
    found = (fields & 0x3FFF) + 1, (fields >> 14 & 0x3FFF) + 1
    if signature != SIGNATURE or fields >> 29 or found != (width, height) or max(found) >= MAX_SIDE:
        raise BadFileError(f"damaged .mcq file: {what}: the lossless stream is not one of {width}x{height} pixels")
    padded = stream + bytes(len(stream) % 2)
    data = FILE_HEAD.pack(b"RIFF", FILE_HEAD.size - 8 + len(padded), b"WEBP", b"VP8L", len(stream)) + padded
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            pixels = np.array(image.convert("RGBA" if channels == 4 else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadFileError(f"damaged .mcq file: {what}: {error}") from error
    if pixels.shape[:2] != (height, width):
        raise BadFileError(f"damaged .mcq file: {what}: the lossless stream is not one of {width}x{height} pixels")
    return np.ascontiguousarray(pixels[:, :, 1]) if channels == 1 else pixels
