"""First values of a model: it works as a transform codec before its first step."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from ..model.codebooks import Codebooks
from ..model.transforms import LATENT_SCALE
from ..nn.layers import Block, Pointwise
from .learned_tables import log_scale_to_class
from .objective import Objective
from .settings import Settings

KLT_GAIN = 5.7  # steps per unit of pixel value at the lambda the KLT is scaled for
Klt = tuple[Tensor, Tensor, Tensor]  # basis (channels, 768), mean (768,) and deviation (channels,) of 16x16 patches


def lattice(count: int, dim: int, seed: int) -> Tensor:
    """The shortest `count` points of the best lattice of 1, 2, 4 or 8 dimensions, unit cell volume.

    Z, A2, D4 and E8; sorted by norm, so the first is zero; `seed` shuffles points of equal norm.
    """
    if dim == 1:
        points = np.arange(-count, count + 1, dtype=np.float64)[:, None]
    elif dim == 2:
        a, b = np.meshgrid(np.arange(-20, 21), np.arange(-20, 21))
        points = np.stack([a.ravel() + 0.5 * b.ravel(), b.ravel() * math.sqrt(3) / 2], 1)
        points /= math.sqrt(math.sqrt(3) / 2)
    elif dim == 4:
        points = np.array([p for p in itertools.product(range(-4, 5), repeat=4) if sum(p) % 2 == 0])
        points = points * 2**-0.25
    elif dim == 8:
        whole = [p for p in itertools.product((-1, 0, 1), repeat=8) if sum(p) % 2 == 0 and sum(map(abs, p)) <= 4]
        half = [p for p in itertools.product((-0.5, 0.5), repeat=8) if sum(p) % 2 == 0]
        points = np.array(whole + half, dtype=np.float64)
    else:
        raise ValueError(f"dim must be 1, 2, 4 or 8, got {dim}")
    norms = np.round((points**2).sum(1), 6)
    order = np.lexsort((np.random.RandomState(seed).rand(len(points)), norms))
    return torch.tensor(points[order][:count], dtype=torch.float32)


def set_codebooks(codebooks: Codebooks, scales: tuple[float, ...], seed: int) -> None:
    """Set every stage to the shortest points of its lattice, at its scale; another order in every group."""
    bank = codebooks.bank
    for stage, (codewords, count, scale) in enumerate(zip(codebooks.codewords, bank.stages, scales, strict=True)):
        for group in range(bank.groups):
            codewords.data[group] = scale * lattice(count, bank.dim, seed + 50 * stage + group)


def draw_weights(networks: nn.Module) -> None:
    """Draw the weights of all pointwise layers."""
    with torch.no_grad():
        for layer in networks.modules():
            if isinstance(layer, Pointwise):
                layer.weight.normal_(std=layer.initial_deviation)


def new_objective(settings: Settings, klt: Klt | None = None) -> Objective:
    """An untrained model that already works; without `klt` its transforms are empty, to be filled with a state."""
    objective = Objective(settings.model, settings.encoder)
    model = objective.decoder
    for number, scales in enumerate(settings.codebook_scales):
        first = settings.model.banks_of(settings.model.banks[number].level).start
        set_codebooks(model.books(number), scales, seed=100 * (number - first))
    objective.set_tables()
    draw_weights(objective)
    with torch.no_grad():
        if klt is not None:
            basis, mean, deviation = klt
            objective.encoder.analysis.klt.copy_(basis * KLT_GAIN)
            model.synthesis.klt.copy_(basis.t() / KLT_GAIN)
            model.synthesis.patch_mean.copy_(mean)
            model.deviation.copy_(deviation * KLT_GAIN)
        _set_rates(objective, settings)
    return objective


def _set_rates(objective: Objective, settings: Settings) -> None:
    """Set gains to sqrt(lambda) steps and classes to the scales the latents will then have."""
    model, config, networks = objective.decoder, objective.decoder.config, objective.entropy_networks
    lambdas = settings.encoder.distortion.weight(1.0 + torch.arange(config.qualities))
    log_gain = 0.5 * torch.log(lambdas / settings.lambda_reference)[:, None]  # (qualities, 1)
    for level, share in ((1, 1.0), (2, 0.5), (3, 0.5)):
        table = model.log_gain[str(level)]
        table.copy_((share * log_gain).expand_as(table))
    deviations = model.split_banks(model.deviation.log()[None], 1)
    scales = [deviations[number].view(config.banks[number].groups, -1).mean(1) for number in config.banks_of(1)]
    scale_1 = torch.cat(scales)[None, :] + log_gain
    networks.hyper_network(1).class_bias[:, : scale_1.shape[1]].copy_(log_scale_to_class(scale_1))
    bias_2 = networks.hyper_network(2).class_bias
    bias_2.copy_(log_scale_to_class(0.5 * log_gain).expand_as(bias_2))
    scale_3 = torch.full_like(log_gain, math.log(LATENT_SCALE)) * 0.72 + 0.5 * log_gain
    networks.class_3.copy_(log_scale_to_class(scale_3).expand_as(networks.class_3))


def grow_blocks(objective: Objective, known: set[str]) -> None:
    """Let blocks that a source of tensors lacks begin as the identity; known: names of tensors it has."""
    with torch.no_grad():
        for name, module in objective.named_modules():
            if isinstance(module, Block) and f"{name}.output.weight" not in known:
                module.output.weight.zero_()
                if module.expansion:
                    module.contract.weight.zero_()
