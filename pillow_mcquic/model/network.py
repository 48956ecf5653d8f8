"""The whole model but for its prior: transforms, residual vector quantisers and means.

An image x is analysed into three latents, coarse to fine: y3 at 1/64, y2 at 1/32 and y1 at 1/16 of its
resolution.  y3 is quantised first; its codewords predict the mean of y2; those of y2 predict the mean of
y1; the synthesis transform turns y1 and the features met on the way back into pixels.  This is the cascade
of McQuic (Zhu et al., CVPR 2022, arXiv 2203.10897, section 3) with four changes: the latents are residuals
around predicted means (their conditional mixture, equation 7), those of the largest channels also around what
is known of their neighbours, a linear KLT shortcut runs beside the networks, and the probability table of
every codeword is chosen by a class network that sees codewords only (`class_networks.py` trains them, `prior.py`
runs them).

Shapes in the comments: B batch, H x W pixels (multiples of 16 here), (h, w) = (H/16, W/16) the level-1 grid;
each coarser grid is the finer one halved, rounded up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import EllipsisType
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .distortion import QUALITIES, Distortion
from .layers import (
    SLOPE,
    Block,
    Down,
    Gain,
    Kept,
    Pointwise,
    Up,
    at_quality,
    blocks,
    grey_levels,
    linear,
    neighbourhood,
    network_dtype,
    per_channel,
    quarters_to_pixels,
    to_patches,
    to_pixels,
    to_rows,
)
from .quantiser import Bank, Codebooks, Quantiser

MEAN_SCALE = 4.0  # y2 and y3 are about this many quantiser steps wide at first
# the first, and largest, channels of y1: the linear shortcut keeps them in float32, as in bfloat16 they would cost
# whole grey levels, and previews see those of the positions around
LARGE = 32
MIDDLE = 127.5  # of the grey levels; what is left of one without it bfloat16 holds exactly
PREVIEW_BANKS = {2: 4, 4: 3, 8: 2}  # scale of a preview: how many banks of level 1 it is made of


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the model; saved with the weights, enough to rebuild the networks."""

    # analysis transform: blocks at 1/8, then at 1/16
    analysis_width_8: int = 128
    analysis_blocks_8: int = 2
    analysis_width_16: int = 320
    analysis_blocks_16: int = 6
    # hyper transforms and means at 1/64, 1/32 and 1/16
    hyper_width: int = 192
    means_blocks: int = 2
    means_expansion_1: int = 0  # of the one block at 1/16
    # synthesis transform: blocks at 1/16, then at 1/8
    synthesis_width_16: int = 192
    synthesis_blocks_16: int = 5
    synthesis_width_8: int = 96  # bfloat16 tiles are of 32: not slower than 88
    synthesis_blocks_8: int = 2
    # class networks
    class_width: int = 96
    context_width: int = 40
    classes: int = 24
    # mean of the first bank from neighbours
    phase_width: int = 64
    # quantisers: banks of codebooks of one dimension, each with its residual stages (words, initial scale)
    level1: tuple[Bank, ...] = (
        Bank(groups=8, dim=1, stages=((1536, 1.0),)),
        Bank(groups=12, dim=2, stages=((256, 16.0), (256, 1.0))),
        Bank(groups=16, dim=4, stages=((256, 14.0), (64, 3.6), (256, 1.0))),
        Bank(groups=40, dim=4, stages=((256, 4.0), (256, 1.0))),
        Bank(groups=16, dim=8, stages=((241, 2.0), (256, 1.0))),
    )
    level2: tuple[Bank, ...] = (Bank(groups=24, dim=2, stages=((64, 16.0), (256, 1.0))),)
    level3: tuple[Bank, ...] = (Bank(groups=24, dim=2, stages=((64, 16.0), (256, 1.0))),)
    # how many of the last channels of y1 take the linear shortcut alone: no mean, no part in the networks
    linear_channels: int = 128
    # squared error, in quantiser steps, that the encoder accepts to save a bit
    error_per_bit: float = 0.11
    # what the model was trained for, and a refining encoder works for
    distortion: Distortion = dataclasses.field(default_factory=Distortion)

    def banks(self, level: int) -> tuple[Bank, ...]:
        """The banks of level 1, 2 or 3."""
        return (self.level1, self.level2, self.level3)[level - 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and dicts, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`, also after a trip through JSON; what is not named keeps its default."""
        values = dict(values)
        distortion = dict(values.get("distortion", {}))
        for given, kind in ((values, cls), (distortion, Distortion)):
            unknown = set(given) - {f.name for f in dataclasses.fields(kind)}
            if unknown:
                raise ValueError(f"unknown model settings: {', '.join(sorted(unknown))}")
        for key in {"level1", "level2", "level3"} & set(values):
            values[key] = tuple(
                Bank(b["groups"], b["dim"], tuple((int(k), float(s)) for k, s in b["stages"])) for b in values[key]
            )
        return cls(**{**values, "distortion": Distortion(**distortion)})


# The positions of level 1 in four phases, (row, column) modulo 2: first one in four, then those in the middle of four,
# then those between, and last those all around which are known.
PHASES = (0, 0), (1, 1), (0, 1), (1, 0)


def at_phase(phase: int) -> tuple[EllipsisType, slice, slice]:
    """Index of the positions of a phase, in planes (..., h, w)."""
    top, left = PHASES[phase]
    return ..., slice(top, None, 2), slice(left, None, 2)


class PhaseMean(nn.Module):
    """Mean of the first bank at the positions of a phase, from what is known at the eight around each.

    What the means of the coarse levels miss in these channels, brightness and slopes, is much the same next door.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.straight = Pointwise(8 * channels, channels, 0.0)
        self.enter = Pointwise(8 * channels, width, 0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(QUALITIES, width))
        self.leave = Pointwise(width, channels, 0.0)
        self.gain = Gain(channels)

    def forward(self, around: Tensor, quality: Tensor) -> Tensor:
        """Quantised residuals, in steps (B, 8 * channels, h, w), 0 where they are not known -> (B, channels, h, w)."""
        hidden = self.enter(around) + per_channel(at_quality(self.hidden_bias, quality))
        mean: Tensor = self.gain(self.straight(around) + self.leave(F.leaky_relu(hidden, SLOPE)), quality)
        return mean


class Model(nn.Module):
    """Everything that turns pixels into codewords and codewords into pixels.

    `klt` = (basis (C, 768), mean (768,), deviation (C,)) of 16x16x3 training patches initialises the linear
    shortcut; it is only needed to start a training run.  Its weights and words are not set
    (`initialise`, `Quantiser.initialise`).
    """

    patch_mean: Tensor
    deviation: Tensor
    REFERENCE_GAIN = 5.7  # steps per unit of pixel value at the lambda the KLT is scaled for

    def __init__(self, config: Config, klt: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.quantiser1 = Quantiser(c.level1, c.classes)
        self.quantiser2 = Quantiser(c.level2, c.classes)
        self.quantiser3 = Quantiser(c.level3, c.classes)
        n1, n2, n3 = (q.channels for q in (self.quantiser1, self.quantiser2, self.quantiser3))
        self.deep = deep = n1 - c.linear_channels  # channels of y1 that the networks see
        # level-1 positions that a part of the model sees beyond its own: one a block at 1/16, two blocks at 1/8
        self.entered_reach, self.analysis_reach = -(-c.analysis_blocks_8 // 2), c.analysis_blocks_16
        self.mean_reach = 1
        self.preview_reach = self.mean_reach + 1
        self.synthesis_reach = self.mean_reach + c.synthesis_blocks_16 + -(-c.synthesis_blocks_8 // 2)
        hyper = c.hyper_width

        self.analysis_8 = nn.Sequential(
            Pointwise(192, c.analysis_width_8, 2.0), blocks(c.analysis_width_8, c.analysis_blocks_8, coarse=True)
        )
        self.analysis_down = Down(c.analysis_width_8, c.analysis_width_16, coarse=True)
        self.analysis_gain_8 = Gain(c.analysis_width_16)
        self.analysis_16 = blocks(c.analysis_width_16, c.analysis_blocks_16, coarse=True)
        self.analysis_gain_16 = Gain(c.analysis_width_16)
        self.analysis_head = Pointwise(c.analysis_width_16, n1, 0.01)

        self.hyper_analysis_2 = nn.Sequential(Down(deep, hyper), blocks(hyper, 1))
        self.hyper_gain_2 = Gain(hyper)
        self.hyper_head_2 = Pointwise(hyper, n2)
        self.hyper_analysis_3 = nn.Sequential(Down(hyper, hyper), blocks(hyper, 1))
        self.hyper_gain_3 = Gain(hyper)
        self.hyper_head_3 = Pointwise(hyper, n3)

        self.features_3 = nn.Sequential(Pointwise(n3, hyper), blocks(hyper, 1), Up(hyper, hyper))
        self.features_gain_3 = Gain(hyper)
        self.means_2 = nn.Sequential(blocks(hyper, 1), Pointwise(hyper, n2, 0.1))
        self.features_2 = nn.Sequential(Pointwise(n2 + hyper, hyper), blocks(hyper, c.means_blocks), Up(hyper, hyper))
        self.features_gain_2 = Gain(hyper)
        self.means_1 = nn.Sequential(Block(hyper, c.means_expansion_1), Pointwise(hyper, deep, 0.1))
        first = self.quantiser1.channel_split[0]
        self.phase_means = nn.ModuleList([PhaseMean(first, c.phase_width) for _ in PHASES[1:]])

        self.synthesis_16 = nn.Sequential(
            Pointwise(deep + hyper, c.synthesis_width_16),
            blocks(c.synthesis_width_16, c.synthesis_blocks_16, coarse=True),
            Up(c.synthesis_width_16, c.synthesis_width_8),
        )
        self.synthesis_gain_16 = Gain(c.synthesis_width_8)
        self.synthesis_8 = blocks(c.synthesis_width_8, c.synthesis_blocks_8)
        self.synthesis_gain_8 = Gain(c.synthesis_width_8)
        self.synthesis_head = Pointwise(c.synthesis_width_8, 192, 0.01)

        if klt is None:
            klt = torch.zeros(n1, 768), torch.zeros(768), torch.ones(n1)
        basis, mean, deviation = klt
        self.klt_analysis = nn.Parameter(basis * self.REFERENCE_GAIN)  # (n1, 768)
        self.klt_synthesis = nn.Parameter(basis.t().contiguous() / self.REFERENCE_GAIN)  # (768, n1)
        self.register_buffer("patch_mean", mean)  # (768,)
        self._analysis_matrices, self._synthesis_matrices = Kept[tuple[Tensor, ...]](), Kept[tuple[Tensor, ...]]()
        self.register_buffer("deviation", deviation * self.REFERENCE_GAIN)  # of each y1 channel

        # previews are fitted at export, to what the synthesis transform makes of the same codes
        self.previews = nn.ModuleDict()
        for scale, banks in PREVIEW_BANKS.items():
            inputs = sum(self.quantiser1.channel_split[:banks]) + 8 * LARGE + hyper
            self.previews[str(scale)] = nn.Linear(inputs, 3 * (16 // scale) ** 2).requires_grad_(False)

        # log of quantiser steps per unit of latent, for each quality and channel
        self.log_gain_1 = nn.Parameter(torch.zeros(QUALITIES, n1))
        self.log_gain_2 = nn.Parameter(torch.zeros(QUALITIES, n2))
        self.log_gain_3 = nn.Parameter(torch.zeros(QUALITIES, n3))

    # --- the steps of encoding and decoding, each local: the codec may run them tile by tile ---

    def analyse(self, x: Tensor, quality: Tensor) -> Tensor:
        """Analysis transform: pixels (B, 3, H, W) in 0..1 -> y1 (B, n1, h, w) float32.

        Reach: `entered_reach` and then `analysis_reach`.
        """
        deviations = self.analyse_features(self.analyse_entered(self.enter(x)), quality)
        return torch.addcmul(self.shortcut(x), deviations.float(), self.spread)

    def shortcut(self, x: Tensor) -> Tensor:
        """Pixels, uint8 too -> linear shortcut (B, n1, h, w) float32.  Reach: 0."""

        def make() -> tuple[Tensor, ...]:
            large, small = self.klt_analysis[:LARGE], self.klt_analysis[LARGE:]
            middle = small @ (MIDDLE / 255 - self.patch_mean)
            return large / 255, large @ -self.patch_mean, (small / 255).to(dtype), middle.to(dtype)

        rows = to_patches(grey_levels(x), 16)  # bytes are moved, not floats
        dtype = network_dtype(self.klt_analysis)
        with torch.autocast(x.device.type, enabled=False):
            large, mean, small, middle = self._analysis_matrices(self.klt_analysis, dtype, make)
            parts = [F.linear(rows.float(), large, mean), linear(rows.to(dtype) - MIDDLE, small, middle).float()]
        return torch.cat(parts, -1).permute(0, 3, 1, 2)

    def enter(self, x: Tensor) -> Tensor:
        """Pixels, uint8 too -> first features (B, width, 2h, 2w).  Reach: 0."""
        layer = cast(Pointwise, self.analysis_8[0])
        rows = (to_patches(grey_levels(x), 8).to(network_dtype(layer.weight)) - MIDDLE) * (1 / 255)
        t: Tensor = layer(rows.permute(0, 3, 1, 2))
        return t

    def analyse_entered(self, entered: Tensor) -> Tensor:
        """The rest of what no quality changes: first features -> features (B, width, h, w).  Reach: `entered_reach`."""
        t: Tensor = self.analysis_down(self.analysis_8[1](entered))
        return t

    def analyse_features(self, features: Tensor, quality: Tensor) -> Tensor:
        """Features -> what the networks add to the shortcut, in units of `spread`, (B, n1, h, w).

        Reach: `analysis_reach`.
        """
        t = self.analysis_gain_8(features, quality)
        t = self.analysis_head(self.analysis_gain_16(self.analysis_16(t), quality))
        return t  # type: ignore[no-any-return]

    @property
    def spread(self) -> Tensor:
        """How far the networks can move each channel of y1: (1, n1, 1, 1)."""
        return self.deviation.clamp(max=8).view(1, -1, 1, 1)

    def hyper_features(self, y1: Tensor, quality: Tensor) -> Tensor:
        """y1 -> what y2 and y3 are made of (B, hyper, h/2, w/2).  Reach: 1 position."""
        t: Tensor = self.hyper_analysis_2(self.normal(y1))
        return self.hyper_gain_2(t, quality)  # type: ignore[no-any-return]

    def hyper_analyse(self, t: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Hyper features -> y2 (B, n2, h/2, w/2), y3 (B, n3, h/4, w/4), both float32."""
        y2 = self.hyper_head_2(t).float() * MEAN_SCALE
        t = self.hyper_gain_3(self.hyper_analysis_3(t), quality)
        return y2, self.hyper_head_3(t).float() * MEAN_SCALE

    def predict_2(self, z3: Tensor, quality: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Quantised y3 -> features on the level-2 grid `size`, and the mean of y2."""
        t = self.features_3(z3 / MEAN_SCALE)[:, :, : size[0], : size[1]]
        t = self.features_gain_3(t, quality)
        return t, self.means_2(t).float() * MEAN_SCALE

    def predict_1(self, z2: Tensor, features: Tensor, quality: Tensor, size: tuple[int, int]) -> Tensor:
        """Quantised y2 and the level-2 features -> features on the level-1 grid `size`."""
        t: Tensor = self.features_2(torch.cat([z2 / MEAN_SCALE, features.to(z2.dtype)], 1))
        t = self.features_gain_2(t[:, :, : size[0], : size[1]], quality)
        return t

    def mean_1(self, features: Tensor) -> Tensor:
        """Level-1 features -> mean of the first `deep` channels of y1 (the rest: 0), in units of `unit`, float32.

        Reach: `mean_reach`.
        """
        return self.means_1(features).float()  # type: ignore[no-any-return]

    @property
    def unit(self) -> Tensor:
        """Deviation of each channel of y1 that the networks see: (1, deep, 1, 1)."""
        return self.deviation[: self.deep].view(1, -1, 1, 1)

    def by_phase(
        self, words_of: Callable[[int, Tensor | float], Tensor], size: tuple[int, ...], quality: Tensor
    ) -> Tensor:
        """The first bank of level 1, its channels in steps, (B, channels, h, w) of `size`: words and phase means.

        words_of(phase, mean) gives what is quantised at the positions of a phase, once their mean is known.  Not in
        tiles: each phase sees one position of those before it.
        """
        B, C, h, w = size
        known = torch.zeros(B, h, w, C, device=quality.device, dtype=torch.float32).permute(0, 3, 1, 2)
        around = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
        with torch.autocast(quality.device.type, enabled=False):
            for phase, (top, left) in enumerate(PHASES):
                if top >= h or left >= w:
                    continue
                mean: Tensor | float = 0.0
                if phase:
                    padded = F.pad(known, (1, 1, 1, 1))
                    parts = [
                        padded[..., top + row : h + row : 2, left + column : w + column : 2] for row, column in around
                    ]
                    mean = self.phase_means[phase - 1](torch.cat(parts, 1), quality)
                known[at_phase(phase)] = words_of(phase, mean) + mean
        return known

    def normal(self, y1: Tensor) -> Tensor:
        """The channels of y1 that the networks see, (B, deep, h, w), of deviation about one."""
        return y1[:, : self.deep] / self.unit

    def synthesise(self, z1: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Synthesis transform: quantised y1 and level-1 features -> pixels about 0..1 (B, 3, H, W) float32.

        Reach: `synthesis_reach`, with that of the mean.
        """
        patches = self.leave(z1, self.synthesise_features(z1, features, quality))
        return quarters_to_pixels(patches).permute(0, 3, 1, 2)

    def synthesise_features(self, z1: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """All of the synthesis that sees neighbours: -> last features (B, width, 2h, 2w)."""
        t = self.synthesis_16(torch.cat([self.normal(z1).to(features.dtype), features], 1))
        t = self.synthesis_8(self.synthesis_gain_16(t, quality))
        return self.synthesis_gain_8(t, quality)  # type: ignore[no-any-return]

    def leave(self, z1: Tensor, last: Tensor, one: float = 1.0, offset: float = 0.0) -> Tensor:
        """Quantised y1 and last features -> patches as of `quarters_to_pixels`, (B, h, w, 768) float32.  Reach: 0.

        Their pixels are about offset..offset + one.
        """

        def make() -> tuple[Tensor, ...]:
            def by_quarter(rows: Tensor) -> Tensor:
                return rows.view(2, 8, 2, 24, -1).transpose(1, 2).reshape(768, -1)

            mean = self.patch_mean[:, None]
            large = torch.cat([self.klt_synthesis[:, :LARGE], mean, torch.ones_like(mean)], 1)
            return by_quarter(large), by_quarter(self.klt_synthesis[:, LARGE:]).to(dtype)

        B, _, h, w = z1.shape

        def planes(quarters: Tensor) -> Tensor:
            return quarters.view(B, h, 4 * w, -1).permute(0, 3, 1, 2)

        rows, dtype = to_rows(z1.float()), network_dtype(self.klt_synthesis)
        with torch.autocast(z1.device.type, enabled=False):
            large, small = self._synthesis_matrices(self.klt_synthesis, dtype, make)
            quarters = linear(rows[:, LARGE:].to(dtype), small)
        quarters = to_rows(self.synthesis_head(planes(to_patches(last, 2)), planes(quarters)))
        with torch.autocast(z1.device.type, enabled=False):
            constant = rows.new_tensor([1.0, offset / one]).expand(len(rows), 2)
            known = torch.cat([rows[:, :LARGE], constant], 1)
            # in place, as fresh memory costs more than the arithmetic
            patches = quarters.view(-1, 768).float().addmm_(known, large.t(), beta=one, alpha=one)
        return patches.view(B, h, w, -1)

    def preview_inputs(self, z1: Tensor, features: Tensor) -> Tensor:
        """Quantised y1, its `LARGE` channels with those of the eight positions around, and level-1 features, in rows.

        z1 (B, channels, h, w): the first channels; features on its grid -> (B, h, w, channels + 8 LARGE + hyper)
        float32.  Without the positions around, previews of quality 1 are 4 dB further from the full decode.
        """
        around = neighbourhood(z1[:, :LARGE])
        return torch.cat([around, z1[:, LARGE:], features.float()], 1).permute(0, 2, 3, 1)

    def preview(self, z1: Tensor, features: Tensor, scale: int) -> Tensor:
        """A small picture without the networks: (B, 3, h * 16 / scale, w * 16 / scale) about 0..1, float32.

        z1: the channels of the first `PREVIEW_BANKS[scale]` banks, quantised; features: on the level-1 grid.
        Reach: `preview_reach`, with that of the mean.
        """
        with torch.autocast(z1.device.type, enabled=False):
            rows = self.previews[str(scale)](self.preview_inputs(z1, features))
            return to_pixels(rows, 16 // scale).permute(0, 3, 1, 2)

    def banks(self, level: int) -> list[Codebooks]:
        """The codebooks of level 1, 2 or 3."""
        return (self.quantiser1, self.quantiser2, self.quantiser3)[level - 1].codebooks

    def gain(self, level: int, quality: Tensor) -> Tensor:
        """Quantiser steps per unit of latent: (B, channels, 1, 1)."""
        table = (self.log_gain_1, self.log_gain_2, self.log_gain_3)[level - 1]
        return per_channel(torch.exp(at_quality(table, quality)))
