"""Entropy coding: codes and classes <-> one stream of bytes (docs/format.md, section 3).

Bank by bank, stage by stage.  In a stage the positions that share a table are coded together, group after group.  Most
tables are near certain of code 0.  Their positions come first, in runs: one flag tells for a whole run that all of its
codes are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .coding_order import next_context
from .range_coder import RangeDecoder, RangeEncoder
from .tables import BankTables

Codes = NDArray[np.int16]  # (groups, stages, N)
Classes = NDArray[np.uint8]  # (groups, N)


class Encoder:
    """Writes a code stream, bank by bank."""

    def __init__(self) -> None:
        self._coder = RangeEncoder()

    def write(self, codes: Codes, classes: Classes, tables: BankTables) -> None:
        """Add the codes of a bank (groups, stages, N), under its classes (groups, N)."""
        encode, context = self._coder.encode, np.zeros(classes.shape, np.bool_)
        for stage in range(len(tables.stages)):
            order = tables.order(stage, classes, context)
            symbols = codes[:, stage].reshape(-1).take(order.positions).astype(np.int32)
            others = (symbols != 0).tobytes()  # found there sooner than by `any`
            for start, stop, zero_flag in tables.runs(stage, order):
                coded = others.find(1, start, stop) >= 0
                encode(int(coded), zero_flag)
                for first, last, table in order.parts(start, stop) if coded else ():
                    encode(symbols[first:last], tables.model(stage, table))
            for first, last, table in order.parts(order.quiet, len(symbols)):
                encode(symbols[first:last], tables.model(stage, table))
            context = next_context(context, codes[:, stage])

    def finish(self) -> bytes:
        """All that was written, whole 32-bit words."""
        return self._coder.finish()


class Decoder:
    """Reads a code stream, bank by bank."""

    def __init__(self, data: bytes) -> None:
        """Raises DamagedStreamError when `data` is no whole number of words."""
        self._coder = RangeDecoder(data)

    def read(self, classes: Classes, tables: BankTables) -> Codes:
        """The codes of the next bank (groups, stages, N), under its classes (groups, N); DamagedStreamError."""
        decode, context = self._coder.decode, np.zeros(classes.shape, np.bool_)
        codes = np.empty((tables.groups, len(tables.stages), classes.shape[1]), np.int16)
        for stage in range(len(tables.stages)):
            order = tables.order(stage, classes, context)
            symbols = np.zeros(classes.size, np.int16)
            for start, stop, zero_flag in tables.runs(stage, order):
                if decode(zero_flag):
                    for first, last, table in order.parts(start, stop):
                        symbols[first:last] = decode(tables.model(stage, table), last - first)
            for first, last, table in order.parts(order.quiet, classes.size):
                symbols[first:last] = decode(tables.model(stage, table), last - first)
            found = np.empty_like(symbols)
            found[order.positions] = symbols
            codes[:, stage] = found.reshape(classes.shape)
            context = next_context(context, codes[:, stage])
        return codes

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        self._coder.finish()
