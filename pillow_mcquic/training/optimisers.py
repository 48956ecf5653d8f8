"""Optimisers: Muon for the matrices of the networks, Adam for everything else; each tensor at the rate it can bear."""

from __future__ import annotations

import re

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from .muon import Muon
from .objective import Objective
from .settings import Settings

# Where a change shows at once: matrices between pixels or level 1 and the networks of both transforms, but for
# analysis' first, and those that write the features of which pixels are made (docs/log/training-log.md, run 23)
EXPOSED = re.compile(
    r"(encoder\.analysis\.output|decoder\.synthesis\.(input|output|blocks_8\.\d+\.(output|contract)))\.weight"
)


def optimisers(objective: Objective, settings: Settings) -> list[torch.optim.Optimizer]:
    """Adam and Muon; `scale` multiplies a group's rate.

    `EXPOSED` matrices go slowly: a change of the same size costs a hundred times as much there.
    """
    still, slow, tables, rest = [], [], [], []
    exposed, inner = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue  # set by `Objective.allocate`, or fitted at export
        if name == "decoder.synthesis.klt":
            still.append(parameter)
        elif name == "encoder.analysis.klt" or ".codewords." in name:
            slow.append(parameter)
        elif ".logits." in name:
            tables.append(parameter)
        elif name.endswith(".weight") and parameter.ndim == 2:
            (exposed if EXPOSED.fullmatch(name) else inner).append(parameter)
        else:
            rest.append(parameter)
    adam = torch.optim.Adam(
        [
            {"params": rest, "scale": 1.0},
            {"params": slow, "scale": settings.slow},
            {"params": still, "scale": settings.still},
            {"params": tables, "scale": settings.tables},
        ],
        lr=settings.adam_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    muon = Muon(
        [{"params": inner, "scale": 1.0}, {"params": exposed, "scale": settings.slow}],
        lr=settings.muon_rate,
        weight_decay=0.0,
        momentum=0.95,
    )
    return [adam, muon]


def set_rates(opts: list[torch.optim.Optimizer], settings: Settings, factor: float) -> None:
    """Set the rate of every group, `factor` times what settings say."""
    for optimiser, base in zip(opts, (settings.adam_rate, settings.muon_rate), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = base * group["scale"] * factor


@torch.no_grad()
def limit_gradients(module: nn.Module, most: float) -> Tensor:
    """Shorten the gradient to a norm of at most `most`, in place; one that is not finite becomes 0.

    Returns 1 if it was not finite, else 0, (): on the device, as CUDA would idle while it waits for a decision.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients)
    finite = norm.isfinite()
    for gradient in gradients:
        gradient.nan_to_num_(0, 0, 0)
    clip_grads_with_norm_(parameters, most, torch.where(finite, norm, torch.inf))
    return torch.where(finite, 0.0, 1.0)
