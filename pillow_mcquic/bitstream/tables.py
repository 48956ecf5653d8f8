"""Probability tables: counts that sum to 2^24, as weights files hold them and as the range coder wants them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coding_order import StageOrder
from .range_coder import TOTAL, categorical

LEAST = 16  # of the counts: it bounds what flat squares cost, hence how large a picture a short file may claim
MANTISSA_BITS = 12  # of a packed count
NEAR_CERTAIN = 1 << 14  # a table that leaves no more than this to other codes than 0 is coded in runs
RUN_CHANCE = 1 << 22  # of 2^24: of another code somewhere in a run
ESCAPE_CHANCE = 1 << 20  # of 2^24: of an escape anywhere in a bank


def normalise_counts(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Positive finite weights (..., K) -> counts >= 16 that sum to 2^24 along the last axis and survive packing."""
    k = weights.shape[-1]
    share = weights / weights.sum(-1, keepdims=True) * (TOTAL - k * LEAST)
    counts = np.floor(share).astype(np.int64) + LEAST
    return _complete(_expand(_shorten(counts))).astype(np.int32)


def pack_counts(counts: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Counts (..., K) of `normalise_counts` -> as weights files hold them: 4 bits of exponent, 12 of mantissa."""
    return _shorten(counts.astype(np.int64)).astype(np.uint16)


def unpack_counts(packed: NDArray[np.uint16]) -> NDArray[np.int32]:
    """The inverse of `pack_counts`, (..., K) -> int32; ValueError when a count is below 16."""
    counts = _complete(_expand(packed.astype(np.int64)))
    if counts.min() < LEAST:
        raise ValueError(f"probability counts must be at least {LEAST} of {TOTAL}, found {counts.min()}")
    return counts.astype(np.int32)


def _shorten(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    exponent = np.maximum(np.frexp(counts.astype(np.float64))[1] - 1 - MANTISSA_BITS, 0).astype(np.int64)
    packed: NDArray[np.int64] = (exponent << MANTISSA_BITS) + (counts >> exponent)
    return packed


def _expand(packed: NDArray[np.int64]) -> NDArray[np.int64]:
    exponent = np.maximum((packed >> MANTISSA_BITS) - 1, 0)
    counts: NDArray[np.int64] = (packed - (exponent << MANTISSA_BITS)) << exponent
    return counts


def _complete(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first of the largest counts takes what is missing to the sum: there packing need not be exact."""
    at = counts.argmax(-1)[..., None]
    missing = TOTAL - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, at, np.take_along_axis(counts, at, -1) + missing, -1)
    return counts


class StageTables:
    """The tables of a stage: (groups, contexts, classes, K) int32 counts."""

    def __init__(self, counts: NDArray[np.int32]) -> None:
        self.counts = counts
        self.groups, self.contexts, self.classes, _ = counts.shape
        # of every table the counts for codes other than 0, (groups, contexts * classes)
        self.others = (TOTAL - counts[..., 0].astype(np.int64)).reshape(self.groups, -1)
        self._models: dict[int, Any] = {}

    def order(self, classes: NDArray[np.uint8], context: NDArray[np.bool_]) -> StageOrder:
        """The order of the stage under classes and contexts (groups, N)."""
        tables = classes if self.contexts == 1 else classes + context * np.uint8(self.classes)
        return StageOrder(tables, self.others <= NEAR_CERTAIN)

    def runs(self, order: StageOrder) -> Iterator[tuple[int, int, Any]]:
        """The runs of near-certain positions: where each starts and stops in the order, and the model of its zero flag.

        A run is as long as the chances of another code at its positions together stay within `RUN_CHANCE`.
        """
        others, start, place, chance = self.others.ravel(), 0, 0, 0
        for table, end in zip(order.tables, order.ends, strict=True):
            if place == order.quiet:
                break
            each = int(others[table])
            while place < end:
                more = min(end - place, (RUN_CHANCE - chance) // each)
                place, chance = place + more, chance + more * each
                if place < end:
                    yield start, place, flag(chance)
                    start, chance = place, 0
        if start < order.quiet:
            yield start, order.quiet, flag(chance)

    def model(self, table: int) -> Any:
        """The model of a table, by number."""
        if table not in self._models:
            self._models[table] = categorical(self.counts.reshape(-1, self.counts.shape[3])[table])
        return self._models[table]


class BankTables:
    """The tables of a bank.

    Parameters
    ----------
    stages : of each stage (groups, contexts, classes, K) counts; context 0 alone in the first.
    escapes : of how many times the step doubles, (classes, 9) counts, for all groups.
    """

    def __init__(self, stages: Sequence[NDArray[np.int32]], escapes: NDArray[np.int32]) -> None:
        self.stages = [StageTables(counts) for counts in stages]
        self.escapes = StageTables(escapes[None, None])
        self.groups, self.classes = self.stages[0].groups, self.stages[0].classes


@lru_cache(maxsize=4096)
def flag(chance: int) -> Any:
    """The model of a flag that is 1 with `chance` of 2^24."""
    return categorical(np.array([TOTAL - chance, chance], np.int32))
