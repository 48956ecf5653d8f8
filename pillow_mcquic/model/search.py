"""The encoder's search for codewords: the nearest at the first stages, at the last the best by error and rate.

Beside it what also decoding and training use of words and tables (`pick`, `picks`, `some`, `entries`, `Rates`).

Most vectors end as word 0, and most others as one of the first, shortest words.  On the CPU bounds on what can win pick
out the few vectors, and the few words, that a search is needed for; the result is that of a search of all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 17  # of words for vectors, at once on a CPU: they stay in the cache
MOST_COLUMNS = 1 << 22  # numbers in the vectors that are made ready for a search at once, 16 MB
MANY_SCORES = 1 << 15  # from here on a maximum in two steps pays
LEAST_CHUNK = 32  # the last chunk of a search is a power of two from here on
WIDE_CHUNK = 1 << 14  # positions searched at once elsewhere: up to 0.8 GB of distances
PICKING = frozenset({"cpu"})  # kinds of devices, see `picks`
FEW_WORDS = 64  # not worth leaving some of them out of a search


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
    return device.type in PICKING


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


def pick(words: Tensor, group: Tensor, index: Tensor) -> Tensor:
    """Codewords (groups, K, dim) by group and index, int64 in one shape -> (..., dim)."""
    at, rows = group * words.shape[1] + index, words.flatten(0, 1)
    if picks(words.device) or torch.is_grad_enabled():
        return F.embedding(at, rows)
    return rows[at]  # on CUDA several times faster, but for the gradient
