"""One page of crops of Kodak images, face, text, sky and texture: the original, and codecs at similar bytes."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from pillow_mcquic.cli import compare

SIDE, MARGIN, LINE = 232, 6, 16  # of a crop, between them, of text
# image, left and top of the crop
CROPS = {
    "face": ("kodim04.png", 170, 190),
    "text": ("kodim05.png", 300, 150),
    "sky": ("kodim21.png", 240, 110),
    "texture": ("kodim08.png", 290, 230),
}


def run(args: argparse.Namespace) -> None:
    """Write the page: a row for each crop and quality, a column for each codec."""
    against = args.against.split(",")
    rows = [(crop, quality) for quality in args.quality for crop in CROPS.values()]
    columns = 2 + len(against)
    page = Image.new("RGB", (columns * (SIDE + MARGIN), len(rows) * (SIDE + LINE + MARGIN)), "white")
    draw = ImageDraw.Draw(page)
    for i, ((name, left, top), quality) in enumerate(rows):
        with Image.open(Path(args.images) / name) as opened:
            image = opened.convert("RGB")
        left, top = min(left, image.width - SIDE), min(top, image.height - SIDE)
        shown = [(f"{name.removesuffix('.png')}, original", image)]
        for version in compare.versions(image, quality, against):
            label = f"{version.codec} {version.setting}, {8 * version.size / image.width / image.height:.3f} bpp"
            shown.append((label, Image.fromarray(version.pixels)))
        for j, (label, picture) in enumerate(shown):
            x, y = j * (SIDE + MARGIN), i * (SIDE + LINE + MARGIN)
            draw.text((x + 1, y + 1), label, "black")
            page.paste(picture.crop((left, top, left + SIDE, top + SIDE)), (x, y + LINE))
    page.save(args.out, quality=95)  # where the format has one
    print(f"wrote {args.out}, {page.width}x{page.height}")
