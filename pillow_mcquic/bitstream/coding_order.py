"""The order in which the codes of a picture are written and read: levels, banks, groups, stages, contexts.

A picture has a latent at each of three levels: level 3 at 1/64 of its resolution, level 2 at 1/32, level 1 at 1/16.
The channels of a level are cut into banks.  A bank is product quantisation: `groups` groups of `dim` channels, each
with codebooks of its own.  Each group is residual quantisation: a stage quantises what the stages before it left over.
Level 3 comes first, then 2, then 1; banks are numbered in that order, and "codes" and "classes" are lists with an
entry for each bank:

    codes     (..., groups, stages, rows, columns)  index of a codeword
    classes   (..., groups, rows, columns)          which probability table, and which step, a group has at a position
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

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


class StageOrder:
    """Positions of a group in the order in which its stages code them: by table, within a table as they lie.

    Parameters
    ----------
    classes : (N,) uint8, of the group at every position.
    count : of classes there are, at most 128.
    """

    def __init__(self, classes: NDArray[np.uint8], count: int) -> None:
        self.classes, self.count = classes, count
        self.context = np.zeros(len(classes), np.bool_)
        self._sort()

    def _sort(self) -> None:
        table = self.classes + np.uint8(self.count) * self.context
        sizes = np.bincount(table)
        used = sizes.nonzero()[0]
        self.positions: NDArray[np.intp] = table.argsort(kind="stable")
        # for each table in use, `context * count + class`, where its positions end
        self.ends: list[tuple[int, int]] = list(zip(used.tolist(), sizes[used].cumsum().tolist(), strict=True))

    def push(self, codes: NDArray[np.int16]) -> None:
        """Go on to the next stage, after the codes (N,) of this one."""
        if codes.any():
            self.context = next_context(self.context, codes)
            self._sort()
