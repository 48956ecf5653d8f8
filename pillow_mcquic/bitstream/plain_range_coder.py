"""The range coder in plain Python: the same words as the `constriction` package's, symbol for symbol, but slower.

It serves where that package is not built for the machine, and says in code what docs/format.md, section 3, says in
words.  An interval of 64 bits, `low` and `range`, is cut in the ratio of counts; 32 bits leave when it is small.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

TOTAL_BITS = 24  # what counts sum to: 2^24
WORD_BITS, STATE_BITS = 32, 64
WORD, STATE = (1 << WORD_BITS) - 1, (1 << STATE_BITS) - 1


class Categorical:
    """Counts (K,) that sum to 2^24, as the coder needs them: symbol s has the interval [lefts[s], lefts[s + 1])."""

    def __init__(self, counts: Iterable[int]) -> None:
        self.lefts = [0, *itertools.accumulate(map(int, counts))]


class RangeEncoder:
    """Symbols and their models -> words."""

    def __init__(self) -> None:
        self._low, self._range = 0, STATE
        self._words: list[int] = []

    def encode(self, symbols: int | NDArray[np.int32], model: Categorical) -> None:
        """Add a symbol, or several (N,), of one model."""
        low, range, lefts, words = self._low, self._range, model.lefts, self._words
        for symbol in (symbols,) if isinstance(symbols, int) else symbols.tolist():
            scale = range >> TOTAL_BITS
            low += scale * lefts[symbol]
            range = scale * (lefts[symbol + 1] - lefts[symbol])
            if low > STATE:
                low &= STATE
                _carry(words)
            if range >> WORD_BITS == 0:
                words.append(low >> WORD_BITS)
                low, range = low << WORD_BITS & STATE, range << WORD_BITS
        self._low, self._range = low, range

    def get_compressed(self) -> NDArray[np.uint32]:
        """All words, the last one or two as short as they can be for a reader that takes missing ones as 0."""
        words = self._words.copy()
        if words or self._range != STATE:
            point = self._low + WORD
            upper = self._low + self._range >> WORD_BITS
            if point > STATE:
                point &= STATE
                upper &= WORD
                _carry(words)
            words.append(point >> WORD_BITS)
            if upper == point >> WORD_BITS:
                words.append(0)
        return np.array(words, np.uint32)


def _carry(words: list[int]) -> None:
    """Add 1 to the number that the words are."""
    at = len(words) - 1
    while words[at] == WORD:
        words[at] = 0
        at -= 1
    words[at] += 1


class RangeDecoder:
    """Words -> symbols, given the models they were encoded with."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words: Sequence[int] = words.tolist()
        self._taken, self._range = 2, STATE
        first, second = itertools.islice(itertools.chain(self._words, (0, 0)), 2)
        self._offset = first << WORD_BITS | second

    @overload
    def decode(self, model: Categorical) -> int: ...
    @overload
    def decode(self, model: Categorical, count: int) -> NDArray[np.int32]: ...
    def decode(self, model: Categorical, count: int | None = None) -> int | NDArray[np.int32]:
        """The next symbol of a model, or the next `count`; ValueError where there is none."""
        offset, range, lefts, words = self._offset, self._range, model.lefts, self._words
        found = []
        for _ in itertools.repeat(None, 1 if count is None else count):
            scale = range >> TOTAL_BITS
            quantile = offset // scale
            if quantile >> TOTAL_BITS:
                raise ValueError("no symbol has this interval")
            symbol = bisect.bisect_right(lefts, quantile) - 1
            found.append(symbol)
            offset -= scale * lefts[symbol]
            range = scale * (lefts[symbol + 1] - lefts[symbol])
            if range >> WORD_BITS == 0:
                word = words[self._taken] if self._taken < len(words) else 0
                self._taken += 1
                offset, range = offset << WORD_BITS | word, range << WORD_BITS
        self._offset, self._range = offset, range
        return found[0] if count is None else np.array(found, np.int32)

    def maybe_exhausted(self) -> bool:
        """Whether the stream can end here: all words are taken, and the point lies near the lower end."""
        return self._taken >= len(self._words) and self._offset < (1 << WORD_BITS + 1) - 1
