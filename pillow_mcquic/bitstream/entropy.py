"""Entropy coding: codes and classes <-> one stream of bytes (docs/format.md, section 3).

Bank by bank, group by group, stage by stage.  In a stage the positions that share a table are coded together, tables in
ascending order of (context, class).  Most tables are near certain of code 0: there one flag tells for a whole run of
positions that all of them are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .coding_order import StageOrder
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
        encode = self._coder.encode
        for group in range(tables.groups):
            order = StageOrder(classes[group], tables.classes)
            for stage in range(len(tables.stages)):
                symbols = codes[group, stage].take(order.positions).astype(np.int32)
                others = (symbols != 0).tobytes()  # found there sooner than by `any`
                for start, stop, zero_flag, model in tables.runs(group, stage, order.ends):
                    coded = zero_flag is None or others.find(1, start, stop) >= 0
                    if zero_flag is not None:
                        encode(int(coded), zero_flag)
                    if coded:
                        encode(symbols[start:stop], model)
                if stage + 1 < len(tables.stages):
                    order.push(codes[group, stage])

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
        decode = self._coder.decode
        codes = np.zeros((tables.groups, len(tables.stages), classes.shape[1]), np.int16)
        for group in range(tables.groups):
            order = StageOrder(classes[group], tables.classes)
            for stage in range(len(tables.stages)):
                symbols = np.zeros(len(order.positions), np.int16)
                for start, stop, zero_flag, model in tables.runs(group, stage, order.ends):
                    if zero_flag is None or decode(zero_flag):
                        symbols[start:stop] = decode(model, stop - start)
                codes[group, stage][order.positions] = symbols
                if stage + 1 < len(tables.stages):
                    order.push(codes[group, stage])
        return codes

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        self._coder.finish()
