"""Stacks of pictures as bytes: `.mcq` files one after the other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codec, container


def encode(pixels: NDArray[Any], **options: Any) -> bytes:
    """One picture, (H, W) or (H, W, 1..4), or a stack of them, (N, H, W, 1..4), uint8; options as of `codec.encode`.

    Raises ValueError for any other type or shape.
    """
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 4:
        return codec.encode(pixels, **options)
    if 0 in pixels.shape:
        raise ValueError(f"pixels must not be empty, got {pixels.shape}")
    return b"".join(codec.encode(picture, **options) for picture in pixels)


def files(data: bytes) -> Iterator[container.File]:
    """The pictures in some bytes, parsed but not decoded; errors as of `codec.decode`."""
    source = io.BytesIO(data)
    while not source.tell() or source.tell() < len(data):
        file = container.read(source)
        codec.check_size(file.header)
        yield file


def decode(data: bytes, index: int | None = None) -> NDArray[np.uint8]:
    """The only picture, the picture at `index`, or all of them, stacked.

    Raises IndexError for an index that is not there, ValueError for pictures of different shapes, and what
    `codec.decode` raises.
    """
    if index is not None:
        found = list(files(data))
        if not -len(found) <= index < len(found):
            raise IndexError(f"index must be from 0 to {len(found) - 1}, got {index}")
        return codec.decode_file(found[index])
    pictures = [codec.decode_file(file) for file in files(data)]
    if len(pictures) == 1:
        return pictures[0]
    shapes = sorted({picture.shape for picture in pictures})
    if len(shapes) > 1:
        raise ValueError(f"pictures of shapes {shapes} do not stack: ask for one by its index")
    return np.stack(pictures)
