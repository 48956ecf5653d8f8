"""What commands share: arguments, errors of usage, progress."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

from .. import codec
from ..quality import HIGHEST, LOWEST, Quality

Item = TypeVar("Item")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class UsageError(Exception):
    """Arguments that cannot be carried out as they stand."""


@contextlib.contextmanager
def values_checked() -> Iterator[None]:
    """Context in which a value out of range is an error of usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_quality(*qualities: float | None) -> None:
    """UsageError for a quality out of range."""
    with values_checked():
        for quality in qualities:
            if quality is not None:
                Quality.parse(quality)


def check_output(source: Path, target: Path, overwrite: bool) -> None:
    """UsageError for an output that is there, unless `overwrite`, or that is the picture to be read."""
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} exists (use --overwrite)")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"output {target} is the picture itself")


def add_quality(command: argparse._ActionsContainer, **options: object) -> None:
    """Add `-q`."""
    text = f"{LOWEST} (smallest) to {HIGHEST} (best), default 4"
    command.add_argument("-q", "--quality", **{"type": float, "help": text, **options})  # type: ignore[arg-type]


def quality_or_lossless(text: str) -> float | None:
    """A number, or None for "lossless"; ValueError for anything else."""
    return None if text == "lossless" else float(text)


def add_lossless(command: argparse._ActionsContainer) -> None:
    """Add `--lossless`."""
    command.add_argument("--lossless", action="store_true", help="keep every pixel instead")


def add_scale_16(command: argparse._ActionsContainer) -> None:
    """Add `--scale-16`."""
    command.add_argument("--scale-16", action="store_true", help="take pictures of 16 bits a sample, as 8 bits")


def add_effort(command: argparse.ArgumentParser) -> None:
    """Add `--effort`."""
    command.add_argument(
        "--effort",
        type=int,
        choices=codec.REFINEMENT_ITERATIONS,
        default=codec.EFFORT_DEFAULT,
        help="3 is slow and best for the bytes, default 1",
    )


def add_overwrite(command: argparse._ActionsContainer) -> None:
    """Add `--overwrite`."""
    command.add_argument("--overwrite", action="store_true", help="replace files that exist")


def with_progress(items: Iterable[Item], total: int) -> Iterable[Item]:
    """The items, with a progress bar on a terminal where tqdm is installed."""
    if total < 2 or not sys.stderr.isatty() or not importlib.util.find_spec("tqdm"):
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, unit="file")  # type: ignore[no-any-return]
