"""Entropy coding: codes and classes <-> one stream of bytes (docs/format.md, section 3).

Bank by bank: escapes, then stage by stage.  In a stage the positions that share a table are coded together, group after
group.  Most tables are near certain of code 0.  Their positions come first, in runs: one flag tells for a whole run
that all of its codes are 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .coding_order import next_context, of_tables
from .range_coder import RangeDecoder, RangeEncoder
from .tables import ESCAPE_CHANCE, BankTables, StageTables, flag

Codes = NDArray[np.int16]  # (groups, stages, N)
Classes = NDArray[np.uint8]  # (groups, N); of what escapes, see `coding_order`, more than there are tables for


class Encoder:
    """Writes a code stream, bank by bank."""

    def __init__(self) -> None:
        self._coder = RangeEncoder()

    def write(self, codes: Codes, classes: Classes, tables: BankTables) -> None:
        """Add the codes of a bank (groups, stages, N), under its classes (groups, N)."""
        escaping = bool((classes >= tables.classes).any())
        self._coder.encode(int(escaping), flag(ESCAPE_CHANCE))
        if escaping:
            escapes, own = np.divmod(classes, np.uint8(tables.classes))
            nothing = np.zeros((1, own.size), np.bool_)
            self._write(escapes.astype(np.int16), own.reshape(1, -1), nothing, tables.escapes)
            classes = of_tables(classes, tables.classes)
        context = np.zeros(classes.shape, np.bool_)
        for stage, own_tables in enumerate(tables.stages):
            self._write(codes[:, stage], classes, context, own_tables)
            context = next_context(context, codes[:, stage])

    def _write(
        self, codes: NDArray[np.int16], classes: Classes, context: NDArray[np.bool_], tables: StageTables
    ) -> None:
        encode, order = self._coder.encode, tables.order(classes, context)
        symbols = codes.reshape(-1).take(order.positions).astype(np.int32)
        others = (symbols != 0).tobytes()  # found there sooner than by `any`
        for start, stop, zero_flag in tables.runs(order):
            coded = others.find(1, start, stop) >= 0
            encode(int(coded), zero_flag)
            for first, last, table in order.parts(start, stop) if coded else ():
                encode(symbols[first:last], tables.model(table))
        for first, last, table in order.parts(order.quiet, len(symbols)):
            encode(symbols[first:last], tables.model(table))

    def finish(self) -> bytes:
        """All that was written, whole 32-bit words."""
        return self._coder.finish()


class Decoder:
    """Reads a code stream, bank by bank."""

    def __init__(self, data: bytes) -> None:
        """Raises DamagedStreamError when `data` is no whole number of words."""
        self._coder = RangeDecoder(data)

    def read(self, classes: Classes, tables: BankTables) -> tuple[Codes, Classes]:
        """The codes of the next bank (groups, stages, N), and its classes with their escapes; DamagedStreamError.

        classes (groups, N): without escapes.
        """
        found = classes
        if self._coder.decode(flag(ESCAPE_CHANCE)):
            nothing = np.zeros((1, classes.size), np.bool_)
            escapes = (
                self._read(classes.reshape(1, -1), nothing, tables.escapes).reshape(classes.shape).astype(np.uint8)
            )
            found = classes + escapes * np.uint8(tables.classes)
            classes = of_tables(found, tables.classes)
        codes = np.empty((tables.groups, len(tables.stages), classes.shape[1]), np.int16)
        context = np.zeros(classes.shape, np.bool_)
        for stage, own_tables in enumerate(tables.stages):
            codes[:, stage] = self._read(classes, context, own_tables).reshape(classes.shape)
            context = next_context(context, codes[:, stage])
        return codes, found

    def _read(self, classes: Classes, context: NDArray[np.bool_], tables: StageTables) -> NDArray[np.int16]:
        decode, order = self._coder.decode, tables.order(classes, context)
        symbols = np.zeros(classes.size, np.int16)
        for start, stop, zero_flag in tables.runs(order):
            if decode(zero_flag):
                for first, last, table in order.parts(start, stop):
                    symbols[first:last] = decode(tables.model(table), last - first)
        for first, last, table in order.parts(order.quiet, classes.size):
            symbols[first:last] = decode(tables.model(table), last - first)
        found = np.empty_like(symbols)
        found[order.positions] = symbols
        return found

    def finish(self) -> None:
        """Raise DamagedStreamError unless the stream ends here."""
        self._coder.finish()
