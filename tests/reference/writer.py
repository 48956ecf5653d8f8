"""A writer of code streams that no encoder would make, from docs/format.md, section 3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pillow_mcquic.bitstream.plain_range_coder import Categorical, RangeEncoder
from pillow_mcquic.reference.classes import Classes
from pillow_mcquic.reference.codes import ESCAPE_FLAG, NEAR_CERTAIN, RUN, TOTAL, Tables, grids, tables_of
from pillow_mcquic.reference.weights import Weights

Integers = NDArray[np.int64]
Chosen = list[tuple[Integers, Integers]]  # codes (groups, stages, h, w) and escapes (groups, h, w) of each bank


def code_stream(
    weights: Weights, quality: int, size: tuple[int, int], choose: Callable[[tuple[int, ...], int], Integers]
) -> tuple[bytes, Chosen]:
    """The stream of a picture of a size whose codes and escapes are chosen: `choose(shape, K)` gives some below K."""
    encoder, own, chosen = RangeEncoder(), grids(*size), list[tuple[Integers, Integers]]()
    state = Classes(weights, quality, own)
    for number, bank in enumerate(weights.banks):
        classes, shape = state.of(number), (bank.groups, *own[bank.level])
        codes = np.stack([choose(shape, k) for k in bank.stages], 1)
        escapes = choose(shape, 9)
        of_escapes, of_stages = tables_of(weights, number)
        encoder.encode(int(escapes.any()), ESCAPE_FLAG)
        if escapes.any():
            _write(encoder, of_escapes, classes.reshape(1, -1), escapes)
        coded = np.where(escapes > 0, weights.classes - 1, classes).reshape(bank.groups, -1)
        context = np.zeros_like(coded)
        for stage, tables in enumerate(of_stages):
            _write(encoder, tables, context * weights.classes + coded if stage else coded, codes[:, stage])
            context |= codes[:, stage].reshape(bank.groups, -1) != 0
        state.push(number, codes)
        chosen.append((codes, escapes))
    return encoder.get_compressed().astype("<u4").tobytes(), chosen


def _write(encoder: RangeEncoder, tables: Tables, of_group: Integers, codes: Integers) -> None:
    numbers = (np.arange(len(of_group))[:, None] * tables.per_group + of_group).ravel()
    order, codes = numbers.argsort(kind="stable"), codes.ravel()
    near = tables.others[numbers[order]] <= NEAR_CERTAIN
    run, chance = list[int](), 0
    for place in [*order[near], None]:
        each = 0 if place is None else int(tables.others[numbers[place]])
        if run and (place is None or chance + each > RUN):
            present = bool(codes[run].any())
            encoder.encode(int(present), Categorical([TOTAL - chance, chance]))
            for one in run if present else ():
                encoder.encode(int(codes[one]), tables.model(int(numbers[one])))
            run, chance = [], 0
        if place is not None:
            run, chance = [*run, int(place)], chance + each
    for one in order[~near]:
        encoder.encode(int(codes[one]), tables.model(int(numbers[one])))
