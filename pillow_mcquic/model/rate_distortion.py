"""What codewords cost in bits, and the last stage's codeword of least error and rate."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..bitstream.coding_order import next_context
from .nearest import by_column, gather_flat, half_energy, prefix_ends, prefix_of, search_prefixes, take, zero_radii


@dataclasses.dataclass(frozen=True)
class Rates:
    """What every codeword of a bank costs each vector.

    bits: for each stage (groups, contexts, classes, K).  Of the vectors, in any one shape: group and class `low`,
    int64, and `share`: how far each is on the way to the next class, or None for whole classes.
    """

    bits: Sequence[Tensor]
    group: Tensor
    low: Tensor
    share: Tensor | None = None

    def table(self, stage: int, context: Tensor) -> Tensor:
        """Which table, of contexts * classes, belongs to each vector; context: of the stage, boolean."""
        _, contexts, classes, _ = self.bits[stage].shape
        return self.low if contexts == 1 else context * classes + self.low

    def of(self, stage: int, context: Tensor, index: Tensor) -> Tensor:
        """Bits of the codewords `index`."""
        table = self.bits[stage].flatten(1, 2)
        _, rows, k = table.shape
        at = (self.group * rows + self.table(stage, context)) * k + index
        near = gather_flat(table, at)
        return near if self.share is None else torch.lerp(near, gather_flat(table, at + k), self.share)

    def total(self, indices: Sequence[Tensor]) -> Tensor:
        """Bits of the codewords of all stages."""
        context = torch.zeros_like(self.low, dtype=torch.bool)
        bits = torch.zeros_like(self.low, dtype=torch.float32)
        for stage, index in enumerate(indices):
            bits += self.of(stage, context, index)
            context = next_context(context, index)
        return bits

    def flat(self) -> Rates:
        """From vectors (groups, N) to one list of them, (groups * N,)."""
        share = None if self.share is None else self.share.flatten()
        return Rates(self.bits, self.group.flatten(), self.low.flatten(), share)

    def at(self, at: Tensor | slice) -> Rates:
        """Of a list of vectors those at some places."""
        share = None if self.share is None else take(self.share, at)
        return Rates(self.bits, take(self.group, at), take(self.low, at), share)


def ball_radii(codewords: Tensor, price: Tensor, slack: float = 0.0) -> list[Tensor]:
    """Radii around the zero codeword inside which every codeword from one of `prefix_ends` on is worse by `slack`.

    codewords (groups, K, dim); price of each, in squared error, (groups, tables, K).  Each is (groups, tables).
    """
    away = (codewords - codewords[:, :1]).square().sum(-1).clamp(min=1e-9)[:, None]
    radius = (away + price - price[:, :, :1] - slack) / away.sqrt() / 2
    return [radius[:, :, end:].min(-1).values for end in prefix_ends(codewords)]


def radii_of_tables(radii: Sequence[Tensor], table: Tensor, rates: Rates) -> list[Tensor]:
    """The radii for vectors under the tables `table`, or between them and the next, in their shape."""
    at = rates.group * radii[0].shape[1] + table
    near = [gather_flat(radius, at) for radius in radii]
    if rates.share is None:
        return near
    return [torch.minimum(r, gather_flat(radius, at + 1)) for r, radius in zip(near, radii, strict=True)]


def fill_columns(columns: Tensor, vectors: Tensor, table: Tensor, share: Tensor | None) -> None:
    """Put vectors (M, dim), a one and which table is theirs (M,) into columns (groups, dim + 1 + tables, N).

    share (M,): how far each is on the way to the next table, or None.
    Their products with rows of a codeword, a number and its prices under each table are then what codewords cost.
    """
    dim = vectors.shape[1]
    columns[:, :dim] = by_column(vectors, columns)
    columns[:, dim] = 1
    place, select = by_column(table, columns), columns[:, dim + 1 :]
    if share is None:
        select.scatter_(1, place, 1.0)
    else:
        up = by_column(share, columns)
        select.scatter_(1, place, 1 - up).scatter_(1, place + 1, up)


class LastStage:
    """Search of the last stage's codeword by error and rate, prepared once for given codewords and prices.

    Parameters
    ----------
    codewords : of each stage (groups, K, dim).
    bits : of the last (groups, contexts, classes, K).
    error_per_bit : the squared error a saved bit is worth.
    """

    def __init__(self, codewords: Sequence[Tensor], bits: Tensor, error_per_bit: float) -> None:
        self.error_per_bit = error_per_bit
        self.stages, last = codewords, codewords[-1]
        self.price = error_per_bit * bits.flatten(1, 2)  # (groups, tables, K)
        self.rows = torch.cat([last, half_energy(last), self.price.transpose(1, 2) / -2], 2)

    @functools.cached_property
    def radii(self) -> list[Tensor]:
        """`ball_radii` of the last stage."""
        return ball_radii(self.stages[-1], self.price)

    @functools.cached_property
    def zero_radius(self) -> Tensor:
        """Norm (groups, tables) below which a vector, under that table, is the zero codeword at every stage."""
        # with zero codewords at every stage so far the rest lies within `drift` of the vector
        drift = torch.stack([torch.linalg.vector_norm(stage[:, 0], dim=-1) for stage in self.stages]).sum(0)
        clear = [zero_radii(stage)[0].sqrt()[:, None] for stage in self.stages[:-1]]
        return functools.reduce(torch.minimum, clear, self.radii[0]) - drift[:, None]

    def __call__(self, vectors: Tensor, table: Tensor, rates: Rates) -> Tensor:
        """Index of the codeword of least |error|^2 + error_per_bit * bits, for vectors (M, dim): (M,) int64.

        table: that of each vector; rates: for their groups, which grow, and shares.
        """

        def prefix() -> Tensor:
            distance = (vectors - take(self.stages[-1][:, 0], rates.group)).square().sum(-1).sqrt()
            return prefix_of(distance, radii_of_tables(self.radii, table, rates))

        def fill(columns: Tensor, at: Tensor | slice) -> None:
            share = None if rates.share is None else take(rates.share, at)
            fill_columns(columns, take(vectors, at), take(table, at), share)

        return search_prefixes(prefix, rates.group, self.rows, fill)
