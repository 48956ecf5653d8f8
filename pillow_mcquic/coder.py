"""Entropy coding: symbols and table indices <-> bytes, integers only (no torch).

A level's symbols are coded group by group, stage by stage; inside a stage all symbols that share a table are
coded in one call, tables in ascending (context, class) order, positions in raster order.  Context 0 holds
the positions where all coarser words of the group were zero, context 1 the others, so a decoder knows every
table before it needs it.  The range coder is `constriction`'s (32-bit words, 64-bit state, 24-bit
probabilities), behind this module because it is built for few platforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS  # counts of one table sum to this, as the range coder wants it
LEAST = 16  # of the counts: what flat squares cost, hence how large a picture a short file may claim, has a bound
MANTISSA_BITS = 12  # of a packed count


class DamagedStreamError(ValueError):
    """The bytes are not a code stream made with these tables."""


@lru_cache(maxsize=1)
def _constriction() -> Any:
    import constriction

    return constriction.stream


def normalise_counts(weights: NDArray[np.float64]) -> NDArray[np.int32]:
    """Positive finite weights (..., K) -> counts >= 16 that sum to 2^24 along the last axis and survive packing."""
    k = weights.shape[-1]
    share = weights / weights.sum(-1, keepdims=True) * (TOTAL - k * LEAST)
    counts = np.floor(share).astype(np.int64) + LEAST
    return _complete(_unpack(_pack(counts))).astype(np.int32)


def pack_counts(counts: NDArray[np.int32]) -> NDArray[np.uint16]:
    """Counts (..., K) of `normalise_counts` -> as weights files hold them: 4 bits of exponent, 12 of mantissa."""
    return _pack(counts.astype(np.int64)).astype(np.uint16)


def unpack_counts(packed: NDArray[np.uint16]) -> NDArray[np.int32]:
    """The inverse of `pack_counts`, (..., K) -> int32; ValueError when a count is below 16."""
    counts = _complete(_unpack(packed.astype(np.int64)))
    if counts.min() < LEAST:
        raise ValueError(f"probability counts must be at least {LEAST} of {TOTAL}, found {counts.min()}")
    return counts.astype(np.int32)


def _pack(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    exponent = np.maximum(np.frexp(counts.astype(np.float64))[1] - 1 - MANTISSA_BITS, 0).astype(np.int64)
    packed: NDArray[np.int64] = (exponent << MANTISSA_BITS) + (counts >> exponent)
    return packed


def _unpack(packed: NDArray[np.int64]) -> NDArray[np.int64]:
    exponent = np.maximum((packed >> MANTISSA_BITS) - 1, 0)
    counts: NDArray[np.int64] = (packed - (exponent << MANTISSA_BITS)) << exponent
    return counts


def _complete(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first of the largest counts takes what is missing to the sum: there packing need not be exact."""
    at = counts.argmax(-1)[..., None]
    missing = TOTAL - counts.sum(-1, keepdims=True)
    np.put_along_axis(counts, at, np.take_along_axis(counts, at, -1) + missing, -1)
    return counts


class LevelTables:
    """The tables of a level: for each group a list of stages, each (contexts, classes, K) int32 counts."""

    def __init__(self, groups: Sequence[Sequence[NDArray[np.int32]]]) -> None:
        self.groups = groups
        self.symbols = sum(len(stages) for stages in groups)
        self._models: dict[tuple[int, int, int, int], Any] = {}

    def model(self, group: int, stage: int, context: int, index: int) -> Any:
        """The range coder's model of one table."""
        key = (group, stage, context, index)
        found = self._models.get(key)
        if found is None:
            counts = self.groups[group][stage][context, index].astype(np.float32)
            # the coder adds one to each of these and has 2^24 in all: P = counts / 2^24, exactly
            exact = np.ascontiguousarray(counts - np.float32(1))
            found = _constriction().model.Categorical(exact, perfect=False)
            self._models[key] = found
        return found


def _segments(
    classes: NDArray[np.uint8], busy: NDArray[np.bool_] | None, count: int
) -> tuple[NDArray[np.intp], list[tuple[int, int, slice]]]:
    """Positions in coding order, and (context, class, part of that order) of every table in use.

    classes (N,); busy (N,): where context 1 applies, None for context 0 everywhere; count: of classes, at most 128.
    """
    key = classes if busy is None else classes + np.uint8(count) * busy
    order = np.argsort(key, kind="stable")
    ends = np.cumsum(np.bincount(key))
    starts = np.append(0, ends[:-1])
    used = np.flatnonzero(ends > starts)
    return order, [(int(k) // count, int(k) % count, slice(int(starts[k]), int(ends[k]))) for k in used]


def encode(codes: NDArray[np.int16], classes: NDArray[np.uint8], tables: LevelTables) -> bytes:
    """Codes (symbols, N) under classes (groups, N) -> the bytes of one code stream."""
    coder = _constriction().queue.RangeEncoder()
    row = 0
    for g, stages in enumerate(tables.groups):
        busy: NDArray[np.bool_] | None = None
        for s, table in enumerate(stages):
            order, segments = _segments(classes[g], busy, table.shape[1])
            symbols = codes[row, order].astype(np.int32)
            for context, index, part in segments:
                coder.encode(symbols[part], tables.model(g, s, context, index))
            busy = codes[row] != 0 if busy is None else busy | (codes[row] != 0)
            row += 1
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


class Decoder:
    """Reads one code stream, some groups at a time: the classes of later groups may depend on earlier codes."""

    def __init__(self, data: bytes, tables: LevelTables) -> None:
        """Raises DamagedStreamError when `data` is no whole number of words."""
        if len(data) % 4:
            raise DamagedStreamError(f"a code stream is whole 32-bit words, this one has {len(data)} bytes")
        self.tables = tables
        self._coder = _constriction().queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self._group = 0

    def read(self, classes: NDArray[np.uint8]) -> NDArray[np.int16]:
        """The codes (symbols, N) of the next groups under their classes (groups, N); DamagedStreamError."""
        last = self._group + len(classes)
        codes = np.empty((sum(map(len, self.tables.groups[self._group : last])), classes.shape[1]), np.int16)
        row = 0
        for mine in classes:
            busy: NDArray[np.bool_] | None = None
            for s, table in enumerate(self.tables.groups[self._group]):
                order, segments = _segments(mine, busy, table.shape[1])
                symbols = np.empty(len(order), np.int16)
                for context, index, part in segments:
                    model = self.tables.model(self._group, s, context, index)
                    try:
                        symbols[part] = self._coder.decode(model, part.stop - part.start)
                    except (AssertionError, KeyError, ValueError) as error:
                        raise DamagedStreamError(f"the code stream is damaged ({error})") from error
                codes[row, order] = symbols
                busy = codes[row] != 0 if busy is None else busy | (codes[row] != 0)
                row += 1
            self._group += 1
        return codes

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        if not self._coder.maybe_exhausted():
            raise DamagedStreamError("the code stream does not end where its codes do")
