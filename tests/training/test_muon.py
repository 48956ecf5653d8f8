"""Muon that takes matrices of one size together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pillow_mcquic.training.muon import Muon


@pytest.mark.parametrize("padded", [False, True])
def test_muon_moves_matrices_as_torch_does(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are put into larger ones, as on CUDA."""
    if padded:
        monkeypatch.setattr("pillow_mcquic.training.muon.room", lambda matrix: (16, 32))
    generator = torch.Generator().manual_seed(3)
    shapes = [(8, 8), (12, 5), (5, 12), (8, 8), (12, 5)]
    ours, theirs = ([torch.nn.Parameter(torch.ones(shape)) for shape in shapes] for _ in range(2))
    kinds: dict[Any, Any] = {Muon: ours, torch.optim.Muon: theirs}
    steppers = [kind(mine, lr=0.1, weight_decay=0.01, momentum=0.9) for kind, mine in kinds.items()]
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for stepper in steppers:
            stepper.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=0.01)
        assert (mine - 1).abs().max() > 0.05
