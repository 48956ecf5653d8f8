"""The entropy model as it is trained: in floats, with the rounding of the whole numbers that run later.

`model/entropy_model.py` runs the same networks exactly, everywhere.  Hence their shape: clamped ReLU, edges replicated,
no normalisation.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.grids import Grids
from ..model.coding_state import CodingState
from ..model.config import Config
from ..model.entropy_model import ACTIVATION_ONE, EMBEDDING_ONE, ENERGY_ONE
from ..nn.integer import MAGNITUDE
from ..nn.layers import Pointwise, at_quality, per_channel
from ..nn.reshape import pad_ring

SHORT_SUM = 56_000  # of the magnitudes of an output's weights: times 255 well below 2^24
SHORT_POWERS = 3, 9  # least and greatest exponent of what weights are multiplied by
SCALE_IN, SCALE_OUT = 0.25, 4.0  # of codewords and of classes: they keep the weights themselves near one


def round_straight_through(x: Tensor) -> Tensor:
    """Rounded half up; the gradient goes straight through."""
    return x + (torch.floor(x + 0.5) - x).detach()


def short_power(weight: Tensor) -> Tensor:
    """Weights (outputs, ...) -> for each output the exponent (outputs,) of the power of two that makes eight bits."""
    size = weight.detach().abs().flatten(1)
    return torch.minimum(MAGNITUDE / size.amax(1), SHORT_SUM / size.sum(1)).log2().floor().clamp(*SHORT_POWERS)


def shorten(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs) as the integer networks have them; the gradient goes straight through."""
    one = short_power(weight).exp2()[:, None]
    return weight + ((weight * one).round().clamp(-MAGNITUDE, MAGNITUDE) / one - weight).detach()


def activation(x: Tensor) -> Tensor:
    """Clamped and rounded to what an activation of the integer networks can be."""
    return round_straight_through((x * ACTIVATION_ONE).clamp(0, MAGNITUDE)) / ACTIVATION_ONE


def of_position(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of each position: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return F.conv2d(x, weight[:, :, None, None], bias)


def of_neighbourhood(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of the 3x3 around each position; as a convolution in a fifth of the time."""
    return F.conv2d(pad_ring(x), weight.view(len(weight), -1, 3, 3), bias)


def log_energy(codewords: Tensor, dim: int) -> Tensor:
    """Codewords (B, groups * dim, h, w), in steps -> log2(1 + squared norm) of each (B, groups, h, w).

    The logarithm is linear between powers of two, in steps of an eighth, and ends below 32, which whole numbers of
    eight bits can follow exactly; its gradient is smooth.
    """
    B, C, h, w = codewords.shape
    energy = codewords.view(B, C // dim, dim, h, w).square().sum(2) + 1
    mantissa, exponent = torch.frexp(energy.detach())
    smooth = torch.log2(energy)
    eighths = ((exponent - 2 + 2 * mantissa) * ENERGY_ONE).floor().clamp(max=MAGNITUDE)
    return smooth + (eighths / ENERGY_ONE - smooth).detach()


class HyperNetwork(nn.Module):
    """Codewords of the coarser levels and quality -> fractional class of every group one level finer."""

    def __init__(self, inputs: int, outputs: int, width: int, qualities: int) -> None:
        super().__init__()
        self.input = Pointwise(inputs, width, 1.4)
        self.neighbourhood = Pointwise(width * 9, width, 0.7)
        self.output = Pointwise(width, outputs * 4, 0.3)
        self.hidden_bias = nn.Parameter(torch.zeros(qualities, width))
        self.class_bias = nn.Parameter(torch.zeros(qualities, outputs))

    def forward(self, embedding: Tensor, quality: Tensor) -> Tensor:
        """Sums of codewords (B, inputs, h, w) -> classes, then inputs of context networks (B, outputs, 2h, 2w)."""
        x = round_straight_through(embedding * EMBEDDING_ONE).clamp(-MAGNITUDE, MAGNITUDE) * (SCALE_IN / EMBEDDING_ONE)
        x = of_position(shorten(self.input.weight), self.input.bias, x)
        x = activation(x + per_channel(at_quality(self.hidden_bias, quality)))
        near = of_neighbourhood(shorten(self.neighbourhood.weight), self.neighbourhood.bias, x)
        x = activation(x + near.clamp(min=0))
        # the four positions of an output share their power of two
        weight = shorten(self.output.weight.view(-1, 4 * x.shape[1])).view_as(self.output.weight)
        classes = F.pixel_shuffle(of_position(weight, self.output.bias, x) * SCALE_OUT, 2)
        return classes + per_channel(at_quality(self.class_bias, quality))


class ContextNetwork(nn.Module):
    """Log energies of the earlier banks of level 1 -> what they add to the classes of a bank.

    Where the large components of a photo need many steps the small ones do too, here and next door.
    """

    def __init__(self, inputs: int, groups: int, width: int, sees_neighbours: bool = True) -> None:
        super().__init__()
        self.sees_neighbours = sees_neighbours
        self.input = Pointwise(inputs * (9 if sees_neighbours else 1), width, 0.3)
        self.output = Pointwise(width, groups, 0.0)

    def forward(self, energies: Tensor, entering: Tensor) -> Tensor:
        """Log energies (B, inputs, h, w), inputs from the coarse levels (B, width, h, w) -> (B, groups, h, w)."""
        layer = of_neighbourhood if self.sees_neighbours else of_position
        x = activation(layer(shorten(self.input.weight), self.input.bias, energies) + entering)
        return of_position(shorten(self.output.weight), self.output.bias, x) * SCALE_OUT


class TrainedEntropyModel(nn.Module):
    """Classes of all banks from quality and codewords already known, with gradients.

    What a coding state pushes are the codewords of a bank (B, groups * dim, h, w), in steps.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = c = config
        width, qualities, banks = c.hyper_network_width, c.qualities, c.banks_of(1)
        inputs = {2: c.channels(3), 1: c.channels(2) + c.channels(3)}
        outputs = {2: c.groups(2), 1: c.groups(1) + c.context_width * (len(banks) - 1)}
        self.class_3 = nn.Parameter(torch.zeros(qualities, c.groups(3)))
        self.hypers = nn.ModuleDict(
            {str(level): HyperNetwork(inputs[level], outputs[level], width, qualities) for level in (1, 2)}
        )
        self.contexts, seen = nn.ModuleDict(), 0
        for number in banks:
            if number > banks.start:
                # the last one has so many inputs at its own position that their neighbours tell next to nothing more
                near = number < banks[-1]
                self.contexts[str(number)] = ContextNetwork(seen, c.banks[number].groups, c.context_width, near)
            seen += c.banks[number].groups

    def hyper_network(self, level: int) -> HyperNetwork:
        """The hyper network of level 2 or 1."""
        return cast(HyperNetwork, self.hypers[str(level)])

    def begin(self, quality: Tensor, grids: Grids, batch: int) -> CodingState[Tensor]:
        """The coding state of a batch of crops; quality (B,)."""
        return CodingState(self, self.config, quality, grids, batch)

    def static_classes(self, quality: Tensor, grid: tuple[int, int], batch: int) -> Tensor:
        """Classes of level 3 (B, groups, *grid)."""
        return per_channel(at_quality(self.class_3, quality)).expand(batch, -1, *grid)

    def embedding(self, number: int, known: Tensor) -> Tensor:
        """The codewords themselves."""
        return known

    def log_energies(self, number: int, known: Tensor) -> Tensor:
        """`log_energy` of a bank's groups."""
        return log_energy(known, self.config.banks[number].dim)

    def hyper(self, level: int, embedding: Tensor, quality: Tensor) -> Tensor:
        """All outputs of a hyper network."""
        outputs: Tensor = self.hyper_network(level)(embedding, quality)
        return outputs

    def bank_classes(
        self, number: int, hyper: Tensor, energies: list[Tensor], quality: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Fractional classes of a bank (B, groups, *grid)."""
        level, hyper = self.config.banks[number].level, hyper[:, :, : grid[0], : grid[1]]
        banks, width = self.config.banks_of(level), self.config.context_width
        sizes = [self.config.banks[bank].groups for bank in banks] + [width] * (len(banks) - 1)
        parts, place = torch.split(hyper, sizes, 1), number - banks.start
        classes = parts[place]
        if place:
            classes = classes + self.contexts[str(number)](torch.cat(energies, 1), parts[len(banks) + place - 1])
        return classes
