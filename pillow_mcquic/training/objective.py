"""Rate-distortion objective: the training-time view of the model, with gradients where codes have none."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.grids import LEVELS, grids_of
from ..model.config import Config, EncoderConfig
from ..model.means import PASSES, positions_of
from ..model.model import Cascade, DecoderModel, EncoderModel
from .entropy_networks import TrainedEntropyModel
from .learned_tables import LOG_SCALE_STEP, LearnedTables, Quantised


class Objective(nn.Module):
    """A model with its learned tables, as trained: pixels in, reconstruction and rate out."""

    def __init__(self, config: Config, encoder: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder, self.encoder = DecoderModel(config), EncoderModel(encoder, config)
        self.entropy_networks = TrainedEntropyModel(config)
        first = config.banks_of(1).start
        self.tables = nn.ModuleList(
            [
                LearnedTables(
                    bank, config.classes, config.qualities, encoder.error_per_bit, len(PASSES) if b == first else 1
                )
                for b, bank in enumerate(config.banks)
            ]
        )
        for level in (1, 3):
            self.decoder.log_gain[str(level)].requires_grad_(False)  # set by `allocate`
        for number in range(len(config.banks)):
            self.decoder.books(number).log_step.requires_grad_(False)  # of levels 2 and 3: always 0

    def tables_of(self, number: int) -> LearnedTables:
        """The tables of a bank."""
        return cast(LearnedTables, self.tables[number])

    def set_tables(self) -> None:
        """First values of all tables, for the codebooks that there are."""
        for number in range(len(self.config.banks)):
            self.tables_of(number).initialise(self.decoder.books(number))

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Code a batch of crops.

        Parameters
        ----------
        x : (B, 3, H, W) float32 in 0..1, sides multiples of 16.
        quality : (B,), from 1.

        Returns
        -------
        The reconstruction, the bits of each image at levels 3, 2, 1 (3, B), and the codebook loss.
        """
        model, grids = self.decoder, grids_of(x.shape[3], x.shape[2])
        y = self._latents(x, quality)
        off = torch.autocast(x.device.type, enabled=False)
        state = self.entropy_networks.begin(quality, grids, len(x))
        cascade, bits = Cascade(model, quality, grids), []
        codebook_loss = torch.zeros((), device=x.device)
        for level in LEVELS:
            mean = self._mean_1(cascade) if level == 1 else cascade.mean
            with off:
                gain, residuals = model.gain(level, quality), []
                parts = model.split_banks((y[level] if mean is None else y[level] - mean) * gain, level)
                spent = torch.zeros(len(x), device=x.device)
                for number, part in parts.items():
                    found = self._quantise(number, part, state.classes(number), quality)
                    state.push(number, found.seen)
                    residuals.append(found.residuals)
                    spent, codebook_loss = spent + found.bits, codebook_loss + found.codebook_loss
                bits.append(spent)
            if level > 1:
                cascade.push(level, torch.cat(residuals, 1))
        assert mean is not None
        assert cascade.features is not None
        z1 = torch.cat(residuals, 1) / gain + mean
        return model.synthesise(z1, cascade.features, quality), torch.stack(bits), codebook_loss

    def _latents(self, x: Tensor, quality: Tensor) -> dict[int, Tensor]:
        """Latents by level."""
        model, hyper = self.decoder, self.encoder.hyper_analysis
        y1 = self.encoder.analysis(x, quality, model.synthesis.patch_mean, model.spread)
        y2, y3 = hyper.latents(hyper.features(model.normalise(y1), quality), quality)
        return {1: y1, 2: y2, 3: y3}

    def _mean_1(self, cascade: Cascade) -> Tensor:
        """Mean of all channels of level 1."""
        assert cascade.features is not None
        mean = self.decoder.means.mean_1(cascade.features) * self.decoder.unit
        return F.pad(mean, (0, 0, 0, 0, 0, self.config.linear_channels))

    def _quantise(self, number: int, x: Tensor, classes: Tensor, quality: Tensor) -> Quantised:
        """Quantise a bank; the first of level 1 pass by pass."""
        tables, books = self.tables_of(number), self.decoder.books(number)
        if number != self.config.banks_of(1).start:
            return cast(Quantised, tables(books, x, classes, quality))
        known, seen, passes = torch.zeros_like(x), torch.zeros_like(x), []
        for pass_number in range(len(PASSES)):
            at = positions_of(pass_number)
            mean = self.decoder.checkerboard.mean(pass_number, known, quality)
            found = tables(books, x[at] - mean, classes[at], quality)
            known[at], seen[at] = found.residuals + mean, found.seen
            passes.append(found)
        return Quantised(known, seen, sum(p.bits for p in passes), sum(p.codebook_loss for p in passes))

    @torch.no_grad()
    def allocate(self, speed: float) -> None:
        """Move the gains and steps of level 1, the gains of level 3, and the classes with them, towards equal cost.

        The straight-through gradient would not do: it takes the error of a vector that became the zero codeword for one
        that a smaller step reduces.  (Level 2 says so little that its costs are noise.)  speed: share of the way.
        """
        networks = self.entropy_networks
        for level, classes in ((1, networks.hyper_network(1).class_bias), (3, networks.class_3)):
            start = group = 0
            for number in self.config.banks_of(level):
                bank = self.config.banks[number]
                gains, steps = self.tables_of(number).allocation()
                gains = (speed * gains).t()  # (qualities, groups)
                channels = slice(start, start + bank.channels)
                self.decoder.log_gain[str(level)][:, channels] += gains.repeat_interleave(bank.dim, 1)
                classes[:, group : group + bank.groups] += gains / LOG_SCALE_STEP
                if level == 1:
                    self.decoder.books(number).log_step.add_(speed * steps)
                start, group = channels.stop, group + bank.groups
