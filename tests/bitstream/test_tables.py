"""Probability tables: counts that sum to 2^24 and survive packing, and which are coded in runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.bitstream.tables import StageTables, normalise_counts, pack_counts, unpack_counts


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


def two_groups() -> StageTables:
    """Tables of three classes: of chances 48 and 2^14 for other codes, near certain, and one that is not."""
    counts = np.full((2, 1, 3, 4), 16, np.int32)
    counts[:, 0, :, 0] = (1 << 24) - 48
    counts[:, 0, 1] = 1 << 22
    counts[:, 0, 2] = [(1 << 24) - (1 << 14), (1 << 14) - 32, 16, 16]
    return StageTables(counts)


def runs_of(classes: list[list[int]]) -> tuple[list[tuple[int, int]], int]:
    tables, own = two_groups(), np.array(classes, np.uint8)
    order = tables.order(own, np.zeros(own.shape, np.bool_))
    return [run[:2] for run in tables.runs(order)], order.quiet


def test_near_certain_positions_of_all_groups_share_runs() -> None:
    assert runs_of([[0, 1, 0, 2], [1, 1, 0, 0]]) == ([(0, 5)], 5)


def test_a_run_ends_where_its_chances_would_exceed_a_quarter() -> None:
    """256 positions of chance 2^14 fill one; with one of chance 48 before them it has room for 255."""
    assert runs_of([[2] * 300, [1] * 300]) == ([(0, 256), (256, 300)], 300)
    assert runs_of([[0] + [2] * 299, [1] * 300]) == ([(0, 256), (256, 300)], 300)
    assert runs_of([[0] + [2] * 255, [1] * 256]) == ([(0, 256)], 256)
    assert runs_of([[0] + [2] * 256, [1] * 257]) == ([(0, 256), (256, 257)], 257)


def test_where_no_table_is_near_certain_there_are_no_runs() -> None:
    assert runs_of([[1, 1], [1, 1]]) == ([], 0)
