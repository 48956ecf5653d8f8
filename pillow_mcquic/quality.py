"""Quality: one type for what a user says, a header holds and a network is given."""

from __future__ import annotations

import dataclasses
import numbers

LOWEST, HIGHEST = 1, 10
# JPEG's quality (4:2:0) of the same SSIMULACRA2, in the mean on Kodak (benchmarks/results/kodak.csv)
JPEG_QUALITIES = {1: 12, 2: 16, 3: 21, 4: 28, 5: 37, 6: 50, 7: 66, 8: 75, 9: 86, 10: 93}
STEPS = 256  # of the quality scale from one whole quality to the next, as headers count them


@dataclasses.dataclass(frozen=True, order=True)
class Quality:
    """A point of the rate-distortion scale, from 1 (smallest file) to 10 (best picture).

    `steps`: the same in 256ths, 256 to 2560, as headers hold it.  `float(quality)` is the number a user says.
    """

    steps: int

    def __post_init__(self) -> None:
        if not LOWEST * STEPS <= self.steps <= HIGHEST * STEPS:
            raise ValueError(f"quality must be {LOWEST * STEPS}..{HIGHEST * STEPS} 256ths, got {self.steps}")

    @classmethod
    def parse(cls, value: object) -> Quality:
        """The quality a user means, rounded to the next 256th.

        Raises ValueError naming the range for anything but a number from 1 to 10.
        """
        if isinstance(value, Quality):
            return value
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"quality must be a number from {LOWEST} to {HIGHEST}, got {value!r}")
        if value < LOWEST or not value <= HIGHEST:  # also refuses nan
            text = f"quality must be from {LOWEST} (smallest file) to {HIGHEST} (best picture), got {value!r}"
            if value <= 100 and (jpegs := float(value)) > HIGHEST:
                nearest = min(JPEG_QUALITIES, key=lambda own: abs(JPEG_QUALITIES[own] - jpegs))
                text += f"; it is no JPEG quality: {nearest} looks like JPEG's {JPEG_QUALITIES[nearest]}"
            raise ValueError(text)
        return cls(round(float(value) * STEPS))

    def __float__(self) -> float:
        return self.steps / STEPS

    def __format__(self, spec: str) -> str:
        return format(float(self), spec or "g")


def describe(quality: Quality | float | None) -> str:
    """A setting for people: "quality 4", or "lossless" for None."""
    return "lossless" if quality is None else f"quality {quality:g}"


DEFAULT = Quality(4 * STEPS)
