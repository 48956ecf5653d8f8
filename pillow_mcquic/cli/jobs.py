"""Many files in one command: which inputs are meant, where each one goes, and what came of it."""

from __future__ import annotations

import argparse
import glob
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from .arguments import UsageError, check_output, with_progress
from .metadata import Say

Job = tuple[Path, Path]  # source, target


def expand(patterns: Sequence[str]) -> Iterator[Path]:
    """Files and folders that exist, of names and globs."""
    for pattern in patterns:
        if not pattern:
            raise UsageError("an input is empty")
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UsageError(f"no such file: {pattern}")
        yield from map(Path, matches)


def find_inputs(paths: Iterable[Path], suffixes: frozenset[str]) -> Iterator[tuple[Path, Path]]:
    """(file, path relative to what was named) of files, and of folders searched for `suffixes`."""
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                raise UsageError(f"no images in folder {path}")
            yield from ((p, p.relative_to(path)) for p in found)
        else:
            yield path, Path(path.name)


def names_a_folder(out: str) -> bool:
    """Whether an output is a folder already, or is to become one."""
    return Path(out).is_dir() or out.endswith(("/", os.sep))


def plan(inputs: list[tuple[Path, Path]], out: str | None, suffix: str, folder_given: bool) -> list[Job]:
    """Where every input goes: beside itself, or to `out`, a file of that suffix for one input, else a folder."""
    if out is None:
        return [(source, source.with_suffix(suffix)) for source, _ in inputs]
    if out == "-":
        raise UsageError("-o - : files are not written to standard output; name a file or a folder")
    target = Path(out)
    folder = folder_given or len(inputs) > 1 or names_a_folder(out)
    if not folder and target.suffix:
        if target.suffix.lower() != suffix:
            raise UsageError(f"output {target} must end in {suffix}")
        return [(inputs[0][0], target)]
    if target.is_file():
        raise UsageError(f"{target} is a file: for several inputs -o must name a folder")
    return [(source, (target / relative).with_suffix(suffix)) for source, relative in inputs]


def make_jobs(args: argparse.Namespace, suffixes: frozenset[str], suffix: str) -> list[Job]:
    """The jobs that a command's arguments name."""
    paths = list(expand(args.inputs))
    return plan(list(find_inputs(paths, suffixes)), args.out, suffix, any(path.is_dir() for path in paths))


def run_jobs(jobs: list[Job], work: Callable[[Path, Path, Say], int], args: argparse.Namespace, verb: str) -> int:
    """Do every job, with a progress bar and a summary; exit status 1 if any failed.

    work: (source, target, what to tell of things left out) -> bytes written.
    """
    failures, left_out = list[str](), list[str]()
    jobs = list(dict.fromkeys(jobs))  # what two globs found is one job
    owners: dict[Path, Path] = {}
    shared = {job for job in jobs if owners.setdefault(job[1].resolve(), job[0]) != job[0]}
    if args.skip_existing:
        every = len(jobs)
        jobs = [job for job in jobs if not os.path.lexists(job[1]) or job in shared]
        if len(jobs) < every:
            print(f"skipped {every - len(jobs)} files that are there already")
    before = after = 0
    began = time.monotonic()
    for source, target in with_progress(jobs, len(jobs)):
        try:
            if (source, target) in shared:
                raise FileExistsError(f"{target} is already the output of another input")
            check_output(source, target, args.overwrite)
            told = list[str]()
            size = work(source, target, told.append)
            left_out += [f"{source}: left out {what}" for what in told]
            before += source.stat().st_size
            after += size
            if len(jobs) == 1:
                print(f"{source} -> {target}")
        except Exception as error:  # whatever one file does to a decoder, the others get their turn
            failures.append(f"{source}: {error or type(error).__name__}")
    for line in left_out + failures:
        print(f"mcq: {line}", file=sys.stderr)
    ratio = f" ({after / before:.1%})" if before else ""
    print(
        f"{verb} {len(jobs) - len(failures)} of {len(jobs)} files, {before:,} -> {after:,} bytes{ratio} "
        f"in {time.monotonic() - began:.1f} s" + (f", {len(failures)} failed" if failures else "")
    )
    return 1 if failures else 0
