"""`python -m pillow_mcquic.training train|export`."""

from __future__ import annotations

import argparse
import math
import sys


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` and `export` to a command line (`mcq` shares them)."""
    train = commands.add_parser("train", help="train a model on a folder of photos")
    train.add_argument("photos", help="folder of images, searched recursively")
    train.add_argument("checkpoint", help="written every few minutes; continued from if it exists")
    train.add_argument("--settings", help="TOML file of training settings (see training/settings.py)")
    train.add_argument("--val", help="folder of images to validate on")
    train.add_argument("--steps", type=int, help="length of the whole schedule")
    train.add_argument("--batch", type=int, help="crops a step, per process")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    train.add_argument("--threads", type=int, help="CPU threads")
    train.add_argument("--start-from", help="checkpoint or ID.safetensors to take the first weights from")
    train.add_argument("--checkpoint-minutes", type=float, default=5.0)
    train.add_argument("--validate-every", type=int, default=1000, help="steps")
    train.add_argument("--minutes", type=float, default=math.inf, help="stop, resumably, after this long")
    train.add_argument("--within", action="store_true", help="fit the whole schedule into --minutes")
    train.set_defaults(run=_train)

    export = commands.add_parser("export", help="turn a checkpoint into weights files")
    export.add_argument("checkpoint")
    export.add_argument("folder", help="where to write ID.safetensors and ID.encoder.safetensors")
    export.add_argument("photos", help="training photos, to count codewords on")
    export.add_argument("--val", help="folder of images to check real bytes against the estimate on")
    export.add_argument("--crops", type=int, default=600, help="512-pixel crops to count (default: 600)")
    export.set_defaults(run=_export)


def _train(args: argparse.Namespace) -> int:
    from .train import main

    return main(args)


def _export(args: argparse.Namespace) -> int:
    from pathlib import Path

    from .export import export

    try:
        export(Path(args.checkpoint), Path(args.folder), args.photos, val_folder=args.val, crops=args.crops)
    except (OSError, ValueError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pillow_mcquic.training")
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args()
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
