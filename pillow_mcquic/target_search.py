"""The search for a setting whose file has a wanted size, or a wanted score."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Generic, TypeVar

from .quality import HIGHEST, LOWEST, STEPS

Made = TypeVar("Made")
MOST_TRIES = 14
OVERSHOOT = 1.2  # of a step by the expected slope, so that the next try lies beyond the target
SIZE_TOLERANCE = 0.01  # of a wanted size, within which a file is near enough
LOG_SIZE_PER_QUALITY = 0.36  # a photo's file grows by about this factor, e^0.36, from one quality to the next
LEAST_MOVE = 16  # settings, doubled with every step in one direction


@dataclasses.dataclass(frozen=True)
class Try(Generic[Made]):
    """What came of one setting."""

    setting: int
    value: float
    made: Made


@dataclasses.dataclass
class Bracket(Generic[Made]):
    """The best tries on either side of a target: `below` has the largest value up to it, `above` the least beyond."""

    below: Try[Made] | None = None
    above: Try[Made] | None = None

    @property
    def tries(self) -> list[Try[Made]]:
        """Those that there are, the lower one first."""
        return [found for found in (self.below, self.above) if found]


def bracket(
    make: Callable[[int], tuple[float, Made]],
    low: int,
    high: int,
    target: float,
    *,
    start: int | None = None,
    slope: float | None = None,
    accept: tuple[float, float] | None = None,
    aim: float | None = None,
) -> Bracket[Made]:
    """Try settings until two neighbours have the target between them, or one is good enough.

    Parameters
    ----------
    make : tries a setting and returns its value, which grows with the setting, and what was made.
    low, high : the least and the largest setting.
    target : the value to be bracketed.
    start : the first setting to try, by default the middle one.
    slope : by how much the value is expected to grow from one setting to the next; None: halve the interval instead.
    accept : a range of values that end the search at once; with it the search gives up after `MOST_TRIES`.
    aim : the value that tries are aimed at, by default the target.

    Returns
    -------
    Bracket : a side is None where no setting has such a value.
    """
    found, tried = Bracket[Made](), 0
    aim = target if aim is None else aim
    setting, move = (low + high) // 2 if start is None else start, LEAST_MOVE // 2
    while True:
        value, made = make(setting)
        tried += 1
        latest = Try(setting, value, made)
        if value <= target:
            found.below = latest
        else:
            found.above = latest
        if accept and accept[0] <= value <= accept[1]:
            return Bracket(latest) if value <= target else Bracket(None, latest)
        first = low - 1 if found.below is None else found.below.setting
        last = high + 1 if found.above is None else found.above.setting
        if last - first <= 1 or (accept and tried == MOST_TRIES):
            return found
        if slope is None:
            setting = (first + last) // 2
        elif found.below and found.above:
            a, b = found.below.value - aim, found.above.value - aim
            share = 0.5 if tried % 3 == 0 else a / (a - b)  # halving now and then, whatever the curve
            setting = min(last - 1, max(first + 1, first + round(share * (last - first))))
        else:
            move *= 2
            step = max(move, round(OVERSHOOT * abs(aim - value) / slope))
            setting = min(high, max(low, setting + (step if aim > value else -step)))


def search_size(make: Callable[[int], bytes], target: float, start: int, *, strict: bool) -> tuple[int, bytes]:
    """The file nearest in size to `target`, or if `strict` the best one not above it, after its quality in 256ths.

    Parameters
    ----------
    make : quality in 256ths -> a file.
    target : bytes.
    start : the first quality to try, in 256ths.

    The log of the size is close to linear in quality, so a first guess, the usual slope and then interpolation take
    three or four tries.  Raises ValueError when `strict` and quality 1 is larger.
    """
    least, most = (1.0 - SIZE_TOLERANCE) * target, (1.0 if strict else 1.0 + SIZE_TOLERANCE) * target

    def tried(steps: int) -> tuple[float, bytes]:
        data = make(steps)
        return math.log(len(data)), data

    found = bracket(
        tried,
        LOWEST * STEPS,
        HIGHEST * STEPS,
        math.log(target),
        start=start,
        slope=LOG_SIZE_PER_QUALITY / STEPS,
        accept=(math.log(least), math.log(most)),
        aim=math.log((least + most) / 2),
    )
    if strict:
        if found.below is None:
            needed = len(found.tries[0].made)
            raise ValueError(f"max_bytes={target:.0f} is too small: quality 1 needs {needed} bytes")
        return found.below.setting, found.below.made
    best = min(found.tries, key=lambda t: abs(len(t.made) - target))
    return best.setting, best.made
