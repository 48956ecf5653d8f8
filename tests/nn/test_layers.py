"""The layers that the transforms are built of."""

from __future__ import annotations

import pytest
import torch

from pillow_mcquic.nn.layers import Block, GainUnit, PatchExpand, PatchMerge, at_quality
from pillow_mcquic.training.initial import draw_weights


@pytest.mark.parametrize(("size", "halved"), [((1, 1), (1, 1)), ((5, 4), (3, 2)), ((2, 7), (1, 4))])
def test_a_merge_rounds_up(size: tuple[int, int], halved: tuple[int, int]) -> None:
    assert PatchMerge(3, 5)(torch.zeros(1, 3, *size)).shape[2:] == halved


def test_a_block_in_row_blocks_is_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = Block(8), torch.randn(2, 8, 21, 17)
    draw_weights(block)
    whole = block(x)
    found: list[int] = []
    rest = Block.rest
    monkeypatch.setattr(Block, "rest", lambda self, inner, rows: found.append(len(rows)) or rest(self, inner, rows))
    with torch.inference_mode():
        assert torch.allclose(block(x), whole, atol=1e-6)
    assert found == [512, 128, 64, 64]  # of 714 rows, the last 10 after another 54


def test_an_expansion_puts_the_four_positions_where_a_merge_takes_them_from() -> None:
    merge, expand = PatchMerge(2, 8), PatchExpand(8, 2)
    with torch.no_grad():
        merge.projection.weight.copy_(torch.eye(8))
        expand.projection.weight.copy_(torch.eye(8))
    x = torch.randn(1, 2, 4, 6)
    assert torch.equal(expand(merge(x)), x)


@pytest.mark.parametrize(("quality", "expected"), [(1.0, 10.0), (1.5, 15.0), (8.0, 80.0), (8.25, 82.5)])
def test_tables_are_interpolated_by_quality(quality: float, expected: float) -> None:
    table = torch.arange(10.0, 90.0, 10.0)[:, None]
    assert at_quality(table, torch.tensor([quality])).item() == pytest.approx(expected)


def test_a_gain_depends_on_channel_and_quality() -> None:
    unit = GainUnit(2, 8)
    with torch.no_grad():
        unit.log_gain[2, 1] = 1.0
    found = unit(torch.ones(1, 2, 1, 1), torch.tensor([3.0])).flatten()
    assert found.tolist() == pytest.approx([1.0, 2.71828], rel=1e-5)
