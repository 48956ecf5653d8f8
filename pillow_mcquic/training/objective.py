"""Rate-distortion objective: the training-time view of the model, with gradients where codes have none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..model.class_networks import ClassNetwork, context_networks, log_energy
from ..model.distortion import QUALITIES
from ..model.expectation import expected_gradient
from ..model.layers import at_quality, initialise, per_channel
from ..model.network import MEAN_SCALE, PHASES, Config, Model, at_phase
from ..model.prior import WORD_ONE
from ..model.quantiser import FIRST_STEP_CLASS, Codebooks, Quantiser, group_of
from ..model.search import Choice, Rates, pick, search

FIRST_LOG_SCALE, LOG_SCALE_STEP = -3.5, 0.4  # class s stands for residuals of scale exp(-3.5 + 0.4 s)
STUDENT_NU = 3.0
# What a squared step of error must cost in bits of distortion, everywhere: at high rate a step is best where
# D = w * step^2 / 12 and R = -log2(step) per sample fall alike, w = 6 / ln 2 = 8.7 (8.7 to 10 for lattices of 1 to 8
# dimensions)
ERROR_COST = 9.0
TINY = 1e-12  # far below what any class costs in a loss of a bit per pixel
ERROR_COST_MEMORY = 0.98  # of the running sums, per step
TEMPERATURE = 4.0  # of `expected_gradient`, bits: at 1.5 the gradient is as right and noisier
# codewords are rounded to this grid, as the weights file will hold them, before their energies are taken
EMBEDDING_GRID = float(WORD_ONE)


def log_scale_to_class(log_scale: Tensor) -> Tensor:
    """Natural log of a residual's scale -> fractional class."""
    return (log_scale - FIRST_LOG_SCALE) / LOG_SCALE_STEP


def student_nats(energy: Tensor, log_scale: Tensor, dim: int) -> Tensor:
    """Code length, up to a constant, of a vector of squared norm `energy` under a multivariate Student-t."""
    return (STUDENT_NU + dim) / 2 * torch.log1p(energy / (STUDENT_NU * torch.exp(2 * log_scale)))


def fractional_steps(codebooks: Codebooks, classes: Tensor) -> Tensor:
    """`Codebooks.steps` for fractional classes (groups, N) -> (groups, N)."""
    row = (classes - FIRST_STEP_CLASS).clamp(0, codebooks.log_step.shape[1] - 1.001)
    low = row.floor()
    table, at = codebooks.log_step, low.long()
    return torch.lerp(torch.gather(table, 1, at), torch.gather(table, 1, at + 1), row - low).exp()


class ExpectedWord(torch.autograd.Function):
    """The chosen word of a bank's last stage, with the gradient of `expectation.expected_gradient`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        words: Tensor,
        index: Tensor,
        rates: Rates,
        row: Tensor,
        error_per_bit: float,
        images: int,
        observe: Callable[[Tensor, Tensor, Tensor], None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (groups, N, dim); words (groups, K, dim); index (groups, N): the choice; rates and row of the last stage.

        Returns the words (groups, N, dim) for the decoder, again for the class networks, and zeros (images,) to be
        added to the bits of each, through which their weights in the loss come back.  Then `observe` is told the
        decoder's gradient, the error and the weight, (groups, N, dim) and (N,).
        """
        chosen = pick(words, rates.group, index)
        ctx.save_for_backward(x, words, chosen, row)
        ctx.rates, ctx.error_per_bit, ctx.observe = rates, error_per_bit, observe
        return chosen, chosen.clone(), x.new_zeros(images)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, further: Tensor, weights: Tensor) -> tuple[Tensor | None, ...]:
        x, words, chosen, row = ctx.saved_tensors
        weight = weights.repeat_interleave(x.shape[1] // len(weights))
        ctx.observe(gradient, chosen - x, weight)
        slope = gradient + further + (2 / ctx.error_per_bit) * weight[:, None] * (x - chosen)
        found = expected_gradient(slope, x, words, ctx.rates, row, ctx.error_per_bit, TEMPERATURE)
        return found, *[None] * 7


class BankTables(nn.Module):
    """Learned logits of one bank's probability tables: `logits[stage]` is (groups, contexts, classes, K).

    Context 0: all coarser words of the vector were zero; context 1: some were not.
    `error_cost`: running sums of what the errors of each group, quality and class cost in the loss, and of what they
    would if a squared step were a bit, (2, groups, QUALITIES * classes).
    """

    error_cost: Tensor

    def __init__(self, codebooks: Codebooks, config: Config) -> None:
        super().__init__()
        classes, self.error_per_bit = config.classes, config.error_per_bit
        self.parts = 1  # in which a step quantises
        self.register_buffer("error_cost", torch.zeros(2, codebooks.bank.groups, QUALITIES * classes))
        log_scale = FIRST_LOG_SCALE + LOG_SCALE_STEP * torch.arange(classes)
        self.logits = nn.ParameterList()
        for stage, words in enumerate(codebooks.words):
            energy = (words.detach() ** 2).sum(-1)[:, None, :]
            nats = student_nats(energy, log_scale[None, :, None], codebooks.bank.dim)
            contexts = 1 if stage == 0 else 2
            self.logits.append(nn.Parameter(-nats[:, None].repeat(1, contexts, 1, 1)))

    def forward(
        self, codebooks: Codebooks, x: Tensor, classes: Tensor, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise with gradients.

        x: scaled residuals (B, groups * dim, h, w) float32; classes: fractional, (B, groups, h, w);
        quality (B,).
        Returns the quantised residuals (to the latent as `ExpectedWord` has it, straight through to the codewords),
        the same rounded as the class network sees them, the bits of each image (B,), and the codebook loss, summed.
        """
        B, _, h, w = x.shape
        groups = codebooks.bank.groups
        top = self.logits[0].shape[2] - 1
        c = classes.permute(1, 0, 2, 3).reshape(groups, -1).clamp(0, top - 0.001)
        step = fractional_steps(codebooks, c.detach())[..., None]
        rows = codebooks.rows(x) / step  # (groups, N, dim)
        low = c.detach().floor()
        share = c - low
        low = low.long()
        bits = [F.log_softmax(logits, -1) / -math.log(2) for logits in self.logits]
        with torch.no_grad():
            group = group_of(rows)
            rates = Rates([table.detach() for table in bits], group, low, share.detach())
            choice = Choice(list(codebooks.words), rates.bits[-1], self.error_per_bit)
            codes = search(rows, list(codebooks.words), rates, choice)
        learned = Rates(bits, group, low, share)
        total, rounded = torch.zeros_like(rows), torch.zeros_like(rows)
        busy = torch.zeros_like(low)
        spent = rows.new_zeros(B)
        for stage, (words, index) in enumerate(zip(codebooks.words, codes, strict=True)):
            word, row = pick(words, group, index), learned.row(stage, busy)
            spent = spent + learned.of(stage, busy, index).view(groups, B, -1).sum((0, 2))
            busy = busy | (index != 0).long()
            total = total + word
            rounded = rounded + torch.round(word.detach() * EMBEDDING_GRID) / EMBEDDING_GRID
        rank = (quality.round().long() - 1).repeat_interleave(h * w)
        # the coarse words stay as chosen
        coarse = (total - word).detach()
        expected, expected_seen, nothing = ExpectedWord.apply(  # type: ignore[no-untyped-call]
            rows - coarse,
            codebooks.words[-1].detach(),
            codes[-1],
            rates,
            row,
            self.error_per_bit,
            B,
            partial(self.observe, rank=rank, classes=c.detach().round().long()),
        )
        spent = spent + nothing
        codebook_loss = ((total - rows.detach()) ** 2).sum()
        learned_words = coarse + (total - total.detach())
        seen = learned_words + expected_seen
        seen = seen + (rounded - seen).detach()
        planes = codebooks.planes
        return planes((learned_words + expected) * step, B, (h, w)), planes(seen, B, (h, w)), spent, codebook_loss

    def observe(self, gradient: Tensor, error: Tensor, weight: Tensor, rank: Tensor, classes: Tensor) -> None:
        """Add to `error_cost`.

        gradient of the loss, and error, in steps (groups, N, dim); weight: of a bit in the loss (N,); rank: quality, of
        QUALITIES (N,); classes (groups, N) int64.
        """
        groups, count = self.logits[0].shape[0], self.logits[0].shape[2]
        cost = torch.stack([(gradient * error).sum(-1), 2 * weight * error.square().sum(-1)]).flatten(1)
        # what is not finite the sums would keep; the optimisers skip the step, too
        finite = cost.isfinite().all()
        cost = torch.where(finite, cost, 0)
        at = (torch.arange(groups, device=rank.device)[:, None] * QUALITIES + rank) * count + classes
        memory = torch.where(finite, ERROR_COST_MEMORY ** (1 / self.parts), 1.0)
        self.error_cost.mul_(memory).view(2, -1).index_add_(1, at.flatten(), cost)

    def allocation(self) -> tuple[Tensor, Tensor]:
        """By how much to raise log gains (groups, QUALITIES) and log steps (groups, classes - FIRST_STEP_CLASS).

        Then an error would cost the same at every quality and in every class; one seldom seen goes with the one below
        it.
        """
        cost, unit = self.error_cost.view(2, len(self.logits[0]), QUALITIES, -1)[..., FIRST_STEP_CLASS:]

        def excess(dim: int) -> Tensor:
            mine, units = cost.sum(dim), unit.sum(dim)
            ratio = mine.clamp(min=TINY) / (ERROR_COST * units.clamp(min=TINY))
            known = units / (units + 0.02 * units.mean(1, keepdim=True) + TINY)
            found: Tensor = torch.log(ratio).clamp(-1, 1) * known
            for i in range(1, found.shape[1]):
                found[:, i] += (1 - known[:, i]) * found[:, i - 1]
            return found

        by_class = excess(1)
        weight = unit.sum(1)
        mean = (by_class * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=TINY)
        return excess(2) / 2, (mean - by_class) / 2


class LevelTables(nn.Module):
    """The tables of all banks of a level."""

    def __init__(self, quantiser: Quantiser, config: Config) -> None:
        super().__init__()
        self.banks = nn.ModuleList([BankTables(bank, config) for bank in quantiser.codebooks])

    def forward(
        self, quantiser: Quantiser, x: Tensor, classes: Tensor, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `BankTables.forward`, for a whole level without context."""
        results = [
            tables(bank, part, part_classes, quality)
            for tables, bank, part, part_classes in zip(
                self.banks,
                quantiser.codebooks,
                torch.split(x, quantiser.channel_split, 1),
                torch.split(classes, quantiser.group_split, 1),
                strict=True,
            )
        ]
        quantised, seen, bits, codebook_loss = zip(*results, strict=True)
        return torch.cat(quantised, 1), torch.cat(seen, 1), torch.stack(bits).sum(0), torch.stack(codebook_loss).sum()


class Objective(nn.Module):
    """A model with its learned tables, as trained: pixels in, reconstruction and rate out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        groups_1, groups_2, groups_3 = (
            quantiser.groups for quantiser in (model.quantiser1, model.quantiser2, model.quantiser3)
        )
        n2, n3, width = model.quantiser2.channels, model.quantiser3.channels, model.config.class_width
        # y3 has static classes; those of y2 and y1 follow from the codewords of the levels above
        self.class_3 = nn.Parameter(torch.zeros(QUALITIES, groups_3))
        self.class_network_2 = ClassNetwork(n3, groups_2, width)
        banks = model.config.level1
        hidden = model.config.context_width
        self.class_network_1 = ClassNetwork(n2 + n3, groups_1 + hidden * (len(banks) - 1), width)
        self.context_networks = nn.ModuleList(context_networks(model.config))
        model.log_gain_1.requires_grad_(False)  # set by `allocate`
        model.log_gain_3.requires_grad_(False)
        for quantiser in (model.quantiser1, model.quantiser2, model.quantiser3):
            for codebooks in quantiser.codebooks:
                codebooks.log_step.requires_grad_(False)  # of levels 2 and 3: always 0
        self.tables_1, self.tables_2, self.tables_3 = (
            LevelTables(quantiser, model.config) for quantiser in (model.quantiser1, model.quantiser2, model.quantiser3)
        )
        cast(BankTables, self.tables_1.banks[0]).parts = len(PHASES)

    def forward(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, H, W) in 0..1 and quality (B,) in 1..8.

        Returns the reconstruction, the bits of levels 1, 2, 3 of each image (3, B), and the codebook loss.
        """
        m = self.model
        y1 = m.analyse(x, quality)
        y2, y3 = m.hyper_analyse(m.hyper_features(y1, quality), quality)
        off = torch.autocast(x.device.type, enabled=False)

        with off:
            gain = m.gain(3, quality)
            classes = per_channel(at_quality(self.class_3, quality)).expand(-1, -1, *y3.shape[2:])
            r3, seen3, bits3, codebook_loss3 = self.tables_3(m.quantiser3, y3 * gain, classes, quality)
            z3 = r3 / gain
        features, mean = m.predict_2(z3, quality, (y2.shape[2], y2.shape[3]))
        with off:
            gain = m.gain(2, quality)
            classes = self.class_network_2(seen3, quality)[:, :, : y2.shape[2], : y2.shape[3]]
            scaled = (y2 - mean) * gain
            r2, seen2, bits2, codebook_loss2 = self.tables_2(m.quantiser2, scaled, classes, quality)
            z2 = r2 / gain + mean
        features = m.predict_1(z2, features, quality, (y1.shape[2], y1.shape[3]))
        mean = m.mean_1(features) * m.unit
        with off:
            gain = m.gain(1, quality)
            above = F.interpolate(seen3, scale_factor=2.0)[:, :, : y2.shape[2], : y2.shape[3]]
            classes = self.class_network_1(torch.cat([seen2, above], 1), quality)
            classes = classes[:, :, : y1.shape[2], : y1.shape[3]]
            mean = F.pad(mean, (0, 0, 0, 0, 0, m.config.linear_channels))
            r1, bits1, codebook_loss1 = self.quantise_1((y1 - mean) * gain, classes, quality)
            z1 = r1 / gain + mean
        return (
            m.synthesise(z1, features, quality),
            torch.stack([bits1, bits2, bits3]),
            (codebook_loss1 + codebook_loss2 + codebook_loss3),
        )

    def quantise_1(self, x: Tensor, outputs: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise y1 bank by bank, each one's classes helped by the codewords of those before it.

        x: scaled residuals (B, n1, h, w); outputs: of class network 1.  Returns the quantised residuals, bits and
        codebook loss.
        """
        quantiser = self.model.quantiser1
        classes, hidden = torch.split(outputs, [quantiser.groups, outputs.shape[1] - quantiser.groups], 1)
        base = torch.split(classes, quantiser.group_split, 1)
        coarse = torch.split(hidden, self.model.config.context_width, 1)
        parts = torch.split(x, quantiser.channel_split, 1)
        quantised: list[Tensor] = []
        energies: list[Tensor] = []
        bits = codebook_loss = torch.zeros((), device=x.device)
        for i, (tables, bank) in enumerate(zip(self.tables_1.banks, quantiser.codebooks, strict=True)):
            mine = base[i]
            if i:
                mine = mine + self.context_networks[i - 1](torch.cat(energies, 1), coarse[i - 1])
            quantise = self.quantise_first if i == 0 else tables
            words, seen, bank_bits, bank_codebook_loss = quantise(bank, parts[i], mine, quality)
            energies.append(log_energy(seen, bank.bank.dim))
            quantised.append(words)
            bits, codebook_loss = bits + bank_bits, codebook_loss + bank_codebook_loss
        return torch.cat(quantised, 1), bits, codebook_loss

    def quantise_first(
        self, codebooks: Codebooks, x: Tensor, classes: Tensor, quality: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `BankTables.forward` for the first bank of level 1, phase by phase."""
        tables, size = self.tables_1.banks[0], tuple(x.shape)
        seen, spent, losses = torch.zeros_like(x), [], []

        def quantise(phase: int, mean: Tensor | float) -> Tensor:
            at = at_phase(phase)
            words, seen[at], bits, loss = tables(codebooks, x[at] - mean, classes[at], quality)
            spent.append(bits)
            losses.append(loss)
            return cast(Tensor, words)

        return self.model.by_phase(quantise, size, quality), seen, torch.stack(spent).sum(0), torch.stack(losses).sum()

    @torch.no_grad()
    def allocate(self, speed: float) -> None:
        """Move the gains and steps of level 1, the gains of level 3, and the classes with them, towards equal cost.

        The straight-through gradient would not do: it takes the error of a vector that became word 0 for one that a
        smaller step reduces.  (Level 2 says so little that its costs are noise.)  speed: share of the way.
        """
        model = self.model
        for level, level_tables, log_gain, classes in (
            (1, self.tables_1, model.log_gain_1, self.class_network_1.class_bias),
            (3, self.tables_3, model.log_gain_3, self.class_3),
        ):
            start = group = 0
            for tables, codebooks in zip(level_tables.banks, model.banks(level), strict=True):
                bank = codebooks.bank
                gains, steps = cast(BankTables, tables).allocation()
                gains = (speed * gains).t()  # (QUALITIES, groups)
                channels = slice(start, start + bank.groups * bank.dim)
                log_gain[:, channels] += gains.repeat_interleave(bank.dim, 1)
                classes[:, group : group + bank.groups] += gains / LOG_SCALE_STEP
                if level == 1:
                    codebooks.log_step.add_(speed * steps)
                start, group = channels.stop, group + bank.groups


def initialise_rates(objective: Objective, lambdas: Tensor, reference: float) -> None:
    """Set gains to sqrt(lambda) steps and classes to the scales the latents will then have, in place."""
    model = objective.model
    with torch.no_grad():
        log_gain = 0.5 * torch.log(lambdas / reference)  # (8,)
        model.log_gain_1.copy_(log_gain[:, None].expand_as(model.log_gain_1))
        model.log_gain_2.copy_(0.5 * log_gain[:, None].expand_as(model.log_gain_2))
        model.log_gain_3.copy_(0.5 * log_gain[:, None].expand_as(model.log_gain_3))
        log_deviation, start = model.deviation.log(), 0
        scales = []
        for bank in model.config.level1:
            channels = log_deviation[start : start + bank.groups * bank.dim]
            scales.append(channels.view(bank.groups, bank.dim).mean(1))
            start += bank.groups * bank.dim
        scale_1 = torch.cat(scales)[None, :] + log_gain[:, None]
        objective.class_network_1.class_bias[:, : scale_1.shape[1]].copy_(log_scale_to_class(scale_1))
        bias_2 = objective.class_network_2.class_bias
        bias_2.copy_(log_scale_to_class(0.5 * log_gain[:, None]).expand_as(bias_2))
        scale_3 = torch.full_like(log_gain, math.log(MEAN_SCALE)) * 0.72 + 0.5 * log_gain
        objective.class_3.copy_(log_scale_to_class(scale_3[:, None]).expand_as(objective.class_3))


def new_objective(
    config: Config, klt: tuple[Tensor, Tensor, Tensor] | None, lambdas: Tensor, reference: float
) -> Objective:
    """An untrained model that already works as a transform codec."""
    model = Model(config, klt)
    for quantiser in (model.quantiser1, model.quantiser2, model.quantiser3):
        quantiser.initialise()
    objective = Objective(model)
    initialise(objective)
    initialise_rates(objective, lambdas, reference)
    return objective
