"""Grids of the levels."""

from __future__ import annotations

import pytest

from pillow_mcquic.bitstream.grids import grids_of


@pytest.mark.parametrize(
    ("width", "height", "grids"),
    [(17, 16, {1: (1, 2), 2: (1, 1), 3: (1, 1)}), (130, 81, {1: (6, 9), 2: (3, 5), 3: (2, 3)})],
)
def test_grids_reach_the_next_multiple_of_16_only(width: int, height: int, grids: dict[int, tuple[int, int]]) -> None:
    assert grids_of(width, height) == grids
