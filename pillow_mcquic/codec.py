"""The codec: uint8 arrays <-> `.mcq` bytes, and what a caller may ask for.

Everything above (Pillow plugin, command line, other libraries) goes through here.
"""

from __future__ import annotations

import dataclasses
import io
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import decoding, encoding, loading
from . import quality as quality_scale
from .bitstream import container
from .bitstream.container import METADATA
from .bitstream.file_header import Header
from .bitstream.grids import Box
from .bitstream.picture import Picture
from .quality import Quality

EFFORT_DEFAULT = 1
REFINEMENT_ITERATIONS = {1: 0, 2: 4, 3: 16}  # by effort
EXACT_EFFORT = {1: {"method": 6, "quality": 90}, 2: {"method": 6, "quality": 100}, 3: {"method": 6, "quality": 100}}
SCALES = (1, 2, 4, 8)  # of decoding: the sides are divided by it


def refinement_iterations(effort: object) -> int:
    """Check an effort argument, 1, 2 or 3, and tell what it means; ValueError naming the choice otherwise."""
    if isinstance(effort, bool) or not isinstance(effort, (int, np.integer)) or effort not in REFINEMENT_ITERATIONS:
        raise ValueError(f"effort must be 1 (fast), 2 or 3 (best for the bytes), got {effort!r}")
    return REFINEMENT_ITERATIONS[int(effort)]


def encode(
    pixels: NDArray[np.uint8],
    *,
    quality: float | None = None,
    target_bpp: float | None = None,
    max_bytes: int | None = None,
    lossless: bool = False,
    effort: int = EFFORT_DEFAULT,
    chunks: dict[bytes, bytes] | None = None,
) -> bytes:
    """Encode an image.

    Parameters
    ----------
    pixels : uint8, (H, W) grey, (H, W, 1..4) grey, grey + alpha, RGB, RGBA.
    quality : 1 (smallest) to 10 (best), fractions between; default 4.  Where text, lines or flat colours are smaller or
        better so, squares of 16x16 pixels are kept exactly.
    target_bpp : instead of it, bits per pixel of the whole file, met within 3 % or as nearly as quality 1..10 reaches.
    max_bytes : instead of both, the best quality whose file is no larger.
    lossless : instead of all three, keep every pixel, as WebP lossless does; needs no torch.
    effort : 1 (fast), 2 or 3 (slow, for better pictures in about as many bytes; decoding is the same); above 1 it needs
        up to 0.5 GB more, and 80 bytes a pixel, of a large picture of 4 million of them.
    chunks : payloads of metadata chunks by type (`bitstream.container.METADATA`).

    Returns
    -------
    bytes : an `.mcq` file.

    Raises
    ------
    ValueError : for an argument out of range, and when `max_bytes` is below what quality 1 needs.
    OSError : for `lossless` with a Pillow that was built without WebP.
    """
    lossless = check_lossless(lossless)
    _one_of(quality=quality, target_bpp=target_bpp, max_bytes=max_bytes, lossless=lossless or None)
    fixed = quality_scale.DEFAULT if quality is None else Quality.parse(quality)
    wanted = refinement_iterations(effort)
    for kind in chunks or {}:
        if kind not in METADATA:
            raise ValueError(f"chunks must have types {sorted(METADATA)}, got {kind!r}")
    picture = Picture.of(pixels, EXACT_EFFORT[effort], chunks)
    target = _target_bytes(target_bpp, max_bytes, pixels)
    if lossless:
        return picture.write_lossless()
    encoder = loading.load_encoder()
    images = encoder.images(picture.colours)
    if target is not None:
        # the larger efforts take too long here
        picture = dataclasses.replace(picture, exact_effort=EXACT_EFFORT[EFFORT_DEFAULT])
        return encoding.search(encoder, images, picture, target, wanted, strict=max_bytes is not None)
    tiles = encoding.encode_picture(encoder, images, picture, fixed, wanted)
    return picture.write(fixed, encoder.bundle.decoder.id, tiles)


def _one_of(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"give only one of {' and '.join(names)}")


def _target_bytes(target_bpp: float | None, max_bytes: int | None, pixels: Any) -> float | None:
    if target_bpp is not None:
        number = isinstance(target_bpp, (int, float, np.integer, np.floating)) and not isinstance(target_bpp, bool)
        if not number or not 0 < target_bpp < 1e6:
            raise ValueError(f"target_bpp must be a positive number of bits per pixel, got {target_bpp!r}")
        return float(target_bpp * pixels.shape[0] * pixels.shape[1] / 8)
    if max_bytes is not None:
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, (int, np.integer)) or max_bytes < 1:
            raise ValueError(f"max_bytes must be a positive integer, got {max_bytes!r}")
        return float(min(max_bytes, 1 << 53))
    return None


def check_sizes(headers: Sequence[Header], box: Box | None = None) -> None:
    """Warn or raise, as Pillow does, when pictures together are larger than `PIL.Image.MAX_IMAGE_PIXELS` allows.

    box: of each, if given; it alone counts.
    """
    sizes = [header.padded_size if box is None else box.size for header in headers]
    Image._decompression_bomb_check((sum(map(math.prod, sizes)), 1))


def check_box(box: object, header: Header) -> Box:
    """Check a box argument; ValueError for anything but whole pixels of the picture, one at least."""
    try:
        left, top, right, bottom = (operator.index(side) for side in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise ValueError(f"box must be (left, top, right, bottom) in whole pixels, got {box!r}") from error
    if not (0 <= left < right <= header.width and 0 <= top < bottom <= header.height):
        raise ValueError(f"box must lie within {header.width}x{header.height} pixels and hold one, got {box!r}")
    return Box(left, top, right, bottom)


def check_lossless(lossless: object) -> bool:
    """Check a lossless argument; ValueError for anything but True, False and None."""
    if lossless is not None and not isinstance(lossless, (bool, np.bool_)):
        raise ValueError(f"lossless must be True or False, got {lossless!r}")
    return bool(lossless)


def check_level(level: float | None, lossless: object) -> float | None:
    """The quality that other libraries call level: the default for None, None for lossless; ValueError for both."""
    lossless = check_lossless(lossless)
    _one_of(level=level, lossless=lossless or None)
    if level is not None:
        Quality.parse(level)
        return level
    return None if lossless else float(quality_scale.DEFAULT)


def check_scale(scale: object) -> int:
    """Check a scale argument; ValueError naming the choice."""
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
    return int(scale)


def decode(data: bytes, *, scale: int = 1, box: tuple[int, int, int, int] | None = None) -> NDArray[np.uint8]:
    """Decode the bytes of an `.mcq` file.

    Parameters
    ----------
    data : the file.
    scale : 2, 4 or 8 decode a preview, H and W divided by it and rounded up, in a fraction of the time.
    box : (left, top, right, bottom): only these pixels; with a scale, all of the preview that shows some of them.  Of a
        picture in tiles, as those above 4 megapixels are, only those near the box are decoded, and checked for damage.

    Returns
    -------
    uint8 array : (H, W) grey, (H, W, 2) grey + alpha, (H, W, 3) RGB, (H, W, 4) RGBA.

    Raises
    ------
    ValueError : when it is no `.mcq` file (`errors.NotMcqError`), for another scale, and for a box beyond the picture.
    OSError : when it is damaged or needs weights that are not here.
    PIL.Image.DecompressionBombError : when the picture, or the box, is twice as large as `PIL.Image.MAX_IMAGE_PIXELS`
        allows; above that limit it warns.
    """
    scale = check_scale(scale)
    source = io.BytesIO(data)
    wanted = None if box is None else check_box(box, container.peek(source))
    file = container.read(source, wanted, decoding.REACH)
    check_sizes([file.header], wanted)
    return decoding.decode_file(file, scale, wanted)
