"""What the model costs: parameters, and multiply-accumulates per pixel of analysis and of decoding."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..bitstream.grids import grids_of
from ..quality import DEFAULT
from .entropy_model import EntropyModel
from .model import Cascade, DecoderModel, EncoderModel

SIDE = 128  # of the picture that is counted; a multiple of 64, so nothing is padded


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters of networks and codebooks; thousands of multiply-accumulates per pixel."""

    parameters: int
    analysis: float
    means: float
    entropy_model: float
    synthesis: float

    @property
    def decode(self) -> float:
        """Everything a decoder multiplies."""
        return self.means + self.entropy_model + self.synthesis


def measure(decoder: DecoderModel, encoder: EncoderModel, entropy_model: EntropyModel) -> Cost:
    """Count while the model runs once on a small picture; the codeword search is not counted."""
    config, quality, grids = decoder.config, torch.tensor([float(DEFAULT)]), grids_of(SIDE, SIDE)
    zeros = {level: torch.zeros(1, config.channels(level), *grids[level]) for level in (1, 2, 3)}
    counter = FlopCounterMode(display=False)

    def taken(before: int = 0) -> float:
        return (counter.get_total_flops() - before) / 2 / SIDE**2 / 1000

    with torch.no_grad(), counter:
        x = torch.zeros(1, 3, SIDE, SIDE)
        encoder.analysis(x, quality, decoder.synthesis.patch_mean, decoder.spread)
        hyper = encoder.hyper_analysis
        hyper.latents(hyper.features(decoder.normalise(zeros[1]), quality), quality)
        analysis, before = taken(), counter.get_total_flops()
        cascade = Cascade(decoder, quality, grids)
        for level in (3, 2):
            cascade.push(level, zeros[level])
        assert cascade.features is not None
        decoder.means.mean_1(cascade.features)
        decoder.checkerboard.restore(decoder.split_banks(zeros[1], 1)[config.banks_of(1).start], quality)
        means, before = taken(before), counter.get_total_flops()
        decoder.synthesise(zeros[1], cascade.features, quality)
        synthesis, before = taken(before), counter.get_total_flops()
        state = entropy_model.begin(DEFAULT, grids, 1, torch.device("cpu"))
        for number, bank in enumerate(config.banks):
            state.classes(number)
            state.push(number, torch.zeros(1, bank.groups, len(bank.stages), *grids[bank.level], dtype=torch.int16))
        entropy = taken(before)
    parameters = sum(p.numel() for model in (decoder, encoder) for p in model.parameters())
    networks = [t for hyper in entropy_model.hypers.values() for t in (hyper.input, hyper.neighbourhood, hyper.output)]
    networks += [t for context in entropy_model.contexts.values() for t in (context.input, context.output)]
    return Cost(parameters + sum(t.numel() for t in networks), analysis, means, entropy, synthesis)
