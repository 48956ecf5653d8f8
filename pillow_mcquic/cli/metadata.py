"""What carries over beside pixels when a picture changes its format; what cannot is left out, and said."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ..bitstream.container import METADATA
from ..plugin import checked_metadata

Options = dict[str, Any]
Say = Callable[[str], None]  # is told what was left out

# tags that describe how a TIFF file is laid out, not the picture
TIFF_LAYOUT = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326), *range(330, 343)}
    | {347, *range(512, 533), 700, 34675}
)
# an editor's own, for itself: Photoshop's layers and resources, Windows' padding
PRIVATE = frozenset({37724, 34377, 59932})
# formats that give every pixel back
LOSSLESS = frozenset({"PNG", "TIFF", "BMP", "PPM", "TGA", "QOI"})


def of_picture(image: Image.Image, say: Say, *, as_stored: bool) -> Options:
    """What a loaded picture carries, as save options.

    as_stored: whether EXIF stays as it is, byte for byte; else it is made fit for any format, without what describes
    the layout of another file.
    """
    options = {name: image.info[name] for name in METADATA.values() if image.info.get(name)}
    if "comment" not in options and image.info.get("Comment"):
        options["comment"] = image.info["Comment"]  # of a PNG
    dpi = options.get("dpi")
    # some cameras write 0, and a PNG may hold any text of that name
    if dpi is not None and not (isinstance(dpi, tuple) and all(value > 0 and math.isfinite(value) for value in dpi)):
        del options["dpi"]
    stored = options.pop("exif", None)
    exif = stored if as_stored and stored is not None else _exif(image, stored, say)
    return options if exif is None else {**options, "exif": exif}


def _exif(image: Image.Image, stored: bytes | None, say: Say) -> bytes | None:
    """EXIF as Pillow's formats take it: with its prefix, without what is about another file."""
    exif = image.getexif() if stored is None else Image.Exif()
    try:
        if stored is not None:
            exif.load(stored)
        tags = set(exif)
    except Exception as error:  # whatever a broken one does to Pillow
        say(f"EXIF, which is broken ({error or type(error).__name__})")
        return None
    if private := sorted(PRIVATE & tags):
        say(f"private blocks of an editor (EXIF tags {', '.join(map(str, private))})")
    layout = (TIFF_LAYOUT | PRIVATE) & tags
    if stored is not None and not layout:
        return stored if stored.startswith(b"Exif\0\0") else b"Exif\0\0" + stored
    for tag in layout:
        del exif[tag]
    if not len(exif):
        return None
    try:
        return exif.tobytes()
    except Exception as error:
        say(f"EXIF, which cannot be written again ({error or type(error).__name__})")
        return None


def for_mcq(options: Options, say: Say) -> Options:
    """Of metadata what an `.mcq` file can hold."""
    kept = {}
    for name, value in options.items():
        try:
            checked_metadata({name: value})
            kept[name] = value
        except ValueError as error:
            say(str(error))
    return kept


def write(image: Image.Image, format: str, options: Options, say: Say) -> bytes:
    """A file of another format with the metadata that it can hold; it is opened again before it counts.

    Raises OSError or ValueError when the format cannot hold the pixels.
    """
    kept, small = {}, Image.new(image.mode, (16, 16))
    image = image.copy()
    image.info.clear()  # where writers would look for more
    for name, value in options.items():
        try:
            _check(_saved(small, format, {name: value}), small, format)
            kept[name] = value
        except Exception as error:
            say(f"{name}, which {format} cannot hold ({error or type(error).__name__})")
    try:
        made = _saved(image, format, kept)
        _check(made, _as_loaded(image, format, kept), format)
    except Exception:
        if not kept:
            raise
        made = _saved(image, format, {})
        say(f"{', '.join(kept)}, with which {format} is not readable")
        _check(made, image, format)
    return made


def _saved(image: Image.Image, format: str, options: Options) -> bytes:
    if format == "PNG":
        options = {**options, "pnginfo": _png_text(options)}
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _as_loaded(image: Image.Image, format: str, options: Options) -> Image.Image:
    """A picture as Pillow loads it from a file with such options: of TIFF it turns it as EXIF says."""
    if format != "TIFF" or "exif" not in options:
        return image
    turned = image.copy()
    turned.getexif().load(options["exif"])
    return ImageOps.exif_transpose(turned)


def _check(made: bytes, image: Image.Image, format: str) -> None:
    """Raise OSError unless a file is a picture of that size, and of these pixels where its format keeps them."""
    if format not in Image.OPEN:
        return  # a format that Pillow writes only, as PDF
    with Image.open(io.BytesIO(made), formats=[format]) as again:
        again.load()
        if again.size != image.size:
            raise OSError(f"the {format} file shows a picture of {again.width}x{again.height} pixels")
        if format in LOSSLESS and not np.array_equal(np.asarray(again.convert(image.mode)), np.asarray(image)):
            raise OSError(f"the {format} file shows other pixels")


def _png_text(options: Options) -> PngImagePlugin.PngInfo:
    """XMP and comment as PNG text chunks, which Pillow's PNG writer does not make of its options."""
    text = PngImagePlugin.PngInfo()
    for name, keyword in (("xmp", "XML:com.adobe.xmp"), ("comment", "Comment")):
        if name in options:
            value = options[name]
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            text.add_itxt(keyword, value)
    return text
