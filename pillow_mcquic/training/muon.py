"""Muon that takes matrices of one size together."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

LEAST_SIDE = 128  # of the matrices on CUDA


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`, the same steps and state.

    torch's own takes one matrix after the other: on CUDA the hundred of this model take thousands of small kernels.
    `found_inf`: 1 on the device if a step is to be skipped, as fused Adam has it, else 0.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Any, lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(params, lr, weight_decay, momentum, nesterov=True, adjust_lr_fn="original")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(group, parameters)

    def _move(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        momenta = [state["momentum_buffer"] for state in states]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        alike: dict[tuple[int, int], list[int]] = {}
        for i, update in enumerate(updates):
            alike.setdefault(room(update), []).append(i)
        for (rows, columns), places in alike.items():
            of_size = [updates[i].mT if updates[i].shape[0] > updates[i].shape[1] else updates[i] for i in places]
            matrices = torch.zeros(len(of_size), rows, columns, dtype=torch.bfloat16, device=of_size[0].device)
            parts = [matrix[: u.shape[0], : u.shape[1]] for matrix, u in zip(matrices, of_size, strict=True)]
            torch._foreach_copy_(parts, of_size)
            found = orthogonal(matrices, group["ns_coefficients"], group["ns_steps"], group["eps"])
            parts = [matrix[: u.shape[0], : u.shape[1]] for matrix, u in zip(found, of_size, strict=True)]
            torch._foreach_copy_(of_size, parts)
        torch._foreach_mul_(updates, [-group["lr"] * math.sqrt(max(1, u.shape[0] / u.shape[1])) for u in updates])
        torch._foreach_add_(updates, parameters, alpha=-group["lr"] * group["weight_decay"])
        if self.found_inf is not None:
            torch._foreach_mul_(updates, 1 - self.found_inf)
        torch._foreach_add_(parameters, updates)


def room(matrix: Tensor) -> tuple[int, int]:
    """Sides, the shorter one first, that a matrix is put into.

    On CUDA powers of two, for a few sizes in all: zeros change nothing, and many small products wait for one another.
    """
    sides = sorted(matrix.shape)
    if matrix.device.type != "cpu":
        sides = [max(LEAST_SIDE, 1 << (side - 1).bit_length()) for side in sides]
    return sides[0], sides[1]


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest semi-orthogonal matrices (n, rows, columns), rows <= columns, bfloat16, by Newton and Schulz."""
    a, b, c = coefficients
    x: Tensor = matrices / torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
