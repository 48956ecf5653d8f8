"""Trained entropy networks <-> the whole numbers that weights files hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.config import Config
from ..model.entropy_model import ACTIVATION_ONE, CLASS_ONE, CODEWORD_ONE, EMBEDDING_ONE, ENERGY_ONE
from ..model.model import DecoderModel
from ..nn.integer import MAGNITUDE
from .entropy_networks import SCALE_IN, SCALE_OUT, ContextNetwork, HyperNetwork, TrainedEntropyModel, short_power

# by how much the whole numbers of an output are more than the real ones, over how much those of its inputs are
INPUT = ACTIVATION_ONE / (EMBEDDING_ONE / SCALE_IN)
NEIGHBOURHOOD = 1.0
CLASSES = SCALE_OUT / ACTIVATION_ONE
ENTERING = SCALE_OUT
ENERGIES = ACTIVATION_ONE / ENERGY_ONE


def whole_weight(weight: Tensor, factor: Tensor | float, per: int = 1) -> tuple[Tensor, Tensor]:
    """Trained weight (outputs * per, inputs) -> whole numbers, int16, and the shift of each output, int16.

    factor: of each output, see `INPUT` and what follows.
    """
    power = short_power(weight.detach().view(-1, per * weight.shape[1]))
    whole = torch.round(weight.detach() * torch.exp2(power).repeat_interleave(per)[:, None])
    shift = (power - torch.log2(torch.as_tensor(factor))).round()
    return whole.clamp(-MAGNITUDE, MAGNITUDE).to(torch.int16), shift.to(torch.int16)


def whole_bias(bias: Tensor, unit: Tensor | float, shift: Tensor) -> Tensor:
    """Trained bias (..., outputs) in whole numbers, int32; unit: what an output of 1 is, before it is shifted."""
    return torch.round(bias.detach().double() * unit * torch.exp2(shift.double())).to(torch.int32)


def real_weight(weight: Tensor, shift: Tensor, factor: Tensor | float) -> Tensor:
    """The inverse of `whole_weight`, but for rounding."""
    rows = len(weight) // len(shift)
    return weight.float() / (torch.exp2(shift.float()) * factor).repeat_interleave(rows)[:, None]


def real_bias(bias: Tensor, unit: Tensor | float, shift: Tensor) -> Tensor:
    """The inverse of `whole_bias`, but for rounding."""
    return (bias.double() / (torch.exp2(shift.double()) * unit)).float()


def _output_units(outputs: int, groups: int) -> tuple[Tensor, Tensor]:
    """Outputs of a hyper network, `groups` of them classes: what one is, and the factor as of `whole_weight`."""
    of_groups = torch.arange(outputs) < groups
    return torch.where(of_groups, 1.0, float(ACTIVATION_ONE)), torch.where(of_groups, CLASSES, ENTERING)


def export_hyper_network(network: HyperNetwork, groups: int) -> dict[str, Tensor]:
    """The integer tensors of a trained hyper network; groups: how many of the first outputs are classes."""
    outputs = network.class_bias.shape[1]
    unit, factor = _output_units(outputs, groups)
    weight, weight_shift = whole_weight(network.input.weight, INPUT)
    neighbourhood, shift = whole_weight(network.neighbourhood.weight, NEIGHBOURHOOD)
    output, output_shift = whole_weight(network.output.weight, factor, per=4)
    bias = network.output.bias.view(outputs, 4).t() * SCALE_OUT
    return {
        "input.weight": weight,
        "input.shift": weight_shift,
        "hidden_bias": whole_bias(network.hidden_bias + network.input.bias, ACTIVATION_ONE, weight_shift),
        "neighbourhood.weight": neighbourhood,
        "neighbourhood.shift": shift,
        "neighbourhood.bias": whole_bias(network.neighbourhood.bias, ACTIVATION_ONE, shift),
        "output.weight": output,
        "output.shift": output_shift,
        "output.bias": whole_bias(bias, unit, output_shift).t().flatten(),
        "class_bias": whole_bias(network.class_bias, unit, output_shift),
    }


def export_context_network(network: ContextNetwork) -> dict[str, Tensor]:
    """The integer tensors of a trained context network."""
    weight, shift = whole_weight(network.input.weight, ENERGIES)
    output, output_shift = whole_weight(network.output.weight, CLASSES)
    return {
        "input.weight": weight,
        "input.shift": shift,
        "input.bias": whole_bias(network.input.bias, ACTIVATION_ONE, shift),
        "output.weight": output,
        "output.shift": output_shift,
        "output.bias": whole_bias(network.output.bias, SCALE_OUT, output_shift),
    }


def import_hyper_network(tensors: Mapping[str, Tensor], groups: int) -> dict[str, Tensor]:
    """The inverse of `export_hyper_network`, but for rounding."""
    weight_shift, shift, output_shift = (tensors[f"{name}.shift"] for name in ("input", "neighbourhood", "output"))
    unit, factor = _output_units(len(output_shift), groups)
    bias = real_bias(tensors["output.bias"].view(-1, 4).t(), unit, output_shift).t().flatten()
    return {
        "input.weight": real_weight(tensors["input.weight"], weight_shift, INPUT),
        "input.bias": torch.zeros(len(weight_shift)),  # it is in the hidden bias
        "hidden_bias": real_bias(tensors["hidden_bias"], ACTIVATION_ONE, weight_shift),
        "neighbourhood.weight": real_weight(tensors["neighbourhood.weight"], shift, NEIGHBOURHOOD),
        "neighbourhood.bias": real_bias(tensors["neighbourhood.bias"], ACTIVATION_ONE, shift),
        "output.weight": real_weight(tensors["output.weight"], output_shift, factor),
        "output.bias": bias / SCALE_OUT,
        "class_bias": real_bias(tensors["class_bias"], unit, output_shift),
    }


def import_context_network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `export_context_network`, but for rounding."""
    shift, output_shift = tensors["input.shift"], tensors["output.shift"]
    return {
        "input.weight": real_weight(tensors["input.weight"], shift, ENERGIES),
        "input.bias": real_bias(tensors["input.bias"], ACTIVATION_ONE, shift),
        "output.weight": real_weight(tensors["output.weight"], output_shift, CLASSES),
        "output.bias": real_bias(tensors["output.bias"], SCALE_OUT, output_shift),
    }


def whole_codewords(codewords: Tensor) -> Tensor:
    """Codewords of a stage (groups, K, dim) in 64ths of a step, int16; a component beyond 512 steps counts as 512."""
    return torch.round(codewords.detach().double() * CODEWORD_ONE).clamp(-32767, 32767).to(torch.int16)


def export_entropy_model(networks: TrainedEntropyModel, model: DecoderModel) -> dict[str, NDArray[np.generic]]:
    """All tensors of `model.entropy_model.EntropyModel`, as a weights file holds them but for the prefix."""
    tensors: dict[str, Tensor] = {
        "class_3": torch.round(networks.class_3.detach().double() * CLASS_ONE).to(torch.int32)
    }
    for level in (1, 2):
        exported = export_hyper_network(networks.hyper_network(level), model.config.groups(level))
        tensors |= {f"hyper.{level}.{name}": tensor for name, tensor in exported.items()}
    for name, context in networks.contexts.items():
        assert isinstance(context, ContextNetwork)
        tensors |= {f"context.{name}.{part}": tensor for part, tensor in export_context_network(context).items()}
    for number in range(len(model.config.banks)):
        for stage, codewords in enumerate(model.books(number).codewords):
            tensors[f"codeword.{number}.{stage}"] = whole_codewords(codewords)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def import_entropy_model(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """State of a `TrainedEntropyModel` from the tensors of a weights file, but for rounding."""

    def under(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    state = {"class_3": (tensors["class_3"].double() / CLASS_ONE).float()}
    for level in (1, 2):
        imported = import_hyper_network(under(f"hyper.{level}."), config.groups(level))
        state |= {f"hypers.{level}.{name}": tensor for name, tensor in imported.items()}
    for number in config.banks_of(1)[1:]:
        imported = import_context_network(under(f"context.{number}."))
        state |= {f"contexts.{number}.{name}": tensor for name, tensor in imported.items()}
    return state
