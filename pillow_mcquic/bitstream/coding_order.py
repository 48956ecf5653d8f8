"""The order in which the codes of a picture are written and read: levels, banks, groups, stages, contexts.

A picture has a latent at each of three levels: level 3 at 1/64 of its resolution, level 2 at 1/32, level 1 at 1/16.
The channels of a level are cut into banks.  A bank is product quantisation: `groups` groups of `dim` channels, each
with codebooks of its own.  Each group is residual quantisation: a stage quantises what the stages before it left over.
Level 3 comes first, then 2, then 1; banks are numbered in that order, and "codes" and "classes" are lists with an
entry for each bank:

    codes     (..., groups, stages, rows, columns)  index of a codeword
    classes   (..., groups, rows, columns)          which probability table, and which step, a group has at a position

Codewords end somewhere.  A vector that lies far beyond *escapes*: its step is that of the last class, doubled `escape`
times, 1 to 8, and its tables are those of the last class.  In "classes" it has its own class + `escape` * the number of
classes.  Of photographs few do, up to quality 8 hardly any; of fine black and white lines many.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

ESCAPES = 8  # how many times the step of a vector may double: then any picture is within reach
Array = TypeVar("Array", bound=Any)  # of numpy or torch


@dataclasses.dataclass(frozen=True)
class Bank:
    """`groups` groups of `dim` channels of a level, with a codebook of so many codewords for each stage."""

    level: int
    groups: int
    dim: int
    stages: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Channels of the latent that the bank quantises."""
        return self.groups * self.dim


def next_context(context: Array, codes: Any) -> Array:
    """Context of a group's next stage, boolean, after the codes of a stage: whether any code so far was not 0.

    A later stage has two tables for a class: one for context 0, where all codes before it are the zero codeword, and
    one for context 1.  The first stage has context 0 everywhere.
    """
    following: Array = context | (codes != 0)
    return following


def of_tables(classes: Array, count: int) -> Array:
    """Classes with escapes -> those, of `count`, whose tables code the codes: the last where a vector escapes."""
    found: Array = classes.clip(max=count - 1)
    return found


class StageOrder:
    """The order in which a stage of a bank codes its positions: by table, within a table as they lie.

    Tables are numbered group by group, in a group by context and class.  Near-certain tables come first.

    Parameters
    ----------
    tables : (groups, N) uint8, of every group at every position: the number of its table in the group.
    near_certain : (groups, tables) boolean.
    """

    def __init__(self, tables: NDArray[np.uint8], near_certain: NDArray[np.bool_]) -> None:
        groups, count = near_certain.shape
        own = np.arange(groups)[:, None]
        sizes = np.bincount((own * count + tables).ravel(), minlength=groups * count)
        used = np.flatnonzero(sizes)
        quiet = near_certain.ravel()[used]
        # sorted in each group, and then whole tables moved: much less to sort than all groups at once
        by_group = (tables.argsort(axis=1, kind="stable") + own * tables.shape[1]).ravel()
        stops = sizes[used].cumsum()
        moved = np.concatenate([np.flatnonzero(quiet), np.flatnonzero(~quiet)])
        pieces = zip((stops - sizes[used])[moved].tolist(), stops[moved].tolist(), strict=True)
        self.positions: NDArray[np.intp] = np.concatenate([by_group[start:stop] for start, stop in pieces])
        self.tables: list[int] = used[moved].tolist()  # those in use, numbered through all groups
        self.ends: list[int] = sizes[used][moved].cumsum().tolist()  # where the positions of each end
        self.quiet = int(sizes[used][quiet].sum())  # positions of near-certain tables

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """What is coded at once between two places of the order: start, stop and table."""
        first = bisect.bisect_right(self.ends, start)
        for table, end in zip(self.tables[first:], self.ends[first:], strict=True):
            if start >= stop:
                return
            yield start, min(end, stop), table
            start = end
