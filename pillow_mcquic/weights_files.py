"""Where weights files are: bundled with the package, or in folders that the environment names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BadFileError

BUNDLED = Path(__file__).parent / "weights"
FOLDERS_VARIABLE, MODEL_VARIABLE = "PILLOW_MCQUIC_WEIGHTS", "PILLOW_MCQUIC_MODEL"
SUFFIX, ENCODER_SUFFIX = ".safetensors", ".encoder.safetensors"


def bundled_default() -> str:
    """Id, in hexadecimal, of the model that encodes if nothing else is asked for."""
    path = BUNDLED / "default"
    return path.read_text().strip() if path.exists() else ""


def folders() -> list[Path]:
    """Where weights are looked for: $PILLOW_MCQUIC_WEIGHTS (a path list), then the bundled ones."""
    extra = os.environ.get(FOLDERS_VARIABLE, "")
    return [Path(p) for p in extra.split(os.pathsep) if p] + [BUNDLED]


def known() -> list[str]:
    """The ids, in hexadecimal, of all decoders that are here."""
    found = {path.name for folder in folders() for path in folder.glob(f"*{SUFFIX}")}
    return sorted(name.removesuffix(SUFFIX) for name in found if not name.endswith(ENCODER_SUFFIX))


def find_decoder(model: bytes) -> Path:
    """The decoder's file of an id; BadFileError saying what to do when it is not there."""
    name = model.hex() + SUFFIX
    if path := _find(name):
        return path
    raise BadFileError(
        f"this .mcq file was made with model {model.hex()}, which is not here (known: {', '.join(known())}); "
        f"upgrade pillow_mcquic, or put {name} into a folder named by ${FOLDERS_VARIABLE}"
    )


def find_encoder(model: bytes) -> Path:
    """The encoder's file for a decoder's id; BadFileError saying what to do when it is not there."""
    name = model.hex() + ENCODER_SUFFIX
    if path := _find(name):
        return path
    raise BadFileError(
        f"model {model.hex()} can only decode here: its encoder, {name}, is missing; "
        f"reinstall pillow_mcquic, or put the file into a folder named by ${FOLDERS_VARIABLE}"
    )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A weights file as safetensors opens it; BadFileError where it, or what is looked for in it, cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            yield file
    except (SafetensorError, KeyError, TypeError) as error:
        raise BadFileError(f"weights file {path} cannot be read ({error}); reinstall pillow_mcquic") from error


def encoder_digest(model: bytes) -> str:
    """What tells an encoder from another of the same decoder, in hexadecimal; errors as of `find_encoder`."""
    with opened(find_encoder(model)) as file:
        return str(file.metadata()["digest"])


def _find(name: str) -> Path | None:
    return next((folder / name for folder in folders() if (folder / name).is_file()), None)


def default_id() -> bytes:
    """Id of the model that encodes: $PILLOW_MCQUIC_MODEL (hex) or the bundled default; ValueError if it is not here."""
    bundled = bundled_default()
    text = os.environ.get(MODEL_VARIABLE) or bundled
    try:
        model = bytes.fromhex(text)
    except ValueError:
        model = b""
    if len(model) != 4:
        raise ValueError(f"{MODEL_VARIABLE} must be 8 hexadecimal digits, got {text!r}")
    if text != bundled and text.lower() not in known():
        raise ValueError(f"{MODEL_VARIABLE} is {text}, which is not here (known: {', '.join(known())})")
    return model
