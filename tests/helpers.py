"""Small models and random codes for tests of the entropy model."""

from __future__ import annotations

import torch
from torch import Tensor

from pillow_mcquic.bitstream.grids import Grids
from pillow_mcquic.model.config import Config
from pillow_mcquic.training.entropy_networks import HyperNetwork
from pillow_mcquic.training.initial import draw_weights


def random_codes(config: Config, grids: Grids, pictures: int = 1, seed: int = 2) -> list[Tensor]:
    """Codes of all banks (B, groups, stages, h, w), two thirds of them 0."""
    generator, found = torch.Generator().manual_seed(seed), []
    for bank in config.banks:
        sizes = torch.tensor(bank.stages)[:, None, None]
        shape = pictures, bank.groups, len(bank.stages), *grids[bank.level]
        codes = (torch.rand(shape, generator=generator) * sizes).to(torch.int16)
        found.append(codes * (torch.rand(shape, generator=generator) < 0.33))
    return found


def make_network() -> HyperNetwork:
    """A hyper network of 10 inputs and 6 outputs."""
    torch.manual_seed(3)
    network = HyperNetwork(10, 6, 16, 8)
    draw_weights(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        network.class_bias.add_(10)
    return network


def bounds(outputs: int, largest: float) -> tuple[Tensor, Tensor]:
    """What a hyper network tells of such outputs: the largest value, and the shift."""
    return torch.full((outputs,), largest, dtype=torch.float64), torch.full((outputs,), 6, dtype=torch.int16)
