"""Stacks of pictures as bytes: `.mcq` files one after the other."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codec, decoding
from ..bitstream import container
from ..bitstream.file_header import Header
from ..bitstream.grids import Box


def encode(pixels: NDArray[Any], **options: Any) -> bytes:
    """One picture, (H, W) or (H, W, 1..4), or a stack of them, (N, H, W, 1..4), uint8; options as of `codec.encode`.

    Raises ValueError for any other type or shape.
    """
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 4:
        return codec.encode(pixels, **options)
    if 0 in pixels.shape:
        raise ValueError(f"pixels must not be empty, got {pixels.shape}")
    return b"".join(codec.encode(picture, **options) for picture in pixels)


Sides = tuple[int, int, int, int]  # left, top, right, bottom


def files(data: bytes, box: Sides | None = None) -> list[tuple[container.File, Box | None]]:
    """The pictures in some bytes, parsed but not decoded, and the box of each; errors as of `codec.decode`."""
    source, found = io.BytesIO(data), list[tuple[container.File, Box | None]]()
    while not found or source.tell() < len(data):
        wanted = None if box is None else codec.check_box(box, container.peek(source))
        found.append((container.read(source, wanted, decoding.REACH), wanted))
        codec.check_sizes([found[-1][0].header], wanted)
    return found


def decode(
    data: bytes, index: int | None = None, shape: tuple[int, ...] | None = None, box: Sides | None = None
) -> NDArray[np.uint8]:
    """The only picture, the picture at `index`, or all of them, stacked.

    box: of every picture, as of `codec.decode`.  shape: what is expected, None for anything within
    `PIL.Image.MAX_IMAGE_PIXELS` all together; found out before anything is decoded.  Raises IndexError for an index
    that is not there, ValueError for pictures of different shapes or another one than expected (sides of 1 aside, and
    but for a flat one of as many samples), and what `codec.decode` raises.
    """
    found = files(data, box)
    if index is not None:
        if not -len(found) <= index < len(found):
            raise IndexError(f"index must be from 0 to {len(found) - 1}, got {index}")
        found = [found[index]]
    shapes = sorted({_shape(file.header, wanted) for file, wanted in found})
    if len(shapes) > 1:
        raise ValueError(f"pictures of shapes {shapes} do not stack: ask for one by its index")
    whole = shapes[0] if len(found) == 1 else (len(found), *shapes[0])
    if shape is None:
        codec.check_sizes([file.header for file, _ in found], found[0][1])
    elif not _alike(whole, shape):
        raise ValueError(f"the data hold uint8 of shape {whole}, not {shape}")
    pictures = [decoding.decode_file(file, box=wanted) for file, wanted in found]
    return pictures[0] if len(pictures) == 1 else np.stack(pictures)


def _shape(header: Header, box: Box | None) -> tuple[int, ...]:
    """Of the array of a picture, or of a box of it."""
    return header.shape if box is None else (*box.size[::-1], *header.shape[2:])


def _alike(whole: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether an array of one shape may take the samples of another without moving any to another place."""
    flat = len(shape) == 1 and math.prod(shape) == math.prod(whole)
    return flat or [n for n in whole if n > 1] == [n for n in shape if n > 1]
