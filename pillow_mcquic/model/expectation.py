"""How a cost changes with a latent, though the codeword chosen for it jumps: what training and refinement follow."""

from __future__ import annotations

import torch
from torch import Tensor

from .nearest import WIDE_BLOCK, prefix_members, prefix_of, prefix_sizes, prunes, take
from .rate_distortion import Rates, ball_radii, fill_columns, radii_of_tables

SOFT_BLOCK = 2048  # vectors whose codewords are weighed at once
UNLIKELY = 5.0  # temperatures by which a codeword costs more than another to be left out of account


def expected_gradient(
    slope: Tensor, x: Tensor, codewords: Tensor, rates: Rates, table: Tensor, error_per_bit: float, temperature: float
) -> Tensor:
    """How a cost changes with a vector, though the codeword chosen for it jumps: the gradient of an expectation.

    Codeword k is taken with probability p_k ~ exp(-J_k / T), where J_k = w |x - c_k|^2 + bits_k is what the codeword
    search minimises, w = 1 / error_per_bit.  With g the gradient of the distortion at the chosen codeword c, in bits a
    step, the best place for x is where `slope` = g + 2 w (x - c) vanishes: there the distortion, its curvature w, has
    its minimum over this vector; what its codeword costs is for the search to weigh.  How much being elsewhere matters,
    the expectation says: the result is 2 w / T Cov_p(c) slope, which is about the slope where codewords lie dense, and
    0 where one is certain.  (Straight through, the gradient ends 5 % above where it began: docs/log/training-log.md,
    before run 16.)

    Parameters
    ----------
    slope, x : (groups, N, dim), in bits a step and in steps.
    codewords : of the last stage (groups, K, dim).
    rates : for the vectors.
    table : of each vector at the last stage, as of `Rates.table`.
    error_per_bit : squared error, in steps, that is worth a bit.
    temperature : T, bits; 1.5 lets a codeword scatter as an error that is uniform over a cell does.

    Returns
    -------
    (groups, N, dim), bits a step.
    """
    if not prunes(x.device):
        return _of_all_codewords(slope, x, codewords, rates, table, error_per_bit, temperature)
    bits, w = rates.bits[-1].flatten(1, 2), 1 / error_per_bit
    radii = ball_radii(codewords, bits * error_per_bit, UNLIKELY * temperature * error_per_bit)
    rates, table, shape = rates.flat(), table.flatten(), x.shape
    slope, x = slope.flatten(0, 1), x.flatten(0, 1)
    distance = torch.linalg.vector_norm(x - take(codewords[:, 0], rates.group), dim=-1)
    result = torch.zeros_like(x)
    prefix = prefix_of(distance, radii_of_tables(radii, table, rates))
    for count, members, sizes in prefix_members(prefix, rates.group, len(codewords), prefix_sizes(codewords)):
        for group, own in enumerate(torch.split(members, sizes)):
            c = codewords[group, :count]
            energy = w * c.square().sum(-1)
            for at in torch.split(own, SOFT_BLOCK) if len(own) else ():
                cost = bits[group, table[at], :count]
                if rates.share is not None:
                    cost = torch.lerp(cost, bits[group, table[at] + 1, :count], rates.share[at, None])
                cost = torch.addmm(cost + energy, x[at], c.t(), alpha=-2 * w)
                p = torch.softmax(cost / -temperature, -1)
                change = slope[at] @ c.t()
                change = (change - (p * change).sum(-1, keepdim=True)).mul_(p)
                result[at] = (change @ c) * (2 * w / temperature)
    return result.view(shape)


def _of_all_codewords(
    slope: Tensor, x: Tensor, codewords: Tensor, rates: Rates, table: Tensor, error_per_bit: float, temperature: float
) -> Tensor:
    """`expected_gradient` with all codewords weighed for all vectors, by dense products.

    Cov(c) = E[c c'] - E[c] E[c]'.
    """
    dim, count, w = x.shape[2], x.shape[1], 1 / error_per_bit
    bits = rates.bits[-1].flatten(1, 2)
    energy = w * codewords.square().sum(-1, keepdim=True)
    cost = torch.cat([-2 * w * codewords, energy, bits.transpose(1, 2)], 2).transpose(1, 2) / -temperature
    moments = torch.cat([codewords, (codewords[..., :, None] * codewords[..., None, :]).flatten(2)], 2)
    parts = []
    for start in range(0, count, WIDE_BLOCK):
        at = slice(start, start + WIDE_BLOCK)
        vectors = x[:, at]
        columns = codewords.new_zeros(len(codewords), cost.shape[1], vectors.shape[1])
        share = None if rates.share is None else rates.share[:, at].flatten()
        fill_columns(columns, vectors.flatten(0, 1), table[:, at].flatten(), share)
        p = torch.softmax(columns.transpose(1, 2) @ cost, -1)
        mean, square = torch.split(p @ moments, [dim, dim * dim], 2)
        steep = slope[:, at, :, None]
        change = (square.view(*mean.shape, dim) @ steep)[..., 0]
        parts.append(change - mean * (mean * steep[..., 0]).sum(-1, keepdim=True))
    return torch.cat(parts, 1) * (2 * w / temperature)
