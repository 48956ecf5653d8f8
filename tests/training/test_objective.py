"""The objective: gains and steps go where errors cost the same."""

from __future__ import annotations

import math

import pytest
import torch

from pillow_mcquic.training.initial import new_objective
from pillow_mcquic.training.learned_tables import ERROR_COST
from pillow_mcquic.training.settings import Settings


def test_gains_go_where_errors_cost_the_same(settings: Settings) -> None:
    """An error that costs four times what it should halves the step, by its gain or by its class."""
    objective = new_objective(settings)
    for number in settings.model.banks_of(1):
        tables = objective.tables_of(number)
        cost, unit = tables.error_cost.view(2, -1, 10, 24)
        unit.fill_(1)
        cost.fill_(ERROR_COST)
    log_gain = objective.decoder.log_gain["1"]
    gain = log_gain.clone()
    objective.allocate(speed=1.0)
    assert torch.allclose(log_gain, gain, atol=1e-6)

    first = objective.tables_of(2).error_cost.view(2, -1, 10, 24)
    first[0, 3, 5] *= 4  # group 3 at quality 6
    first[0, 4, :, 15] /= 2  # group 4 in class 15
    objective.allocate(speed=1.0)
    shift = log_gain - gain
    assert shift[5, 3] == pytest.approx(0.5, rel=0.03)  # of log 2, at most half a unit at once
    assert shift[4, 3] == pytest.approx(0, abs=1e-6)
    steps = objective.decoder.books(2).log_step
    assert steps[4, 15 - 6] == pytest.approx(math.log(2) / 2, rel=0.1)
    assert steps[5].count_nonzero() == 0


def test_rate_and_reconstruction_have_gradients_everywhere(settings: Settings) -> None:
    objective, x = new_objective(settings), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter += 0.01 * torch.randn_like(parameter)  # a new model's zeros stop gradients
    decoded, bits, codebook_loss = objective(x, torch.tensor([2.0, 7.5]))
    assert decoded.shape == x.shape
    assert bits.shape == (3, 2)
    (bits.sum() + 1e5 * (decoded - x).square().mean() + codebook_loss).backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
