"""Write the golden files for a new default model and print the table for test_golden.py.

Only for a new model or format version: files already there belong to users' archives too.

    python -m tests.make_golden [NAME ...]
"""

from __future__ import annotations

import io
import sys
import zlib
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image, ImageDraw

from pillow_mcquic import runtime
from pillow_mcquic.bitstream import alpha, container, vp8l
from pillow_mcquic.bitstream import picture as picture_module
from pillow_mcquic.engine import exact_choice

from .conftest import PHOTO, from_bytes, to_bytes
from .files import chunks_of, file_of
from .test_golden import GOLDEN, codes_digest


def pictures(photo: Image.Image) -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    """Name -> picture and save options: every mode, sizes on and off the grid, whole and fractional quality."""
    face = photo.crop((420, 120, 548, 232))
    transparency = face.convert("L").point(lambda v: min(255, 2 * v))
    rgba, la = face.copy(), face.convert("L")
    rgba.putalpha(transparency)
    la.putalpha(transparency)
    exif = Image.Exif()
    exif[0x0112] = 8
    drawing = Image.new("RGB", (150, 90), "white")
    ImageDraw.Draw(drawing).ellipse((10, 10, 140, 80), outline="red", width=3)
    page = Image.new("RGB", (200, 120), "white")
    for y in range(4, 110, 12):
        ImageDraw.Draw(page).text((4, y), "the quick brown fox", fill=(10, 10, 60))
    page.paste(photo.crop((440, 120, 510, 240)), (130, 0))
    clear_page = page.copy()
    clear_page.putalpha(Image.radial_gradient("L").resize(page.size))
    boxed = face.copy()
    boxed.paste(page.crop((0, 0, 64, 40)), (40, 30))
    strip = Image.new("RGB", (800, 120), "white")
    for y in range(4, 110, 12):
        ImageDraw.Draw(strip).text((4, y), "the quick brown fox jumps over the lazy dog " * 3, fill=(10, 10, 60))
    strip.paste(photo.crop((400, 110, 620, 230)), (580, 0))
    strip.putalpha(Image.linear_gradient("L").resize(strip.size))
    lines = Image.new("RGB", (64, 48), "white")
    for x in range(0, 64, 4):
        ImageDraw.Draw(lines).line((x, 0, x // 2, 48), fill="black")
    quiet = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    quiet.paste(face, (250, 170))
    return {
        "one-pixel": (photo.crop((500, 200, 501, 201)), {"quality": 4}),
        "low": (face, {"quality": 1}),
        "fraction": (face.crop((3, 5, 100, 82)), {"quality": 4.3}),
        "high": (face, {"quality": 8}),
        "best": (face, {"quality": 10}),  # some vectors escape
        "escapes": (lines, {"quality": 10}),  # a third do, up to five times
        "grey": (face.convert("L"), {"quality": 5}),
        "grey-alpha": (la.crop((0, 0, 65, 33)), {"quality": 3}),
        "alpha": (rgba, {"quality": 6.5}),
        "alpha-rows": (rgba.crop((0, 0, 48, 40)), {"quality": 2}),
        "alpha-vp8l": (la.crop((0, 0, 48, 40)), {"quality": 2}),
        "page-box": (boxed, {"quality": 6}),  # exact squares from the second row and column on, and not to the last
        "runs": (quiet, {"quality": 1}),  # tables with several runs of codeword 0
        "page": (page, {"quality": 5}),  # exact squares among learned ones
        "page-grey": (page.convert("L"), {"quality": 3}),
        "page-alpha": (clear_page, {"quality": 6}),
        "drawing": (drawing, {"quality": 4}),  # exact squares alone
        "lossless": (clear_page.crop((90, 40, 181, 95)), {"lossless": True}),
        "lossless-grey-alpha": (clear_page.convert("LA").crop((90, 40, 181, 95)), {"lossless": True}),
        "tiles": (photo.crop((400, 100, 700, 380)), {"quality": 3}),  # four of them, learned
        "tiles-page": (strip, {"quality": 5}),  # exact; exact with codes; exact squares and learned ones; learned
        "tiles-lossless": (strip.convert("LA").crop((500, 0, 800, 60)), {"lossless": True}),
        "metadata": (
            face.crop((0, 0, 48, 32)),
            {"quality": 2, "exif": exif, "icc_profile": b"icc", "xmp": b"<x/>", "dpi": (72, 72), "comment": b"hi"},
        ),
    }


def with_alpha(data: bytes, number: int) -> bytes:
    """A file with its alpha stored in another of the ways a reader knows: filter 2, or VP8L (3)."""
    file = container.read(io.BytesIO(data))
    chunks = chunks_of(file)
    plane = alpha.unpack(chunks[container.ALPHA], file.header.width, file.header.height)
    stored = np.diff(plane, axis=0, prepend=np.uint8(0))
    payload = zlib.compress(stored.tobytes(), 9) if number == 2 else vp8l.encode(plane, method=6, quality=90)
    return file_of(file.header, chunks | {container.ALPHA: bytes([number]) + payload})


def main() -> None:
    with Image.open(PHOTO) as image:
        photo = image.convert("RGB")
    for name, (picture, options) in pictures(photo).items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        path = GOLDEN / f"{name}.mcq"
        if name.startswith("tiles"):
            with mock.patch.multiple(picture_module, LARGE=0, TILE_SIDE=256):
                data = to_bytes(picture, **options)
        elif name == "escapes":
            with mock.patch.object(exact_choice, "_unlike_photos", return_value=0.0):
                data = to_bytes(picture, **options)
        else:
            data = to_bytes(picture, **options)
        filters = {"alpha-rows": 2, "alpha-vp8l": 3}
        path.write_bytes(with_alpha(data, filters[name]) if name in filters else data)
        runtime.configure(precision="float32")  # the picture that other precisions come near to
        decoded = from_bytes(path.read_bytes())
        runtime.configure(precision="auto")
        decoded.save(path.with_suffix(".png"), optimize=True)
        quality = decoded.info.get("quality")
        print(f'    "{path.name}": ({decoded.size}, "{decoded.mode}", {quality}, "{codes_digest(path)}"),')


if __name__ == "__main__":
    main()
