"""The networks that choose the probability table of every codeword, as they are trained; `prior.py` runs them."""

from __future__ import annotations

import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .distortion import QUALITIES
from .layers import Pointwise, at_quality, per_channel
from .network import Config

# What class networks and context networks compute with, in whole numbers (`prior.py`): activations and energies of 0 to
# SHORT_MAX, embeddings of -SHORT_MAX to SHORT_MAX, weights likewise with a power of two for each output.
SHORT_MAX = 255
SHORT_SUM = 56_000  # of the magnitudes of an output's weights: times SHORT_MAX well below 2^24
SHORT_POWERS = 3, 9  # least and greatest exponent of what weights are multiplied by
ACTIVATION_ONE = 32  # of an activation of 1
EMBEDDING_ONE = 4  # of a codeword of one step
ENERGY_ONE = 8  # of a factor of two


def whole(x: Tensor) -> Tensor:
    """Rounded half up; the gradient goes straight through."""
    return x + (torch.floor(x + 0.5) - x).detach()


def short_power(weight: Tensor) -> Tensor:
    """Weights (outputs, ...) -> for each output the exponent (outputs,) of the power of two that makes them short."""
    size = weight.detach().abs().flatten(1)
    return torch.minimum(SHORT_MAX / size.amax(1), SHORT_SUM / size.sum(1)).log2().floor().clamp(*SHORT_POWERS)


def short(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs) as the integer networks have them; the gradient goes straight through."""
    one = short_power(weight).exp2()[:, None]
    return weight + ((weight * one).round().clamp(-SHORT_MAX, SHORT_MAX) / one - weight).detach()


def activation(x: Tensor) -> Tensor:
    """Clamped and rounded to what an activation of the integer networks can be."""
    return whole((x * ACTIVATION_ONE).clamp(0, SHORT_MAX)) / ACTIVATION_ONE


class ClassNetwork(nn.Module):
    """Codewords of the coarser levels and quality -> fractional class of every group one level finer.

    Trained in float, with the rounding of the integers in which `prior.py` runs the same network, exactly,
    everywhere.  Hence its shape: clamped ReLU, edges replicated, no normalisation.
    """

    SCALE_IN = 0.25  # of codewords, SCALE_OUT of classes: keep the weights themselves near one
    SCALE_OUT = 4.0

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = Pointwise(inputs, width, 1.4)
        self.neighbours = Pointwise(width * 9, width, 0.7)
        self.leave = Pointwise(width, outputs * 4, 0.3)
        self.hidden_bias = nn.Parameter(torch.zeros(QUALITIES, width))
        self.class_bias = nn.Parameter(torch.zeros(QUALITIES, outputs))

    def forward(self, embedding: Tensor, quality: Tensor) -> Tensor:
        """Sums of codewords (B, inputs, h, w) -> classes (B, outputs, 2h, 2w), float32.

        Level 1 has more outputs than groups: the rest enters the context networks.
        """
        x = whole(embedding * EMBEDDING_ONE).clamp(-SHORT_MAX, SHORT_MAX) * (self.SCALE_IN / EMBEDDING_ONE)
        x = of_position(short(self.enter.weight), self.enter.bias, x)
        x = activation(x + per_channel(at_quality(self.hidden_bias, quality)))
        x = activation(x + of_neighbourhood(short(self.neighbours.weight), self.neighbours.bias, x).clamp(min=0))
        # the four positions of an output share their power of two
        weight = short(self.leave.weight.view(-1, 4 * x.shape[1])).view_as(self.leave.weight)
        classes = F.pixel_shuffle(of_position(weight, self.leave.bias, x) * self.SCALE_OUT, 2)
        return classes + per_channel(at_quality(self.class_bias, quality))


def of_position(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of each position: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return F.conv2d(x, weight[:, :, None, None], bias)


def of_neighbourhood(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of `neighbourhood(x)`, which as a convolution takes a fifth of the time."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight.view(len(weight), -1, 3, 3), bias)


class ContextNetwork(nn.Module):
    """Codewords of the earlier banks of level 1 -> what they add to the classes of a bank.

    Where the large components of a photo need many steps the small ones do too, here and next door: the log
    energies of the earlier banks' groups in a 3x3 neighbourhood, or at the position alone, say so without side
    information.  Trained in float, run in integers, like `ClassNetwork`.
    """

    def __init__(self, inputs: int, groups: int, width: int, neighbours: bool = True) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.enter = Pointwise(inputs * (9 if neighbours else 1), width, 0.3)
        self.leave = Pointwise(width, groups, 0.0)

    def forward(self, log_energy: Tensor, coarse: Tensor) -> Tensor:
        """Log energies (B, inputs, h, w), hidden input from the coarse levels (B, width, h, w) -> (B, groups, h, w)."""
        enter = of_neighbourhood if self.neighbours else of_position
        x = activation(enter(short(self.enter.weight), self.enter.bias, log_energy) + coarse)
        return of_position(short(self.leave.weight), self.leave.bias, x) * ClassNetwork.SCALE_OUT


def context_networks(config: Config) -> list[ContextNetwork]:
    """A context network for every bank of level 1 but the first, each with all groups before it as inputs.

    The last one has so many at its own position that their neighbours tell next to nothing more.
    """
    banks = config.level1
    before = list(itertools.accumulate(bank.groups for bank in banks[:-1]))
    return [
        ContextNetwork(inputs, bank.groups, config.context_width, neighbours=i < len(before))
        for i, (inputs, bank) in enumerate(zip(before, banks[1:], strict=True), 1)
    ]


def log_energy(words: Tensor, dim: int) -> Tensor:
    """Quantised vectors (B, groups * dim, h, w), in steps -> log2(1 + squared norm) of each (B, groups, h, w).

    The logarithm is linear between powers of two, in steps of an eighth, and ends below 32, which short integers can
    follow exactly; its gradient is smooth.
    """
    B, C, h, w = words.shape
    energy = words.view(B, C // dim, dim, h, w).square().sum(2) + 1
    mantissa, exponent = torch.frexp(energy.detach())
    smooth = torch.log2(energy)
    eighths = ((exponent - 2 + 2 * mantissa) * ENERGY_ONE).floor().clamp(max=SHORT_MAX)
    return smooth + (eighths / ENERGY_ONE - smooth).detach()
