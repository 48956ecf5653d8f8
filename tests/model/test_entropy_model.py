"""The entropy model: classes of a batch are those of each, sums beyond exact ones are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pillow_mcquic.bitstream.grids import grids_of
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.model.entropy_model import ContextNetwork, HyperNetwork
from pillow_mcquic.quality import Quality
from pillow_mcquic.training import entropy_networks
from pillow_mcquic.training.initial import draw_weights
from pillow_mcquic.training.integers import export_context_network, export_hyper_network

from ..helpers import bounds, make_network, random_codes


def test_classes_of_several_pictures_are_those_of_each(bundle: DecoderBundle) -> None:
    """Also where blocks of rows end within them."""
    model, quality, grids = bundle.entropy_model, Quality(1000), grids_of(950, 650)
    codes = random_codes(bundle.config, grids, pictures=3, seed=6)

    def classes(codes: list[Tensor]) -> list[Tensor]:
        state, found = model.begin(quality, grids, len(codes[0]), torch.device("cpu")), []
        for number, known in enumerate(codes):
            found.append(state.classes(number))
            state.push(number, known)
        return found

    together = classes(codes)
    for i in range(3):
        for alone, all_of_them in zip(classes([c[i : i + 1] for c in codes]), together, strict=True):
            assert torch.equal(alone[0], all_of_them[i])
    assert all(found.unique().numel() > 2 for found in together[1:])


@pytest.mark.parametrize(("entering", "base"), [(2.0**20, 200), (9000, 2.0**20)])
def test_a_context_network_beyond_exact_sums_is_refused(entering: float, base: float) -> None:
    network = entropy_networks.ContextNetwork(5, 6, 8)
    draw_weights(network)
    tensors = export_context_network(network)
    with pytest.raises(ValueError, match="beyond exact"):
        ContextNetwork(tensors, 5, bounds(8, entering), bounds(6, base))


@pytest.mark.parametrize("name", ["hidden_bias", "neighbourhood.bias", "output.bias", "class_bias"])
def test_a_hyper_network_beyond_exact_sums_is_refused(name: str) -> None:
    tensors = export_hyper_network(make_network(), 6)
    HyperNetwork(tensors, 6)
    tensors[name] = torch.full_like(tensors[name], 2**24)
    with pytest.raises(ValueError, match="beyond exact"):
        HyperNetwork(tensors, 6)


@pytest.mark.parametrize(
    ("name", "value"), [("input.weight", 256), ("neighbourhood.weight", -256), ("input.shift", 16), ("output.shift", 0)]
)
def test_a_hyper_network_of_longer_numbers_is_refused(name: str, value: int) -> None:
    tensors = export_hyper_network(make_network(), 6)
    tensors[name].view(-1)[1] = value
    with pytest.raises(ValueError, match="weights of at most 255 and shifts of 1 to 15"):
        HyperNetwork(tensors, 6)
