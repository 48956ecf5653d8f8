"""Entropy coding: symbols and table indices <-> bytes, integers only (no torch).

A level's symbols are coded group by group, stage by stage; inside a stage all symbols that share a table are
coded in one call, tables in ascending (context, class) order, positions in raster order.  Context 0 holds
the positions where all coarser words of the group were zero, context 1 the others, so a decoder knows every
table before it needs it.  Most tables expect next to nothing but word 0; there one flag tells for a whole run of
positions that nothing else came.  The range coder is `constriction`'s (32-bit words, 64-bit state, 24-bit
probabilities), behind this module because it is built for few platforms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS  # counts of one table sum to this, as the range coder wants it
LEAST = 16  # of the counts: what flat squares cost, hence how large a picture a short file may claim, has a bound
MANTISSA_BITS = 12  # of a packed count
QUIET = 1 << 14  # a table that leaves no more of its counts than this to words other than 0 is coded in runs,
RUN = 1 << 22  # as long as these parts of the counts, one for each position, sum to no more than this


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
            found = self._models[key] = _model(self.groups[group][stage][context, index])
        return found

    def runs(self, group: int, stage: int, context: int, index: int, part: slice) -> Iterator[tuple[slice, Any]]:
        """Cut the positions of a table into runs: each with the model of its flag, or None where there is no flag."""
        others = TOTAL - int(self.groups[group][stage][context, index, 0])
        if others > QUIET:
            yield part, None
            return
        longest = RUN // others
        for start in range(part.start, part.stop, longest):
            stop = min(start + longest, part.stop)
            yield slice(start, stop), _flag((stop - start) * others)


def _model(counts: NDArray[np.int32]) -> Any:
    # the coder adds one to each of these and has 2^24 in all: P = counts / 2^24, exactly
    exact = counts.astype(np.float32) - np.float32(1)
    return _constriction().model.Categorical(np.ascontiguousarray(exact), perfect=False)


@lru_cache(maxsize=4096)
def _flag(chance: int) -> Any:
    """The model of 0, nothing but word 0, or 1, something else, with `chance` of 2^24."""
    return _model(np.array([TOTAL - chance, chance], np.int32))


Segments = list[tuple[int, int, slice]]  # context, class and part of the coding order of every table in use


def _segments(classes: NDArray[np.uint8], busy: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], Segments]:
    """Positions in coding order, and the segments of that order.

    classes (N,); busy (N,): where context 1 applies; count: of classes, at most 128.
    """
    key = classes + np.uint8(count) * busy
    order = np.argsort(key, kind="stable")
    ends = np.cumsum(np.bincount(key))
    starts = np.append(0, ends[:-1])
    used = np.flatnonzero(ends > starts)
    return order, [(int(k) // count, int(k) % count, slice(int(starts[k]), int(ends[k]))) for k in used]


def _stages(
    classes: NDArray[np.uint8], stages: Sequence[NDArray[np.int32]], codes: NDArray[np.int16]
) -> Iterator[tuple[int, NDArray[np.intp], Segments]]:
    """Each stage of a group with its coding order; codes (stages, N) of a stage are looked at after its turn."""
    busy = np.zeros(len(classes), np.bool_)
    order, segments = _segments(classes, busy, stages[0].shape[1])
    for s, table in enumerate(stages):
        yield s, order, segments
        loud = codes[s] != 0
        if loud.any() and s < len(stages) - 1:
            busy |= loud
            order, segments = _segments(classes, busy, table.shape[1])


def encode(codes: NDArray[np.int16], classes: NDArray[np.uint8], tables: LevelTables) -> bytes:
    """Codes (symbols, N) under classes (groups, N) -> the bytes of one code stream."""
    coder = _constriction().queue.RangeEncoder()
    row = 0
    for g, stages in enumerate(tables.groups):
        for s, order, segments in _stages(classes[g], stages, codes[row : row + len(stages)]):
            symbols = codes[row + s, order].astype(np.int32)
            for context, index, part in segments:
                for run, flag in tables.runs(g, s, context, index, part):
                    if flag is not None:
                        loud = bool(symbols[run].any())
                        coder.encode(int(loud), flag)
                        if not loud:
                            continue
                    coder.encode(symbols[run], tables.model(g, s, context, index))
        row += len(stages)
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
        groups = self.tables.groups[self._group : self._group + len(classes)]
        codes = np.zeros((sum(map(len, groups)), classes.shape[1]), np.int16)
        row = 0
        for mine, stages in zip(classes, groups, strict=True):
            for s, order, segments in _stages(mine, stages, codes[row : row + len(stages)]):
                for context, index, part in segments:
                    try:
                        self._read_table(s, context, index, part, order, codes[row + s])
                    except (AssertionError, KeyError, ValueError) as error:
                        raise DamagedStreamError(f"the code stream is damaged ({error})") from error
            row += len(stages)
            self._group += 1
        return codes

    def _read_table(
        self, stage: int, context: int, index: int, part: slice, order: NDArray[np.intp], codes: NDArray[np.int16]
    ) -> None:
        """Read the codes of one table into their places; they are 0 before."""
        for run, flag in self.tables.runs(self._group, stage, context, index, part):
            if flag is None or self._coder.decode(flag):
                model = self.tables.model(self._group, stage, context, index)
                codes[order[run]] = self._coder.decode(model, run.stop - run.start)

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        if not self._coder.maybe_exhausted():
            raise DamagedStreamError("the code stream does not end where its codes do")
