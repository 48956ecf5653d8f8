"""`mcq compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..atomic_write import write_whole
from ..quality import describe
from . import compare, files
from .arguments import (
    Commands,
    UsageError,
    add_overwrite,
    add_quality,
    add_scale_16,
    check_output,
    check_quality,
    quality_or_lossless,
    values_checked,
)


def add_commands(commands: Commands) -> None:
    """Add `compare`."""
    command = commands.add_parser("compare", help="a page that shows a picture beside other codecs, at similar bytes")
    command.add_argument("image")
    command.add_argument("--against", default="avif,webp,jpeg", help="of avif, webp, jpeg, jxl (default: first three)")
    settings = "qualities, or lossless; default 2 4 6"
    add_quality(command, nargs="+", type=quality_or_lossless, default=[2, 4, 6], help=settings)
    command.add_argument("-o", "--out", required=True, help="the page, .html")
    add_scale_16(command)
    add_overwrite(command)
    command.set_defaults(run=compare_command)


def compare_command(args: argparse.Namespace) -> int:
    """Write a page that shows a picture as several codecs keep it, at similar bytes."""
    target = Path(args.out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"output {target} must end in .html")
    check_output(Path(args.image), target, args.overwrite)
    against = [name for name in args.against.split(",") if name]
    with values_checked():
        for name in against:
            compare.named(name)
    check_quality(*args.quality)
    with files.open_picture(args.image) as image:
        original = files.eight_bits(image, scale=args.scale_16).convert("RGB")
    groups = {describe(quality): compare.versions(original, quality, against) for quality in args.quality}
    name = Path(args.image).name
    text = compare.page(name, [compare.viewed(name, np.asarray(original), groups)])
    size = write_whole(target, text.encode(), args.overwrite)
    print(f"wrote {target}, {size:,} bytes")
    return 0
