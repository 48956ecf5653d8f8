"""Residual multi-codebook vector quantiser with codebooks of mixed dimension.

A latent's channels are cut into groups; each group has its own codebooks (McQuic section 3.2), one per
residual stage, coarse to fine: a stage quantises what the stages before it left over.  Several stages give
the range that textured patches need, and an all-zero coarse word costs next to nothing where the prior's
class says "quiet".  The class also sets the step: where the prior expects large values the codewords may be
further apart, as the eye, and MS-SSIM, forgive there what they see in a quiet place.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .expectation import expected_gradient
from .search import Choice, Rates, best_words, entries, pick, picks, some

QUIET_DIM = 4  # of vectors that are word 0 most of the time
ENERGY_SLACK = 1.0001  # for squared norms, which are sums in float32
FIRST_STEP_CLASS = 6  # classes up to this one, whose residuals are below a third of a step, share one step


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


def step_row(classes: Tensor) -> Tensor:
    """Classes, any integers -> where their step stands in `Codebooks.log_step`, int32."""
    return (classes.int() - FIRST_STEP_CLASS).clamp_(min=0)


def group_of(rows: Tensor) -> Tensor:
    """Vectors (groups, N, ...) -> the group of each, (groups, N) int64."""
    return torch.arange(len(rows), device=rows.device)[:, None].expand(rows.shape[:2])


class Codebooks(nn.Module):
    """The codebooks of one bank: `words[stage]` is (groups, K, dim), to be multiplied by the step of the class.

    `log_step` (groups, classes - FIRST_STEP_CLASS): log of that step.
    """

    def __init__(self, bank: Bank, classes: int) -> None:
        super().__init__()
        self.bank = bank
        self.log_step = nn.Parameter(torch.zeros(bank.groups, classes - FIRST_STEP_CLASS))
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

    def steps(self, classes: Tensor) -> Tensor:
        """Classes (groups, N) -> the step of each vector (groups, N, 1)."""
        return torch.gather(self.log_step.exp(), 1, step_row(classes).long())[..., None]

    def assign(self, x: Tensor, classes: Tensor, costs: Costs) -> Tensor:
        """Codes of a bank by `search`.

        x: scaled residuals (B, groups * dim, h, w) float32; classes: (B, groups, h, w).  Returns codes, int16,
        (B, groups * stages, h, w).
        """
        (B, _, h, w), (groups, dim) = x.shape, (self.bank.groups, self.bank.dim)
        vectors = x.permute(0, 2, 3, 1).reshape(-1, groups * dim).contiguous()
        classes = classes.transpose(0, 1).reshape(groups, -1)
        if picks(x.device):
            # sums over so few channels take several times as long as a product
            own = torch.eye(groups, dtype=x.dtype, device=x.device).repeat_interleave(dim, 0)
            with torch.autocast(x.device.type, enabled=False):
                energy = (vectors.square() @ own).t() * ENERGY_SLACK
            loud = energy >= torch.gather(costs.quiet_energy, 1, classes.long())
        else:
            loud = torch.ones_like(classes, dtype=torch.bool)
        place = loud.flatten().nonzero()[:, 0]
        group, at = place // len(vectors), place % len(vectors)
        kind = some(classes.flatten(), place).long()
        step = entries(self.log_step.exp(), group * self.log_step.shape[1] + step_row(kind))
        chosen = some(vectors.view(-1, dim), at * groups + group) / step[:, None]
        found = best_words(chosen, list(self.words), Rates(costs.bits, group, kind), costs.choice)
        codes = torch.zeros(groups, len(self.words), len(vectors), dtype=torch.int16, device=x.device)
        first = group * len(self.words) * len(vectors) + at
        for stage, index in enumerate(found):
            codes.view(-1).scatter_(0, first + stage * len(vectors), index.to(torch.int16))
        return codes.view(-1, B, h, w).transpose(0, 1)

    def slopes(
        self, x: Tensor, codes: Tensor, classes: Tensor, gradient: Tensor, costs: Costs, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """`expected_gradient` at scaled residuals x (B, groups * dim, h, w), in bits a step, and the step; both as x.

        codes, classes: as `assign` gave and had them; gradient: of the distortion in the scaled residuals, bits.
        """
        B, _, h, w = x.shape
        classes = classes.transpose(0, 1).flatten(1).long()
        step = self.steps(classes)
        rest = self.rows(x) / step
        index = codes.transpose(0, 1).reshape(self.bank.groups, len(self.words), -1).long().unbind(1)
        busy = torch.zeros_like(classes)
        group = group_of(rest)
        for words, mine in zip(self.words[:-1], index[:-1], strict=True):
            rest -= pick(words, group, mine)
            busy |= (mine != 0).long()
        rates, price = Rates(costs.bits, group, classes), costs.choice.error_per_bit
        slope = self.rows(gradient) * step + (rest - pick(self.words[-1], group, index[-1])) * (2 / price)
        row = rates.row(len(index) - 1, busy)
        found = expected_gradient(slope, rest, self.words[-1], rates, row, price, temperature)
        return self.planes(found, B, (h, w)), self.planes(step.expand_as(found), B, (h, w))

    def sum_words(self, codes: Tensor, classes: Tensor) -> Tensor:
        """Codes (B, groups * stages, h, w), classes (B, groups, h, w) -> scaled residuals (B, groups * dim, h, w)."""
        (groups, dim), step, row = (self.bank.groups, self.bank.dim), self.log_step.exp(), step_row(classes)
        numbers = torch.arange(groups, dtype=torch.int32, device=codes.device)
        parts = codes.reshape(len(codes), groups, -1, *codes.shape[2:]).unbind(2)

        def rows_of(table: Tensor, index: Tensor) -> Tensor:
            """Entries of a table (groups, K, n) by index (B, groups, h, w) -> (B, h, w, groups, n)."""
            return F.embedding(index.permute(0, 2, 3, 1) + numbers * table.shape[1], table.flatten(0, 1))

        if picks(codes.device) and dim >= QUIET_DIM:
            # most vectors are word 0, whose multiples are a small table: the others are put over them
            alone = torch.stack([words[:, :1] for words in self.words]).sum(0) * step[:, :, None]
            total = rows_of(alone, row)
            at = functools.reduce(torch.bitwise_or, parts).flatten().nonzero()[:, 0]
            positions = row[0, 0].numel()
            image, group, position = at // (groups * positions), at // positions % groups, at % positions
            found = [
                pick(words, group, some(part.flatten(), at)) for words, part in zip(self.words, parts, strict=True)
            ]
            size = entries(step, group * step.shape[1] + some(row.flatten(), at))
            place = (image * positions + position) * groups + group
            total.view(-1, dim).index_copy_(0, place, torch.stack(found).sum(0) * size[:, None])
        else:
            total = rows_of(self.words[0], parts[0])
            for words, index in zip(self.words[1:], parts[1:], strict=True):
                total += rows_of(words, index)
            total *= rows_of(step[:, :, None], row)
        return total.flatten(3).permute(0, 3, 1, 2)


class Costs:
    """What the words of a bank cost the encoder: `bits` for each stage (groups, contexts, classes, K), and `choice`.

    `quiet_energy` (groups, classes): the squared norm below which a vector gets word 0 at every stage, before it is
    divided by a step.
    """

    def __init__(self, codebooks: Codebooks, bits: Sequence[Tensor], error_per_bit: float) -> None:
        self.bits = [table.to(codebooks.words[0].device) for table in bits]
        self.choice = Choice([words.detach() for words in codebooks.words], self.bits[-1], error_per_bit)
        classes = torch.arange(bits[0].shape[2], device=codebooks.words[0].device).expand(len(self.bits[0]), -1)
        radii = self.choice.quiet[:, : classes.shape[1]] * codebooks.steps(classes).detach()[..., 0]
        self.quiet_energy = radii.clamp(min=0).square()


class Quantiser(nn.Module):
    """All banks of a level; codes are (B, symbols, h, w): bank by bank, group by group, stage by stage."""

    def __init__(self, banks: tuple[Bank, ...], classes: int) -> None:
        super().__init__()
        self.banks = nn.ModuleList([Codebooks(bank, classes) for bank in banks])
        self.codebooks = cast(list[Codebooks], list(self.banks))
        self.channel_split = [b.groups * b.dim for b in banks]
        self.group_split = [b.groups for b in banks]
        self.symbol_split = [b.symbols for b in banks]
        self.channels, self.groups, self.symbols = map(sum, (self.channel_split, self.group_split, self.symbol_split))

    def initialise(self) -> None:
        """Lattice codebooks, another order of equal norms in every group."""
        for i, bank in enumerate(self.codebooks):
            bank.initialise(seed=100 * i)

    def sum_words(self, codes: Tensor, classes: Tensor, first: Tensor | None = None) -> Tensor:
        """Codes (B, symbols, h, w), classes (B, groups, h, w) -> scaled residuals (B, channels, h, w) float32.

        Codes and classes of the first banks alone give the channels of those.  first: what is known already, of the
        first bank.
        """
        banks = 1 + list(itertools.accumulate(self.group_split)).index(classes.shape[1])
        parts = torch.split(codes, self.symbol_split[:banks], 1), torch.split(classes, self.group_split[:banks], 1)
        known = [] if first is None else [first]
        rest = list(zip(self.codebooks[:banks], *parts, strict=True))[len(known) :]
        return torch.cat(known + [bank.sum_words(*part) for bank, *part in rest], 1)
