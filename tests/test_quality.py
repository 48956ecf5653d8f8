"""One type for quality: what users say, headers hold and networks are given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.quality import Quality


@pytest.mark.parametrize(
    ("value", "steps"),
    [(1, 256), (10, 2560), (4.3, 1101), (np.float32(2.5), 640), (np.int64(3), 768), (Quality(700), 700)],
)
def test_a_number_becomes_256ths(value: object, steps: int) -> None:
    assert Quality.parse(value).steps == steps


@given(st.integers(256, 2560))
def test_a_quality_is_the_number_it_says(steps: int) -> None:
    assert Quality.parse(float(Quality(steps))) == Quality(steps)


@pytest.mark.parametrize("value", [0.99, 10.01, 1024, float("nan"), float("inf"), 10**400, "3", True, None, [4]])
def test_anything_else_is_refused_with_the_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"quality must be .*from 1 .*to 10"):
        Quality.parse(value)


@pytest.mark.parametrize(
    ("value", "own", "jpegs"), [(95, 10, 93), (85, 9, 86), (60, 7, 66), (50, 6, 50), (30.5, 4, 28), (11, 1, 12)]
)
def test_a_quality_of_jpeg_is_told_the_nearest_of_ours(value: float, own: int, jpegs: int) -> None:
    with pytest.raises(ValueError, match=f"it is no JPEG quality: {own} looks like JPEG's {jpegs}"):
        Quality.parse(value)


@pytest.mark.parametrize("steps", [4, 255, 2561])
def test_a_header_cannot_hold_more(steps: int) -> None:
    with pytest.raises(ValueError, match=r"256\.\.2560"):
        Quality(steps)


def test_it_is_shown_as_users_say_it() -> None:
    assert f"{Quality(1024)} {Quality(640)} {Quality(640):.3f}" == "4 2.5 2.500"
