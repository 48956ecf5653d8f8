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
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 17  # of words for vectors, at once on a CPU: they stay in the cache
MOST_COLUMNS = 1 << 22  # numbers in the vectors that are made ready for a search at once, 16 MB
MANY_SCORES = 1 << 15  # from here on a maximum in two steps pays
LEAST_CHUNK = 32  # the last chunk of a search is a power of two from here on
WIDE_CHUNK = 1 << 14  # positions searched at once elsewhere: up to 0.8 GB of distances
QUIET_DIM = 4  # of vectors that are word 0 most of the time
FEW_WORDS = 64  # not worth leaving some of them out of a search
SOFT_CHUNK = 2048  # vectors whose words are weighed at once
UNLIKELY = 5.0  # temperatures by which a word costs more than another to be left out of account
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


def largest_product(columns: Tensor, words: Tensor) -> Tensor:
    """Index of the word of largest inner product: (groups, D, N), (groups, K, D) -> (groups, N) int64.

    Words lie in rows because torch's maximum over columns is several times faster than over rows.  On a
    CPU a maximum takes a tenth of the time of a maximum with its place: hence first the block that holds it.
    """
    scores = torch.bmm(words, columns)
    side = 1 << scores.shape[1].bit_length() // 2
    if scores.numel() < MANY_SCORES or scores.shape[1] % side:
        return scores.max(1).indices
    blocks = scores.view(len(scores), -1, side, scores.shape[2])
    block = blocks.amax(2).max(1).indices
    inside = blocks.gather(1, block[:, None, None].expand(-1, 1, side, -1))[:, 0]
    index: Tensor = inside.max(1).indices.add_(block, alpha=side)
    return index


def picks(device: torch.device) -> bool:
    """Whether it pays to pick out the vectors that need a search: on CUDA it costs more than it saves."""
    return device.type == "cpu"


def chunks(count: int, words: int) -> list[int]:
    """Sizes of the parts in which `count` vectors are searched among so many words on a CPU; their sum may be larger.

    Few sizes only: for every new shape the matrix library would compile, and keep, another kernel.
    """
    size = 1 << (SCORES // words).bit_length() - 1
    rest = count % size
    return [size] * (count // size) + ([max(LEAST_CHUNK, 1 << (rest - 1).bit_length())] if rest else [])


def nearest(vectors: Tensor, group: Tensor, words: Tensor) -> Tensor:
    """Index of the nearest codeword: vectors (M, dim) of groups (M,), growing; words (groups, K, dim) -> (M,) int64.

    The nearest word maximises <v, c> - |c|^2 / 2.
    """

    def shell() -> Tensor:
        # a vector closer to word 0 than half the way to any other word needs no search, and most are
        distance = (vectors - some(words[:, 0], group)).square().sum(-1)
        return shells(distance, [some(radius, group) for radius in clear_distances(words)])

    def fill(columns: Tensor, at: Tensor | slice) -> None:
        columns[:, :-1] = by_column(some(vectors, at), columns)
        columns[:, -1] = 1

    return search_shells(shell, group, torch.cat([words, half_energy(words)], 2), fill)


def some(rows: Tensor, at: Tensor | slice) -> Tensor:
    """Rows by their numbers, in a quarter of the time that an index takes, or all of them."""
    return rows[at] if isinstance(at, slice) else rows.index_select(0, at)


def by_column(vectors: Tensor, columns: Tensor) -> Tensor:
    """Vectors (groups * N, ...) -> (groups, ..., N), sizes as of columns (groups, D, N)."""
    return vectors.view(len(columns), columns.shape[2], -1).transpose(1, 2)


def clear_distances(words: Tensor) -> list[Tensor]:
    """Squared distances (groups,) from word 0, a shell each, below which no word from one of `firsts` on is nearer."""
    clear = (words - words[:, :1]).square().sum(-1) / 4
    return [clear[:, first:].min(1).values for first in firsts(words)]


def searched(words: Tensor) -> list[int]:
    """How many of the first words (groups, K, ...) are searched for the vectors of each shell but the innermost.

    Words far out win few vectors: three quarters of them are left out as long as more than `FEW_WORDS` remain.
    """
    counts = [words.shape[1]]
    while counts[0] > FEW_WORDS:
        counts.insert(0, counts[0] // 4)
    return counts


def firsts(words: Tensor) -> list[int]:
    """The first word of those that only vectors beyond each shell can win."""
    return [1, *searched(words)[:-1]]


def shells(distance: Tensor, radii: Sequence[Tensor]) -> Tensor:
    """Number of the shell around word 0 of each vector: how many of the growing radii it lies beyond, uint8."""
    return torch.stack([distance >= radius for radius in radii]).sum(0, dtype=torch.uint8)


def search_shells(
    shell: Callable[[], Tensor], group: Tensor, words: Tensor, fill: Callable[[Tensor, Tensor | slice], None]
) -> Tensor:
    """`largest_product` for the vectors of every shell among its words of `searched`; of shell 0, word 0.

    shell(): that of each vector (M,); group (M,): of each vector, growing; fill(columns, at) puts some vectors into
    (groups, D, N), which is 0.  Where nothing is picked out (see `picks`) all are searched, and every group has as
    many.
    """
    groups, _, dim = words.shape
    # outside the networks' autocast: in bfloat16 the winner would be any of the best few (0.3 dB at quality 8)
    with torch.autocast(words.device.type, enabled=False):
        if not picks(group.device):
            columns = words.new_zeros(groups, dim, len(group) // groups)
            fill(columns, slice(None))
            parts = torch.split(columns, WIDE_CHUNK, 2)
            return torch.cat([largest_product(part, words) for part in parts], 1).flatten()
        index = torch.zeros_like(group)
        for count, marked, sizes in members(shell(), group, groups, searched(words)):
            for among, run in runs(sizes, MOST_COLUMNS // dim):
                at, marked = marked[: sum(run)], marked[sum(run) :]
                columns = words.new_zeros(1, dim, len(at) + SCORES // count)
                fill(columns[:, :, : len(at)], at)
                index.scatter_(0, at, search_in_turn(columns, words[among, :count], run)[: len(at)])
        return index


def search_in_turn(columns: Tensor, words: Tensor, sizes: Sequence[int]) -> Tensor:
    """`largest_product` for the vectors of one group after another: (1, D, N), (groups, K, D) -> (N,) int64.

    sizes: how many are of each group, N is SCORES // K more: a group's last chunk may reach beyond its own.
    """
    found, start = torch.empty_like(columns[0, 0], dtype=torch.int64), 0
    for mine, size in zip(words[:, None], sizes, strict=True):
        first = start
        for chunk in chunks(size, words.shape[1]):
            found[first : first + chunk] = largest_product(columns[:, :, first : first + chunk], mine)[0]
            first += chunk
        start += size  # what reached beyond it is found again
    return found


def runs(sizes: Sequence[int], most: int) -> Iterator[tuple[slice, list[int]]]:
    """Cut groups of so many vectors each into runs of at most so many, or of one group, each with its sizes."""
    first = 0
    while first < len(sizes):
        last, total = first + 1, sizes[first]
        while last < len(sizes) and total + sizes[last] <= most:
            last, total = last + 1, total + sizes[last]
        yield slice(first, last), list(sizes[first:last])
        first = last


def members(
    shell: Tensor, group: Tensor, groups: int, counts: Sequence[int]
) -> Iterator[tuple[int, Tensor, list[int]]]:
    """Of every shell with vectors in it: how many words are searched, its vectors, and how many are of each group.

    shell, group (M,): of each vector; groups grow.
    """
    sizes = torch.bincount(group + groups * shell.long(), minlength=groups * (len(counts) + 1)).view(-1, groups)
    for number, (count, mine) in enumerate(zip(counts, sizes[1:].tolist(), strict=True), 1):
        if any(mine):
            yield count, (shell == number).nonzero()[:, 0], mine


def half_energy(words: Tensor) -> Tensor:
    """-|c|^2 / 2 of every word, (groups, K, 1)."""
    return words.square().sum(-1, keepdim=True) / -2


@dataclasses.dataclass(frozen=True)
class Rates:
    """What every word of a bank costs each vector.

    bits: for each stage (groups, contexts, classes, K).  Of the vectors, in any one shape: group and class, int64, and
    share: how far each is on the way to the next class, or None for whole classes.
    """

    bits: Sequence[Tensor]
    group: Tensor
    low: Tensor
    share: Tensor | None = None

    def row(self, stage: int, busy: Tensor) -> Tensor:
        """Which table, of contexts * classes, belongs to each vector; `busy`, int64: not word 0 in an earlier stage."""
        _, contexts, classes, _ = self.bits[stage].shape
        return self.low if contexts == 1 else busy * classes + self.low

    def of(self, stage: int, busy: Tensor, index: Tensor) -> Tensor:
        """Bits of the words `index`; `busy` as of `row`."""
        table = self.bits[stage].flatten(1, 2)
        _, rows, k = table.shape
        at = (self.group * rows + self.row(stage, busy)) * k + index
        near = entries(table, at)
        return near if self.share is None else torch.lerp(near, entries(table, at + k), self.share)

    def flat(self) -> Rates:
        """From vectors (groups, N) to one list of them, (groups * N,)."""
        return Rates(
            self.bits, self.group.flatten(), self.low.flatten(), None if self.share is None else self.share.flatten()
        )

    def at(self, at: Tensor | slice) -> Rates:
        """Of a list of vectors those at some places."""
        share = None if self.share is None else some(self.share, at)
        return Rates(self.bits, some(self.group, at), some(self.low, at), share)


def entries(table: Tensor, at: Tensor) -> Tensor:
    """Elements of a table by their place in memory, in the shape of `at`."""
    return torch.gather(table.flatten(), 0, at.flatten()).view(at.shape)


def ball_radii(words: Tensor, price: Tensor, slack: float = 0.0) -> list[Tensor]:
    """Radii around word 0, a shell each, inside which every word from one of `firsts` on is worse by at least `slack`.

    words (groups, K, dim); price of each, in squared error, (groups, tables, K).  Each is (groups, tables).
    """
    away = (words - words[:, :1]).square().sum(-1).clamp(min=1e-9)[:, None]
    radius = (away + price - price[:, :, :1] - slack) / away.sqrt() / 2
    return [radius[:, :, first:].min(-1).values for first in firsts(words)]


def of_tables(radii: Sequence[Tensor], row: Tensor, rates: Rates) -> list[Tensor]:
    """The radii for vectors under the tables `row`, or between them and the next, in their shape (see `Rates`)."""
    at = rates.group * radii[0].shape[1] + row
    near = [entries(radius, at) for radius in radii]
    if rates.share is None:
        return near
    return [torch.minimum(r, entries(radius, at + 1)) for r, radius in zip(near, radii, strict=True)]


class Choice:
    """Choice of the last stage's word by error and rate, prepared once for given words and prices.

    words: of each stage (groups, K, dim); bits: of the last (groups, contexts, classes, K); error_per_bit: the squared
    error a saved bit is worth.  `quiet` (groups, tables): the norm below which a vector, under that table of the last
    stage while it is in context 0, gets word 0 at every stage.
    """

    def __init__(self, words: Sequence[Tensor], bits: Tensor, error_per_bit: float) -> None:
        self.error_per_bit = error_per_bit
        self.stages, last = words, words[-1]
        self.price = error_per_bit * bits.flatten(1, 2)  # (groups, tables, K)
        self.words = torch.cat([last, half_energy(last), self.price.transpose(1, 2) / -2], 2)

    @functools.cached_property
    def radii(self) -> list[Tensor]:
        return ball_radii(self.stages[-1], self.price)

    @functools.cached_property
    def quiet(self) -> Tensor:
        # with word 0 at every stage so far the rest lies within `drift` of the vector
        drift = torch.stack([torch.linalg.vector_norm(stage[:, 0], dim=-1) for stage in self.stages]).sum(0)
        clear = [clear_distances(stage)[0].sqrt()[:, None] for stage in self.stages[:-1]]
        return functools.reduce(torch.minimum, clear, self.radii[0]) - drift[:, None]

    def __call__(self, vectors: Tensor, row: Tensor, rates: Rates) -> Tensor:
        """Index of the word of least |error|^2 + error_per_bit * bits, for vectors (M, dim): (M,) int64.

        row: the table of each vector; rates: for their groups, which grow, and shares.
        """

        def shell() -> Tensor:
            distance = (vectors - some(self.stages[-1][:, 0], rates.group)).square().sum(-1).sqrt()
            return shells(distance, of_tables(self.radii, row, rates))

        def fill(columns: Tensor, at: Tensor | slice) -> None:
            share = None if rates.share is None else some(rates.share, at)
            fill_columns(columns, some(vectors, at), some(row, at), share)

        return search_shells(shell, rates.group, self.words, fill)


def fill_columns(columns: Tensor, vectors: Tensor, row: Tensor, share: Tensor | None) -> None:
    """Put vectors (M, dim), a one and which table is theirs, `row` (M,), into columns (groups, dim + 1 + tables, N).

    share (M,): how far each is on the way to the next table, or None.
    Their products with rows of a word, a number and what the word costs under each table then are what words cost them.
    """
    dim = vectors.shape[1]
    columns[:, :dim] = by_column(vectors, columns)
    columns[:, dim] = 1
    table, select = by_column(row, columns), columns[:, dim + 1 :]
    if share is None:
        select.scatter_(1, table, 1.0)
    else:
        up = by_column(share, columns)
        select.scatter_(1, table, 1 - up).scatter_(1, table + 1, up)


def search(vectors: Tensor, words: Sequence[Tensor], rates: Rates, choice: Choice) -> list[Tensor]:
    """Residual quantisation by error and rate: of a few choices the one of least |error|^2 + error_per_bit * bits.

    The choices: the nearest word stage by stage, with word 0 forced on the first 0, 1, ... stages, and in each case
    at the last stage the word that is best by error and rate.  (Nearest words alone spend a coarse word, and then a
    fine one to correct it, on vectors that a fine word alone serves nearly as well.)

    vectors (groups, N, dim); words (groups, K, dim) for each stage; choice: of the last stage.  Returns the indices
    of each stage, (groups, N) int64.
    """
    shape, vectors, rates = vectors.shape[:2], vectors.flatten(0, 1), rates.flat()
    if not picks(vectors.device):
        return [index.view(shape) for index in best_words(vectors, words, rates, choice)]
    limit = of_tables([choice.quiet], rates.low, rates)[0]
    at = (torch.linalg.vector_norm(vectors, dim=-1) >= limit).nonzero()[:, 0]
    found = best_words(some(vectors, at), words, rates.at(at), choice)
    return [torch.zeros_like(rates.low).index_copy_(0, at, index).view(shape) for index in found]


def best_words(vectors: Tensor, words: Sequence[Tensor], rates: Rates, choice: Choice) -> list[Tensor]:
    """`search` for a list of vectors (M, dim) of groups that grow, all of them tried: indices of each stage, (M,)."""
    picking = picks(vectors.device)
    latest, least = greedy(vectors, words, rates, choice, 0)
    best = [index.clone() for index in latest]
    for forced in range(1, len(words)):
        # where the last round had word 0 anyway, this one would find the same again
        mine = (latest[forced - 1] != 0).nonzero()[:, 0] if picking else slice(None)
        codes, loss = greedy(some(vectors, mine), words, rates.at(mine), choice, forced)
        better = loss < some(least, mine)
        least[mine] = torch.where(better, loss, least[mine])
        for new, old, winner in zip(codes, latest, best, strict=True):
            old[mine] = new
            winner[mine] = torch.where(better, new, winner[mine])
    return best


def greedy(
    vectors: Tensor, words: Sequence[Tensor], rates: Rates, choice: Choice, forced: int
) -> tuple[list[Tensor], Tensor]:
    """Word 0 at the first `forced` stages, then the nearest, at the last stage by error and rate.

    vectors (M, dim), otherwise as `search`.  Returns the indices of each stage, and what they cost, (M,).
    """
    zero = torch.zeros_like(rates.low)
    rest, busy, bits, codes = vectors, zero, torch.zeros_like(vectors[:, 0]), list[Tensor]()
    last = len(words) - 1
    for stage in range(last):
        index = zero if stage < forced else nearest(rest, rates.group, words[stage])
        bits = bits + rates.of(stage, busy, index)
        rest = rest - pick(words[stage], rates.group, index)
        busy = busy | (index != 0).long()
        codes.append(index)
    codes.append(choice(rest, rates.row(last, busy), rates))
    error = (rest - pick(words[last], rates.group, codes[last])).square().sum(-1)
    return codes, error + choice.error_per_bit * (bits + rates.of(last, busy, codes[last]))


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


def step_row(classes: Tensor) -> Tensor:
    """Classes, any integers -> where their step stands in `Codebooks.log_step`, int32."""
    return (classes.int() - FIRST_STEP_CLASS).clamp_(min=0)


def pick(words: Tensor, group: Tensor, index: Tensor) -> Tensor:
    """Codewords (groups, K, dim) by group and index, int64 in one shape -> (..., dim)."""
    at, rows = group * words.shape[1] + index, words.flatten(0, 1)
    if picks(words.device) or torch.is_grad_enabled():
        return F.embedding(at, rows)
    return rows[at]  # on CUDA several times faster, but for the gradient


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
