"""The model: everything that turns pixels into codewords and codewords into pixels, but for the entropy model.

An image x is analysed into three latents: y1 at 1/16 of its resolution, y2 at 1/32, y3 at 1/64.  y3 is quantised first;
its codewords predict the mean of y2, those of y2 the mean of y1; synthesis turns y1 and the features met on the way
into pixels.  This is the cascade of McQuic (Zhu et al., CVPR 2022, section 3) with four changes: latents are residuals
around predicted means (their conditional mixture, equation 7), those of the largest channels also around what is known
of their neighbours, a linear KLT shortcut runs beside the networks, and an entropy model that sees codewords only
chooses the probability table of every codeword.

z is a quantised y.  Gains, `exp(log_gain)`, are quantiser steps per unit of latent, for each quality and channel.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from ..bitstream.grids import LEVELS, Grids
from ..nn.layers import at_quality, per_channel
from .codebooks import Codebooks
from .config import Config, EncoderConfig
from .means import CheckerboardMean, Means
from .preview import Previews
from .transforms import Analysis, HyperAnalysis, Synthesis

LARGEST_SPREAD = 8.0  # of `deviation`, by which the analysis network is scaled


class DecoderModel(nn.Module):
    """What a decoder needs: codebooks, gains, means, synthesis and previews.

    `deviation` (channels of level 1,) is that of each channel.  Nothing is set: see `training/initial.py`.
    """

    deviation: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.codebooks = nn.ModuleList([Codebooks(bank, config.classes) for bank in config.banks])
        self.log_gain = nn.ParameterDict(
            {str(level): nn.Parameter(torch.zeros(config.qualities, config.channels(level))) for level in LEVELS}
        )
        self.register_buffer("deviation", torch.ones(config.channels(1)))
        self.means = Means(config)
        self.checkerboard = CheckerboardMean(config)
        self.synthesis = Synthesis(config)
        self.previews = Previews(config)

    @property
    def reach(self) -> int:
        """Positions of level 1 around a window that its pixels depend on."""
        return Means.REACH_1 + self.synthesis.reach

    @property
    def preview_reach(self) -> int:
        """Positions of level 1 around a window that its preview depends on."""
        return Means.REACH_1 + Previews.REACH

    @property
    def unit(self) -> Tensor:
        """Deviation of each channel of level 1 that the networks see: (1, network channels, 1, 1)."""
        return self.deviation[: self.config.network_channels].view(1, -1, 1, 1)

    @property
    def spread(self) -> Tensor:
        """How far the analysis network can move each channel of level 1: (1, channels, 1, 1)."""
        return self.deviation.clamp(max=LARGEST_SPREAD).view(1, -1, 1, 1)

    def normalise(self, y1: Tensor) -> Tensor:
        """The channels of level 1 that the networks see, of deviation about one."""
        return y1[:, : self.config.network_channels] / self.unit

    def books(self, number: int) -> Codebooks:
        """The codebooks of a bank."""
        found = self.codebooks[number]
        assert isinstance(found, Codebooks)
        return found

    def gain(self, level: int, quality: Tensor) -> Tensor:
        """Quantiser steps per unit of latent, quality (B,) -> (B, channels, 1, 1)."""
        return per_channel(torch.exp(at_quality(self.log_gain[str(level)], quality)))

    def sum_codewords(self, number: int, codes: Tensor, classes: Tensor) -> Tensor:
        """As `Codebooks.sum_codewords`, of a bank."""
        return self.books(number).sum_codewords(codes, classes)

    def split_banks(self, x: Tensor, level: int) -> dict[int, Tensor]:
        """Channels of a level (B, channels, ...) by bank, as far as they go."""
        parts, start = dict[int, Tensor](), 0
        for number in self.config.banks_of(level):
            end = start + self.config.banks[number].channels
            if end <= x.shape[1]:
                parts[number] = x[:, start:end]
            start = end
        return parts

    def synthesise(self, z1: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Quantised latent and features of level 1 -> pixels about 0..1 (B, 3, H, W) float32."""
        pixels: Tensor = self.synthesis(z1, self.normalise(z1), features, quality)
        return pixels


class Cascade:
    """Quantised latents, coarse to fine, and what they say of the next level.

    After the residuals of a level were pushed, `mean` is that of the next; of level 1 there are only the `features`,
    from which `DecoderModel.means.mean_1` makes the mean window by window.
    """

    def __init__(self, model: DecoderModel, quality: Tensor, grids: Grids) -> None:
        self.model, self.quality, self.grids = model, quality, grids
        self.features: Tensor | None = None
        self.mean: Tensor | None = None  # None: zero

    def push(self, level: int, residuals: Tensor) -> None:
        """Quantised residuals of level 3 or 2 in steps, (B, channels, h, w)."""
        z = residuals / self.model.gain(level, self.quality)
        grid, means = self.grids[level - 1], self.model.means
        if self.mean is not None:
            z = z + self.mean
        if level == 3:
            self.features = means.features_2(z, self.quality, grid)
            self.mean = means.mean_2(self.features)
        else:
            assert self.features is not None
            self.features = means.features_1(z, self.features, self.quality, grid)
            self.mean = None


class EncoderModel(nn.Module):
    """What only an encoder needs: analysis and hyper analysis."""

    def __init__(self, encoder: EncoderConfig, config: Config) -> None:
        super().__init__()
        self.config = encoder
        self.analysis = Analysis(encoder, config)
        self.hyper_analysis = HyperAnalysis(config)
