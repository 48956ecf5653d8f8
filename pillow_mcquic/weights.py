"""Weights files: one safetensors file holds networks (floats), codebooks, integer prior and tables.

A file is named by its id, the first four bytes (hex) of a SHA-256 over everything in it; `.mcq` files carry
the id, so every file finds the weights it was made with, and no other weights touch it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .container import BadFileError

if TYPE_CHECKING:
    from .coder import LevelTables
    from .model.network import Config, Model
    from .model.prior import Prior
    from .model.quantiser import Costs

BUNDLED = Path(__file__).parent / "weights"
DEFAULT_ID = (BUNDLED / "default").read_text().strip() if (BUNDLED / "default").exists() else ""
FOLDERS_VARIABLE = "PILLOW_MCQUIC_WEIGHTS"
# one float32 tensor of these is small, and its rounding would be seen
FULL_PRECISION = ("klt_", "patch_mean", "deviation", "words.", "log_gain_", "log_step", "previews.")


def folders() -> list[Path]:
    """Where weights are looked for: $PILLOW_MCQUIC_WEIGHTS (a path list), then the bundled ones."""
    extra = os.environ.get(FOLDERS_VARIABLE, "")
    return [Path(p) for p in extra.split(os.pathsep) if p] + [BUNDLED]


def find(model_id: bytes) -> Path:
    """The weights file of an id; BadFileError saying what to do when it is not there."""
    name = f"{model_id.hex()}.safetensors"
    for folder in folders():
        if (folder / name).is_file():
            return folder / name
    raise BadFileError(
        f"this .mcq file was made with model {model_id.hex()}, which is not here (known: {', '.join(known())}); "
        f"upgrade pillow_mcquic, or put {name} into a folder named by ${FOLDERS_VARIABLE}"
    )


def known() -> list[str]:
    """The ids, in hexadecimal, of all weights that are here."""
    return sorted(p.stem for folder in folders() for p in folder.glob("*.safetensors"))


def default_id() -> bytes:
    """Id of the model that encodes: $PILLOW_MCQUIC_MODEL (hex) or the bundled default; ValueError if it is not here."""
    text = os.environ.get("PILLOW_MCQUIC_MODEL") or DEFAULT_ID
    try:
        model_id = bytes.fromhex(text)
    except ValueError:
        model_id = b""
    if len(model_id) != 4:
        raise ValueError(f"PILLOW_MCQUIC_MODEL must be 8 hexadecimal digits, got {text!r}")
    if text != DEFAULT_ID and text.lower() not in known():
        raise ValueError(f"PILLOW_MCQUIC_MODEL is {text}, which is not here (known: {', '.join(known())})")
    return model_id


def compute_id(config: str, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """First 4 bytes of the SHA-256 over the configuration and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.data)
    return digest.digest()[:4]


@dataclasses.dataclass(frozen=True)
class Weights:
    """A loaded weights file: `model` decides pixels, `prior` and `tables` (levels 1, 2, 3) decide the parse.

    `costs`: for the encoder, what words cost, by level and bank.
    """

    id: bytes
    config: Config
    model: Model
    prior: Prior
    tables: tuple[LevelTables, LevelTables, LevelTables]
    costs: list[list[Costs]]


def save(
    folder: str | os.PathLike[str],
    config_text: str,
    tensors: dict[str, NDArray[Any]],
    settings_text: str,
) -> Path:
    """Write a weights file named by its id into a folder; `settings_text` is kept for the record."""
    from safetensors.numpy import save_file

    path = Path(folder) / f"{compute_id(config_text, tensors).hex()}.safetensors"
    part = path.with_suffix(".part")
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, part, {"config": config_text, "settings": settings_text})
    part.chmod(0o644)
    os.replace(part, path)
    return path


def read(path: str | os.PathLike[str]) -> tuple[str, dict[str, NDArray[Any]], bytes]:
    """Configuration, tensors and id of a weights file; BadFileError when its content does not give its name."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, "np") as file:
            config_text = file.metadata()["config"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise BadFileError(f"weights file {path} cannot be read ({error}); reinstall pillow_mcquic") from error
    found = compute_id(config_text, arrays)
    if found.hex() != path.stem:
        raise BadFileError(f"weights file {path} is damaged (content id {found.hex()}); reinstall pillow_mcquic")
    return config_text, arrays, found


def load(path: str | os.PathLike[str]) -> Weights:
    """Read and build a weights file; BadFileError as of `read`, and when what it holds is no model of this version."""
    config_text, arrays, model_id = read(path)
    try:
        return build(config_text, arrays, model_id)
    except (KeyError, RuntimeError, ValueError) as error:  # torch's own for networks of other names or shapes
        reason = " ".join(str(error).split())  # torch's has several lines
        raise BadFileError(f"weights file {path} is not of this version ({reason}); upgrade pillow_mcquic") from error


def build(config_text: str, arrays: Mapping[str, NDArray[Any]], model_id: bytes) -> Weights:
    """Networks, prior and tables from the tensors of a weights file."""
    import torch

    from .coder import TOTAL_BITS, LevelTables, unpack_counts
    from .model.network import Config, Model
    from .model.prior import Prior
    from .model.quantiser import Costs

    config = Config.from_dict(json.loads(config_text))
    parameters = {
        name.removeprefix("net."): torch.from_numpy(array).float()
        for name, array in arrays.items()
        if name.startswith("net.")
    }
    # random numbers, to be replaced: on the meta device they would make torch import its compiler, for a second
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model = Model(config)
    model.load_state_dict(parameters, assign=True)
    model.requires_grad_(False).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    prior = Prior(config, {k: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("prior.")})
    levels, costs = [], []
    for level in (1, 2, 3):
        counts = [
            [unpack_counts(arrays[f"tables.{level}.{b}.{s}"]) for s in range(len(bank.stages))]
            for b, bank in enumerate(config.banks(level))
        ]
        bits = [[TOTAL_BITS - torch.from_numpy(table).float().log2() for table in mine] for mine in counts]
        costs.append(
            [Costs(bank, mine, config.error_per_bit) for bank, mine in zip(model.banks(level), bits, strict=True)]
        )
        groups = [
            [table[g] for table in mine]
            for bank, mine in zip(config.banks(level), counts, strict=True)
            for g in range(bank.groups)
        ]
        levels.append(LevelTables(groups))
    return Weights(model_id, config, model, prior, (levels[0], levels[1], levels[2]), costs)


def dump_config(config: Config) -> str:
    """The text of a configuration, as files hold it and ids are computed over it."""
    return json.dumps(config.to_dict(), sort_keys=True)
