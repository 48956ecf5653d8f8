"""Fewer colours: what makes exact squares of text and graphics small.

Colours are split, the cluster of the largest squared error first, along its longest axis (Wu, 1991; Orchard and
Bouman, 1991), and then moved to the means of what is nearest to them (Lloyd, 1982).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MOST_COLOURS = 1 << 15  # told apart: of a picture with more, the lowest three bits are not looked at
LLOYD_ITERATIONS = 4


class Colours:
    """The colours of a picture (H, W, 3) uint8, and how often each occurs in some of its pixels.

    where: boolean (H, W), the pixels that count.
    """

    def __init__(self, pixels: NDArray[np.uint8], where: NDArray[np.bool_]) -> None:
        self.shape = pixels.shape
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        self._number: NDArray[np.intp]
        count = len(np.unique(packed[::4, ::4]))  # in a sixteenth of the pixels: sorting all of them takes long
        if count <= MOST_COLOURS:
            names, self._number = np.unique(packed, return_inverse=True)
            count = len(names)
        if count > MOST_COLOURS:
            coarse = (packed >> 9 & 0x7C00) | (packed >> 6 & 0x3E0) | (packed >> 3 & 0x1F)  # five bits of each channel
            used = np.flatnonzero(np.bincount(coarse.ravel(), minlength=MOST_COLOURS))
            count, self._number = len(used), np.searchsorted(used, coarse)
        numbers = self._number.ravel()
        occurrences = np.bincount(numbers, minlength=count)
        sums = [np.bincount(numbers, pixels[:, :, channel].ravel(), count) for channel in range(3)]
        self.means = (np.stack(sums, 1) / occurrences[:, None]).astype(np.float32)
        self.counts = np.bincount(numbers, where.ravel(), count).astype(np.float32)
        self._clusters = [_Cluster(np.flatnonzero(self.counts), self.means, self.counts)]
        self._centres = [self._clusters[0].mean[None]]  # by the number of clusters, less one

    def __len__(self) -> int:
        return len(self.counts)

    def reduced(self, size: int) -> NDArray[np.uint8]:
        """The picture in at most so many colours."""
        while len(self._clusters) < size:
            worst = max(range(len(self._clusters)), key=lambda i: self._clusters[i].error)
            parts = self._clusters[worst].split(self.means, self.counts)
            if parts is None:
                break
            self._clusters[worst : worst + 1] = parts
            self._centres.append(np.stack([cluster.mean for cluster in self._clusters]))
        centres = self._centres[min(size, len(self._centres)) - 1]
        for _ in range(LLOYD_ITERATIONS):
            nearest = self._nearest(centres)
            weights = np.bincount(nearest, self.counts, len(centres))
            sums = [np.bincount(nearest, self.counts * self.means[:, c], len(centres)) for c in range(3)]
            centres = (np.stack(sums, 1)[weights > 0] / weights[weights > 0, None]).astype(np.float32)
        palette = centres.round().astype(np.uint8)
        reduced: NDArray[np.uint8] = palette[self._nearest(centres)][self._number].reshape(self.shape)
        return reduced

    def _nearest(self, centres: Floats) -> NDArray[np.intp]:
        """Of each colour the nearest centre."""
        found: NDArray[np.intp] = ((centres**2).sum(1) - 2 * self.means @ centres.T).argmin(1)
        return found


class _Cluster:
    """Some colours, by number: their mean, and the squared error when it stands for them."""

    def __init__(self, members: NDArray[np.intp], means: Floats, counts: Floats) -> None:
        self.members = members
        weights, colours = counts[members, None], means[members]
        self.mean = (weights * colours).sum(0) / weights.sum()
        self.error = float((weights * (colours - self.mean) ** 2).sum())

    def split(self, means: Floats, counts: Floats) -> list[_Cluster] | None:
        """Two clusters, either side of the mean on the longest axis; None where all colours are alike."""
        away = means[self.members] - self.mean
        axis = np.linalg.eigh((counts[self.members, None] * away).T @ away)[1][:, -1]
        above = away @ axis > 0
        if not self.error or above.all() or not above.any():
            return None
        return [_Cluster(part, means, counts) for part in (self.members[~above], self.members[above])]
