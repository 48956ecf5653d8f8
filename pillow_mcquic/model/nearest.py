"""Nearest codewords, and other searches for a largest inner product among few codewords for most vectors.

Most vectors end as the zero codeword, and most others as one of the first, shortest codewords.  On the CPU bounds on
what can win pick out the few vectors, and the prefix of the codebook, that a search is needed for; the result is that
of a search of all.  "Vectors" here are a list (M, dim) with the group of each (M,), which grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SCORES = 1 << 17  # of codewords for vectors, at once on a CPU: they stay in the cache
MOST_NUMBERS = 1 << 22  # in the vectors that are made ready for a search at once, 16 MB
MANY_SCORES = 1 << 15  # from here on a maximum in two steps pays
LEAST_BLOCK = 32  # the last block of a search is a power of two from here on
WIDE_BLOCK = 1 << 14  # vectors of a group searched at once elsewhere: up to 0.8 GB of scores
PRUNING_DEVICES = frozenset({"cpu"})
FEW_CODEWORDS = 64  # not worth leaving some of them out of a search


def prunes(device: torch.device) -> bool:
    """Whether it pays to pick out the vectors that need a search: on CUDA it costs more than it saves."""
    return device.type in PRUNING_DEVICES


def take(rows: Tensor, at: Tensor | slice) -> Tensor:
    """Rows by their numbers, in a quarter of the time that an index takes, or all of them."""
    return rows[at] if isinstance(at, slice) else rows.index_select(0, at)


def gather_flat(table: Tensor, at: Tensor) -> Tensor:
    """Elements of a table by their place in memory, in the shape of `at`."""
    return torch.gather(table.flatten(), 0, at.flatten()).view(at.shape)


def lookup(codewords: Tensor, group: Tensor, index: Tensor) -> Tensor:
    """Codewords (groups, K, dim) by group and index, int64 in one shape -> (..., dim)."""
    at, rows = group * codewords.shape[1] + index, codewords.flatten(0, 1)
    if prunes(codewords.device) or torch.is_grad_enabled():
        return F.embedding(at, rows)
    return rows[at]  # on CUDA several times faster, but for the gradient


def group_of(vectors: Tensor) -> Tensor:
    """Vectors (groups, N, ...) -> the group of each, (groups, N) int64."""
    return torch.arange(len(vectors), device=vectors.device)[:, None].expand(vectors.shape[:2])


def half_energy(codewords: Tensor) -> Tensor:
    """-|c|^2 / 2 of every codeword, (groups, K, 1)."""
    return codewords.square().sum(-1, keepdim=True) / -2


def nearest(vectors: Tensor, group: Tensor, codewords: Tensor) -> Tensor:
    """Index of the nearest codeword: vectors (M, dim), group (M,), codewords (groups, K, dim) -> (M,) int64.

    The nearest codeword maximises <v, c> - |c|^2 / 2.
    """

    def prefix() -> Tensor:
        # a vector closer to the zero codeword than half the way to any other needs no search, and most are
        distance = (vectors - take(codewords[:, 0], group)).square().sum(-1)
        return prefix_of(distance, [take(radius, group) for radius in zero_radii(codewords)])

    def fill(columns: Tensor, at: Tensor | slice) -> None:
        columns[:, :-1] = by_column(take(vectors, at), columns)
        columns[:, -1] = 1

    return search_prefixes(prefix, group, torch.cat([codewords, half_energy(codewords)], 2), fill)


def zero_radii(codewords: Tensor) -> list[Tensor]:
    """Squared distances (groups,) from the zero codeword, below which none from one of `prefix_ends` on is nearer."""
    clear = (codewords - codewords[:, :1]).square().sum(-1) / 4
    return [clear[:, end:].min(1).values for end in prefix_ends(codewords)]


def prefix_sizes(codewords: Tensor) -> list[int]:
    """How many of the first codewords (groups, K, ...) prefixes 1, 2, ... hold, the last of them all.

    Codewords far out win few vectors: three quarters of them are left out as long as more than `FEW_CODEWORDS` remain.
    """
    sizes = [codewords.shape[1]]
    while sizes[0] > FEW_CODEWORDS:
        sizes.insert(0, sizes[0] // 4)
    return sizes


def prefix_ends(codewords: Tensor) -> list[int]:
    """Where prefixes 0 (the zero codeword), 1, ... end, but for the last."""
    return [1, *prefix_sizes(codewords)[:-1]]


def prefix_of(distance: Tensor, radii: Sequence[Tensor]) -> Tensor:
    """Number of the prefix that holds what can win: how many of the growing radii a vector lies beyond, uint8."""
    return torch.stack([distance >= radius for radius in radii]).sum(0, dtype=torch.uint8)


def by_column(vectors: Tensor, columns: Tensor) -> Tensor:
    """Vectors (groups * N, ...) -> (groups, ..., N), sizes as of columns (groups, D, N)."""
    return vectors.view(len(columns), columns.shape[2], -1).transpose(1, 2)


def largest_product(columns: Tensor, rows: Tensor) -> Tensor:
    """Index of the row of largest inner product: (groups, D, N), (groups, K, D) -> (groups, N) int64.

    Codewords lie in rows because torch's maximum over columns is several times faster than over rows.  On a CPU a
    maximum takes a tenth of the time of a maximum with its place: hence first the block of rows that holds it.
    """
    scores = torch.bmm(rows, columns)
    side = 1 << scores.shape[1].bit_length() // 2
    if scores.numel() < MANY_SCORES or scores.shape[1] % side:
        return scores.max(1).indices
    blocks = scores.view(len(scores), -1, side, scores.shape[2])
    block = blocks.amax(2).max(1).indices
    inside = blocks.gather(1, block[:, None, None].expand(-1, 1, side, -1))[:, 0]
    index: Tensor = inside.max(1).indices.add_(block, alpha=side)
    return index


def search_prefixes(
    prefix: Callable[[], Tensor], group: Tensor, rows: Tensor, fill: Callable[[Tensor, Tensor | slice], None]
) -> Tensor:
    """`largest_product` for every vector among the rows of its prefix; of prefix 0, the zero codeword.

    Parameters
    ----------
    prefix : gives that of each vector (M,), where vectors are picked out.
    group : (M,), growing.
    rows : (groups, K, D), of the codewords.
    fill : puts the vectors of some places into columns (groups, D, N), which are 0.

    Where nothing is picked out (`prunes`) all are searched, and every group has as many vectors.
    """
    groups, _, dim = rows.shape
    # outside the networks' autocast: in bfloat16 the winner would be any of the best few (0.3 dB at quality 8)
    with torch.autocast(rows.device.type, enabled=False):
        if not prunes(group.device):
            columns = rows.new_zeros(groups, dim, len(group) // groups)
            fill(columns, slice(None))
            blocks = torch.split(columns, WIDE_BLOCK, 2)
            return torch.cat([largest_product(block, rows) for block in blocks], 1).flatten()
        index = torch.zeros_like(group)
        for count, members, sizes in prefix_members(prefix(), group, groups, prefix_sizes(rows)):
            for some_groups, batch in batches(sizes, MOST_NUMBERS // dim):
                at, members = members[: sum(batch)], members[sum(batch) :]
                columns = rows.new_zeros(1, dim, len(at) + SCORES // count)
                fill(columns[:, :, : len(at)], at)
                index.scatter_(0, at, _search_in_turn(columns, rows[some_groups, :count], batch)[: len(at)])
        return index


def prefix_members(
    prefix: Tensor, group: Tensor, groups: int, counts: Sequence[int]
) -> Iterator[tuple[int, Tensor, list[int]]]:
    """For every prefix in use: how many codewords it holds, its vectors, and how many of these are of each group.

    prefix, group (M,): of each vector; counts: of prefixes 1, 2, ...
    """
    sizes = torch.bincount(group + groups * prefix.long(), minlength=groups * (len(counts) + 1)).view(-1, groups)
    for number, (count, of_groups) in enumerate(zip(counts, sizes[1:].tolist(), strict=True), 1):
        if any(of_groups):
            yield count, (prefix == number).nonzero()[:, 0], of_groups


def batches(sizes: Sequence[int], most: int) -> Iterator[tuple[slice, list[int]]]:
    """Cut groups of so many vectors each into batches of at most so many, or of one group: which, and their sizes."""
    first = 0
    while first < len(sizes):
        last, total = first + 1, sizes[first]
        while last < len(sizes) and total + sizes[last] <= most:
            last, total = last + 1, total + sizes[last]
        yield slice(first, last), list(sizes[first:last])
        first = last


def _search_in_turn(columns: Tensor, rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """`largest_product` for the vectors of one group after another: (1, D, N), (groups, K, D) -> (N,) int64.

    sizes: how many are of each group, N is SCORES // K more: a group's last block may reach beyond its own.
    """
    found, start = torch.empty_like(columns[0, 0], dtype=torch.int64), 0
    for own_rows, size in zip(rows[:, None], sizes, strict=True):
        first = start
        for block in _blocks_of(size, rows.shape[1]):
            found[first : first + block] = largest_product(columns[:, :, first : first + block], own_rows)[0]
            first += block
        start += size  # what reached beyond it is found again
    return found


def _blocks_of(count: int, codewords: int) -> list[int]:
    """Sizes of the blocks in which `count` vectors are searched on a CPU; their sum may be larger.

    Few sizes only: for every new shape the matrix library would compile, and keep, another kernel.
    """
    size = 1 << (SCORES // codewords).bit_length() - 1
    rest = count % size
    return [size] * (count // size) + ([max(LEAST_BLOCK, 1 << (rest - 1).bit_length())] if rest else [])
