"""More qualities for a model that stays what it is: only new rows of its per-quality tables are trained."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .objective import Objective

PER_QUALITY = re.compile(r"(^|\.)(log_gain(\.\d)?|hidden_bias|class_bias|class_3)$")  # names of tables


def lengthen(target: Tensor, known: int) -> None:
    """Fill the rows of a table after the first `known`: each goes half of the last three rows' difference further."""
    step = (target[known - 1] - target[known - 3]) / 2
    for row in range(known, len(target)):
        target[row] = target[row - 1] + step


def train_only(objective: Objective, first: int) -> None:
    """Freeze everything but the rows of per-quality tables from quality `first` on."""

    def only_new(gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, torch.arange(first - 1, device=gradient.device), 0)

    for name, parameter in objective.named_parameters():
        if not PER_QUALITY.search(name):
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            parameter.register_hook(only_new)  # type: ignore[no-untyped-call]  # Adam leaves alone what never had a gradient
