"""The transforms: analysis, hyper analysis and synthesis (McQuic, Zhu et al., CVPR 2022, section 3.3).

B batch, H x W pixels, multiples of 16 here; (h, w) = (H/16, W/16) the grid of level 1.  Beside each network of analysis
and synthesis runs a linear shortcut, the KLT of 16x16 patches: networks say how far the best transform is from it.
Every function tells how many positions around it sees, so that the engine may run it window by window.
"""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from ..nn.layers import Block, GainUnit, PatchExpand, PatchMerge, Pointwise, blocks
from ..nn.linear import CachedCast, matrix_product, network_dtype
from ..nn.reshape import quarters_to_pixels, to_patches, to_rows
from .config import Config, EncoderConfig

LATENT_SCALE = 4.0  # latents of levels 2 and 3 are about this many quantiser steps wide at first
# The first, and largest, channels of level 1.  The linear shortcut keeps them in float32, as in bfloat16 they would
# cost whole grey levels, and previews see those of the positions around.
LARGE_CHANNELS = 32
MIDDLE = 127.5  # of the grey levels; what is left of one without it bfloat16 holds exactly
PATCH = 16 * 16 * 3


def _grey_levels(x: Tensor) -> Tensor:
    """Pixels as whole numbers 0..255, from uint8, which they stay, or from float32 in 0..1."""
    return x if x.dtype == torch.uint8 else x * 255


class Analysis(nn.Module):
    """Pixels -> latent of level 1."""

    def __init__(self, encoder: EncoderConfig, config: Config) -> None:
        super().__init__()
        c, channels = encoder, config.channels(1)
        self.width_8, self.width_16 = c.analysis_width_8, c.analysis_width_16
        # positions of level 1 seen around: two blocks at 1/8 see one, a block at 1/16 sees one
        self.reach_8, self.reach_16 = -(-c.analysis_blocks_8 // 2), c.analysis_blocks_16
        self.input = Pointwise(192, c.analysis_width_8, 2.0)
        self.blocks_8 = blocks(c.analysis_width_8, c.analysis_blocks_8, may_use_int8=True)
        self.merge = PatchMerge(c.analysis_width_8, c.analysis_width_16, may_use_int8=True)
        self.gain_8 = GainUnit(c.analysis_width_16, config.qualities)
        self.blocks_16 = blocks(c.analysis_width_16, c.analysis_blocks_16, may_use_int8=True)
        self.gain_16 = GainUnit(c.analysis_width_16, config.qualities)
        self.output = Pointwise(c.analysis_width_16, channels, 0.01)
        self.klt = nn.Parameter(torch.zeros(channels, PATCH))
        self._matrices = CachedCast[tuple[Tensor, ...]]()

    def forward(self, x: Tensor, quality: Tensor, patch_mean: Tensor, spread: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in 0..1 -> latent (B, channels, h, w) float32.

        quality (B,); patch_mean (768,) and spread (1, channels, 1, 1): of the decoder's model.
        """
        deviations = self.deviations(self.features_16(self.features_8(x)), quality)
        return torch.addcmul(self.shortcut(x, patch_mean), deviations.float(), spread)

    def shortcut(self, x: Tensor, patch_mean: Tensor) -> Tensor:
        """Pixels, uint8 too -> KLT coefficients (B, channels, h, w) float32.  Sees no other position."""

        def matrices() -> tuple[Tensor, ...]:
            large, small = self.klt[:LARGE_CHANNELS], self.klt[LARGE_CHANNELS:]
            middle = small @ (MIDDLE / 255 - patch_mean)
            return large / 255, large @ -patch_mean, (small / 255).to(dtype), middle.to(dtype)

        rows = to_patches(_grey_levels(x), 16)  # bytes are moved, not floats
        dtype = network_dtype(self.klt)
        with torch.autocast(x.device.type, enabled=False):
            large, mean, small, middle = self._matrices(self.klt, dtype, matrices)
            parts = [
                nn.functional.linear(rows.float(), large, mean),
                matrix_product(rows.to(dtype) - MIDDLE, small, middle).float(),
            ]
        return torch.cat(parts, -1).permute(0, 3, 1, 2)

    def features_8(self, x: Tensor) -> Tensor:
        """Pixels, uint8 too -> first features (B, width, 2h, 2w).  Sees no other position."""
        rows = (to_patches(_grey_levels(x), 8).to(network_dtype(self.input.weight)) - MIDDLE) * (1 / 255)
        t: Tensor = self.input(rows.permute(0, 3, 1, 2))
        return t

    def features_16(self, features: Tensor) -> Tensor:
        """The rest of what no quality changes: first features -> features (B, width, h, w).  Sees `reach_8` around."""
        t: Tensor = self.merge(self.blocks_8(features))
        return t

    def deviations(self, features: Tensor, quality: Tensor) -> Tensor:
        """Features -> what the network adds to the shortcut, in units of the spread (B, channels, h, w).

        Sees `reach_16` around.
        """
        t = self.gain_8(features, quality)
        t = self.output(self.gain_16(self.blocks_16(t), quality))
        return t  # type: ignore[no-any-return]


class HyperAnalysis(nn.Module):
    """Latent of level 1 -> latents of levels 2 and 3."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.width = width = config.hyper_width
        self.merge_2, self.block_2 = PatchMerge(config.network_channels, width), blocks(width, 1)
        self.gain_2, self.output_2 = GainUnit(width, config.qualities), Pointwise(width, config.channels(2))
        self.merge_3, self.block_3 = PatchMerge(width, width), blocks(width, 1)
        self.gain_3, self.output_3 = GainUnit(width, config.qualities), Pointwise(width, config.channels(3))

    def features(self, y1: Tensor, quality: Tensor) -> Tensor:
        """The network's channels of level 1, of deviation about one -> features (B, width, h/2, w/2).

        Sees one position of level 2 around.
        """
        return self.gain_2(self.block_2(self.merge_2(y1)), quality)  # type: ignore[no-any-return]

    def latents(self, features: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> latents of level 2 (B, channels, h/2, w/2) and level 3 (B, channels, h/4, w/4), both float32."""
        y2 = self.output_2(features).float() * LATENT_SCALE
        t = self.gain_3(self.block_3(self.merge_3(features)), quality)
        return y2, self.output_3(t).float() * LATENT_SCALE


class Synthesis(nn.Module):
    """Quantised latent and features of level 1 -> pixels."""

    patch_mean: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.reach = c.synthesis_blocks_16 + -(-c.synthesis_blocks_8 // 2)
        self.input = Pointwise(c.network_channels + c.hyper_width, c.synthesis_width_16)
        self.blocks_16 = blocks(c.synthesis_width_16, c.synthesis_blocks_16, may_use_int8=True)
        self.expand = PatchExpand(c.synthesis_width_16, c.synthesis_width_8)
        self.gain_16 = GainUnit(c.synthesis_width_8, c.qualities)
        self.blocks_8 = nn.Sequential(*(Block(c.synthesis_width_8) for _ in range(c.synthesis_blocks_8)))
        self.gain_8 = GainUnit(c.synthesis_width_8, c.qualities)
        self.output = Pointwise(c.synthesis_width_8, 192, 0.01)
        self.klt = nn.Parameter(torch.zeros(PATCH, c.channels(1)))
        self.register_buffer("patch_mean", torch.zeros(PATCH))
        self._matrices = CachedCast[tuple[Tensor, ...]]()

    def forward(self, z1: Tensor, seen: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """-> pixels about 0..1 (B, 3, H, W) float32; arguments as of `patches` and `features`.  Sees `reach` around."""
        patches = self.patches(z1, self.features(seen, features, quality))
        return quarters_to_pixels(patches).permute(0, 3, 1, 2)

    def features(self, seen: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """All that sees positions around (`reach`): -> last features (B, width, 2h, 2w).

        seen: the network's channels of the quantised latent, of deviation about one; features: of the means.
        """
        t = self.expand(self.blocks_16(self.input(torch.cat([seen.to(features.dtype), features], 1))))
        t = self.blocks_8(self.gain_16(t, quality))
        return self.gain_8(t, quality)  # type: ignore[no-any-return]

    def patches(self, z1: Tensor, last: Tensor, one: float = 1.0, offset: float = 0.0) -> Tensor:
        """Quantised latent (B, channels, h, w) and last features -> patches for `quarters_to_pixels`, (B, h, w, 768).

        Their pixels, float32, are about offset..offset + one.  Sees no other position.
        """

        def matrices() -> tuple[Tensor, ...]:
            def by_quarter(rows: Tensor) -> Tensor:
                return rows.view(2, 8, 2, 24, -1).transpose(1, 2).reshape(PATCH, -1)

            mean = self.patch_mean[:, None]
            large = torch.cat([self.klt[:, :LARGE_CHANNELS], mean, torch.ones_like(mean)], 1)
            return by_quarter(large), by_quarter(self.klt[:, LARGE_CHANNELS:]).to(dtype)

        B, _, h, w = z1.shape

        def planes(quarters: Tensor) -> Tensor:
            return quarters.view(B, h, 4 * w, -1).permute(0, 3, 1, 2)

        rows, dtype = to_rows(z1.float()), network_dtype(self.klt)
        with torch.autocast(z1.device.type, enabled=False):
            large, small = self._matrices(self.klt, dtype, matrices)
            quarters = matrix_product(rows[:, LARGE_CHANNELS:].to(dtype), small)
        quarters = to_rows(self.output(planes(to_patches(last, 2)), planes(quarters)))
        with torch.autocast(z1.device.type, enabled=False):
            constant = rows.new_tensor([1.0, offset / one]).expand(len(rows), 2)
            known = torch.cat([rows[:, :LARGE_CHANNELS], constant], 1)
            # in place, as fresh memory costs more than the arithmetic
            patches = quarters.view(-1, PATCH).float().addmm_(known, large.t(), beta=one, alpha=one)
        return patches.view(B, h, w, -1)
