"""`mcq encode`, `mcq decode` and `mcq try`."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from .. import metrics
from ..atomic_write import write_whole
from ..quality import DEFAULT, describe
from . import files
from .arguments import (
    Commands,
    UsageError,
    add_effort,
    add_lossless,
    add_overwrite,
    add_quality,
    add_scale_16,
    check_output,
    check_quality,
)
from .jobs import make_jobs, names_a_folder, run_jobs
from .metadata import Say


def add_commands(commands: Commands) -> None:
    """Add `encode`, `decode` and `try`."""
    encode = commands.add_parser("encode", help="images to .mcq")
    decode = commands.add_parser("decode", help=".mcq to images")
    for command, run in ((encode, encode_command), (decode, decode_command)):
        command.add_argument("inputs", nargs="+", metavar="IN", help="files, globs or folders")
        command.add_argument("-o", "--out", help="output file (one input) or folder; default: beside the input")
        existing = command.add_mutually_exclusive_group()
        add_overwrite(existing)
        existing.add_argument("--skip-existing", action="store_true", help="leave files that exist, do the rest")
        command.set_defaults(run=run)
    size = encode.add_mutually_exclusive_group()
    add_quality(size)
    size.add_argument("--bpp", type=float, help="bits per pixel to aim for instead")
    size.add_argument("--max-bytes", type=int, help="best quality whose file is no larger")
    add_lossless(size)
    add_effort(encode)
    add_scale_16(encode)
    decode.add_argument("--format", default="png", help="file suffix to decode to, default png")

    trial = commands.add_parser("try", help="encode and decode one picture and print what it cost")
    trial.add_argument("image")
    kind = trial.add_mutually_exclusive_group()
    add_quality(kind)
    add_lossless(kind)
    add_effort(trial)
    add_scale_16(trial)
    trial.add_argument("-o", "--out", help="write the decoded picture here, and the .mcq file beside it")
    add_overwrite(trial)
    trial.set_defaults(run=try_command)


def encode_command(args: argparse.Namespace) -> int:
    """Images to `.mcq`; status 1 if any file failed."""
    options = {"quality": args.quality, "target_bpp": args.bpp, "max_bytes": args.max_bytes, "effort": args.effort}
    options = {name: value for name, value in options.items() if value is not None} | {"lossless": args.lossless}
    check_quality(args.quality)

    def work(source: Path, target: Path, say: Say) -> int:
        with files.open_picture(source) as image:
            picture = files.eight_bits(image, scale=args.scale_16)
            return write_whole(target, files.to_mcq(picture, say, **options), args.overwrite)

    return run_jobs(make_jobs(args, files.readable_suffixes() - {".mcq"}, ".mcq"), work, args, "encoded")


def decode_command(args: argparse.Namespace) -> int:
    """`.mcq` to images; status 1 if any file failed."""
    suffix = f".{args.format.lower().removeprefix('.')}"
    named = args.out and not names_a_folder(args.out) and Path(args.out).suffix
    if named and len(args.inputs) == 1 and Path(args.inputs[0]).is_file():
        suffix = Path(args.out).suffix.lower()
    format = files.writable_format(suffix)
    if format is None:
        raise UsageError(f"no image format to decode to has the suffix {suffix}")

    def work(source: Path, target: Path, say: Say) -> int:
        with files.open_mcq(source) as image:
            return write_whole(target, files.from_mcq(image, format, say), args.overwrite)

    return run_jobs(make_jobs(args, frozenset({".mcq"}), suffix), work, args, "decoded")


def try_command(args: argparse.Namespace) -> int:
    """Encode and decode one picture in memory; print size, quality and times, and save what comes out."""
    format = files.writable_format(Path(args.out).suffix.lower()) if args.out else "PNG"
    if format is None:
        raise UsageError(f"{args.out} has no suffix of an image format to decode to")
    for target in (Path(args.out), Path(args.out).with_suffix(".mcq")) if args.out else ():
        check_output(Path(args.image), target, args.overwrite)
    check_quality(args.quality)
    with files.open_picture(args.image) as image:
        original = files.eight_bits(image, scale=args.scale_16).convert("RGB")
    data = io.BytesIO()
    if not args.lossless:
        args.quality = float(DEFAULT) if args.quality is None else args.quality
        original.save(io.BytesIO(), "MCQ", quality=args.quality)  # torch and the weights are loaded here
    began = time.perf_counter()
    original.save(data, "MCQ", quality=args.quality, lossless=args.lossless, effort=args.effort)
    encoded = time.perf_counter()
    with Image.open(data) as reopened:
        reopened.load()
        decoded = time.perf_counter()
        size, pixels = len(data.getvalue()), original.width * original.height
        print(f"{args.image}: {original.width}x{original.height}, {describe(args.quality)}")
        psnr = metrics.psnr(np.asarray(original), np.asarray(reopened))
        print(f"{size} bytes, {8 * size / pixels:.3f} bpp, PSNR {psnr:.2f} dB")
        print(f"encode {encoded - began:.3f} s, decode {decoded - encoded:.3f} s")
        if args.out:
            mcq = Path(args.out).with_suffix(".mcq")
            write_whole(mcq, data.getvalue(), args.overwrite)
            write_whole(Path(args.out), files.from_mcq(reopened, format, print), args.overwrite)
            print(f"wrote {mcq} and {args.out}")
    return 0
