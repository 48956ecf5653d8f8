"""The parser of `mcq`, and its entry point."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from PIL import Image

from .. import __version__
from ..training.__main__ import add_commands as add_training_commands
from . import compare_command, convert, inspect, transcode_command
from .arguments import UsageError


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="mcq", description="Learned image compression: .mcq files.")
    top.add_argument("--version", action="version", version=f"pillow_mcquic {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for family in (convert, compare_command, transcode_command, inspect):
        family.add_commands(commands)
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
