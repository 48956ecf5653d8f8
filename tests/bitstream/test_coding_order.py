"""The coding order: contexts, and positions sorted by table."""

from __future__ import annotations

import numpy as np

from pillow_mcquic.bitstream.coding_order import StageOrder, next_context


def test_context_is_1_after_any_code_but_0() -> None:
    context = next_context(np.array([False, False, True]), np.array([0, 7, 0]))
    assert context.tolist() == [False, True, True]


def order_of_two_groups() -> StageOrder:
    """Tables 0..2 of group 0 and 0..2 of group 1, of which 0, 1 and 4 are near certain."""
    tables = np.array([[2, 0, 2, 1], [1, 0, 1, 1]], np.uint8)
    return StageOrder(tables, np.array([[True, True, False], [False, True, False]]))


def test_near_certain_tables_come_first_then_group_table_and_place() -> None:
    order = order_of_two_groups()
    assert order.tables == [0, 1, 4, 2, 3]
    assert order.positions.tolist() == [1, 3, 4, 6, 7, 0, 2, 5]
    assert order.ends == [1, 2, 5, 7, 8]
    assert order.quiet == 5


def test_parts_between_two_places_are_cut_where_tables_change() -> None:
    order = order_of_two_groups()
    assert [*order.parts(0, 8)] == [(0, 1, 0), (1, 2, 1), (2, 5, 4), (5, 7, 2), (7, 8, 3)]
    assert [*order.parts(1, 4)] == [(1, 2, 1), (2, 4, 4)]
    assert [*order.parts(4, 4)] == []
