"""The range coder: 32-bit words, 64-bit state, 24-bit probabilities.

It is that of the `constriction` package, which is not built for every platform: where it is not installed
`plain_range_coder` writes and reads the same words, slower.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DamagedStreamError
from . import plain_range_coder

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS  # what the counts of a probability table sum to


@lru_cache(maxsize=1)
def package() -> Any:
    """The package's streams, imported by the first call; None, said once, where it is not installed."""
    try:
        import constriction
    except ImportError:
        text = "constriction is not installed: .mcq files are coded in plain Python, slower (pip install constriction)"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
        return None

    stream = constriction.stream
    # Its first call sets something up.  A child forked meanwhile would wait for it for ever, and forks wait for this.
    model, encoder = stream.model.Categorical(np.ones(2, np.float32), perfect=False), stream.queue.RangeEncoder()
    encoder.encode(np.zeros(1, np.int32), model)
    stream.queue.RangeDecoder(encoder.get_compressed()).decode(model, 1)
    return stream


def categorical(counts: NDArray[np.int32]) -> Any:
    """The model of counts (K,) that sum to 2^24: symbol s has the probability counts[s] / 2^24, exactly."""
    if package() is None:
        return plain_range_coder.Categorical(counts)
    # the package adds one to each of these integers, and has 2^24 in all
    return package().model.Categorical(np.ascontiguousarray(counts.astype(np.float32) - np.float32(1)), perfect=False)


class RangeEncoder:
    """Symbols and their models -> words."""

    def __init__(self) -> None:
        self._coder = plain_range_coder.RangeEncoder() if package() is None else package().queue.RangeEncoder()
        # encode(symbol or (N,) int32, model); the coder's own method, as a call more would show
        self.encode = self._coder.encode

    def finish(self) -> bytes:
        """All that was encoded, whole 32-bit words."""
        words: NDArray[np.uint32] = self._coder.get_compressed()
        return words.astype("<u4").tobytes()


class RangeDecoder:
    """Words -> symbols, given the models they were encoded with."""

    def __init__(self, data: bytes) -> None:
        """Raises DamagedStreamError when `data` is no whole number of words."""
        if len(data) % 4:
            raise DamagedStreamError(f"a code stream is whole 32-bit words, this one has {len(data)} bytes")
        words = np.frombuffer(data, "<u4").astype(np.uint32)
        self._coder: Any = (
            plain_range_coder.RangeDecoder(words) if package() is None else package().queue.RangeDecoder(words)
        )

    def decode(self, *model_and_count: Any) -> Any:
        """The next symbol of a model, or the next `count` (int32); DamagedStreamError where there is none."""
        try:
            return self._coder.decode(*model_and_count)
        except (AssertionError, KeyError, ValueError) as error:  # the coder's own
            raise DamagedStreamError(f"the code stream is damaged ({error})") from error

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        if not self._coder.maybe_exhausted():
            raise DamagedStreamError("the code stream does not end where its codes do")
