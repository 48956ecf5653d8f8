"""Pictures between formats: which are read and written."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..plugin import DEEP_MODES
from . import metadata

# formats that are one picture whatever their number of frames: camera JPEGs with a preview or gain map, and layers
ONE_PICTURE = frozenset(("MPO", "PSD"))


# the first are identified only; EPS starts Ghostscript, which may run for ever
NO_PICTURES = frozenset(("BUFR", "GRIB", "HDF5", "WMF", "MPEG", "EPS"))


def readable_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow can decode by itself."""
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in NO_PICTURES)


def open_picture(source: Path | str | IO[bytes]) -> Image.Image:
    """`Image.open` for the formats of `readable_suffixes`, whatever the file is called."""
    Image.init()
    return Image.open(source, formats=[name for name in Image.ID if name not in NO_PICTURES])


def open_mcq(source: Path | str | IO[bytes]) -> Image.Image:
    """`Image.open` for `.mcq` files; OSError for any other."""
    try:
        return Image.open(source, formats=["MCQ"])
    except UnidentifiedImageError as error:
        raise OSError("is no .mcq file") from error


def writable_format(suffix: str) -> str | None:
    """Pillow's name of the format to decode to that has a suffix; None when there is none."""
    format = Image.registered_extensions().get(suffix)
    return format if format in Image.SAVE and format != "MCQ" else None


def eight_bits(image: Image.Image, *, scale: bool) -> Image.Image:
    """A picture of 8 bits a sample: the one given, or if `scale` one of 16 bits divided by 257.

    Raises ValueError for more than 8 bits otherwise, and for values that are not of 16 bits.
    """
    if image.mode not in DEEP_MODES:
        return image
    if not scale:
        raise ValueError(f"has {image.mode} samples, .mcq files have 8 bits: --scale-16 makes 16 bits 8")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"has samples from {values.min():g} to {values.max():g}, --scale-16 is for 0 to 65535")
    scaled = Image.fromarray((values / 257).round().astype(np.uint8))
    scaled.info, scaled.format = image.info, image.format
    return scaled


def to_mcq(image: Image.Image, say: metadata.Say, **options: Any) -> bytes:
    """The `.mcq` file of an opened picture, with its metadata; options as of `save`.  ValueError for several frames.

    say: is told what was left out.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_PICTURE:
        raise ValueError(f"has {frames} frames, an .mcq file holds one")
    image.load()  # only then is all metadata there, and a turned TIFF without the tag that says so
    carried = metadata.for_mcq(metadata.of_picture(image, say, as_stored=True), say)
    file = io.BytesIO()
    image.save(file, "MCQ", **{**carried, **options})
    return file.getvalue()


def from_mcq(image: Image.Image, format: str, say: metadata.Say) -> bytes:
    """The file of an opened `.mcq` in another format, with its metadata; say: is told what was left out."""
    image.load()
    return metadata.write(image, format, metadata.of_picture(image, say, as_stored=False), say)
