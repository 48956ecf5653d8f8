"""Checkerboard means: every position once, each from those of earlier passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.model.means import PASSES, CheckerboardMean, positions_of

QUALITY = torch.tensor([3.0])


@pytest.fixture(scope="module")
def checkerboard(bundle: DecoderBundle) -> CheckerboardMean:
    """That of the shipped model with random weights, so that every input counts."""
    made = copy.deepcopy(bundle.model.checkerboard)
    generator = torch.Generator().manual_seed(7)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator).mul_(0.1)
    return made


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (4, 7)])
def test_passes_take_every_position_once(size: tuple[int, int], checkerboard: CheckerboardMean) -> None:
    seen, known = torch.zeros(size), torch.zeros(1, 8, *size)
    for number in range(len(PASSES)):
        at = positions_of(number)
        seen[at] += 1
        assert checkerboard.mean(number, known, QUALITY).shape == known[at].shape
    assert torch.equal(seen, torch.ones(size))


def test_means_come_from_the_positions_around_of_earlier_passes(checkerboard: CheckerboardMean) -> None:
    residuals = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(8))
    known = checkerboard.restore(residuals, QUALITY)

    def changed(row: int, column: int) -> set[tuple[int, int]]:
        other = residuals.clone()
        other[0, :, row, column] += 1
        different = (checkerboard.restore(other, QUALITY) != known)[0].any(0)
        return {(r, c) for r, c in different.nonzero().tolist()}

    assert torch.equal(known[..., ::2, ::2], residuals[..., ::2, ::2])
    assert changed(3, 2) == {(3, 2)}  # the last pass
    assert changed(2, 3) == {(2, 3)} | {(r, c) for r in (1, 3) for c in (2, 4)}  # the last but one
    assert changed(3, 3) >= {(3, 3), (2, 3), (4, 3), (3, 2), (3, 4)}
    assert (2, 2) not in changed(3, 3)


def test_what_is_around_is_in_the_order_row_column_channel(checkerboard: CheckerboardMean) -> None:
    """What the first position, above and left, says comes first."""
    value = torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(9))
    around = torch.zeros(1, 64, 1, 1)
    around[:, :8] = value
    alone = torch.zeros(1, 8, 6, 6)
    alone[..., 2, 2] = value[..., 0, 0]
    expected: Tensor = checkerboard.passes[0](around, QUALITY)
    assert torch.allclose(checkerboard.restore(alone, QUALITY)[0, :, 3, 3], expected[0, :, 0, 0], atol=1e-5)
