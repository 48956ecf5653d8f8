"""Section 6: exact squares."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError

Pixels = NDArray[np.uint8]


def vp8l(stream: bytes, width: int, height: int) -> Pixels:
    """A VP8L stream -> (height, width, 4), by Pillow; signature, size and version are checked before."""
    from PIL import Image, features

    if not features.check("webp"):
        raise OSError("this Pillow was built without WebP, which exact squares need: pip install --upgrade pillow")
    signature, fields = struct.unpack_from("<BI", stream) if len(stream) >= 5 else (0, 0)
    size = (fields & 0x3FFF) + 1, (fields >> 14 & 0x3FFF) + 1
    if signature != 0x2F or fields >> 29 or size != (width, height) or max(size) >= 1 << 14:
        raise BadFileError(f"damaged .mcq file: exact squares: no lossless stream of {width}x{height} pixels")
    stream += bytes(len(stream) % 2)
    webp = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream
    try:
        with Image.open(io.BytesIO(b"RIFF" + struct.pack("<I", len(webp)) + webp), formats=["WEBP"]) as image:
            pixels = np.array(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadFileError(f"damaged .mcq file: exact squares: {error}") from error
    if pixels.shape[:2] != (height, width):
        raise BadFileError(f"damaged .mcq file: exact squares: no lossless stream of {width}x{height} pixels")
    return pixels


def of_mode(pixels: Pixels, mode: str) -> Pixels:
    """Samples (h, w, 1..4) of a stream's pixels."""
    return pixels[:, :, {"L": [1], "LA": [1, 3], "RGB": [0, 1, 2], "RGBA": [0, 1, 2, 3]}[mode]]


def read_map(payload: bytes, rows: int, columns: int) -> tuple[NDArray[np.bool_], bytes]:
    """Which squares are exact, and what follows the map."""
    inflate, stride = zlib.decompressobj(wbits=-15), -(-columns // 8)
    try:
        raw = inflate.decompress(payload, rows * stride + 1)
    except zlib.error as error:
        raise BadFileError(f"damaged .mcq file: map of exact squares: {error}") from error
    if len(raw) != rows * stride or not inflate.eof:
        raise BadFileError("damaged .mcq file: its map of exact squares has another size")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, stride), axis=1)
    for row in range(1, rows):
        bits[row] ^= bits[row - 1]
    squares = bits[:, :columns].astype(bool)
    if bits[:, columns:].any() or squares.all() or not squares.any():
        raise BadFileError("damaged .mcq file: its map of exact squares is not allowed")
    return squares, inflate.unused_data


def put(payload: bytes, pixels: Pixels, mode: str) -> NDArray[np.bool_]:
    """Put the exact squares of a payload over pixels (h, w, 1 or 3); which pixels these are."""
    height, width = pixels.shape[:2]
    squares, stream = read_map(payload, -(-height // 16), -(-width // 16))
    rows, columns = np.flatnonzero(squares.any(1)), np.flatnonzero(squares.any(0))
    top, left = 16 * rows[0], 16 * columns[0]
    bottom, right = min(height, 16 * rows[-1] + 16), min(width, 16 * columns[-1] + 16)
    samples = of_mode(vp8l(stream, int(right - left), int(bottom - top)), mode)
    shown: NDArray[np.bool_] = squares.repeat(16, 0)[:height].repeat(16, 1)[:, :width]
    part = shown[top:bottom, left:right]
    pixels[top:bottom, left:right][part] = samples[part]
    return shown


def reduced(pixels: Pixels, scale: int) -> Pixels:
    """Samples (h, w, 1..4) at 1/`scale` of the sides: means; colours beside alpha weigh by it."""
    from PIL import Image

    if scale == 1:
        return pixels
    small = np.asarray(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).reduce(scale))
    return small.reshape(*small.shape[:2], -1)
