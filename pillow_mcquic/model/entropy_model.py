"""The entropy model: which probability table codes each codeword, in whole numbers, the same on every device.

A hyper network sees the codewords of all coarser levels; a context network also those of the earlier banks of level 1,
here and next door.  Both are trained in floats with the rounding that they have here (`training/entropy_networks.py`)
and run on `nn/integer.py` (docs/format.md, section 4).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.grids import Grids
from ..nn.integer import (
    MAGNITUDE,
    add_finer,
    at_quality,
    block_rows,
    bound,
    by_row,
    check_sums,
    half,
    holding_type,
    neighbourhood_product,
    power,
    product,
    put_finer,
    with_bias,
)
from ..nn.reshape import pad_ring
from ..quality import STEPS, Quality
from .coding_state import CodingState
from .config import Config

# What a number of the float networks is in whole numbers.
ACTIVATION_ONE = 32  # of an activation of 1
EMBEDDING_ONE = 4  # of a codeword component of one step
ENERGY_ONE = 8  # of a factor of two
CODEWORD_ONE = 64  # of a codeword component of one step, as weights files hold it
CLASS_ONE = 1 << 8  # of the static classes of level 3


def log_energy(codewords: Tensor) -> Tensor:
    """Integer codewords (..., dim) float64 -> log2(1 + squared norm) in eighths, (...) uint8.

    Linear between powers of two: exponent and mantissa of a float64 that holds the energy exactly.
    """
    mantissa, exponent = torch.frexp(codewords.square().sum(-1) / CODEWORD_ONE**2 + 1)
    eighths = (exponent - 2) * ENERGY_ONE + torch.floor(mantissa * (2 * ENERGY_ONE))
    return eighths.clamp_(max=MAGNITUDE).to(torch.uint8)


class HyperNetwork:
    """Embeddings of coarser levels -> classes of the groups of a level, and what enters its context networks.

    `tensors`: those of one network, by `NAMES`; groups: how many of the first outputs are classes.
    """

    NAMES = (
        "input.weight",
        "input.shift",
        "hidden_bias",
        "neighbourhood.weight",
        "neighbourhood.shift",
        "neighbourhood.bias",
        "output.weight",
        "output.shift",
        "output.bias",
        "class_bias",
    )

    def __init__(self, tensors: Mapping[str, Tensor], groups: int) -> None:
        self.input, self.input_shift, self.hidden_bias = (tensors[name] for name in self.NAMES[:3])
        neighbourhood, shift, bias = (tensors[name] for name in self.NAMES[3:6])
        output, self.shift, output_bias, self.class_bias = (tensors[name] for name in self.NAMES[6:])
        self.neighbourhood = by_row(neighbourhood, bias + half(shift), shift)
        outputs = len(self.shift)
        # a row for each of the four finer positions of each output
        self.output, self.output_bias = output.view(outputs, 4, -1), output_bias.view(outputs, 4)
        self.half = half(self.shift)
        self.half[groups:] = 0  # what enters context networks is rounded there
        bound(self.input, self.hidden_bias.abs().amax(0), self.input_shift)
        bound(neighbourhood, bias, shift)
        largest = self.output_bias.abs() + self.class_bias.abs().amax(0)[:, None]
        four_shifts = self.shift.repeat_interleave(4)
        self.largest = bound(output, largest.flatten(), four_shifts).view(outputs, 4).amax(1)

    def hidden(self, embedding: Tensor, quality: Quality) -> Tensor:
        """Embeddings (B, inputs, h, w) -> hidden activations (B, width, h, w) uint8."""
        h, held = embedding.shape[2], holding_type(embedding.device)
        bias = at_quality(self.hidden_bias, quality.steps, STEPS) + half(self.input_shift)
        first = with_bias(self.input, bias, self.input_shift).to(embedding.device, held)
        second = self.neighbourhood.to(embedding.device, held)
        padded = pad_ring(embedding)
        rows = block_rows(embedding)
        blocks = []
        for top in range(0, h, rows):
            block = padded[..., top : min(h, top + rows) + 2, :]
            near = product(first, block).floor_().clamp_(0, MAGNITUDE)
            x = neighbourhood_product(second, near).floor_().clamp_(min=0)
            blocks.append(x.add_(near[..., 1:-1, 1:-1]).clamp_(max=MAGNITUDE).to(torch.uint8))
        return torch.cat(blocks, 2)

    def output_weight(self, which: list[int], quality: Quality, device: torch.device) -> Tensor:
        """What `quarters` takes to give some of the outputs."""
        class_bias = at_quality(self.class_bias, quality.steps, STEPS)
        bias = self.output_bias + (class_bias + self.half)[:, None]
        shift = self.shift[which].repeat_interleave(4)
        weight = with_bias(self.output[which].flatten(0, 1), bias[which].flatten(), shift)
        return weight.to(device, holding_type(device))

    @staticmethod
    def quarters(weight: Tensor, hidden: Tensor) -> Tensor:
        """Outputs at the four finer positions (B, n, 4, h, w): classes with a half more, or activations."""
        return product(weight, hidden).unflatten(1, (-1, 4))  # type: ignore[no-any-return,no-untyped-call]


class ContextNetwork:
    """Log energies of the earlier banks of a level -> what the classes of a bank gain.

    Parameters
    ----------
    tensors : those of one network, by `NAMES`.
    inputs : log energies at a position; the weights tell whether those next door count, too.
    entering, base : the largest value, and the shift, of the outputs of the hyper network that enter, and of those that
        are added to.
    """

    NAMES = ("input.weight", "input.shift", "input.bias", "output.weight", "output.shift", "output.bias")

    def __init__(
        self, tensors: Mapping[str, Tensor], inputs: int, entering: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor]
    ) -> None:
        weight, shift, bias, output, output_shift, output_bias = (tensors[name] for name in self.NAMES)
        self.sees_neighbours = weight.shape[1] != inputs
        for matrix, own_bias, own_shift, (largest, other_shift) in (
            (weight, bias, shift, entering),
            (output, output_bias, output_shift, base),
        ):
            sums = bound(matrix, own_bias, own_shift) + largest + 1
            check_sums(sums * power(torch.maximum(own_shift, other_shift)))
        self.input = (by_row if self.sees_neighbours else with_bias)(weight, bias + half(shift), shift)
        self.output = with_bias(output, output_bias, output_shift)

    def gains(self, energies: list[Tensor], entering: Tensor) -> Tensor:
        """What classes gain, in classes, (B, groups, h, w).

        energies: padded, (B, inputs, h+2, w+2), one bank after another; entering: as of `HyperNetwork.quarters`, with
        sides rounded up, or more rows than are used.
        """
        held = holding_type(entering.device)
        weight, output = (matrix.to(entering.device, held) for matrix in (self.input, self.output))
        if self.sees_neighbours:
            x = neighbourhood_product(weight, *energies)
        else:
            x = product(weight, *(energy[..., 1:-1, 1:-1] for energy in energies))
        x = add_finer(entering, x).floor_().clamp_(0, MAGNITUDE)
        return product(output, x)


class EntropyModel:
    """Classes of all banks from quality and codes already known.

    `tensors`: the entries "entropy_model.*" of a weights file without that prefix: hyper networks of levels 2 and 1, a
    context network for each bank of level 1 but the first, static classes of level 3, and every codeword as whole
    numbers, `codeword.BANK.STAGE` (groups, K, dim).
    """

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        self.config = config
        self.class_3 = tensors["class_3"]
        self.hypers = {level: HyperNetwork(under(f"hyper.{level}."), config.groups(level)) for level in (1, 2)}
        self.contexts: dict[int, ContextNetwork] = {}
        banks, hyper = config.banks_of(1), self.hypers[1]
        sizes = [config.banks[number].groups for number in banks] + [config.context_width] * (len(banks) - 1)
        bounds = [*zip(*(torch.split(t, sizes) for t in (hyper.largest, hyper.shift)), strict=True)]
        inputs = 0
        for place, number in enumerate(banks):
            if place:
                entering, base = bounds[len(banks) + place - 1], bounds[place]
                self.contexts[number] = ContextNetwork(under(f"context.{number}."), inputs, entering, base)
            inputs += config.banks[number].groups
        self.codewords = [
            [tensors[f"codeword.{number}.{stage}"] for stage in range(len(bank.stages))]
            for number, bank in enumerate(config.banks)
        ]
        # for every bank the log energies of the last stage's codewords behind zero codewords, (groups, K) uint8
        self.behind_zero = [
            log_energy(functools.reduce(torch.add, [t[:, :1].double() for t in stages[:-1]] + [stages[-1].double()]))
            for stages in self.codewords
        ]

    def begin(self, quality: Quality, grids: Grids, batch: int, device: torch.device) -> CodingState[Quality]:
        """The coding state of `batch` pictures of one size and quality."""
        return CodingState(_OnDevice(self, device), self.config, quality, grids, batch)

    def embedding(self, number: int, codes: Tensor) -> Tensor:
        """Codes of a bank (B, groups, stages, h, w) -> their rounded codewords (B, groups * dim, h, w)."""
        bank, device = self.config.banks[number], codes.device
        groups, parts = torch.arange(bank.groups, device=device), []
        for table, index in zip(self.codewords[number], codes.unbind(2), strict=True):
            at = index.permute(0, 2, 3, 1) + groups * table.shape[1]
            parts.append(F.embedding(at, table.flatten(0, 1).to(device, holding_type(device))))
        total = functools.reduce(torch.add, parts)
        total = total.div(CODEWORD_ONE // EMBEDDING_ONE).add_(0.5).floor_().clamp_(-MAGNITUDE, MAGNITUDE)
        return total.flatten(3).permute(0, 3, 1, 2)

    def log_energies(self, number: int, codes: Tensor) -> Tensor:
        """Codes of a bank (B, groups, stages, h, w) -> log energies of its groups, padded, (B, groups, h+2, w+2) uint8.

        Few vectors have a codeword other than the zero one at an earlier stage than the last: the others are looked up.
        """
        tables, table = self.codewords[number], self.behind_zero[number].to(codes.device)
        B, groups, stages, h, w = codes.shape
        flat = codes.reshape(B, groups, stages, -1)
        result = torch.gather(table.expand(B, -1, -1), 2, flat[:, :, -1].long())
        if stages > 1:
            image, group, at = (flat[:, :, :-1] != 0).any(2).nonzero(as_tuple=True)
            summed = torch.zeros(len(group), tables[0].shape[2], dtype=torch.float64, device=codes.device)
            for stage, codewords in enumerate(tables):
                summed += codewords.to(codes.device)[group, flat[image, group, stage, at].long()]
            result[image, group, at] = log_energy(summed)
        return pad_ring(result.view(B, groups, h, w))

    def static_classes(self, quality: Quality, grid: tuple[int, int], batch: int) -> Tensor:
        """Classes of level 3 (batch, groups, *grid) uint8."""
        classes = (at_quality(self.class_3, quality.steps, STEPS).double() / CLASS_ONE + 0.5).floor_()
        classes = classes.clamp_(0, self.config.classes - 1).to(torch.uint8)
        return classes[None, :, None, None].expand(batch, -1, *grid)

    def bank_classes(
        self, number: int, hidden: Tensor, energies: list[Tensor], quality: Quality, grid: tuple[int, int]
    ) -> Tensor:
        """Classes of a bank (B, groups, *grid) uint8.

        hidden: of the level's hyper network; energies: of `log_energies`, of the level's banks before this one.
        """
        bank, (h, w), device = self.config.banks[number], grid, hidden.device
        banks, hyper = self.config.banks_of(bank.level), self.hypers[bank.level]
        place, top_class = number - banks.start, self.config.classes - 1
        first = sum(self.config.banks[earlier].groups for earlier in banks[:place])
        which = [*range(first, first + bank.groups)]
        if place:
            start = self.config.groups(bank.level) + (place - 1) * self.config.context_width
            which += range(start, start + self.config.context_width)
        weight = hyper.output_weight(which, quality, device)
        classes = torch.empty(len(hidden), bank.groups, h, w, dtype=torch.uint8, device=device)
        rows = block_rows(hidden, 4)  # of the coarser grid
        for top in range(0, hidden.shape[2], rows):
            quarters = hyper.quarters(weight, hidden[:, :, top : top + rows])
            start, end = 2 * top, min(h, 2 * (top + rows))
            block = classes[:, :, start:end]
            if place:
                near = [energy[:, :, start : end + 2] for energy in energies]
                gains = self.contexts[number].gains(near, quarters[:, bank.groups :])
                block.copy_(add_finer(quarters[:, : bank.groups], gains).clamp_(0, top_class))
            else:
                put_finer(quarters.clamp_(0, top_class), block)
        return classes


class _OnDevice:
    """The networks of an entropy model as a coding state asks them, on one device."""

    def __init__(self, model: EntropyModel, device: torch.device) -> None:
        self.embedding, self.log_energies, self.bank_classes = model.embedding, model.log_energies, model.bank_classes
        self.model, self.device = model, device

    def static_classes(self, quality: Quality, grid: tuple[int, int], batch: int) -> Tensor:
        return self.model.static_classes(quality, grid, batch).to(self.device)

    def hyper(self, level: int, embedding: Tensor, quality: Quality) -> Tensor:
        return self.model.hypers[level].hidden(embedding, quality)
