"""How a cost changes with a latent, though the codeword chosen for it jumps: what training and refinement follow."""

from __future__ import annotations

import torch
from torch import Tensor

from .search import WIDE_CHUNK, Rates, ball_radii, fill_columns, members, of_tables, picks, searched, shells, some

SOFT_CHUNK = 2048  # vectors whose words are weighed at once
UNLIKELY = 5.0  # temperatures by which a word costs more than another to be left out of account


def expected_gradient(
    slope: Tensor, x: Tensor, words: Tensor, rates: Rates, row: Tensor, error_per_bit: float, temperature: float
) -> Tensor:
    """How a cost changes with a vector, though the word chosen for it jumps: the gradient of an expectation.

    Word k is taken with probability p_k ~ exp(-J_k / T), J_k = w |x - c_k|^2 + bits_k being what `Choice` minimises,
    w = 1 / error_per_bit.  With g the gradient of the distortion at the chosen word c, in bits a step, the best place
    for x is where `slope` = g + 2 w (x - c) vanishes: there the distortion, its curvature w, has its minimum over this
    vector, and what its word costs is for the search to weigh.  How much being elsewhere matters, the expectation says:
    returns 2 w / T Cov_p(c) slope, which is about the slope where words lie dense and 0 where one word is certain.
    (The gradient alone, straight through, ends 5 % above where it began: docs/training-log.md, before run 16.)

    slope, x (groups, N, dim); words (groups, K, dim); rates and row: of the last stage, as of `Rates`; temperature T in
    bits: 1.5 lets a word scatter as an error that is uniform over a cell does.
    """
    if not picks(x.device):
        return every_expected_gradient(slope, x, words, rates, row, error_per_bit, temperature)
    table, w = rates.bits[-1].flatten(1, 2), 1 / error_per_bit
    radii = ball_radii(words, table * error_per_bit, UNLIKELY * temperature * error_per_bit)
    rates, row, shape = rates.flat(), row.flatten(), x.shape
    slope, x = slope.flatten(0, 1), x.flatten(0, 1)
    distance = torch.linalg.vector_norm(x - some(words[:, 0], rates.group), dim=-1)
    result = torch.zeros_like(x)
    shell = shells(distance, of_tables(radii, row, rates))
    for count, marked, sizes in members(shell, rates.group, len(words), searched(words)):
        for g, mine in enumerate(torch.split(marked, sizes)):
            c = words[g, :count]
            energy = w * c.square().sum(-1)
            for at in torch.split(mine, SOFT_CHUNK) if len(mine) else ():
                cost = table[g, row[at], :count]
                if rates.share is not None:
                    cost = torch.lerp(cost, table[g, row[at] + 1, :count], rates.share[at, None])
                cost = torch.addmm(cost + energy, x[at], c.t(), alpha=-2 * w)
                p = torch.softmax(cost / -temperature, -1)
                change = slope[at] @ c.t()
                change = (change - (p * change).sum(-1, keepdim=True)).mul_(p)
                result[at] = (change @ c) * (2 * w / temperature)
    return result.view(shape)


def every_expected_gradient(
    slope: Tensor, x: Tensor, words: Tensor, rates: Rates, row: Tensor, error_per_bit: float, temperature: float
) -> Tensor:
    """`expected_gradient` with all words weighed for all vectors, by dense products.

    Cov(c) = E[c c'] - E[c] E[c]'.
    """
    dim, count, w = x.shape[2], x.shape[1], 1 / error_per_bit
    bits = rates.bits[-1].flatten(1, 2)
    energy = w * words.square().sum(-1, keepdim=True)
    cost = torch.cat([-2 * w * words, energy, bits.transpose(1, 2)], 2).transpose(1, 2) / -temperature
    moments = torch.cat([words, (words[..., :, None] * words[..., None, :]).flatten(2)], 2)
    parts = []
    for start in range(0, count, WIDE_CHUNK):
        at = slice(start, start + WIDE_CHUNK)
        vectors = x[:, at]
        columns = words.new_zeros(len(words), cost.shape[1], vectors.shape[1])
        share = None if rates.share is None else rates.share[:, at].flatten()
        fill_columns(columns, vectors.flatten(0, 1), row[:, at].flatten(), share)
        p = torch.softmax(columns.transpose(1, 2) @ cost, -1)
        mean, square = torch.split(p @ moments, [dim, dim * dim], 2)
        steep = slope[:, at, :, None]
        change = (square.view(*mean.shape, dim) @ steep)[..., 0]
        parts.append(change - mean * (mean * steep[..., 0]).sum(-1, keepdim=True))
    return torch.cat(parts, 1) * (2 * w / temperature)
