"""Checkpoints, and the first weights of a run from a checkpoint or a weights file (warm start)."""

from __future__ import annotations

import io
import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic_write import write_whole
from ..bitstream.tables import unpack_counts
from ..engine.bundle import ENTROPY_MODEL, TABLES, read_decoder, read_encoder
from ..model.config import Config
from ..weights_files import ENCODER_SUFFIX
from .initial import grow_blocks, new_objective
from .integers import import_entropy_model
from .objective import Objective
from .settings import Settings

State = dict[str, Tensor]
# what of the entropy networks has a place for every group of level 1
OF_GROUPS = ("entropy_networks.contexts.", "entropy_networks.hypers.1.output.", "entropy_networks.hypers.1.class_bias")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole, in place of the one there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue(), overwrite=True)


def read(path: Path) -> dict[str, Any]:
    """What `save` was given; ValueError when the file is no checkpoint."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        state = None
    if not isinstance(state, dict) or "objective" not in state:
        raise ValueError(f"{path} is not a checkpoint of this training")
    return state


def restore(objective: Objective, state: State, path: Path) -> None:
    """Load the whole state of a checkpoint; ValueError when it is of another model."""
    own = objective.state_dict()
    other = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
    if other:
        raise ValueError(
            f"{path} is of an earlier version or of other settings ({len(other)} tensors differ, such as {other[0]}); "
            "begin a new run with what fits of it: --start-from"
        )
    objective.load_state_dict(state)


def load_objective(path: Path) -> tuple[Objective, Settings]:
    """Objective and settings of a checkpoint, for inference; ValueError when it is none of this version."""
    state = read(path)
    settings = Settings.from_dict(json.loads(state["settings"]))
    objective = new_objective(settings)
    restore(objective, state["objective"], path)
    return objective.eval(), settings


def read_state(path: Path) -> State:
    """The state of an `Objective`, of a checkpoint or of a decoder's weights file with its encoder's beside it."""
    return read(path)["objective"] if path.suffix != ".safetensors" else _read_weights(path)


def _read_weights(path: Path) -> State:
    """What weights files tell of the objective: entropy networks from their integers, logits from the tables."""
    decoder, encoder = read_decoder(path), read_encoder(path.with_suffix(ENCODER_SUFFIX))
    config = Config.from_dict(json.loads(decoder.config))
    state: State = {f"encoder.{name}": torch.from_numpy(array).float() for name, array in encoder.arrays.items()}
    integers = {}
    for name, array in decoder.arrays.items():
        if name.startswith(TABLES):
            _, bank, stage = name.split(".")
            state[f"tables.{bank}.logits.{stage}"] = torch.from_numpy(unpack_counts(array)).double().log().float()
        elif name.startswith(ENTROPY_MODEL):
            integers[name.removeprefix(ENTROPY_MODEL)] = torch.from_numpy(array)
        else:
            state[f"decoder.{name}"] = torch.from_numpy(array).float()
    networks = import_entropy_model(integers, config)
    return state | {f"entropy_networks.{name}": tensor for name, tensor in networks.items()}


def load_matching(objective: Objective, source: State) -> list[str]:
    """Copy into `objective` what fits, and return the names of what did not fit entirely.

    Tensors of another size give the part both have: channels, codewords and units keep their places.  A bank of other
    stages or vectors begins anew, and with it what the entropy networks know of single groups.  A block that `source`
    lacks begins as the identity.
    """
    partial, own = [], objective.state_dict()
    banks, other_banks = _vectors(own), _vectors(source)
    with torch.no_grad():
        for name, target in own.items():
            if name.endswith(".error_cost"):
                continue  # measured anew
            other = banks != other_banks and name.startswith(OF_GROUPS)
            if bank := re.match(r"(?:decoder\.codebooks|tables)\.(\d+)\.", name):
                other = [s[1:] for s in banks[bank[1]]] != [s[1:] for s in other_banks.get(bank[1], [])]
            if other or name not in source or source[name].ndim != target.ndim:
                partial.append(name)
                continue
            to, given = by_position(name, target), by_position(name, source[name])
            both = tuple(slice(min(a, b)) for a, b in zip(to.shape, given.shape, strict=True))
            to[both] = given[both]
            if target.shape != source[name].shape:
                partial.append(name)
    grow_blocks(objective, set(source))
    return partial


def _vectors(state: State) -> dict[str, list[tuple[int, int]]]:
    """Of every bank, by its number, the groups and the size of vectors of each stage."""
    found: dict[str, list[tuple[int, int]]] = {}
    for name, tensor in state.items():
        if name.startswith("decoder.codebooks.") and ".codewords." in name:
            found.setdefault(name.split(".")[2], []).append((tensor.shape[0], tensor.shape[2]))
    return found


def by_position(name: str, tensor: Tensor) -> Tensor:
    """Weights that hold several positions of every channel, with positions apart from the channels; a view."""
    if ".checkerboard.passes." in name and name.endswith(("straight.weight", "input.weight")):
        return tensor.unflatten(1, (8, -1))  # type: ignore[no-any-return,no-untyped-call]
    if ".merge" in name and name.endswith(".projection.weight"):
        return tensor.unflatten(1, (4, -1))  # type: ignore[no-any-return,no-untyped-call]
    if ".expand" in name and ".projection." in name:
        return tensor.unflatten(0, (4, -1))  # type: ignore[no-any-return,no-untyped-call]
    return tensor
