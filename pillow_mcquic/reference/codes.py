"""Sections 2 and 3: codes and the code stream."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..bitstream.plain_range_coder import Categorical, RangeDecoder
from ..errors import BadFileError
from .weights import Weights

TOTAL = 1 << 24
NEAR_CERTAIN, RUN = 1 << 14, 1 << 22
ESCAPE_FLAG = Categorical([TOTAL - (1 << 20), 1 << 20])

Codes = NDArray[np.int64]  # (groups, stages, h, w)
Integers = NDArray[np.int64]  # (groups, h, w): classes, escapes


def grids(width: int, height: int) -> dict[int, tuple[int, int]]:
    """Rows and columns of each level."""
    h1, w1 = -(-height // 16), -(-width // 16)
    return {1: (h1, w1), 2: (-(-h1 // 2), -(-w1 // 2)), 3: (-(-h1 // 4), -(-w1 // 4))}


def counts(packed: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Counts (..., K), unpacked."""
    p = packed.astype(np.int64)
    e = np.maximum((p >> 12) - 1, 0)
    found: NDArray[np.int64] = (p - (e << 12)) << e
    largest = found.argmax(-1)[..., None]
    left = TOTAL - found.sum(-1, keepdims=True) + np.take_along_axis(found, largest, -1)
    np.put_along_axis(found, largest, left, -1)
    if found.min() < 16:
        raise BadFileError("a weights file has counts that are too small; reinstall pillow_mcquic")
    return found


class Tables:
    """The tables of a stage, (groups, contexts, classes, K), numbered through all groups."""

    def __init__(self, packed: NDArray[np.uint16]) -> None:
        found = counts(packed)
        self.per_group = found.shape[1] * found.shape[2]
        self.counts = found.reshape(-1, found.shape[3])
        self.others = TOTAL - self.counts[:, 0]
        self.model = functools.lru_cache(maxsize=None)(lambda number: Categorical(self.counts[number]))


@functools.lru_cache(maxsize=8)
def tables_of(weights: Weights, bank: int) -> tuple[Tables, list[Tables]]:
    """Tables of escapes, and of the stages."""
    stages = [Tables(weights[f"tables.{bank}.{stage}"]) for stage in range(len(weights.banks[bank].stages))]
    return Tables(weights[f"tables.{bank}.escapes"][None, None]), stages


class Stream:
    """A code stream."""

    def __init__(self, data: bytes) -> None:
        if len(data) % 4:
            raise BadFileError("damaged .mcq file: its code stream is not of whole words")
        self.coder = RangeDecoder(np.frombuffer(data, "<u4"))

    def bank(self, weights: Weights, number: int, classes: Integers) -> tuple[Codes, Integers]:
        """Codes of a bank and its escapes, under its classes."""
        shape, flat = classes.shape, classes.reshape(len(classes), -1)
        of_escapes, of_stages = tables_of(weights, number)
        escapes = np.zeros_like(flat)
        try:
            if self.coder.decode(ESCAPE_FLAG):
                escapes = self._stage(of_escapes, flat.reshape(1, -1)).reshape(flat.shape)
            classes = np.where(escapes > 0, weights.classes - 1, flat)
            context, found = np.zeros_like(flat), list[Codes]()
            for stage, tables in enumerate(of_stages):
                found.append(self._stage(tables, context * weights.classes + classes if stage else classes))
                context |= found[-1] != 0
        except ValueError as error:
            raise BadFileError(f"damaged .mcq file: its code stream is damaged ({error})") from error
        return np.stack(found, 1).reshape(shape[0], -1, *shape[1:]), escapes.reshape(shape)

    def _stage(self, tables: Tables, of_group: NDArray[np.int64]) -> NDArray[np.int64]:
        """Codes (groups, N) under tables (groups, N), numbered in each group."""
        numbers = (np.arange(len(of_group))[:, None] * tables.per_group + of_group).ravel()
        order = numbers.argsort(kind="stable")
        near = tables.others[numbers[order]] <= NEAR_CERTAIN
        quiet, busy = order[near], order[~near]
        codes = np.zeros(len(numbers), np.int64)
        for run, chance in _runs(tables.others[numbers[quiet]]):
            if self.coder.decode(Categorical([TOTAL - chance, chance])):
                self._symbols(tables, numbers, quiet[run], codes)
        self._symbols(tables, numbers, busy, codes)
        return codes.reshape(of_group.shape)

    def _symbols(
        self, tables: Tables, numbers: NDArray[np.int64], at: NDArray[np.int64], codes: NDArray[np.int64]
    ) -> None:
        """Codes at some places, in their order, each under its own table."""
        own = numbers[at]
        for part in np.split(np.arange(len(at)), np.flatnonzero(np.diff(own)) + 1):
            if len(part):
                codes[at[part]] = self.coder.decode(tables.model(int(own[part[0]])), len(part))

    def finish(self) -> None:
        """Refuse a stream that does not end here."""
        if not self.coder.maybe_exhausted():
            raise BadFileError("damaged .mcq file: its code stream does not end where its codes do")


def _runs(others: NDArray[np.int64]) -> Iterator[tuple[slice, int]]:
    """The runs of near-certain codes, each with its sum M."""
    sums, start, before = others.cumsum(), 0, 0
    while start < len(sums):
        stop = int(sums.searchsorted(before + RUN, "right"))
        yield slice(start, stop), int(sums[stop - 1]) - before
        start, before = stop, int(sums[stop - 1])
