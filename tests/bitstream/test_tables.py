"""Probability tables: counts that sum to 2^24 and survive packing, and which are coded in runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream.tables import BankTables, normalise_counts, pack_counts, unpack_counts


@given(st.lists(st.floats(1e-12, 1e6), min_size=2, max_size=256))
def test_counts_sum_to_2_to_the_24_and_survive_packing(weights: list[float]) -> None:
    counts = normalise_counts(np.array(weights))
    assert counts.min() >= 16
    assert counts.sum() == 1 << 24
    packed = pack_counts(counts)
    assert packed.dtype == np.uint16
    assert np.array_equal(unpack_counts(packed), counts)


def test_counts_follow_the_weights() -> None:
    assert normalise_counts(np.array([2.0, 1.0, 1.0])).tolist() == [1 << 23, 1 << 22, 1 << 22]


@pytest.mark.parametrize(
    ("packed", "count"), [(16, 16), (8191, 8191), (8192, 8192), (8193, 8194), (12287, 16382), (12288, 16384)]
)
def test_packed_counts_are_short_floats(packed: int, count: int) -> None:
    """4 bits of exponent, 12 of mantissa; the largest count is what the others leave of 2^24."""
    assert unpack_counts(np.array([65535, packed], np.uint16)).tolist() == [(1 << 24) - count, count]


@pytest.mark.parametrize("weights", [[8000000.0, 8000500.0, 1.0], [1.0, 1.0], [5.0, 5.0001, 5.0], [1.0] * 255])
def test_nearly_equal_largest_counts_survive_packing(weights: list[float]) -> None:
    counts = normalise_counts(np.stack([np.array(weights), np.array(weights[::-1])]))
    assert counts.sum(-1).tolist() == [1 << 24] * 2
    assert np.array_equal(unpack_counts(pack_counts(counts)), counts)


@pytest.mark.parametrize("bad", [[65535, 65535], [65535, 15], [65535, 0]])
def test_counts_below_the_least_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="16777216"):
        unpack_counts(np.array(bad, np.uint16))


def test_a_table_is_coded_in_runs_where_it_is_near_certain_of_0() -> None:
    counts = np.full((1, 1, 3, 4), 16, np.int32)
    counts[0, 0, :, 0] = (1 << 24) - 48
    counts[0, 0, 1] = 1 << 22
    counts[0, 0, 2] = [(1 << 24) - (1 << 14), (1 << 14) - 32, 16, 16]
    runs = [run[:3] for run in BankTables([counts]).runs(0, 0, [(0, 10), (1, 20), (2, 1000)])]
    assert [(start, stop, flag is not None) for start, stop, flag in runs] == [
        (0, 10, True),
        (10, 20, False),
        *((20 + 256 * i, min(20 + 256 * (i + 1), 1000), True) for i in range(4)),
    ]
