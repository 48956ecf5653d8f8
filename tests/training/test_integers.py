"""Entropy networks as whole numbers: exact, and equal to their float originals."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from pillow_mcquic.bitstream.grids import grids_of
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.model import entropy_model
from pillow_mcquic.nn.integer import add_finer, at_quality, put_finer, with_bias
from pillow_mcquic.nn.reshape import pad_ring
from pillow_mcquic.quality import Quality
from pillow_mcquic.training.entropy_networks import ContextNetwork, HyperNetwork, log_energy
from pillow_mcquic.training.initial import draw_weights
from pillow_mcquic.training.integers import export_context_network, export_hyper_network, import_hyper_network

from ..helpers import bounds, make_network, random_codes

CPU = torch.device("cpu")


def integer_inputs(inputs: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(-255, 256, (1, inputs, 9, 11), generator=generator).float()


def integer_classes(tensors: dict[str, Tensor], x: Tensor, quality: Quality) -> Tensor:
    network = entropy_model.HyperNetwork(tensors, 6)
    quarters = network.quarters(network.output_weight([*range(6)], quality, CPU), network.hidden(x, quality))
    classes = torch.empty(1, 6, 2 * x.shape[2], 2 * x.shape[3], dtype=torch.uint8)
    return put_finer(quarters.clamp_(0, 23), classes)


@pytest.mark.parametrize("quality", [256, 700, 2048])
def test_a_hyper_network_in_integers_follows_the_float_one(quality: int) -> None:
    network, x = make_network(), integer_inputs()
    exact = integer_classes(export_hyper_network(network, 6), x, Quality(quality))
    with torch.no_grad():
        q = torch.tensor([quality / 256], dtype=torch.float64)
        real = network.double()(x.double() / 4, q).clamp(0, 23)
    difference = (exact.double() - real).abs()
    assert difference.max() < 0.5 + 0.1  # an activation may round the other way, as biases are rounded
    assert (difference < 0.5 + 0.01).float().mean() > 0.99


def test_a_hyper_network_is_exact_in_any_order() -> None:
    """The same sums in Python's integers."""
    quality = Quality(1000)
    tensors = export_hyper_network(make_network(), 6)
    x = integer_inputs()[:, :, :3, :3]
    exact = integer_classes(tensors, x, quality)

    def whole(name: str) -> np.ndarray:
        return tensors[name].numpy().astype(object)

    def shifted(values: np.ndarray, name: str) -> np.ndarray:
        return np.array([(v + (1 << n - 1)) >> n for v, n in zip(values, whole(name), strict=True)], object)

    hidden = at_quality(tensors["hidden_bias"], 1000, 256).numpy().astype(object)
    planes = np.pad(x[0].numpy().astype(np.int64).astype(object), ((0, 0), (1, 1), (1, 1)), mode="edge")
    first = np.empty((16, 5, 5), object)
    for r in range(5):
        for c in range(5):
            sums = whole("input.weight") @ planes[:, r, c] + hidden
            first[:, r, c] = np.clip(shifted(sums, "input.shift"), 0, 255)
    r = c = 2  # the middle of the inner 3x3
    near = first[:, r - 1 : r + 2, c - 1 : c + 2].reshape(-1)
    sums = whole("neighbourhood.weight") @ near + whole("neighbourhood.bias")
    middle = np.minimum(first[:, r, c] + np.maximum(shifted(sums, "neighbourhood.shift"), 0), 255)
    out = (whole("output.weight") @ middle + whole("output.bias")).reshape(6, 4)
    out = out + at_quality(tensors["class_bias"], 1000, 256).numpy().astype(object)[:, None]
    classes = np.clip(shifted(out, "output.shift"), 0, 23).astype(np.uint8).reshape(6, 2, 2)
    assert np.array_equal(classes, exact[0, :, 2:4, 2:4].numpy())
    # two of the outputs that enter a context network instead
    mixed = entropy_model.HyperNetwork(tensors, 4)
    weight = mixed.output_weight([1, 4, 5], quality, CPU)
    found = mixed.quarters(weight, mixed.hidden(x, quality))[0, ..., 1, 1]
    shift = tensors["output.shift"].tolist()
    assert found[0].tolist() == [v / 2 ** shift[1] + 0.5 for v in out[1]]
    assert found[1:].tolist() == [[v / 2 ** shift[o] for v in out[o]] for o in (4, 5)]


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_classes_are_exact_whatever_the_products_of_the_caller(precision: Literal["medium", "high"]) -> None:
    """As bfloat16 holds whatever enters a product: where oneDNN has it, "medium" takes it."""
    tensors = export_hyper_network(make_network(), 6)
    integer = entropy_model.HyperNetwork(tensors, 6)
    first = with_bias(integer.input, integer.hidden_bias[0], integer.input_shift)
    for held in (integer.neighbourhood, first, torch.arange(-255, 256).float()):
        assert torch.equal(held.bfloat16().float(), held)
    x, quality = integer_inputs().repeat(1, 1, 9, 9), Quality(700)
    exact = integer_classes(tensors, x, quality)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(integer_classes(tensors, x, quality), exact)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(integer_classes(tensors, x, quality), exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_hyper_network_is_what_its_integers_were_exported_from() -> None:
    network = make_network()
    tensors = export_hyper_network(network, 4)
    again = HyperNetwork(10, 6, 16, 8)
    again.load_state_dict(import_hyper_network(tensors, 4))
    for name, tensor in export_hyper_network(again, 4).items():
        assert torch.equal(tensor, tensors[name]), name
    assert torch.allclose(again.neighbourhood.weight, network.neighbourhood.weight, atol=0.01)


def test_integer_log_energies_follow_the_float_ones(bundle: DecoderBundle) -> None:
    grids = grids_of(110, 80)
    for number, codes in enumerate(random_codes(bundle.config, grids)):
        bank, books = bundle.config.banks[number], bundle.model.books(number)
        classes = torch.zeros(1, bank.groups, *grids[bank.level], dtype=torch.uint8)
        scaled = books.sum_codewords(codes, classes)  # the log energy is of codewords before their step
        steps = books.steps(classes[0].flatten(1)).view(bank.groups, 1, *grids[bank.level])
        # codewords are int16: a component beyond 512 counts as 512
        unscaled = (scaled / steps.repeat_interleave(bank.dim, 0).transpose(0, 1)).clamp(-512, 512)
        exact = bundle.entropy_model.log_energies(number, codes)
        assert exact.dtype == torch.uint8
        assert torch.equal(exact, pad_ring(exact[..., 1:-1, 1:-1]))
        real = log_energy(unscaled, bank.dim)
        assert (exact[..., 1:-1, 1:-1] / 8 - real).abs().max() <= 0.125  # codewords are rounded
        assert bundle.entropy_model.log_energies(number, codes * 0).count_nonzero() == 0


def test_integer_embeddings_follow_the_codewords(bundle: DecoderBundle) -> None:
    grids = grids_of(200, 130)
    codes = random_codes(bundle.config, grids, pictures=2)[0]
    classes = torch.zeros(2, 24, *grids[3], dtype=torch.uint8)
    codewords = bundle.model.sum_codewords(0, codes, classes)  # steps of level 3 are 1
    exact = bundle.entropy_model.embedding(0, codes)
    assert (exact / 4 - codewords.clamp(-255 / 4, 255 / 4)).abs().max() <= 0.15
    assert exact.abs().max() <= 255


@pytest.mark.parametrize("sees_neighbours", [True, False])
def test_a_context_network_in_integers_follows_the_float_one(sees_neighbours: bool) -> None:
    torch.manual_seed(4)
    network = ContextNetwork(5, 6, 8, sees_neighbours)
    draw_weights(network)
    with torch.no_grad():
        network.output.weight.normal_()
        network.output.bias.normal_()
    energies = torch.randint(0, 90, (1, 5, 7, 9)).float()
    quarters = torch.round(torch.randn(1, 8, 4, 4, 5) * 32 * 64) / 64
    integer = entropy_model.ContextNetwork(export_context_network(network), 5, bounds(8, 9000), bounds(6, 200))
    exact = integer.gains([pad_ring(energies)], quarters)
    entering = add_finer(quarters / 32, torch.zeros(1, 8, 7, 9))
    with torch.no_grad():
        real = network.double()(energies.double() / 8, entering.double())
    assert (exact - real).abs().max() < 0.2  # an activation may round the other way
    assert real.abs().max() > 5
