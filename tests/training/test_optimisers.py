"""Rates by what a change costs, and gradients that are not finite."""

from __future__ import annotations

import math

import pytest
import torch

from pillow_mcquic.training.initial import new_objective
from pillow_mcquic.training.optimisers import limit_gradients, optimisers
from pillow_mcquic.training.settings import Settings


def test_rates_are_low_where_a_change_is_seen_at_once(settings: Settings) -> None:
    objective = new_objective(settings)
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    adam, muon = optimisers(objective, settings)
    scale = {names[id(p)]: group["scale"] for o in (adam, muon) for group in o.param_groups for p in group["params"]}
    assert scale["decoder.synthesis.klt"] == settings.still
    assert scale["encoder.analysis.klt"] == scale["decoder.codebooks.4.codewords.1"] == settings.slow
    assert scale["tables.2.logits.0"] == settings.tables
    assert {names[id(p)] for p in muon.param_groups[1]["params"]} == {
        "encoder.analysis.output.weight",
        "decoder.synthesis.input.weight",
        "decoder.synthesis.blocks_8.0.output.weight",
        "decoder.synthesis.blocks_8.0.contract.weight",
        "decoder.synthesis.output.weight",
    }
    assert [group["scale"] for group in muon.param_groups] == [1, settings.slow]
    fixed = {name for name, p in objective.named_parameters() if not p.requires_grad}
    assert set(scale) == set(names.values()) - fixed


def test_a_step_without_a_finite_gradient_moves_nothing(settings: Settings) -> None:
    objective = new_objective(settings)
    steppers = optimisers(objective, settings)
    generator = torch.Generator().manual_seed(1)

    def step(value: float) -> float:
        before = torch.nn.utils.parameters_to_vector(objective.parameters()).clone()
        for parameter in objective.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator) if parameter.requires_grad else None
        objective.encoder.analysis.output.bias.grad[3] = value
        not_finite = limit_gradients(objective, 1.0)
        for stepper in steppers:
            stepper.found_inf = not_finite
            stepper.step()
        return (torch.nn.utils.parameters_to_vector(objective.parameters()) - before).abs().max().item()

    assert step(1.0) > 0
    assert step(math.nan) == step(math.inf) == 0
    assert step(1.0) > 0


@pytest.mark.parametrize(
    ("value", "limited", "lost"),
    [(3.0, [0.6, 0.8], 0), (0.3, [0.3, 0.4], 0), (math.nan, [0, 0], 1), (math.inf, [0, 0], 1)],
)
def test_gradients_are_limited_and_lost_when_not_finite(value: float, limited: list[float], lost: int) -> None:
    module = torch.nn.Linear(1, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[value]]), torch.tensor([value * 4 / 3])
    assert int(limit_gradients(module, 1.0)) == lost
    assert [module.weight.grad.item(), module.bias.grad.item()] == pytest.approx(limited, rel=1e-4)
