"""Entropy networks in floats, with the rounding of whole numbers."""

from __future__ import annotations

import math

import torch

from pillow_mcquic.training.entropy_networks import log_energy, shorten


def test_short_weights_keep_their_gradient_and_eight_bits() -> None:
    weight = torch.tensor([[1.0, -0.3, 0.01], [30.0, 0.3, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    rounded = shorten(weight)
    rounded.sum().backward()
    assert rounded.tolist() == [[1.0, -38 / 128, 1 / 128], [30.0, 0.25, 0.0], [0.0, 0.0, 0.0]]
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.ones(3, 3))


def test_log_energy_is_linear_between_powers_of_two() -> None:
    codewords = torch.tensor([0.0, 1.0, 1.0, math.sqrt(2), 3.0, math.sqrt(13)]).view(1, 6, 1, 1)
    values = log_energy(codewords, 1)[0, :, 0, 0]
    assert torch.allclose(values, torch.tensor([0.0, 1.0, 1.0, 1.5, 3.25, 3.75]), atol=1e-5)
    pairs = log_energy(codewords, 2)[0, :, 0, 0]  # squared norms 1, 3, 22
    assert torch.allclose(pairs, torch.tensor([1.0, 2.0, 4 + 3 / 8]), atol=1e-5)
