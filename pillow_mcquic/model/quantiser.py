"""Residual multi-codebook vector quantiser with codebooks of mixed dimension.

A latent's channels are cut into groups; each group has its own codebooks (McQuic section 3.2), one per
residual stage, coarse to fine: a stage quantises what the stages before it left over.  Several stages give
the range that textured patches need, and an all-zero coarse word costs next to nothing where the prior's
class says "quiet".
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import cast

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

CHUNK = 512  # positions searched at once: the distances stay in the cache


@dataclasses.dataclass(frozen=True)
class Bank:
    """`groups` groups of `dim` channels, all with the residual stages (codewords, initial scale)."""

    groups: int
    dim: int
    stages: tuple[tuple[int, float], ...]

    @property
    def symbols(self) -> int:
        """Codes per position."""
        return self.groups * len(self.stages)


def lattice(words: int, dim: int, seed: int) -> Tensor:
    """The shortest `words` points of the best lattice of 1, 2, 4 or 8 dimensions, unit cell volume.

    Z, A2, D4 and E8; sorted by norm, so word 0 is zero; `seed` shuffles points of equal norm.
    """
    if dim == 1:
        points = np.arange(-words, words + 1, dtype=np.float64)[:, None]
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
    return torch.tensor(points[order][:words], dtype=torch.float32)


def nearest(vectors: Tensor, words: Tensor) -> Tensor:
    """Index of the nearest codeword: (groups, N, dim), (groups, K, dim) -> (groups, N) int64.

    The nearest word maximises <v, c> - |c|^2 / 2: one matrix product with a column of ones, then a maximum
    over the words, which lie in rows because torch's reduction is several times faster that way round.
    """
    groups, count, dim = vectors.shape
    augmented = torch.cat([words, -(words * words).sum(-1, keepdim=True) / 2], 2)
    # whole chunks only: for every new shape the matrix library would compile, and keep, another kernel
    columns = vectors.new_zeros(groups, dim + 1, -(-count // CHUNK) * CHUNK)
    columns[:, :dim, :count] = vectors.transpose(1, 2)
    columns[:, dim] = 1
    indices = [torch.bmm(augmented, part).max(1).indices for part in torch.split(columns, CHUNK, 2)]
    return torch.cat(indices, 1)[:, :count]


def nearest_far(vectors: Tensor, words: Tensor) -> Tensor:
    """`nearest`, faster where most vectors lie around word 0, as they do in photos.

    A vector closer to word 0 than half the way to any other word cannot be nearer to that other word.
    """
    if vectors.device.type != "cpu":  # picking vectors out costs a GPU more than searching them all
        return nearest(vectors, words)
    zero = words[:, :1]
    clear = (words[:, 1:] - zero).square().sum(-1).min(1).values / 4  # (groups,)
    far = (vectors - zero).square().sum(-1) >= clear[:, None]
    index = torch.zeros(far.shape, dtype=torch.int64, device=vectors.device)
    for g in range(len(words)):
        at = far[g].nonzero()[:, 0]
        if len(at):
            index[g, at] = nearest(vectors[g : g + 1, at], words[g : g + 1])[0]
    return index


def quiet(vectors: Tensor, words: Tensor, index: Tensor, saved: Tensor) -> Tensor:
    """Replace codewords by word 0 where that is worth it: where the error grows by less than `saved`.

    vectors (groups, N, dim), words (groups, K, dim), index (groups, N); saved (groups, N): the bits that word
    0 saves against `index`, times the error a bit is worth (entropy-constrained quantisation, one comparison).
    """
    error = (vectors - pick(words, index)).square().sum(-1)
    error_0 = (vectors - words[:, :1]).square().sum(-1)
    return torch.where(error_0 - error < saved, 0, index)


def pick(words: Tensor, index: Tensor) -> Tensor:
    """Codewords by index: (groups, K, dim), (groups, N) -> (groups, N, dim)."""
    return torch.gather(words, 1, index.unsqueeze(-1).expand(-1, -1, words.shape[2]))


class Codebooks(nn.Module):
    """The codebooks of one bank: `words[stage]` is (groups, K, dim)."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank
        self.words = nn.ParameterList([nn.Parameter(torch.empty(bank.groups, k, bank.dim)) for k, _ in bank.stages])

    def initialise(self, seed: int) -> None:
        """Set every stage to the shortest points of its lattice, at its scale."""
        for j, (words, (k, scale)) in enumerate(zip(self.words, self.bank.stages, strict=True)):
            for g in range(self.bank.groups):
                words.data[g] = scale * lattice(k, self.bank.dim, seed + 50 * j + g)

    def rows(self, x: Tensor) -> Tensor:
        """(B, groups * dim, h, w) -> (groups, B*h*w, dim)."""
        rows = x.permute(0, 2, 3, 1).reshape(-1, self.bank.groups, self.bank.dim)
        return rows.transpose(0, 1).contiguous()

    def planes(self, rows: Tensor, batch: int, size: tuple[int, int]) -> Tensor:
        """The inverse of `rows`, channels-last."""
        return rows.transpose(0, 1).reshape(batch, *size, -1).permute(0, 3, 1, 2)

    def assign(self, x: Tensor, classes: Tensor, bits: Tensor, error_per_bit: float) -> Tensor:
        """Greedy residual assignment, the last stage entropy-constrained.

        x: scaled residuals (groups * dim, h, w) float32; classes: (groups, h, w); bits: what each word of the last
        stage costs, (groups, contexts, classes, K); error_per_bit: the squared error that a saved bit is worth.
        Returns codes (groups * stages, h, w) int16.
        """
        _, h, w = x.shape
        rest = self.rows(x[None])
        codes = []
        busy = torch.zeros(rest.shape[:2], dtype=torch.int64, device=x.device)
        for words in self.words:
            index = nearest_far(rest, words)
            if words is self.words[-1]:
                _, contexts, count, k = bits.shape
                row = classes.flatten(1).long() * k
                if contexts > 1:
                    row += busy * (count * k)
                flat = bits.flatten(1)
                saved = torch.gather(flat, 1, row + index) - torch.gather(flat, 1, row)
                index = quiet(rest, words, index, saved.mul_(error_per_bit))
            rest = rest - pick(words, index)
            busy |= (index != 0).long()
            codes.append(index.to(torch.int16))
        return torch.stack(codes, 1).reshape(-1, h, w)

    def sum_words(self, codes: Tensor) -> Tensor:
        """Codes (B, groups * stages, h, w) -> sum of their codewords (B, groups * dim, h, w)."""
        B, _, h, w = codes.shape
        groups = self.bank.groups
        codes = codes.reshape(B, groups, -1, h, w)
        total = torch.zeros((), dtype=torch.float32, device=codes.device)
        for j, words in enumerate(self.words):
            index = codes[:, :, j].permute(1, 0, 2, 3).reshape(groups, B * h * w)
            total = total + pick(words, index.long())
        return self.planes(total, B, (h, w))


class Quantiser(nn.Module):
    """All banks of a level; codes are (B, symbols, h, w): bank by bank, group by group, stage by stage."""

    def __init__(self, banks: tuple[Bank, ...]) -> None:
        super().__init__()
        self.banks = nn.ModuleList([Codebooks(bank) for bank in banks])
        self.codebooks = cast(list[Codebooks], list(self.banks))
        self.channel_split = [b.groups * b.dim for b in banks]
        self.group_split = [b.groups for b in banks]
        self.symbol_split = [b.symbols for b in banks]
        self.channels, self.groups, self.symbols = map(sum, (self.channel_split, self.group_split, self.symbol_split))

    def initialise(self) -> None:
        """Lattice codebooks, another order of equal norms in every group."""
        for i, bank in enumerate(self.codebooks):
            bank.initialise(seed=100 * i)

    def sum_words(self, codes: Tensor) -> Tensor:
        """Codes (B, symbols, h, w) -> quantised residuals (B, channels, h, w) float32."""
        parts = zip(self.codebooks, torch.split(codes, self.symbol_split, 1), strict=True)
        return torch.cat([bank.sum_words(part) for bank, part in parts], 1)
