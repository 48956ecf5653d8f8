"""Learned probability tables, and quantisation with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.coding_order import Bank, next_context
from ..model.codebooks import FIRST_STEP_CLASS, Codebooks
from ..model.codeword_search import choose
from ..model.entropy_model import CODEWORD_ONE
from ..model.expectation import expected_gradient
from ..model.nearest import group_of, lookup
from ..model.rate_distortion import LastStage, Rates

FIRST_LOG_SCALE, LOG_SCALE_STEP = -3.5, 0.4  # class s stands for residuals of scale exp(-3.5 + 0.4 s)
STUDENT_NU = 3.0
# What a squared step of error must cost in bits of distortion, everywhere: at high rate a step is best where
# D = w * step^2 / 12 and R = -log2(step) per sample fall alike, w = 6 / ln 2 = 8.7 (8.7 to 10 for lattices of 1 to 8
# dimensions)
ERROR_COST = 9.0
TINY = 1e-12  # far below what any class costs in a loss of a bit per pixel
ERROR_COST_MEMORY = 0.98  # of the running sums, per step
TEMPERATURE = 4.0  # of `expected_gradient`, bits: at 1.5 the gradient is as right and noisier


def log_scale_to_class(log_scale: Tensor) -> Tensor:
    """Natural log of a residual's scale -> fractional class."""
    return (log_scale - FIRST_LOG_SCALE) / LOG_SCALE_STEP


def student_nats(energy: Tensor, log_scale: Tensor, dim: int) -> Tensor:
    """Code length, up to a constant, of a vector of squared norm `energy` under a multivariate Student-t."""
    return (STUDENT_NU + dim) / 2 * torch.log1p(energy / (STUDENT_NU * torch.exp(2 * log_scale)))


def fractional_steps(codebooks: Codebooks, classes: Tensor) -> Tensor:
    """`Codebooks.steps` for fractional classes (groups, N) -> (groups, N)."""
    column = (classes - FIRST_STEP_CLASS).clamp(0, codebooks.log_step.shape[1] - 1.001)
    low = column.floor()
    table, at = codebooks.log_step, low.long()
    return torch.lerp(torch.gather(table, 1, at), torch.gather(table, 1, at + 1), column - low).exp()


class ExpectedCodeword(torch.autograd.Function):
    """The chosen codeword of a bank's last stage, with the gradient of `expectation.expected_gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        codewords: Tensor,
        index: Tensor,
        rates: Rates,
        table: Tensor,
        error_per_bit: float,
        images: int,
        observe: Callable[[Tensor, Tensor, Tensor], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (groups, N, dim); codewords (groups, K, dim); index (groups, N): the choice; rates, table: last stage.

        Returns the codewords (groups, N, dim) for the decoder, again for the entropy networks, and zeros (images,) to
        be added to the bits of each, through which their weights in the loss come back.  Then `observe` is told the
        decoder's gradient, the error and the weight, (groups, N, dim) and (N,).
        """
        chosen = lookup(codewords, rates.group, index)
        ctx.save_for_backward(x, codewords, chosen, table)
        ctx.rates, ctx.error_per_bit, ctx.observe = rates, error_per_bit, observe
        return chosen, chosen.clone(), x.new_zeros(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, further: Tensor, weights: Tensor) -> tuple[Tensor | None, ...]:
        x, codewords, chosen, table = ctx.saved_tensors
        weight = weights.repeat_interleave(x.shape[1] // len(weights))
        ctx.observe(gradient, chosen - x, weight)
        slope = gradient + further + (2 / ctx.error_per_bit) * weight[:, None] * (x - chosen)
        found = expected_gradient(slope, x, codewords, ctx.rates, table, ctx.error_per_bit, TEMPERATURE)
        return found, *[None] * 7


class Quantised(NamedTuple):
    """A bank after quantisation in training.

    `residuals` (B, groups * dim, h, w), in steps of the gain: to the latent as `ExpectedCodeword` has it, straight
    through to the codewords.  `seen`: the codewords as the entropy networks see them, rounded.  `bits` of each image
    (B,).  `codebook_loss`: squared distance, in steps, between codewords and the vectors they stand for, summed.
    """

    residuals: Tensor
    seen: Tensor
    bits: Tensor
    codebook_loss: Tensor


class LearnedTables(nn.Module):
    """Learned logits of one bank's probability tables: `logits[stage]` is (groups, contexts, classes, K).

    `error_cost`: running sums of what the errors of each group, quality and class cost in the loss, and of what they
    would if a squared step were a bit, (2, groups, qualities * classes).
    """

    error_cost: Tensor

    def __init__(self, bank: Bank, classes: int, qualities: int, error_per_bit: float, passes: int) -> None:
        """passes: in how many a picture goes through this bank."""
        super().__init__()
        self.bank, self.qualities, self.error_per_bit, self.passes = bank, qualities, error_per_bit, passes
        self.register_buffer("error_cost", torch.zeros(2, bank.groups, qualities * classes))
        self.logits = nn.ParameterList(
            [
                nn.Parameter(torch.zeros(bank.groups, 2 if stage else 1, classes, k))
                for stage, k in enumerate(bank.stages)
            ]
        )

    def initialise(self, codebooks: Codebooks) -> None:
        """Begin with a Student-t of the scale of each class."""
        with torch.no_grad():
            for codewords, logits in zip(codebooks.codewords, self.logits, strict=True):
                log_scale = FIRST_LOG_SCALE + LOG_SCALE_STEP * torch.arange(logits.shape[2])
                energy = (codewords**2).sum(-1)[:, None, :]
                nats = student_nats(energy, log_scale[None, :, None], self.bank.dim)
                logits.copy_(-nats[:, None].expand_as(logits))

    def forward(self, codebooks: Codebooks, x: Tensor, classes: Tensor, quality: Tensor) -> Quantised:
        """Quantise with gradients.

        x: residuals in steps of the gain (B, groups * dim, h, w) float32; classes: fractional, (B, groups, h, w);
        quality (B,).
        """
        B, _, h, w = x.shape
        groups, top = self.bank.groups, self.logits[0].shape[2] - 1
        c = classes.permute(1, 0, 2, 3).reshape(groups, -1).clamp(0, top - 0.001)
        step = fractional_steps(codebooks, c.detach())[..., None]
        vectors = codebooks.to_vectors(x) / step  # (groups, N, dim)
        low = c.detach().floor()
        share = c - low
        low = low.long()
        bits = [F.log_softmax(logits, -1) / -math.log(2) for logits in self.logits]
        with torch.no_grad():
            group = group_of(vectors)
            rates = Rates([table.detach() for table in bits], group, low, share.detach())
            last = LastStage(list(codebooks.codewords), rates.bits[-1], self.error_per_bit)
            codes = choose(vectors, list(codebooks.codewords), rates, last)
        learned = Rates(bits, group, low, share)
        total, rounded = torch.zeros_like(vectors), torch.zeros_like(vectors)
        context, spent = torch.zeros_like(low, dtype=torch.bool), vectors.new_zeros(B)
        for stage, (codewords, index) in enumerate(zip(codebooks.codewords, codes, strict=True)):
            codeword, table = lookup(codewords, group, index), learned.table(stage, context)
            spent = spent + learned.of(stage, context, index).view(groups, B, -1).sum((0, 2))
            context = next_context(context, index)
            total = total + codeword
            rounded = rounded + torch.round(codeword.detach() * CODEWORD_ONE) / CODEWORD_ONE
        rank = (quality.round().long() - 1).repeat_interleave(h * w)
        # the coarse codewords stay as chosen
        coarse = (total - codeword).detach()
        expected, expected_seen, nothing = ExpectedCodeword.apply(  # type: ignore[no-untyped-call]
            vectors - coarse,
            codebooks.codewords[-1].detach(),
            codes[-1],
            rates,
            table,
            self.error_per_bit,
            B,
            partial(self.observe, rank=rank, classes=c.detach().round().long()),
        )
        codebook_loss = ((total - vectors.detach()) ** 2).sum()
        straight_through = coarse + (total - total.detach())
        seen = straight_through + expected_seen
        seen = seen + (rounded - seen).detach()
        residuals = codebooks.to_planes((straight_through + expected) * step, B, (h, w))
        return Quantised(residuals, codebooks.to_planes(seen, B, (h, w)), spent + nothing, codebook_loss)

    def observe(self, gradient: Tensor, error: Tensor, weight: Tensor, rank: Tensor, classes: Tensor) -> None:
        """Add to `error_cost`.

        gradient of the loss, and error, in steps (groups, N, dim); weight: of a bit in the loss (N,); rank: quality,
        counted from 0 (N,); classes (groups, N) int64.
        """
        groups, count = self.logits[0].shape[0], self.logits[0].shape[2]
        cost = torch.stack([(gradient * error).sum(-1), 2 * weight * error.square().sum(-1)]).flatten(1)
        # what is not finite the sums would keep; the optimisers skip the step, too
        finite = cost.isfinite().all()
        cost = torch.where(finite, cost, 0)
        at = (torch.arange(groups, device=rank.device)[:, None] * self.qualities + rank) * count + classes
        memory = torch.where(finite, ERROR_COST_MEMORY ** (1 / self.passes), 1.0)
        self.error_cost.mul_(memory).view(2, -1).index_add_(1, at.flatten(), cost)

    def allocation(self) -> tuple[Tensor, Tensor]:
        """By how much to raise log gains (groups, qualities) and log steps (groups, classes - 6).

        Then an error would cost the same at every quality and in every class; one seldom seen goes with the one below
        it.
        """
        cost, unit = self.error_cost.view(2, self.bank.groups, self.qualities, -1)[..., FIRST_STEP_CLASS:]

        def excess(dim: int) -> Tensor:
            costs, units = cost.sum(dim), unit.sum(dim)
            ratio = costs.clamp(min=TINY) / (ERROR_COST * units.clamp(min=TINY))
            known = units / (units + 0.02 * units.mean(1, keepdim=True) + TINY)
            found: Tensor = torch.log(ratio).clamp(-1, 1) * known
            for i in range(1, found.shape[1]):
                found[:, i] += (1 - known[:, i]) * found[:, i - 1]
            return found

        by_class = excess(1)
        weight = unit.sum(1)
        mean = (by_class * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=TINY)
        return excess(2) / 2, (mean - by_class) / 2
