"""First weights of a run from another model: a checkpoint or a weights file, of the same layout or another."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from ..coder import unpack_counts
from ..model.layers import Block
from ..model.network import Config
from ..model.prior import CLASS_ONE, import_class_network, import_context_network
from ..model.quantiser import Bank
from .objective import Objective
from .settings import Settings

State = dict[str, Tensor]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `train` saved; ValueError when the file is no checkpoint."""
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


def read(path: Path) -> tuple[State, Config]:
    """The state of an `Objective` and its configuration, of a checkpoint or a weights file."""
    if path.suffix == ".safetensors":
        return _read_weights(path)
    state = read_checkpoint(path)
    return state["objective"], Settings.from_dict(json.loads(state["settings"])).model


def _read_weights(path: Path) -> tuple[State, Config]:
    """What a weights file tells of the objective: class networks from their integers, logits from the tables."""
    config_text, arrays, _ = weights.read(path)
    config = Config.from_dict(json.loads(config_text))
    state: State = {}

    def under(prefix: str) -> State:
        return {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}

    for name, array in arrays.items():
        kind, _, rest = name.partition(".")
        tensor = torch.from_numpy(unpack_counts(array) if kind == "tables" else array)
        if kind == "net":
            state[f"model.{rest}"] = tensor.float()
        elif kind == "tables":
            level, bank, stage = rest.split(".")
            state[f"tables_{level}.banks.{bank}.logits.{stage}"] = tensor.double().log().float()
        elif rest == "class_3":
            state[rest] = (tensor.double() / CLASS_ONE).float()
    if "prior.network_1.enter.shift" not in arrays:
        raise ValueError(f"the class networks of {path} are of an earlier kind; start from newer weights")
    for number in (1, 2):
        groups = sum(bank.groups for bank in config.banks(number))
        imported = import_class_network(under(f"prior.network_{number}."), groups)
        state.update({f"class_network_{number}.{name}": tensor for name, tensor in imported.items()})
    for number in range(1, len(config.level1)):
        imported = import_context_network(under(f"prior.context_{number}."))
        state.update({f"context_networks.{number - 1}.{name}": tensor for name, tensor in imported.items()})
    return state, config


def adopt(objective: Objective, source: State, config: Config) -> list[str]:
    """Copy into `objective` what fits, and return the names of what did not fit entirely.

    Tensors of another size give the part both have: latent channels, codebooks and units keep their places.
    The classes and tables of a group of y1 come from the group of `config` that held its first channel.  A block
    that `source` lacks begins as the identity.
    """
    partial = []
    layout = objective.model.config
    with torch.no_grad():
        for name, target in objective.state_dict().items():
            if name.endswith(".error_cost"):
                continue  # measured anew
            earlier = "model.phase_means.0.leave.weight" not in source  # activations had another range then
            if name not in source or (earlier and name.startswith(("class_network_", "context_networks."))):
                partial.append(name)
                continue
            tensor = source[name]
            of_groups = name.startswith("class_network_1.") and name.split(".")[1] in ("leave", "class_bias")
            if of_groups and layout.level1 != config.level1:
                tensor = regroup(name, tensor, layout.level1, config.level1)
            if name.startswith(("model.quantiser1.", "tables_1.")):
                ours, other = (c.level1[int(name.split(".banks.")[1].split(".")[0])] for c in (layout, config))
                if (ours.dim, [s for _, s in ours.stages]) != (other.dim, [s for _, s in other.stages]):
                    partial.append(name)
                    continue
            mine, theirs = by_position(name, target), by_position(name, tensor)
            both = tuple(slice(min(a, b)) for a, b in zip(mine.shape, theirs.shape, strict=True))
            mine[both] = theirs[both]
            if target.shape != tensor.shape:
                partial.append(name)
        for name, module in objective.named_modules():
            if isinstance(module, Block) and f"{name}.leave.weight" not in source:
                module.leave.weight.zero_()
                if module.expansion:
                    module.contract.weight.zero_()
    return partial


def by_position(name: str, tensor: Tensor) -> Tensor:
    """Weights of `Down`, `Up` and `PhaseMean` with positions apart from the channels, others as they are; a view."""
    if ".phase_means." in name and name.endswith(("straight.weight", "enter.weight")):
        return tensor.unflatten(1, (8, -1))  # type: ignore[no-any-return,no-untyped-call]
    if name.endswith(".of_four.weight"):
        return tensor.unflatten(1, (4, -1))  # type: ignore[no-any-return,no-untyped-call]
    return tensor.unflatten(0, (4, -1)) if ".to_four." in name else tensor  # type: ignore[no-untyped-call]


def regroup(name: str, tensor: Tensor, banks: tuple[Bank, ...], source: tuple[Bank, ...]) -> Tensor:
    """Rows (or columns, for the class bias) of class network 1 for the groups of `banks`."""

    def starts(layout: tuple[Bank, ...]) -> list[int]:
        at, result = 0, []
        for bank in layout:
            result += [at + bank.dim * g for g in range(bank.groups)]
            at += bank.groups * bank.dim
        return result

    theirs = starts(source)
    last = theirs[-1] + source[-1].dim
    groups = [max(i for i, start in enumerate(theirs) if start <= mine) for mine in starts(banks) if mine < last]
    if name.endswith("class_bias"):
        return tensor[:, groups]
    return tensor.view(-1, 4, *tensor.shape[1:])[groups].flatten(0, 1)
