"""`mcq info`, `mcq verify` and `mcq version`."""

from __future__ import annotations

import argparse
import sys

from PIL import Image

from .. import __version__, codec, decoding, loading, weights_files
from ..bitstream import container, exact_squares, file_header, range_coder
from ..bitstream.container import COMMENT, DPI, METADATA
from ..bitstream.grids import grids_of
from ..quality import describe
from .arguments import Commands
from .jobs import expand, find_inputs


def add_commands(commands: Commands) -> None:
    """Add `info`, `verify` and `version`."""
    info = commands.add_parser("info", help="what a file holds")
    info.add_argument("file")
    info.set_defaults(run=info_command)
    verify = commands.add_parser("verify", help="check files: structure, checksums, decoding")
    verify.add_argument("files", nargs="+", metavar="FILE", help="files, globs or folders")
    verify.add_argument("--quick", action="store_true", help="structure and checksums only, no torch")
    verify.set_defaults(run=verify_command)
    version = commands.add_parser("version", help="versions, device, weights and what the model costs")
    version.set_defaults(run=version_command)


def info_command(args: argparse.Namespace) -> int:
    """Print what a file says of itself; neither torch nor the weights are needed."""
    with open(args.file, "rb") as file:
        try:
            parsed = container.read(file)
        except (OSError, ValueError) as error:
            raise OSError(f"{args.file}: {error}") from error
    header, pixels = parsed.header, parsed.header.width * parsed.header.height
    total = parsed.header_size + sum(chunk.size for chunk in parsed.chunks) + parsed.picture_size
    print(f"{args.file}: {header.width}x{header.height} {header.mode}, {describe(header.quality)}")
    model = f"model {header.model.hex()}" if header.learned else "no model"
    print(f"format {header.version[0]}.{header.version[1]}, {model}, {describe_squares(parsed)}")
    if header.tile_side is not None:
        print(f"{len(header.tiles)} tiles of {header.tile_side}x{header.tile_side} pixels")
    print(f"{total} bytes, {8 * total / pixels:.4f} bpp; header {parsed.header_size} bytes")
    for chunk in parsed.chunks:
        name = METADATA[chunk.kind].replace("_", " ") if chunk.kind in METADATA else "unknown, skipped"
        print(f"  {name}: {chunk.size} bytes, {8 * chunk.size / pixels:.4f} bpp (chunk {chunk.kind.decode()})")
    for name, size in measure_parts(parsed).items():
        print(f"  {name}: {size} bytes, {8 * size / pixels:.4f} bpp")
    for kind in (COMMENT, DPI):
        payload = parsed.get(kind)
        if payload is not None:
            shown = str(container.unpack_dpi(payload)) if kind == DPI else printable(payload)
            print(f"  {METADATA[kind]}: {shown}")
    return 0


def describe_squares(file: container.File) -> str:
    """How many squares are learned, and how many exact."""
    every, exact = 0, 0
    for number, tile in enumerate(file.tiles):
        rows, columns = grids_of(*file.header.tiles.box(number).size)[1]
        every += rows * columns
        exact += exact_squares.count(tile, (rows, columns)) if tile is not None else 0
    return f"{every - exact} learned squares, {exact} exact"


def measure_parts(file: container.File) -> dict[str, int]:
    """Bytes of what the picture is made of, as far as it is there."""
    tiles = [tile for tile in file.tiles if tile is not None]
    parts = {
        "learned squares": [tile.codes for tile in tiles],
        "exact squares": [tile.exact for tile in tiles],
        "alpha": [tile.alpha for tile in tiles],
    }
    sizes = {name: sum(len(part) for part in found if part is not None) for name, found in parts.items()}
    rest = file.picture_size - sum(sizes.values())
    return {name: size for name, size in sizes.items() if size} | {"their frame": rest}


def printable(text: bytes) -> str:
    """UTF-8 without what would steer a terminal."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.decode("utf-8", "replace"))
    return "".join(shown)


def verify_command(args: argparse.Namespace) -> int:
    """Check every file: structure and checksums, and unless --quick that it decodes; status 1 if any is damaged."""
    failures = 0
    for path, _ in find_inputs(expand(args.files), frozenset({".mcq"})):
        try:
            with open(path, "rb") as file:
                parsed = container.read(file)
                trailing = len(file.read(1))
            if not args.quick:
                codec.check_sizes([parsed.header])
                decoding.decode_file(parsed)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures += 1
            print(f"{path}: {error}", file=sys.stderr)
        else:
            print(f"{path}: ok" + (", with other data after the picture" if trailing else ""))
    return 1 if failures else 0


def version_command(args: argparse.Namespace) -> int:
    """Print versions, device and weights, and parameters and kMAC per pixel of the default model."""
    import platform
    from importlib.metadata import version

    # what a report of broken weights needs comes before the weights
    print(f"pillow_mcquic {__version__}, format {file_header.VERSION_MAJOR}.{file_header.VERSION_MINOR}")
    print(f"python {platform.python_version()}, pillow {version('pillow')}, torch {version('torch')}")
    coder = f"constriction {version('constriction')}" if range_coder.package() else "constriction is not installed"
    print(f"{coder}, numpy {version('numpy')}", flush=True)
    encoder = loading.load_encoder("cpu")

    import torch

    from ..engine.device import Device
    from ..model.cost import measure

    device, decoder = Device.choose(), encoder.bundle.decoder
    print(f"device {device.where}, {device.precision}, {torch.get_num_threads()} threads", flush=True)
    cost = measure(decoder.model, encoder.model, decoder.entropy_model)
    sizes = [f(decoder.id).stat().st_size / 1e6 for f in (weights_files.find_decoder, weights_files.find_encoder)]
    print(f"weights {decoder.id.hex()}: {sizes[0]:.1f} MB to decode, {sizes[1]:.1f} MB more to encode")
    print(f"{cost.parameters / 1e6:.2f} M parameters; analysis {cost.analysis:.2f} kMAC/pixel")
    print(
        f"decode {cost.decode:.2f} kMAC/pixel (synthesis {cost.synthesis:.2f}, means {cost.means:.2f}, "
        f"entropy model {cost.entropy_model:.2f})"
    )
    return 0
