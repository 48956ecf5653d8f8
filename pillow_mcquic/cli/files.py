"""Pictures between formats: which are read and written, and what carries over beside pixels."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..bitstream.container import METADATA

# tags that describe how a TIFF file is laid out, not the picture: Pillow gives them out with the EXIF of a TIFF
TIFF_LAYOUT = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326), *range(330, 343)}
    | {347, *range(512, 533), 700, 34675}
)


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


def metadata_options(image: Image.Image) -> dict[str, Any]:
    """What a loaded picture carries beside pixels, as save options; what cannot be stored is left out."""
    options = {name: image.info[name] for name in METADATA.values() if image.info.get(name)}
    if "comment" not in options and image.info.get("Comment"):
        options["comment"] = image.info["Comment"]  # of a PNG
    dpi = options.get("dpi")
    # some cameras write 0, and a PNG may hold any text of that name
    if dpi is not None and not (isinstance(dpi, tuple) and all(value > 0 and math.isfinite(value) for value in dpi)):
        del options["dpi"]
    if "exif" not in options:
        exif = image.getexif()
        for tag in TIFF_LAYOUT & set(exif):
            del exif[tag]
        if len(exif):
            options["exif"] = exif.tobytes()
    return options


def png_text(options: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """XMP and comment as PNG text chunks, which Pillow's PNG writer does not make of its options."""
    text = PngImagePlugin.PngInfo()
    for name, keyword in (("xmp", "XML:com.adobe.xmp"), ("comment", "Comment")):
        if name in options:
            value = options[name]
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            text.add_itxt(keyword, value)
    return text


def to_mcq(image: Image.Image, **options: Any) -> bytes:
    """The `.mcq` file of an opened picture, with its metadata; options as of `save`.  ValueError for several frames."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_PICTURE:
        raise ValueError(f"has {frames} frames, an .mcq file holds one")
    image.load()  # only then is all metadata there, and a turned TIFF without the tag that says so
    file = io.BytesIO()
    image.save(file, "MCQ", **{**metadata_options(image), **options})
    return file.getvalue()


def from_mcq(image: Image.Image, format: str) -> bytes:
    """The file of an opened `.mcq` in another format, with its metadata."""
    image.load()
    options = metadata_options(image)
    if format == "PNG":
        options["pnginfo"] = png_text(options)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()
