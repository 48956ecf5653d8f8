"""Section 4: classes.  Planes are (h, w, channels) float64, which holds every number exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .codes import Codes, Integers
from .weights import Weights

Planes = NDArray[np.float64]


def round_half_up(x: Planes) -> Planes:
    return np.floor(x + 0.5)


def table(weights: Weights, name: str, quality: int) -> Planes:
    """T(q) of a per-quality table."""
    rows = weights["entropy_model." + name].astype(np.int64)
    low = min(quality // 256 - 1, len(rows) - 2)
    f = quality - 256 * (low + 1)
    found: Planes = ((rows[low] * (256 - f) + rows[low + 1] * f + 128) // 256).astype(np.float64)
    return found


def number(weights: Weights, name: str) -> Planes:
    """A tensor of the entropy model; of a shift its power of two."""
    found = weights["entropy_model." + name].astype(np.float64)
    return np.exp2(found) if name.endswith("shift") else found


def neighbourhood(x: Planes) -> Planes:
    """The 3x3 around every position, in the order (channel, row, column), edges replicated."""
    h, w = x.shape[:2]
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[row : row + h, column : column + w] for row in range(3) for column in range(3)]
    return np.stack(around, -1).reshape(h, w, -1)


def finer(x: Planes, grid: tuple[int, int]) -> Planes:
    """Every position 2x2, cropped to a finer grid."""
    return x.repeat(2, 0).repeat(2, 1)[: grid[0], : grid[1]]


def summed(weights: Weights, bank: int, codes: Codes) -> NDArray[np.int64]:
    """Summed codewords of a bank, (groups, h, w, dim)."""
    groups = np.arange(len(codes))[:, None, None]
    parts = [weights[f"entropy_model.codeword.{bank}.{stage}"].astype(np.int64) for stage in range(codes.shape[1])]
    found: NDArray[np.int64] = np.sum([part[groups, codes[:, stage]] for stage, part in enumerate(parts)], 0)
    return found


def embedding(weights: Weights, bank: int, codes: Codes) -> Planes:
    """(h, w, groups * dim)."""
    vectors = summed(weights, bank, codes).transpose(1, 2, 0, 3).astype(np.float64)
    return np.clip(round_half_up(vectors / 16), -255, 255).reshape(*vectors.shape[:2], -1)


def log_energy(weights: Weights, bank: int, codes: Codes) -> Planes:
    """(h, w, groups)."""
    v = 1 + np.square(summed(weights, bank, codes)).sum(-1).transpose(1, 2, 0) / 4096
    mantissa, exponent = np.frexp(v)  # v = 2 mantissa 2^(exponent - 1)
    found: Planes = np.minimum(8 * (exponent - 1) + np.floor(8 * (2 * mantissa - 1)), 255)
    return found


def hyper(weights: Weights, level: int, known: Planes, quality: int, grid: tuple[int, int]) -> Planes:
    """y of a hyper network: exact fractions on the finer grid, (h, w, outputs)."""
    name = f"hyper.{level}."

    def part(of: str) -> Planes:
        return number(weights, name + of)

    x = known @ part("input.weight").T + table(weights, name + "hidden_bias", quality)
    x = np.clip(round_half_up(x / part("input.shift")), 0, 255)
    n = neighbourhood(x) @ part("neighbourhood.weight").T + part("neighbourhood.bias")
    x = np.minimum(x + np.maximum(round_half_up(n / part("neighbourhood.shift")), 0), 255)
    y = x @ part("output.weight").T + part("output.bias")
    h, w = y.shape[:2]
    y = y.reshape(h, w, -1, 2, 2).transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, -1)[: grid[0], : grid[1]]
    return (y + table(weights, name + "class_bias", quality)) / part("output.shift")


class Classes:
    """The classes of the banks of a tile, in their order; `push` tells the codes of each."""

    def __init__(self, weights: Weights, quality: int, grids: dict[int, tuple[int, int]]) -> None:
        self.weights, self.quality, self.grids = weights, quality, grids
        self.coarser = np.zeros((*grids[3], 0))
        self.y, self.energies = np.zeros(0), list[Planes]()

    def of(self, bank: int) -> Integers:
        """Classes of a bank (groups, h, w)."""
        weights, own = self.weights, self.weights.banks[bank]
        grid, banks = self.grids[own.level], weights.banks_of(own.level)
        if own.level == 3:
            static = round_half_up(table(weights, "class_3", self.quality) / 256)
            return self._clamped(np.broadcast_to(static, (*grid, own.groups)))
        if bank == banks[0]:
            self.y = hyper(weights, own.level, self.coarser, self.quality, grid)
        first = sum(weights.banks[other].groups for other in banks if other < bank)
        y = self.y[..., first : first + own.groups]
        if bank != banks[0]:
            y = y + self._context(bank)
        return self._clamped(round_half_up(y))

    def _clamped(self, classes: Planes) -> Integers:
        found: Integers = np.clip(classes, 0, self.weights.classes - 1).astype(np.int64).transpose(2, 0, 1)
        return found

    def _context(self, bank: int) -> Planes:
        """What a context network adds, exact fractions."""
        weights, name = self.weights, f"context.{bank}."
        banks, width = weights.banks_of(1), weights.config["context_width"]
        start = sum(weights.banks[other].groups for other in banks) + (bank - banks[1]) * width
        matrix, shift = number(weights, name + "input.weight"), number(weights, name + "input.shift")
        known = np.concatenate(self.energies, 2)
        if matrix.shape[1] != known.shape[2]:
            known = neighbourhood(known)
        x = (known @ matrix.T + number(weights, name + "input.bias")) / shift + self.y[..., start : start + width]
        x = np.clip(round_half_up(x), 0, 255)
        x = x @ number(weights, name + "output.weight").T + number(weights, name + "output.bias")
        return x / number(weights, name + "output.shift")

    def push(self, bank: int, codes: Codes) -> None:
        """The codes of the bank whose classes were asked for last."""
        level = self.weights.banks[bank].level
        if level == 1:
            self.energies.append(log_energy(self.weights, bank, codes))
            return
        known = [embedding(self.weights, bank, codes)]
        if level == 2:
            known.append(finer(self.coarser, self.grids[2]))
        self.coarser = np.concatenate(known, 2)
