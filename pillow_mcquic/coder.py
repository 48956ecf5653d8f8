"""Entropy coding: symbols and table indices <-> bytes, integers only (no torch).

All codes of a picture are one stream, level by level, group by group, stage by stage; inside a stage the symbols that
share a table are coded together, tables in ascending (context, class) order, positions in raster order.  Context 0
holds the positions where all coarser words of the group were zero, context 1 the others, so a decoder knows every
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
QUIET = 1 << 14  # of the counts: a table that leaves no more than this to words other than 0 is coded in runs
LOUD = 1 << 22  # of 2^24: runs are as long as the chance of another word in them stays within this


Segments = list[tuple[int, int]]  # of a coding order: context * classes + class of a table, and where its positions end


class DamagedStreamError(ValueError):
    """The bytes are not a code stream made with these tables."""


@lru_cache(maxsize=1)
def library() -> Any:
    """The range coder's, imported by the first call."""
    import constriction

    stream = constriction.stream
    # What its first call sets up, a child forked meanwhile would wait for for ever: here forks wait (`runtime.lock`).
    model, encoder = stream.model.Categorical(np.ones(2, np.float32), perfect=False), stream.queue.RangeEncoder()
    encoder.encode(np.zeros(1, np.int32), model)
    stream.queue.RangeDecoder(encoder.get_compressed()).decode(model, 1)
    return stream


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
        self._prepared: dict[tuple[int, int], dict[int, tuple[Any, int, int]]] = {}

    def parts(self, group: int, stage: int, segments: Segments) -> Iterator[tuple[int, int, Any, Any]]:
        """What is coded at once: start and end in the coding order, the model of its flag or None, of its symbols."""
        prepared, start = self._prepared.setdefault((group, stage), {}), 0
        for key, end in segments:
            if key not in prepared:
                prepared[key] = self._prepare(group, stage, key)
            model, others, longest = prepared[key]
            if not longest:
                yield start, end, None, model
                start = end
            while start < end:
                stop = min(start + longest, end)
                yield start, stop, _flag((stop - start) * others), model
                start = stop

    def _prepare(self, group: int, stage: int, key: int) -> tuple[Any, int, int]:
        """Model of a table, its counts for words other than 0, and how long its runs are (0: no runs)."""
        table = self.groups[group][stage]
        counts = table.reshape(-1, table.shape[2])[key]
        others = TOTAL - int(counts[0])
        return _model(counts), others, LOUD // others if others <= QUIET else 0


def _model(counts: NDArray[np.int32]) -> Any:
    # the coder adds one to each of these and has 2^24 in all: P = counts / 2^24, exactly
    exact = counts.astype(np.float32) - np.float32(1)
    return library().model.Categorical(np.ascontiguousarray(exact), perfect=False)


@lru_cache(maxsize=4096)
def _flag(chance: int) -> Any:
    """The model of 0, nothing but word 0, or 1, something else, with `chance` of 2^24."""
    return _model(np.array([TOTAL - chance, chance], np.int32))


def _segments(classes: NDArray[np.uint8], busy: NDArray[np.bool_], count: int) -> tuple[NDArray[np.intp], Segments]:
    """Positions in coding order, and the segments of that order.

    classes (N,); busy (N,): where context 1 applies; count: of classes, at most 128.
    """
    key = classes + np.uint8(count) * busy
    sizes = np.bincount(key)
    used = sizes.nonzero()[0]
    return key.argsort(kind="stable"), list(zip(used.tolist(), sizes[used].cumsum().tolist(), strict=True))


def _stages(
    classes: NDArray[np.uint8], stages: Sequence[NDArray[np.int32]], codes: NDArray[np.int16]
) -> Iterator[tuple[int, NDArray[np.intp], Segments]]:
    """Each stage of a group with its coding order; codes (stages, N) of a stage are looked at after its turn."""
    busy, count = np.zeros(len(classes), np.bool_), stages[0].shape[1]
    order, segments = _segments(classes, busy, count)
    for s in range(len(stages)):
        yield s, order, segments
        if s < len(stages) - 1 and codes[s].any():
            busy |= codes[s] != 0
            order, segments = _segments(classes, busy, count)


class Encoder:
    """Writes one code stream, level by level."""

    def __init__(self) -> None:
        self._coder = library().queue.RangeEncoder()

    def write(self, codes: NDArray[np.int16], classes: NDArray[np.uint8], tables: LevelTables) -> None:
        """The codes (symbols, N) of a level under their classes (groups, N)."""
        write, row = self._coder.encode, 0
        for g, stages in enumerate(tables.groups):
            for s, order, segments in _stages(classes[g], stages, codes[row : row + len(stages)]):
                symbols = codes[row + s].take(order).astype(np.int32)
                others = (symbols != 0).tobytes()  # found there sooner than by `any`
                for start, stop, flag, model in tables.parts(g, s, segments):
                    loud = flag is None or others.find(1, start, stop) >= 0
                    if flag is not None:
                        write(int(loud), flag)
                    if loud:
                        write(symbols[start:stop], model)
            row += len(stages)

    def finish(self) -> bytes:
        """All that was written, whole 32-bit words."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


class Decoder:
    """Reads one code stream, some groups at a time: the classes of later groups may depend on earlier codes."""

    def __init__(self, data: bytes) -> None:
        """Raises DamagedStreamError when `data` is no whole number of words."""
        if len(data) % 4:
            raise DamagedStreamError(f"a code stream is whole 32-bit words, this one has {len(data)} bytes")
        self._coder = library().queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def read(self, classes: NDArray[np.uint8], tables: LevelTables, first: int = 0) -> NDArray[np.int16]:
        """The codes (symbols, N) of the next groups, of a level the `first` and those after it, under their classes.

        classes (groups, N).  Raises DamagedStreamError.
        """
        groups = tables.groups[first : first + len(classes)]
        codes = np.zeros((sum(map(len, groups)), classes.shape[1]), np.int16)
        row = 0
        for g, (mine, stages) in enumerate(zip(classes, groups, strict=True), first):
            for s, order, segments in _stages(mine, stages, codes[row : row + len(stages)]):
                symbols = np.zeros(len(order), np.int16)
                for start, stop, flag, model in tables.parts(g, s, segments):
                    if flag is None or self._next(flag):
                        symbols[start:stop] = self._next(model, stop - start)
                codes[row + s][order] = symbols
            row += len(stages)
        return codes

    def _next(self, *symbols: Any) -> Any:
        """What comes next in the stream, by the coder's `decode`; nothing but its own errors are damage."""
        try:
            return self._coder.decode(*symbols)
        except (AssertionError, KeyError, ValueError) as error:
            raise DamagedStreamError(f"the code stream is damaged ({error})") from error

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        if not self._coder.maybe_exhausted():
            raise DamagedStreamError("the code stream does not end where its codes do")
