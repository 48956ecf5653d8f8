"""Means: what quantised latents say of finer ones (the conditional mixture of McQuic, equation 7).

Latents are residuals around these means.  Level 3 predicts level 2, both predict level 1; in the first bank of level 1
there is also a mean from neighbours, in checkerboard passes (He et al., CVPR 2021).
"""

from __future__ import annotations

from types import EllipsisType

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..nn.layers import Block, GainUnit, PatchExpand, Pointwise, at_quality, blocks, leaky_relu, per_channel
from .config import Config
from .transforms import LATENT_SCALE


class Means(nn.Module):
    """Quantised latents of levels 3 and 2 -> features on the next finer grid, and from these the mean there."""

    REACH_1 = 1  # positions around that `mean_1` sees

    def __init__(self, config: Config) -> None:
        super().__init__()
        c, width = config, config.hyper_width
        n2, n3 = config.channels(2), config.channels(3)
        self.input_3, self.blocks_3, self.expand_3 = Pointwise(n3, width), blocks(width, 1), PatchExpand(width, width)
        self.gain_3 = GainUnit(width, c.qualities)
        self.mean_block_2, self.mean_output_2 = blocks(width, 1), Pointwise(width, n2, 0.1)
        self.input_2, self.blocks_2 = Pointwise(n2 + width, width), blocks(width, c.means_blocks)
        self.expand_2, self.gain_2 = PatchExpand(width, width), GainUnit(width, c.qualities)
        self.mean_block_1 = Block(width, c.means_expansion)
        self.mean_output_1 = Pointwise(width, c.network_channels, 0.1)

    def features_2(self, z3: Tensor, quality: Tensor, grid: tuple[int, int]) -> Tensor:
        """Quantised latent of level 3 -> features on the grid of level 2."""
        t = self.expand_3(self.blocks_3(self.input_3(z3 / LATENT_SCALE)))[:, :, : grid[0], : grid[1]]
        return self.gain_3(t, quality)  # type: ignore[no-any-return]

    def mean_2(self, features: Tensor) -> Tensor:
        """Features on the grid of level 2 -> mean of level 2, float32."""
        return self.mean_output_2(self.mean_block_2(features)).float() * LATENT_SCALE  # type: ignore[no-any-return]

    def features_1(self, z2: Tensor, features: Tensor, quality: Tensor, grid: tuple[int, int]) -> Tensor:
        """Quantised latent of level 2, and features on its grid -> features on the grid of level 1."""
        t = self.blocks_2(self.input_2(torch.cat([z2 / LATENT_SCALE, features.to(z2.dtype)], 1)))
        return self.gain_2(self.expand_2(t)[:, :, : grid[0], : grid[1]], quality)  # type: ignore[no-any-return]

    def mean_1(self, features: Tensor) -> Tensor:
        """Features of level 1 -> mean of the network's channels of level 1, in their deviations, float32."""
        return self.mean_output_1(self.mean_block_1(features)).float()  # type: ignore[no-any-return]


# The positions of level 1 in four passes, (row, column) modulo 2: first one in four, then those in the middle of four,
# then those between, and last those all around which are known.
PASSES = (0, 0), (1, 1), (0, 1), (1, 0)
AROUND = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]


def positions_of(pass_number: int) -> tuple[EllipsisType, slice, slice]:
    """Index of the positions of a pass, in planes (..., h, w)."""
    top, left = PASSES[pass_number]
    return ..., slice(top, None, 2), slice(left, None, 2)


class NeighbourMean(nn.Module):
    """Mean at the positions of one pass, from the eight positions around each."""

    def __init__(self, channels: int, width: int, qualities: int) -> None:
        super().__init__()
        self.straight = Pointwise(8 * channels, channels, 0.0)
        self.input = Pointwise(8 * channels, width, 0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(qualities, width))
        self.output = Pointwise(width, channels, 0.0)
        self.gain = GainUnit(channels, qualities)

    def forward(self, around: Tensor, quality: Tensor) -> Tensor:
        """Quantised residuals around, in steps (B, 8 * channels, h, w), 0 where not known -> (B, channels, h, w)."""
        hidden = self.input(around) + per_channel(at_quality(self.hidden_bias, quality))
        mean: Tensor = self.gain(self.straight(around) + self.output(leaky_relu(hidden)), quality)
        return mean


class CheckerboardMean(nn.Module):
    """Mean of the first bank of level 1 from what is known next door, pass by pass.

    What the means of the coarse levels miss in these channels, brightness and slopes, is much the same next door.
    A bank is gone through so::

        known = torch.zeros(...)
        for number in range(len(PASSES)):
            at = positions_of(number)
            known[at] = (quantised residual at these positions) + checkerboard.mean(number, known, quality)

    It cannot be cut into windows: each pass sees one position of those before it.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.banks[config.banks_of(1).start].channels
        self.passes = nn.ModuleList(
            [NeighbourMean(channels, config.checkerboard_width, config.qualities) for _ in PASSES[1:]]
        )

    def mean(self, pass_number: int, known: Tensor, quality: Tensor) -> Tensor:
        """Mean at the positions of a pass, in steps, float32.

        known: (B, channels, h, w) with the values of earlier passes, 0 elsewhere; may be smaller than 2 x 2.
        """
        at = positions_of(pass_number)
        if pass_number == 0 or 0 in known[at].shape:
            return torch.zeros_like(known[at])
        (top, left), (h, w) = PASSES[pass_number], known.shape[2:]
        padded = F.pad(known, (1, 1, 1, 1))
        around = [padded[..., top + row : h + row : 2, left + column : w + column : 2] for row, column in AROUND]
        with torch.autocast(known.device.type, enabled=False):
            mean: Tensor = self.passes[pass_number - 1](torch.cat(around, 1), quality)
        return mean

    def restore(self, residuals: Tensor, quality: Tensor) -> Tensor:
        """Quantised residuals in steps (B, channels, h, w) -> these and their means."""
        known = torch.zeros_like(residuals)
        for number in range(len(PASSES)):
            at = positions_of(number)
            known[at] = residuals[at] + self.mean(number, known, quality)
        return known
