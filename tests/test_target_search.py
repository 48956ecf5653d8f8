"""The search for a setting: the two neighbours of a target, in few tries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.target_search import bracket


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
