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


class BankTables:
    """The tables of a bank: for each stage (groups, contexts, classes, K) int32 counts."""

    def __init__(self, stages: Sequence[NDArray[np.int32]]) -> None:
        self.stages = stages
        self.groups, _, self.classes, _ = stages[0].shape
        # of every table the counts for codes other than 0, (groups, contexts * classes)
        self.others = [(TOTAL - counts[..., 0].astype(np.int64)).reshape(self.groups, -1) for counts in stages]
        self._models: list[dict[int, Any]] = [{} for _ in stages]

    def order(self, stage: int, classes: NDArray[np.uint8], context: NDArray[np.bool_]) -> StageOrder:
        """The order of a stage under classes and contexts (groups, N)."""
        tables = classes if self.stages[stage].shape[1] == 1 else classes + context * np.uint8(self.classes)
        return StageOrder(tables, self.others[stage] <= NEAR_CERTAIN)

    def runs(self, stage: int, order: StageOrder) -> Iterator[tuple[int, int, Any]]:
        """The runs of near-certain positions: where each starts and stops in the order, and the model of its zero flag.

        A run is as long as the chances of another code at its positions together stay within `RUN_CHANCE`.
        """
        others, start, place, chance = self.others[stage].ravel(), 0, 0, 0
        for table, end in zip(order.tables, order.ends, strict=True):
            if place == order.quiet:
                break
            each = int(others[table])
            while place < end:
                more = min(end - place, (RUN_CHANCE - chance) // each)
                place, chance = place + more, chance + more * each
                if place < end:
                    yield start, place, _zero_flag(chance)
                    start, chance = place, 0
        if start < order.quiet:
            yield start, order.quiet, _zero_flag(chance)

    def model(self, stage: int, table: int) -> Any:
        """The model of a table, by number."""
        models = self._models[stage]
        if table not in models:
            models[table] = categorical(self.stages[stage].reshape(-1, self.stages[stage].shape[3])[table])
        return models[table]


@lru_cache(maxsize=4096)
def _zero_flag(chance: int) -> Any:
    """The model of 0 (the run holds zero codewords only) and 1 (it holds others), with `chance` of 2^24 for 1."""
    return categorical(np.array([TOTAL - chance, chance], np.int32))
