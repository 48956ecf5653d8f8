"""The coding order: contexts, and positions sorted by table."""

from __future__ import annotations

import numpy as np

from pillow_mcquic.bitstream.coding_order import StageOrder, next_context


def test_context_is_1_after_any_code_but_0() -> None:
    context = next_context(np.array([False, False, True]), np.array([0, 7, 0]))
    assert context.tolist() == [False, True, True]


def test_positions_are_sorted_by_context_then_class_then_place() -> None:
    order = StageOrder(np.array([2, 0, 2, 0, 1], np.uint8), count=3)
    assert order.positions.tolist() == [1, 3, 4, 0, 2]
    assert order.ends == [(0, 2), (1, 3), (2, 5)]
    order.push(np.array([0, 0, 0, 5, 0], np.int16))
    assert order.positions.tolist() == [1, 4, 0, 2, 3]
    assert order.ends == [(0, 1), (1, 2), (2, 4), (3, 5)]  # table 3: context 1, class 0
