"""The six names every codec has in imagecodecs: mcq_encode, mcq_decode, mcq_check, mcq_version, MCQ, McqError.

`imagecodecs.imwrite("x.mcq", pixels, codec=mcq_encode, level=5)`, `imagecodecs.imread("x.mcq", codec=mcq_decode)`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import quality
from ..bitstream import file_header
from . import stack


class McqError(RuntimeError):
    """What is wrong with the data or the arguments."""


class MCQ:
    """Constants of the codec."""

    available = True
    LEVEL_MIN = float(quality.LOWEST)
    LEVEL_MAX = float(quality.HIGHEST)
    LEVEL_DEFAULT = float(quality.DEFAULT)


def mcq_version() -> str:
    """Name and version."""
    return f"pillow_mcquic {version('pillow_mcquic')}"


def mcq_check(data: bytes, /) -> bool:
    """Whether data begin like an `.mcq` file."""
    return bytes(data[: len(file_header.MAGIC)]) == file_header.MAGIC


def mcq_encode(data: Any, /, level: float | None = None, *, out: Any = None, **options: Any) -> Any:
    """Encode uint8 pixels (H, W), (H, W, 1..4) or a stack (N, H, W, 1..4).

    level: quality, 1 to 10 (default 4); other options as of `pillow_mcquic.encode`.  out: None, or a writable
    buffer, of which the part that was filled is returned.  Raises McqError.
    """
    if level is not None:
        options["quality"] = level
    try:
        encoded = stack.encode(np.asarray(data), **options)
    except ValueError as error:
        raise McqError(str(error)) from error
    if out is None:
        return encoded
    if isinstance(out, int):  # imagecodecs: the number of bytes expected at most
        if len(encoded) > out:
            raise McqError(f"{len(encoded)} bytes do not fit into {out}")
        return encoded
    buffer = memoryview(out).cast("B")
    if len(encoded) > len(buffer):
        raise McqError(f"{len(encoded)} bytes do not fit into an output of {len(buffer)}")
    buffer[: len(encoded)] = encoded
    return buffer[: len(encoded)]


def mcq_decode(
    data: Any,
    /,
    index: int | None = None,
    *,
    box: tuple[int, int, int, int] | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[np.uint8]:
    """Decode to uint8 pixels of the shape that was encoded, but (H, W) for (H, W, 1); index: of a picture in a stack.

    box: (left, top, right, bottom) of every picture, as of `pillow_mcquic.decode`.
    out: None, or an array of that shape, sides of 1 aside, to write to.  Raises McqError, and without `out` what Pillow
    raises for more pixels, of all pictures together, than `PIL.Image.MAX_IMAGE_PIXELS` allows.
    """
    if out is not None and (not isinstance(out, np.ndarray) or out.dtype != np.uint8):
        raise McqError(f"out must be a uint8 array, got {getattr(out, 'dtype', type(out).__name__)}")
    try:
        pixels = stack.decode(bytes(memoryview(data)), index, None if out is None else out.shape, box)
    except (OSError, ValueError, IndexError, TypeError) as error:
        raise McqError(str(error)) from error
    if out is None:
        return pixels
    out[...] = pixels.reshape(out.shape)
    return out
