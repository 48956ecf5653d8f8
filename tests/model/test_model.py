"""The model: what is local sees no further than it says, and the cascade takes every level."""

from __future__ import annotations

import torch

from pillow_mcquic.bitstream.grids import grids_of
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.model.model import Cascade

QUALITY = torch.tensor([4.0])


def test_pixels_depend_on_positions_within_reach_alone(bundle: DecoderBundle) -> None:
    model, reach = bundle.model, bundle.model.synthesis.reach
    z1 = torch.randn(1, bundle.config.channels(1), 1, 2 * reach + 2, generator=torch.Generator().manual_seed(1))
    features = torch.randn(1, bundle.config.hyper_width, *z1.shape[2:], generator=torch.Generator().manual_seed(2))
    other = z1.clone()
    other[..., 0] += 1
    with torch.inference_mode():
        change = (model.synthesise(z1, features, QUALITY) - model.synthesise(other, features, QUALITY)).abs()
    columns = change.amax((0, 1, 2)).view(-1, 16).amax(1)
    assert columns[reach] > 0
    assert columns[reach + 1] == 0


def test_the_cascade_predicts_level_2_then_level_1(bundle: DecoderBundle) -> None:
    grids = grids_of(100, 70)
    cascade = Cascade(bundle.model, QUALITY, grids)
    with torch.inference_mode():
        assert cascade.mean is None
        cascade.push(3, torch.randn(1, bundle.config.channels(3), *grids[3]))
        assert cascade.mean is not None
        assert cascade.mean.shape == (1, bundle.config.channels(2), *grids[2])
        cascade.push(2, torch.randn(1, bundle.config.channels(2), *grids[2]))
        assert cascade.features is not None
        assert cascade.features.shape == (1, bundle.config.hyper_width, *grids[1])


def test_channels_are_split_by_bank_as_far_as_they_go(bundle: DecoderBundle) -> None:
    x = torch.arange(40.0).view(1, 40, 1, 1)
    parts = bundle.model.split_banks(x, 1)
    assert {number: part.shape[1] for number, part in parts.items()} == {2: 8, 3: 24}
    assert parts[3].flatten()[0] == 8
