"""Residual multi-codebook vector quantisation with codebooks of mixed dimension (McQuic, section 3.2).

Several stages give the range that textured patches need, and a zero codeword at a coarse stage costs next to nothing
where the entropy model's class says so.  The class also sets the step: where large values are expected codewords may
be further apart, as the eye, and MS-SSIM, forgive there what they see in a flat place.
"""

from __future__ import annotations

import functools

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.coding_order import ESCAPES, Bank
from ..nn.linear import CachedCast
from .nearest import gather_flat, lookup, prunes, take

SPARSE_DIM = 4  # of vectors that are the zero codeword most of the time
FIRST_STEP_CLASS = 6  # classes up to this one, whose residuals are below a third of a step, share one step


class Codebooks(nn.Module):
    """The codebooks of a bank.

    `codewords[stage]` is (groups, K, dim), to be multiplied by the step of the class.  Codeword 0, the zero codeword,
    is about zero.  `log_step` (groups, classes - 6): log of that step.
    """

    def __init__(self, bank: Bank, classes: int) -> None:
        super().__init__()
        self.bank = bank
        self.log_step = nn.Parameter(torch.zeros(bank.groups, classes - FIRST_STEP_CLASS))
        self.codewords = nn.ParameterList([nn.Parameter(torch.zeros(bank.groups, k, bank.dim)) for k in bank.stages])
        self._steps = CachedCast[Tensor]()

    def to_vectors(self, x: Tensor) -> Tensor:
        """Planes (B, groups * dim, h, w) -> vectors (groups, B * h * w, dim)."""
        rows = x.permute(0, 2, 3, 1).reshape(-1, self.bank.groups, self.bank.dim)
        return rows.transpose(0, 1).contiguous()

    def to_planes(self, vectors: Tensor, batch: int, grid: tuple[int, int]) -> Tensor:
        """The inverse of `to_vectors`, channels-last."""
        return vectors.transpose(0, 1).reshape(batch, *grid, -1).permute(0, 3, 1, 2)

    def step_table(self) -> Tensor:
        """The step of every class, those with escapes too, (groups, 9 * classes)."""

        def table() -> Tensor:
            first = self.log_step[:, :1].expand(-1, FIRST_STEP_CLASS)
            known = torch.cat([first, self.log_step], 1).exp()
            doubled = known[:, -1:] * torch.exp2(torch.arange(1, ESCAPES + 1, device=known.device))
            return torch.cat([known, doubled.repeat_interleave(known.shape[1], 1)], 1)

        return self._steps(self.log_step, torch.float32, table)

    def steps(self, classes: Tensor) -> Tensor:
        """Classes (groups, N) -> the step of each vector (groups, N, 1)."""
        return torch.gather(self.step_table(), 1, classes.long())[..., None]

    def sum_codewords(self, codes: Tensor, classes: Tensor) -> Tensor:
        """Codes (B, groups, stages, h, w), classes (B, groups, h, w) -> residuals in steps (B, groups * dim, h, w)."""
        step, column, parts = self.step_table(), classes.int(), codes.unbind(2)
        if prunes(codes.device) and self.bank.dim >= SPARSE_DIM:
            total = self._sum_sparse(parts, step, column)
        else:
            total = self._entries(self.codewords[0], parts[0])
            for codewords, index in zip(self.codewords[1:], parts[1:], strict=True):
                total += self._entries(codewords, index)
            total *= self._entries(step[:, :, None], column)
        return total.flatten(3).permute(0, 3, 1, 2)

    def _entries(self, table: Tensor, index: Tensor) -> Tensor:
        """Entries of a table (groups, K, n) by index (B, groups, h, w) -> (B, h, w, groups, n)."""
        groups = torch.arange(self.bank.groups, dtype=torch.int32, device=index.device)
        return F.embedding(index.permute(0, 2, 3, 1) + groups * table.shape[1], table.flatten(0, 1))

    def _sum_sparse(self, parts: tuple[Tensor, ...], step: Tensor, column: Tensor) -> Tensor:
        """Most vectors are zero codewords, whose multiples are a small table: the others are put over them."""
        zeros = torch.stack([codewords[:, :1] for codewords in self.codewords]).sum(0) * step[:, :, None]
        total = self._entries(zeros, column)
        at = functools.reduce(torch.bitwise_or, parts).flatten().nonzero()[:, 0]
        groups, positions = self.bank.groups, column[0, 0].numel()
        image, group, position = at // (groups * positions), at // positions % groups, at % positions
        found = [
            lookup(codewords, group, take(part.flatten(), at))
            for codewords, part in zip(self.codewords, parts, strict=True)
        ]
        size = gather_flat(step, group * step.shape[1] + take(column.flatten(), at))
        place = (image * positions + position) * groups + group
        total.view(-1, self.bank.dim).index_copy_(0, place, torch.stack(found).sum(0) * size[:, None])
        return total
