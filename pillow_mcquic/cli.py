"""Command `mcq`: encode, decode, try, compare, transcode, info, verify, version, model, train, export."""

from __future__ import annotations

import argparse
import contextlib
import glob
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from . import __version__, codec, container, files
from .training.__main__ import add_commands as add_training_commands

Job = tuple[Path, Path]  # source, target


class UsageError(Exception):
    """Arguments that cannot be carried out as they stand."""


@contextlib.contextmanager
def arguments() -> Iterator[None]:
    """Context in which a value out of range is a matter of usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


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


def check_output(source: Path, target: Path, overwrite: bool) -> None:
    """UsageError for an output that is there, unless `overwrite`, or that is the picture to be read."""
    if os.path.lexists(target) and not overwrite:
        raise UsageError(f"{target} exists (use --overwrite)")
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"output {target} is the picture itself")


def run_jobs(jobs: list[Job], work: Callable[[Path, Path], int], args: argparse.Namespace, verb: str) -> int:
    """Do every job, with a progress bar and a summary; exit status 1 if any failed."""
    from tqdm import tqdm

    failures: list[str] = []
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
    for source, target in tqdm(jobs, unit="file", disable=len(jobs) < 2 or not sys.stderr.isatty()):
        try:
            if (source, target) in shared:
                raise FileExistsError(f"{target} is already the output of another input")
            check_output(source, target, args.overwrite)
            size = work(source, target)
            before += source.stat().st_size
            after += size
            if len(jobs) == 1:
                print(f"{source} -> {target}")
        except Exception as error:  # whatever one file does to a decoder, the others get their turn
            failures.append(f"{source}: {error or type(error).__name__}")
    for line in failures:
        print(f"mcq: {line}", file=sys.stderr)
    done = len(jobs) - len(failures)
    ratio = f" ({after / before:.1%})" if before else ""
    print(
        f"{verb} {done} of {len(jobs)} files, {before:,} -> {after:,} bytes{ratio} "
        f"in {time.monotonic() - began:.1f} s" + (f", {len(failures)} failed" if failures else "")
    )
    return 1 if failures else 0


def encode_command(args: argparse.Namespace) -> int:
    options = {"quality": args.quality, "target_bpp": args.bpp, "max_bytes": args.max_bytes, "effort": args.effort}
    options = {k: v for k, v in options.items() if v is not None}
    with arguments():
        if "quality" in options:
            codec.quality_in_256ths(options["quality"])
    suffixes = files.readable_suffixes() - {".mcq"}

    def work(source: Path, target: Path) -> int:
        with files.open_picture(source) as image:
            return files.write_whole(target, files.to_mcq(image, **options), args.overwrite)

    jobs = make_jobs(args, suffixes, ".mcq")
    return run_jobs(jobs, work, args, "encoded")


def decode_command(args: argparse.Namespace) -> int:
    suffix = f".{args.format.lower().removeprefix('.')}"
    named = args.out and not names_a_folder(args.out) and Path(args.out).suffix
    if named and len(args.inputs) == 1 and Path(args.inputs[0]).is_file():
        suffix = Path(args.out).suffix.lower()
    format = files.writable_format(suffix)
    if format is None:
        raise UsageError(f"no image format to decode to has the suffix {suffix}")

    def work(source: Path, target: Path) -> int:
        with files.open_mcq(source) as image:
            return files.write_whole(target, files.from_mcq(image, format), args.overwrite)

    jobs = make_jobs(args, frozenset({".mcq"}), suffix)
    return run_jobs(jobs, work, args, "decoded")


def make_jobs(args: argparse.Namespace, suffixes: frozenset[str], suffix: str) -> list[Job]:
    paths = list(expand(args.inputs))
    return plan(list(find_inputs(paths, suffixes)), args.out, suffix, any(path.is_dir() for path in paths))


def try_command(args: argparse.Namespace) -> int:
    """Encode and decode one picture in memory; print size, quality and times, and save what comes out."""
    import numpy as np

    from . import metrics

    format = files.writable_format(Path(args.out).suffix.lower()) if args.out else "PNG"
    if format is None:
        raise UsageError(f"{args.out} has no suffix of an image format to decode to")
    for target in (Path(args.out), Path(args.out).with_suffix(".mcq")) if args.out else ():
        check_output(Path(args.image), target, args.overwrite)
    with arguments():
        codec.quality_in_256ths(args.quality)
    with files.open_picture(args.image) as image:
        original = image.convert("RGB")
    data = io.BytesIO()
    original.save(io.BytesIO(), "MCQ", quality=args.quality)  # torch and the weights are loaded here
    began = time.perf_counter()
    original.save(data, "MCQ", quality=args.quality, effort=args.effort)
    encoded = time.perf_counter()
    with Image.open(data) as reopened:
        reopened.load()
        decoded = time.perf_counter()
        size, pixels = len(data.getvalue()), original.width * original.height
        print(f"{args.image}: {original.width}x{original.height}, quality {args.quality:g}")
        psnr = metrics.psnr(np.asarray(original), np.asarray(reopened))
        print(f"{size} bytes, {8 * size / pixels:.3f} bpp, PSNR {psnr:.2f} dB")
        print(f"encode {encoded - began:.3f} s, decode {decoded - encoded:.3f} s")
        if args.out:
            mcq = Path(args.out).with_suffix(".mcq")
            files.write_whole(mcq, data.getvalue(), args.overwrite)
            files.write_whole(Path(args.out), files.from_mcq(reopened, format), args.overwrite)
            print(f"wrote {mcq} and {args.out}")
    return 0


def compare_command(args: argparse.Namespace) -> int:
    """Write a page that shows a picture as several codecs keep it, at equal bytes."""
    import numpy as np

    from . import compare

    target = Path(args.out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"output {target} must end in .html")
    check_output(Path(args.image), target, args.overwrite)
    against = [name for name in args.against.split(",") if name]
    with arguments():
        for name in against:
            compare.named(name)
        for quality in args.quality:
            codec.quality_in_256ths(quality)
    with files.open_picture(args.image) as image:
        original = image.convert("RGB")
    groups = {f"quality {quality:g}": compare.versions(original, quality, against) for quality in args.quality}
    name = Path(args.image).name
    text = compare.page(name, [compare.viewed(name, np.asarray(original), groups)])
    size = files.write_whole(target, text.encode(), args.overwrite)
    print(f"wrote {target}, {size:,} bytes")
    return 0


def transcode_command(args: argparse.Namespace) -> int:
    """A tree of images to `.mcq` or back; status 1 if any file failed."""
    import json

    from . import transcode

    if args.engine == "ray" and not importlib.util.find_spec("ray"):
        raise UsageError("--engine ray needs Ray: pip install 'ray[data]'")
    score = args.score or ("psnr" if args.min_ssimulacra2 is None else "ssimulacra2")
    by_ssimulacra2 = score == "ssimulacra2" or args.min_ssimulacra2 is not None
    if by_ssimulacra2 and not importlib.util.find_spec("ssimulacra2"):
        raise UsageError("SSIMULACRA2 needs its package: pip install ssimulacra2")
    workers = args.workers or transcode.default_workers()
    with arguments():
        transcode.check_workers(workers, args.engine)
        settings = transcode.Settings(
            source=args.source,
            target=args.target,
            suffix=f".{args.to.lower().removeprefix('.')}",
            quality=args.quality,
            bpp=args.bpp,
            min_ssimulacra2=args.min_ssimulacra2,
            effort=args.effort,
            score=score,
            overwrite=args.overwrite,
        )
    if args.manifest:
        manifest = Path(args.manifest)
    elif not transcode.is_local(args.target):
        raise UsageError(f"{args.target} is not local: give --manifest FILE, a local file")
    else:
        manifest = Path(args.target) / transcode.MANIFEST
    if args.report and os.path.lexists(args.report) and not is_report(Path(args.report)):
        raise UsageError(f"{args.report} exists and is no report of transcode")
    try:
        report = transcode.run(settings, manifest, workers, args.engine)
    except KeyboardInterrupt:
        print("mcq: interrupted; the same command goes on from here", file=sys.stderr)
        raise
    if args.report:
        files.write_whole(Path(args.report), json.dumps(report.to_dict(), indent=1).encode(), True)
    print(report.text())
    return 1 if report.failures else 0


def is_report(path: Path) -> bool:
    """Whether a file is what `transcode --report` writes, and may be written again."""
    import json

    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"made", "failures", "worst"} <= set(found)


CHUNK_NAMES = {
    container.CODES: "codes",
    container.ALPHA: "alpha",
    container.EXIF: "exif",
    container.ICC: "icc profile",
    container.XMP: "xmp",
    container.DPI: "dpi",
    container.COMMENT: "comment",
}


def info_command(args: argparse.Namespace) -> int:
    """Print what a file says of itself; neither torch nor the weights are needed."""
    with open(args.file, "rb") as file:
        try:
            parsed = container.read(file)
        except (OSError, ValueError) as error:
            raise OSError(f"{args.file}: {error}") from error
    header, pixels = parsed.header, parsed.header.width * parsed.header.height
    total = parsed.header_size + sum(chunk.size for chunk in parsed.chunks)
    print(f"{args.file}: {header.width}x{header.height} {header.mode}, quality {header.quality / 256:g}")
    print(f"format {header.version[0]}.{header.version[1]}, model {header.model.hex()}")
    print(f"{total} bytes, {8 * total / pixels:.4f} bpp; header {parsed.header_size} bytes")
    for chunk in parsed.chunks:
        name = CHUNK_NAMES.get(chunk.kind, "unknown, skipped")
        print(f"  chunk {chunk.kind.decode()} ({name}): {chunk.size} bytes, {8 * chunk.size / pixels:.4f} bpp")
    for kind, name in ((container.COMMENT, "comment"), (container.DPI, "dpi")):
        payload = parsed.get(kind)
        if payload is not None:
            shown = str(container.unpack_dpi(payload)) if kind == container.DPI else printable(payload)
            print(f"  {name}: {shown}")
    return 0


def printable(text: bytes) -> str:
    """UTF-8 without what would steer a terminal."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.decode("utf-8", "replace"))
    return "".join(shown)


def verify_command(args: argparse.Namespace) -> int:
    """Check every file: structure and checksums, and unless --quick that it decodes."""
    failures = 0
    for path, _ in find_inputs(expand(args.files), frozenset({".mcq"})):
        try:
            with open(path, "rb") as file:
                parsed = container.read(file)
                trailing = len(file.read(1))
            if not args.quick:
                codec.check_size(parsed.header)
                codec.decode_file(parsed)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures += 1
            print(f"{path}: {error}", file=sys.stderr)
        else:
            print(f"{path}: ok" + (", with other data after the picture" if trailing else ""))
    return 1 if failures else 0


def version_command(args: argparse.Namespace) -> int:
    import platform
    from importlib.metadata import version

    import torch

    from . import runtime, weights

    where = runtime.device()
    print(f"pillow_mcquic {__version__}, format {container.VERSION_MAJOR}.{container.VERSION_MINOR}")
    print(f"weights {weights.default_id().hex()}")
    print(f"python {platform.python_version()}, pillow {version('pillow')}, torch {torch.__version__}")
    print(f"constriction {version('constriction')}, numpy {version('numpy')}")
    print(f"device {where}, {runtime.precision(where)}, {torch.get_num_threads()} threads")
    return 0


def model_command(args: argparse.Namespace) -> int:
    """Print parameters and kMAC/pixel of the default model."""
    from . import weights
    from .model.cost import measure

    loaded = codec.load_weights(weights.default_id())
    cost = measure(loaded.config)
    path = weights.find(loaded.id)
    print(f"model {loaded.id.hex()}: {cost.parameters / 1e6:.2f} M parameters, {path.stat().st_size / 1e6:.1f} MB")
    print(f"analysis {cost.analysis:.2f} kMAC/pixel")
    print(
        f"decode {cost.decode:.2f} kMAC/pixel (synthesis {cost.synthesis:.2f}, means {cost.means:.2f}, "
        f"prior {cost.prior:.2f})"
    )
    return 0


def add_effort(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--effort",
        type=int,
        choices=codec.REFINEMENT_ROUNDS,
        default=codec.EFFORT_DEFAULT,
        help="3 is slow and best for the bytes, default 1",
    )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="mcq", description="Learned image compression: .mcq files.")
    top.add_argument("--version", action="version", version=f"pillow_mcquic {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    encode = commands.add_parser("encode", help="images to .mcq")
    decode = commands.add_parser("decode", help=".mcq to images")
    for command, run in ((encode, encode_command), (decode, decode_command)):
        command.add_argument("inputs", nargs="+", metavar="IN", help="files, globs or folders")
        command.add_argument("-o", "--out", help="output file (one input) or folder; default: beside the input")
        existing = command.add_mutually_exclusive_group()
        existing.add_argument("--overwrite", action="store_true", help="replace files that exist")
        existing.add_argument("--skip-existing", action="store_true", help="leave files that exist, do the rest")
        command.set_defaults(run=run)
    size = encode.add_mutually_exclusive_group()
    size.add_argument("-q", "--quality", type=float, help="1 (smallest) to 8 (best), default 4")
    size.add_argument("--bpp", type=float, help="bits per pixel to aim for instead")
    size.add_argument("--max-bytes", type=int, help="best quality whose file is no larger")
    add_effort(encode)
    decode.add_argument("--format", default="png", help="file suffix to decode to, default png")

    trial = commands.add_parser("try", help="encode and decode one picture and print what it cost")
    trial.add_argument("image")
    trial.add_argument("-q", "--quality", type=float, default=codec.QUALITY_DEFAULT)
    add_effort(trial)
    trial.add_argument("-o", "--out", help="write the decoded picture here, and the .mcq file beside it")
    trial.add_argument("--overwrite", action="store_true", help="replace files that exist")
    trial.set_defaults(run=try_command)

    compare = commands.add_parser("compare", help="a page that shows a picture beside other codecs, at equal bytes")
    compare.add_argument("image")
    compare.add_argument("--against", default="avif,webp,jpeg", help="of avif, webp, jpeg, jxl (default: first three)")
    compare.add_argument("-q", "--quality", type=float, nargs="+", default=[2, 4, 6], help="default 2 4 6")
    compare.add_argument("-o", "--out", required=True, help="the page, .html")
    compare.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    compare.set_defaults(run=compare_command)

    transcode = commands.add_parser("transcode", help="a tree of images to .mcq or back; goes on where it was stopped")
    transcode.add_argument("source", metavar="SRC", help="folder, or a URL of fsspec (s3://bucket/photos)")
    transcode.add_argument("target", metavar="DST", help="folder or URL; the tree is the same")
    transcode.add_argument("--to", default="mcq", help="suffix of the new files, default mcq; png, jpg, ... from .mcq")
    size = transcode.add_mutually_exclusive_group()
    size.add_argument("-q", "--quality", type=float, help="1 (smallest) to 8 (best), default 4")
    size.add_argument("--bpp", type=float, help="bits per pixel of every file")
    size.add_argument("--min-ssimulacra2", type=float, metavar="X", help="lowest quality with that score, per image")
    add_effort(transcode)
    transcode.add_argument("--score", choices=("psnr", "ssimulacra2", "none"), help="how new files are checked (psnr)")
    transcode.add_argument("--workers", type=int, help="default: one for each core, or one where a GPU works")
    transcode.add_argument(
        "--engine", choices=("processes", "ray"), default="processes", help="ray: actors of Ray Data"
    )
    transcode.add_argument("--manifest", help="local file that records what is done, default in DST")
    transcode.add_argument("--report", help="write bytes saved, failures, worst images here (JSON)")
    transcode.add_argument("--overwrite", action="store_true", help="replace files that no earlier run made")
    transcode.set_defaults(run=transcode_command)

    info = commands.add_parser("info", help="what a file holds")
    info.add_argument("file")
    info.set_defaults(run=info_command)
    verify = commands.add_parser("verify", help="check files: structure, checksums, decoding")
    verify.add_argument("files", nargs="+", metavar="FILE", help="files, globs or folders")
    verify.add_argument("--quick", action="store_true", help="structure and checksums only, no torch")
    verify.set_defaults(run=verify_command)
    commands.add_parser("version", help="versions, device, weights").set_defaults(run=version_command)
    commands.add_parser("model", help="parameters and kMAC per pixel").set_defaults(run=model_command)
    add_training_commands(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0, 1 when something failed, 2 for arguments that make no sense."""
    args = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that it cannot show is no failure
    try:
        status: int = args.run(args)
        return status
    except UsageError as error:
        print(f"mcq: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of who reads what is printed: what Python still holds of it goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        print(f"mcq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
