"""The gradient of an expectation over codewords."""

from __future__ import annotations

import torch

from pillow_mcquic.model.expectation import expected_gradient
from pillow_mcquic.model.nearest import group_of
from pillow_mcquic.model.rate_distortion import Rates


def gradient(x: list[float], codewords: list[float], slope: float, temperature: float) -> list[float]:
    """Of numbers, under codewords that cost the same."""
    vectors, books = torch.tensor(x)[None, :, None], torch.tensor(codewords)[None, :, None]
    low = torch.zeros(1, len(x), dtype=torch.int64)
    rates = Rates([torch.zeros(1, 1, 1, len(codewords))], group_of(vectors), low)
    found = expected_gradient(torch.full_like(vectors, slope), vectors, books, rates, low, 0.11, temperature)
    return [float(value) for value in found.flatten()]


def test_where_one_codeword_is_certain_nothing_moves(pruning: bool) -> None:
    assert abs(gradient([0.0], [0.0, 8.0, -8.0], 5.0, 1.5)[0]) < 1e-6


def test_where_codewords_lie_dense_it_is_the_slope(pruning: bool) -> None:
    dense = [0.0, *(step / 8 for step in range(-160, 161) if step)]
    found = gradient([1.3, -2.7], sorted(dense, key=abs), 5.0, 1.5)
    assert all(abs(value - 5) < 0.05 for value in found)
