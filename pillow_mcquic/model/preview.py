"""Previews: pictures of a half, a quarter or an eighth of the sides, by one matrix from the first banks of level 1."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from ..nn.reshape import neighbourhood, to_pixels
from .config import PREVIEW_BANKS, Config
from .transforms import LARGE_CHANNELS


class Previews(nn.Module):
    """Matrices, by scale, that are fitted at export to what synthesis makes of the same codes."""

    REACH = 1  # positions around that a preview sees

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.scales = nn.ModuleDict()
        for scale in PREVIEW_BANKS:
            inputs = config.preview_channels(scale) + 8 * LARGE_CHANNELS + config.hyper_width
            self.scales[str(scale)] = nn.Linear(inputs, 3 * (16 // scale) ** 2).requires_grad_(False)

    @staticmethod
    def inputs(z1: Tensor, features: Tensor) -> Tensor:
        """What the matrices see (B, h, w, channels + 8 * 32 + hyper_width) float32.

        z1: the first channels of the quantised latent, of which the 32 largest count at the eight positions around,
        too; features: on the grid of level 1.  Without those next door previews of quality 1 are 4 dB further off.
        """
        around = neighbourhood(z1[:, :LARGE_CHANNELS])
        return torch.cat([around, z1[:, LARGE_CHANNELS:], features.float()], 1).permute(0, 2, 3, 1)

    def forward(self, z1: Tensor, features: Tensor, scale: int) -> Tensor:
        """A small picture (B, 3, h * 16 / scale, w * 16 / scale) about 0..1, float32.

        z1: the channels of the banks of this scale, quantised; features: on the grid of level 1.
        """
        with torch.autocast(z1.device.type, enabled=False):
            return to_pixels(self.scales[str(scale)](self.inputs(z1, features)), 16 // scale).permute(0, 3, 1, 2)
