"""The encoder's codeword search: nearest at the first stages, rate-distortion optimised at the last (RDOQ)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..bitstream.coding_order import ESCAPES, next_context, of_tables
from .codebooks import Codebooks
from .expectation import expected_gradient
from .nearest import gather_flat, group_of, lookup, nearest, prunes, take
from .rate_distortion import LastStage, Rates, radii_of_tables

ENERGY_SLACK = 1.0001  # for squared norms, which are sums in float32


def choose(vectors: Tensor, codewords: Sequence[Tensor], rates: Rates, last: LastStage) -> list[Tensor]:
    """Residual quantisation by error and rate: of a few candidates the one of least |error|^2 + error_per_bit * bits.

    The candidates: the nearest codeword stage by stage, with the zero codeword forced on the first 0, 1, ... stages,
    and in each case at the last stage the codeword that is best by error and rate.  (Nearest codewords alone spend a
    coarse one, and then a fine one to correct it, on vectors that a fine one alone serves nearly as well.)

    Parameters
    ----------
    vectors : (groups, N, dim), in steps.
    codewords : (groups, K, dim) of each stage.
    rates : for the vectors.
    last : the search of the last stage.

    Returns
    -------
    Indices of each stage, (groups, N) int64.
    """
    shape, vectors, rates = vectors.shape[:2], vectors.flatten(0, 1), rates.flat()
    if not prunes(vectors.device):
        return [index.view(shape) for index in choose_among_all(vectors, codewords, rates, last)[0]]
    limit = radii_of_tables([last.zero_radius], rates.low, rates)[0]
    at = (torch.linalg.vector_norm(vectors, dim=-1) >= limit).nonzero()[:, 0]
    found, _ = choose_among_all(take(vectors, at), codewords, rates.at(at), last)
    return [torch.zeros_like(rates.low).index_copy_(0, at, index).view(shape) for index in found]


def choose_among_all(
    vectors: Tensor, codewords: Sequence[Tensor], rates: Rates, last: LastStage
) -> tuple[list[Tensor], Tensor]:
    """`choose` for a list of vectors (M, dim) of groups that grow, all of them tried.

    Returns indices of each stage, (M,), and what they cost, (M,), in squared error.
    """
    pruning = prunes(vectors.device)
    latest, least = _greedy(vectors, codewords, rates, last, 0)
    best = [index.clone() for index in latest]
    for forced in range(1, len(codewords)):
        # where the try before had the zero codeword anyway, this one would find the same again
        at = (latest[forced - 1] != 0).nonzero()[:, 0] if pruning else slice(None)
        codes, loss = _greedy(take(vectors, at), codewords, rates.at(at), last, forced)
        better = loss < take(least, at)
        least[at] = torch.where(better, loss, least[at])
        for new, old, winner in zip(codes, latest, best, strict=True):
            old[at] = new
            winner[at] = torch.where(better, new, winner[at])
    return best, least


def _greedy(
    vectors: Tensor, codewords: Sequence[Tensor], rates: Rates, last: LastStage, forced: int
) -> tuple[list[Tensor], Tensor]:
    """The zero codeword at the first `forced` stages, then the nearest, at the last stage by error and rate.

    vectors (M, dim), otherwise as `choose`.  Returns the indices of each stage, and what they cost, (M,).
    """
    zero = torch.zeros_like(rates.low)
    context, rest, bits, codes = zero.bool(), vectors, torch.zeros_like(vectors[:, 0]), list[Tensor]()
    final = len(codewords) - 1
    for stage in range(final):
        index = zero if stage < forced else nearest(rest, rates.group, codewords[stage])
        bits = bits + rates.of(stage, context, index)
        rest = rest - lookup(codewords[stage], rates.group, index)
        context = next_context(context, index)
        codes.append(index)
    codes.append(last(rest, rates.table(final, context), rates))
    error = (rest - lookup(codewords[final], rates.group, codes[final])).square().sum(-1)
    return codes, error + last.error_per_bit * (bits + rates.of(final, context, codes[final]))


@dataclasses.dataclass
class BankSearch:
    """Codeword search in a bank, prepared once.

    Parameters
    ----------
    codebooks : of the bank.
    bits : what codewords cost, of each stage (groups, contexts, classes, K), on the device of the codebooks.
    escape_bits : what it costs to escape 0 to 8 times, (classes, 9).
    error_per_bit : squared error, in steps, that is worth a bit.
    """

    codebooks: Codebooks
    bits: Sequence[Tensor]
    escape_bits: Tensor
    error_per_bit: float

    def __post_init__(self) -> None:
        codewords = [stage.detach() for stage in self.codebooks.codewords]
        self.last = LastStage(codewords, self.bits[-1], self.error_per_bit)
        groups, _, count, _ = self.bits[0].shape
        classes = torch.arange(count, device=self.bits[0].device).expand(groups, -1)
        radii = self.last.zero_radius[:, :count] * self.codebooks.steps(classes).detach()[..., 0]
        # squared norms (groups, classes) below which a residual, in steps of the gain, is the zero codeword
        self.zero_energy = radii.clamp(min=0).square()
        # norm, in steps, up to which codewords of the first stage lie
        self.reach = float(torch.linalg.vector_norm(codewords[0], dim=-1).amax(1).min())

    def codes(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The codewords of a bank.

        Parameters
        ----------
        x : residuals, (B, groups * dim, h, w) float32.
        classes : (B, groups, h, w) uint8, without escapes.

        Returns
        -------
        Codes (B, groups, stages, h, w) int16, and classes with escapes.
        """
        bank = self.codebooks.bank
        (B, _, h, w), (groups, dim), stages = x.shape, (bank.groups, bank.dim), len(bank.stages)
        vectors = x.permute(0, 2, 3, 1).reshape(-1, groups * dim).contiguous()
        given, classes = classes, classes.transpose(0, 1).reshape(groups, -1)
        if prunes(x.device):
            # sums over so few channels take several times as long as a product
            own = torch.eye(groups, dtype=x.dtype, device=x.device).repeat_interleave(dim, 0)
            with torch.autocast(x.device.type, enabled=False):
                energy = (vectors.square() @ own).t() * ENERGY_SLACK
            searched = energy >= torch.gather(self.zero_energy, 1, classes.long())
        else:
            searched = torch.ones_like(classes, dtype=torch.bool)
        place = searched.flatten().nonzero()[:, 0]
        group, at = place // len(vectors), place % len(vectors)
        low = take(classes.flatten(), place).long()
        steps = self.codebooks.step_table()
        step = gather_flat(steps, group * steps.shape[1] + low)
        chosen = take(vectors.view(-1, dim), at * groups + group) / step[:, None]
        rates = Rates(self.bits, group, low)
        found, cost = choose_among_all(chosen, list(self.codebooks.codewords), rates, self.last)
        escapes = self._escape(chosen, rates, step, found, cost)
        codes = torch.zeros(groups, stages, len(vectors), dtype=torch.int16, device=x.device)
        first = group * stages * len(vectors) + at
        for stage, index in enumerate(found):
            codes.view(-1).scatter_(0, first + stage * len(vectors), index.to(torch.int16))
        if escapes is not None:
            classes = classes.contiguous().clone()
            classes.view(-1).index_add_(0, place, escapes * self.classes)
            given = classes.view(groups, B, h, w).transpose(0, 1)
        return codes.view(groups, stages, B, h, w).permute(2, 0, 1, 3, 4), given

    @property
    def classes(self) -> int:
        """Without escapes."""
        return len(self.escape_bits)

    def _escape(self, vectors: Tensor, rates: Rates, step: Tensor, found: list[Tensor], cost: Tensor) -> Tensor | None:
        """Change `found` where it is better to escape; how many times each vector does, (M,) uint8; None if none does.

        Parameters
        ----------
        vectors : (M, dim), in steps.
        rates, step : for them, (M,).
        found, cost : as of `choose_among_all`, without escapes.
        """
        norm = torch.linalg.vector_norm(vectors, dim=-1)
        far = (norm > self.reach).nonzero()[:, 0]
        if not len(far):
            return None
        at = far if prunes(vectors.device) else slice(None)  # elsewhere a search is of all vectors
        group, own_step = take(rates.group, at), take(step, at)
        doubled = take(self.codebooks.step_table()[:, self.classes - 1], group)
        escapes = torch.log2(take(norm, at) * own_step / (self.reach * doubled)).ceil().clamp(1, ESCAPES)
        larger = doubled * torch.exp2(escapes) / own_step
        escapes = escapes.long()
        beyond = Rates(self.bits, group, torch.full_like(group, self.classes - 1))
        others, other_cost = choose_among_all(
            take(vectors, at) / larger[:, None], list(self.codebooks.codewords), beyond, self.last
        )
        # errors and bits apart, as an error weighs by the square of its step
        bits = beyond.total(others)
        error = other_cost - self.error_per_bit * bits
        price = self.escape_bits[take(rates.low, at)]
        bits += torch.gather(price, 1, escapes[:, None])[:, 0] - price[:, 0]
        better = error * larger.square() + self.error_per_bit * bits < take(cost, at)
        if not bool(better.any()):
            return None
        result = torch.zeros_like(rates.low, dtype=torch.uint8)
        result[at] = (escapes * better).to(torch.uint8)
        for index, other in zip(found, others, strict=True):
            index[at] = torch.where(better, other, take(index, at))
        return result

    def slopes(
        self, x: Tensor, codes: Tensor, classes: Tensor, gradient: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """`expected_gradient` at residuals x, in bits a step, and the step; both (B, groups * dim, h, w).

        codes, classes: as `codes` gave and had them; gradient: of the distortion in the residuals, bits.
        """
        B, _, h, w = x.shape
        books, classes = self.codebooks, classes.transpose(0, 1).flatten(1).long()
        step = books.steps(classes)
        classes = of_tables(classes, self.classes)
        rest = books.to_vectors(x) / step
        index = codes.permute(1, 2, 0, 3, 4).flatten(2).long().unbind(1)
        context, group = torch.zeros_like(classes, dtype=torch.bool), group_of(rest)
        for codewords, code in zip(books.codewords[:-1], index[:-1], strict=True):
            rest -= lookup(codewords, group, code)
            context = next_context(context, code)
        rates, codewords = Rates(self.bits, group, classes), books.codewords[-1]
        missed = rest - lookup(codewords, group, index[-1])
        slope = books.to_vectors(gradient) * step + missed * (2 / self.error_per_bit)
        table = rates.table(len(index) - 1, context)
        found = expected_gradient(slope, rest, codewords, rates, table, self.error_per_bit, temperature)
        return books.to_planes(found, B, (h, w)), books.to_planes(step.expand_as(found), B, (h, w))
