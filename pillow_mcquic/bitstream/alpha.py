"""The alpha channel, without loss: a filter and zlib, or VP8L (docs/format.md, section 1)."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError
from . import vp8l

FILTERS = 3  # 0: plain; 1: difference to the left; 2: difference to the row above
VP8L = 3  # in place of a filter: what follows is a stream of VP8L


def pack(alpha: NDArray[np.uint8]) -> bytes:
    """Payload of the alpha chunk for a plane (H, W): the shortest of the three filters and VP8L."""
    filtered = [alpha, np.diff(alpha, axis=1, prepend=np.uint8(0)), np.diff(alpha, axis=0, prepend=np.uint8(0))]
    payloads = [bytes([number]) + zlib.compress(plane.tobytes(), 9) for number, plane in enumerate(filtered)]
    if max(alpha.shape) < vp8l.MAX_SIDE and vp8l.available():
        payloads.append(bytes([VP8L]) + vp8l.encode(alpha, method=6, quality=90))
    return min(payloads, key=len)


def unpack(payload: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: (height, width) uint8; BadFileError when the payload does not hold just that."""
    if payload[:1] == bytes([VP8L]):
        return vp8l.decode(payload[1:], width, height, 1, "alpha chunk")
    if not payload or payload[0] >= FILTERS:
        raise BadFileError("damaged .mcq file: unknown filter in the alpha chunk")
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(payload[1:], width * height + 1)
    except zlib.error as error:
        raise BadFileError(f"damaged .mcq file: alpha chunk: {error}") from error
    if len(raw) != width * height or not stream.eof or stream.unused_data:
        raise BadFileError(f"damaged .mcq file: the alpha chunk does not hold {width}x{height} samples")
    plane = np.frombuffer(raw, np.uint8).reshape(height, width)
    if payload[0] == 0:
        return plane
    summed: NDArray[np.uint8] = np.cumsum(plane, axis=2 - payload[0], dtype=np.uint8)
    return summed
