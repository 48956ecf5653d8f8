"""The search for a setting: the two neighbours of a target, in few tries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.target_search import bracket, search_size


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(-150, 150))
def test_neighbours_have_the_target_between_them(values: list[float], target: float) -> None:
    values = sorted(values)
    tried: list[int] = []

    def make(setting: int) -> tuple[float, int]:
        tried.append(setting)
        return values[setting], setting

    found = bracket(make, 0, len(values) - 1, target)
    below, above = (side.setting if side else None for side in (found.below, found.above))
    assert below == max((i for i, v in enumerate(values) if v <= target), default=None)
    assert above == min((i for i, v in enumerate(values) if v > target), default=None)
    assert len(tried) == len(set(tried)) <= math.ceil(math.log2(len(values) + 1)) + 1


@pytest.mark.parametrize("start", [0, 500, 1000])
def test_a_slope_finds_the_way_sooner_than_halving(start: int) -> None:
    tried: list[int] = []

    def make(setting: int) -> tuple[float, None]:
        tried.append(setting)
        return 0.013 * setting, None

    found = bracket(make, 0, 1000, 7.0, start=start, slope=0.01, accept=(6.9, 7.1))
    assert 6.9 <= found.tries[0].value <= 7.1
    assert len(tried) <= 4


@pytest.mark.parametrize("target", [60.0, 100.0, 1234.0, 5000.0, 99999.0])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("start", [256, 1152, 2560])
def test_search_ends_near_the_target_whatever_the_curve(target: float, strict: bool, power: float, start: int) -> None:
    calls = []

    def at(quality: int) -> bytes:
        calls.append(quality)
        return bytes(round(100 * np.exp(6 * ((quality - 256) / 1792) ** power)))

    smallest, largest = 100, len(at(2560))
    calls.clear()
    if strict and target < smallest:
        with pytest.raises(ValueError, match="quality 1 needs 100 bytes"):
            search_size(at, target, start, strict=strict)
        return
    quality, data = search_size(at, target, start, strict=strict)
    assert quality in calls
    size = len(data)
    reachable = min(max(target, smallest), largest)
    assert abs(size / reachable - 1) <= 0.03
    assert not strict or size <= target
    assert len(calls) == len(set(calls)) <= 14
