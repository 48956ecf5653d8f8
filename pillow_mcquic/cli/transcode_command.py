"""`mcq transcode`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from ..atomic_write import write_whole
from .arguments import (
    Commands,
    UsageError,
    add_effort,
    add_lossless,
    add_overwrite,
    add_quality,
    add_scale_16,
    values_checked,
)

NEEDED = ("fsspec", "pebble", "tqdm")  # of the extra "transcode"


def add_commands(commands: Commands) -> None:
    """Add `transcode`."""
    command = commands.add_parser("transcode", help="a tree of images to .mcq or back; goes on where it was stopped")
    command.add_argument("source", metavar="SRC", help="folder, or a URL of fsspec (s3://bucket/photos)")
    command.add_argument("target", metavar="DST", help="folder or URL; the tree is the same")
    command.add_argument("--to", default="mcq", help="suffix of the new files, default mcq; png, jpg, ... from .mcq")
    size = command.add_mutually_exclusive_group()
    add_quality(size)
    add_lossless(size)
    size.add_argument("--bpp", type=float, help="bits per pixel of every file")
    size.add_argument("--min-ssimulacra2", type=float, metavar="X", help="lowest quality with that score, per image")
    add_effort(command)
    add_scale_16(command)
    command.add_argument("--score", choices=("psnr", "ssimulacra2", "none"), help="how new files are checked (psnr)")
    command.add_argument("--workers", type=int, help="default: one for each core, or one where a GPU works")
    command.add_argument("--engine", choices=("processes", "ray"), default="processes", help="ray: actors of Ray Data")
    command.add_argument("--manifest", help="local file that records what is done, default in DST")
    command.add_argument("--report", help="write bytes saved, failures, worst images here (JSON)")
    add_overwrite(command)
    command.set_defaults(run=transcode_command)


def transcode_command(args: argparse.Namespace) -> int:
    """A tree of images to `.mcq` or back; status 1 if any file failed."""
    if not all(map(importlib.util.find_spec, NEEDED)):
        raise UsageError("transcode needs more packages: pip install 'pillow-mcquic[transcode]'")
    if args.engine == "ray" and not importlib.util.find_spec("ray"):
        raise UsageError("--engine ray needs Ray: pip install 'pillow-mcquic[ray]'")
    from .transcode import folders, manifest, run, tasks, workers

    score = args.score or ("psnr" if args.min_ssimulacra2 is None else "ssimulacra2")
    by_ssimulacra2 = score == "ssimulacra2" or args.min_ssimulacra2 is not None
    if by_ssimulacra2 and not importlib.util.find_spec("ssimulacra2"):
        raise UsageError("SSIMULACRA2 needs its package: pip install ssimulacra2")
    count = args.workers or workers.default_workers()
    with values_checked():
        workers.check_workers(count, args.engine)
        settings = tasks.Settings(
            source=args.source,
            target=args.target,
            suffix=f".{args.to.lower().removeprefix('.')}",
            quality=args.quality,
            lossless=args.lossless,
            bpp=args.bpp,
            min_ssimulacra2=args.min_ssimulacra2,
            effort=args.effort,
            score=score,
            overwrite=args.overwrite,
            scale_16=args.scale_16,
        )
    if args.manifest:
        record = Path(args.manifest)
    elif not folders.is_local(args.target):
        raise UsageError(f"{args.target} is not local: give --manifest FILE, a local file")
    else:
        record = Path(args.target) / manifest.NAME
    if args.report and os.path.lexists(args.report) and not is_report(Path(args.report)):
        raise UsageError(f"{args.report} exists and is no report of transcode")
    try:
        report = run.run(settings, record, count, args.engine)
    except KeyboardInterrupt:
        print("mcq: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    if args.report:
        write_whole(Path(args.report), json.dumps(report.to_dict(), indent=1).encode(), True)
    print(report.text())
    return 1 if report.failures else 0


def is_report(path: Path) -> bool:
    """Whether a file is what `--report` writes, and may be written again."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"made", "failures", "worst"} <= set(found)
