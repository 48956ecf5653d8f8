"""Command `mcq`: encode, decode, try, compare, info, verify, version, model, train, export."""

from __future__ import annotations

import argparse
import glob
import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from . import __version__, codec, container
from .training.__main__ import add_commands as add_training_commands

Job = tuple[Path, Path]  # source, target


class UsageError(Exception):
    """Arguments that cannot be carried out as they stand."""


def find_inputs(patterns: Sequence[str], suffixes: frozenset[str]) -> Iterator[tuple[Path, Path]]:
    """(file, path relative to what was named) of files, globs, and folders searched for `suffixes`."""
    for pattern in patterns:
        if not pattern:
            raise UsageError("an input is empty")
        path = Path(pattern)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                raise UsageError(f"no images in folder {path}")
            yield from ((p, p.relative_to(path)) for p in found)
        elif path.exists():
            yield path, Path(path.name)
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
            if not matches:
                raise UsageError(f"no such file: {pattern}")
            yield from ((Path(m), Path(Path(m).name)) for m in matches if not Path(m).is_dir())


def plan(inputs: list[tuple[Path, Path]], out: str | None, suffix: str, folder_given: bool) -> list[Job]:
    """Where every input goes: beside itself, or to `out`, a file of that suffix for one input, else a folder."""
    if out is None:
        return [(source, source.with_suffix(suffix)) for source, _ in inputs]
    target = Path(out)
    folder = folder_given or len(inputs) > 1 or target.is_dir() or out.endswith(("/", os.sep))
    if not folder and target.suffix:
        if target.suffix.lower() != suffix:
            raise UsageError(f"output {target} must end in {suffix}")
        return [(inputs[0][0], target)]
    if target.is_file():
        raise UsageError(f"{target} is a file: for several inputs -o must name a folder")
    return [(source, (target / relative).with_suffix(suffix)) for source, relative in inputs]


def write_whole(target: Path, write: Callable[[Any], None], overwrite: bool) -> int:
    """Write under a temporary name in the target's folder, then rename; returns the size in bytes.

    FileExistsError unless `overwrite` when the target is there; nothing is left behind on failure.  The file is made
    in memory first, so that only a kill during the writing itself can leave a temporary file.
    """
    data = io.BytesIO()
    write(data)
    size = data.getbuffer().nbytes
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".mcq-", suffix=".part", dir=target.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)  # mkstemp made it private
        if overwrite or not os.path.lexists(target):
            os.replace(part, target)
            return size
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    raise FileExistsError(f"{target} exists (use --overwrite)")


# tags that describe how a TIFF file is laid out, not the picture: Pillow gives them out with the EXIF of a TIFF
TIFF_LAYOUT = frozenset(
    {*range(254, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301, *range(317, 326), *range(330, 343)}
    | {347, *range(512, 533), 700, 34675}
)


def metadata_options(image: Image.Image) -> dict[str, Any]:
    """What a picture carries beside pixels, as save options; what cannot be stored is left out."""
    options = {k: image.info[k] for k in ("icc_profile", "xmp", "comment", "dpi") if image.info.get(k)}
    dpi = options.get("dpi")
    if dpi is not None and not all(value > 0 and math.isfinite(value) for value in dpi):
        del options["dpi"]  # some cameras write 0
    if image.info.get("exif"):
        options["exif"] = image.info["exif"]
    else:
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


def run_jobs(jobs: list[Job], work: Callable[[Path, Path], int], args: argparse.Namespace, verb: str) -> int:
    """Do every job, with a progress bar and a summary; exit status 1 if any failed."""
    from tqdm import tqdm

    failures: list[str] = []
    if args.skip_existing:
        every = len(jobs)
        jobs = [(source, target) for source, target in jobs if not os.path.lexists(target)]
        if len(jobs) < every:
            print(f"skipped {every - len(jobs)} files that are there already")
    before = after = 0
    began = time.monotonic()
    taken: set[Path] = set()
    for source, target in tqdm(jobs, unit="file", disable=len(jobs) < 2 or not sys.stderr.isatty()):
        try:
            if target.resolve() in taken:
                raise FileExistsError(f"{target} is already the output of another input")
            if os.path.lexists(target) and not args.overwrite:
                raise FileExistsError(f"{target} exists (use --overwrite)")
            if target.exists() and target.samefile(source):
                raise ValueError("input and output are the same file")
            size = work(source, target)
            taken.add(target.resolve())
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
    options = {"quality": args.quality, "target_bpp": args.bpp, "max_bytes": args.max_bytes}
    options = {k: v for k, v in options.items() if v is not None}
    if "quality" in options:
        codec.quality_in_256ths(options["quality"])
    suffixes = readable_suffixes() - {".mcq"}

    def work(source: Path, target: Path) -> int:
        with Image.open(source) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"has {image.n_frames} frames, an .mcq file holds one")  # type: ignore[attr-defined]
            carried = {**metadata_options(image), **options}
            return write_whole(target, lambda file: image.save(file, "MCQ", **carried), args.overwrite)

    jobs = make_jobs(args, suffixes, ".mcq")
    return run_jobs(jobs, work, args, "encoded")


def readable_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow can decode by itself."""
    formats = Image.registered_extensions()
    stubs = ("BUFR", "GRIB", "HDF5", "WMF", "MPEG")  # identified only
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in stubs)


def decode_command(args: argparse.Namespace) -> int:
    suffix = f".{args.format.lower().removeprefix('.')}"
    if args.out and Path(args.out).suffix and len(args.inputs) == 1 and Path(args.inputs[0]).is_file():
        suffix = Path(args.out).suffix.lower()
    format = Image.registered_extensions().get(suffix)
    if format not in Image.SAVE or suffix == ".mcq":
        raise UsageError(f"no image format to decode to has the suffix {suffix}")

    def work(source: Path, target: Path) -> int:
        with Image.open(source) as image:
            image.load()
            carried = metadata_options(image)
            if format == "PNG":
                carried["pnginfo"] = png_text(carried)
            return write_whole(target, lambda file: image.save(file, format, **carried), args.overwrite)

    jobs = make_jobs(args, frozenset({".mcq"}), suffix)
    return run_jobs(jobs, work, args, "decoded")


def make_jobs(args: argparse.Namespace, suffixes: frozenset[str], suffix: str) -> list[Job]:
    inputs = list(find_inputs(args.inputs, suffixes))
    return plan(inputs, args.out, suffix, any(Path(p).is_dir() for p in args.inputs))


def try_command(args: argparse.Namespace) -> int:
    """Encode and decode one picture in memory; print size, quality and times, and save what comes out."""
    import numpy as np

    from . import metrics

    format = Image.registered_extensions().get(Path(args.out).suffix.lower()) if args.out else "PNG"
    if format not in Image.SAVE or format == "MCQ":
        raise UsageError(f"{args.out} has no suffix of an image format to decode to")
    for target in (Path(args.out), Path(args.out).with_suffix(".mcq")) if args.out else ():
        if os.path.lexists(target) and not args.overwrite:
            raise UsageError(f"{target} exists (use --overwrite)")
    with Image.open(args.image) as image:
        original = image.convert("RGB")
    data = io.BytesIO()
    original.save(io.BytesIO(), "MCQ", quality=args.quality)  # torch and the weights are loaded here
    began = time.perf_counter()
    original.save(data, "MCQ", quality=args.quality)
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
            write_whole(mcq, lambda file: file.write(data.getvalue()), args.overwrite)
            write_whole(Path(args.out), lambda file: reopened.save(file, format), args.overwrite)
            print(f"wrote {mcq} and {args.out}")
    return 0


def compare_command(args: argparse.Namespace) -> int:
    """Write a page that shows a picture as several codecs keep it, at equal bytes."""
    import numpy as np

    from . import compare

    target = Path(args.out)
    if os.path.lexists(target) and not args.overwrite:
        raise UsageError(f"{target} exists (use --overwrite)")
    against = [name for name in args.against.split(",") if name]
    for name in against:
        compare.named(name)
    for quality in args.quality:
        codec.quality_in_256ths(quality)
    with Image.open(args.image) as image:
        original = image.convert("RGB")
    groups = {f"quality {quality:g}": compare.versions(original, quality, against) for quality in args.quality}
    text = compare.page(Path(args.image).name, np.asarray(original), groups)
    size = write_whole(target, lambda file: file.write(text.encode()), args.overwrite)
    print(f"wrote {target}, {size:,} bytes")
    return 0


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
        parsed = container.read(file)
    header, pixels = parsed.header, parsed.header.width * parsed.header.height
    total = parsed.header_size + sum(chunk.size for chunk in parsed.chunks)
    print(f"{args.file}: {header.width}x{header.height} {header.mode}, quality {header.quality / 256:g}")
    print(f"format {header.version[0]}.{header.version[1]}, model {header.model.hex()}")
    print(f"{total} bytes, {8 * total / pixels:.4f} bpp; header {parsed.header_size} bytes")
    for chunk in parsed.chunks:
        name = CHUNK_NAMES.get(chunk.kind, "unknown, skipped")
        print(f"  chunk {chunk.kind.decode()} ({name}): {chunk.size} bytes, {8 * chunk.size / pixels:.4f} bpp")
    for level, stream in enumerate(parsed.codes, 1):
        print(f"  codes of level {level}: {len(stream)} bytes, {8 * len(stream) / pixels:.4f} bpp")
    for kind, name in ((container.COMMENT, "comment"), (container.DPI, "dpi")):
        payload = parsed.get(kind)
        if payload is not None:
            shown = container.unpack_dpi(payload) if kind == container.DPI else payload.decode("utf-8", "replace")
            print(f"  {name}: {shown}")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    """Check every file: structure and checksums, and unless --quick that it decodes."""
    failures = 0
    for path, _ in find_inputs(args.files, frozenset({".mcq"})):
        try:
            with open(path, "rb") as file:
                parsed = container.read(file)
                trailing = len(file.read(1))
            if not args.quick:
                codec.check_size(parsed.header)
                codec.decode_file(parsed)
            print(f"{path}: ok" + (", with other data after the picture" if trailing else ""))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures += 1
            print(f"{path}: {error}", file=sys.stderr)
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
    dtype = str(runtime.network_dtype(where)).removeprefix("torch.")
    print(f"device {where}, {dtype}, {torch.get_num_threads()} threads")
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


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="mcq", description="Learned image compression: .mcq files.")
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
    decode.add_argument("--format", default="png", help="file suffix to decode to, default png")

    trial = commands.add_parser("try", help="encode and decode one picture and print what it cost")
    trial.add_argument("image")
    trial.add_argument("-q", "--quality", type=float, default=codec.QUALITY_DEFAULT)
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
    try:
        status: int = args.run(args)
        return status
    except UsageError as error:
        print(f"mcq: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        print(f"mcq: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
