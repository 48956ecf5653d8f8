"""Windows cover a grid once, with margins as small as can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pillow_mcquic.engine.windows import run_windowed, windows


@pytest.mark.parametrize("reach", [0, 3])
@pytest.mark.parametrize(("h", "w", "positions"), [(1, 1, 99), (5, 300, 8), (300, 5, 64), (75, 100, 256), (60, 96, 0)])
def test_windows_cover_a_grid_once(h: int, w: int, positions: int, reach: int) -> None:
    seen = np.zeros((1, 1, h, w), int)
    for inner, outer in windows(h, w, positions, reach):
        seen[inner] += 1
        assert 0 < seen[inner].size <= max(1, positions)
        margins = [(i.start - o.start, o.stop - i.stop) for i, o in zip(inner[1:], outer[1:], strict=True)]
        assert all(0 <= margin <= reach for both in margins for margin in both)
    assert (seen == 1).all()


def test_a_grid_is_cut_where_the_margins_are_least() -> None:
    def cut(*arguments: int) -> list[tuple[slice, slice]]:
        return [inner[1:] for inner, _ in windows(*arguments)]

    assert cut(60, 96, 8192, 7) == [(slice(0, 60), slice(0, 96))]
    assert cut(100, 100, 5000, 7) == [(slice(0, 50), slice(0, 100)), (slice(50, 100), slice(0, 100))]
    assert all(columns == slice(0, 100) for _, columns in cut(75, 100, 256, 0))


@pytest.mark.parametrize("positions", [1, 7, 40, 10_000])
def test_a_local_function_sees_the_whole(positions: int) -> None:
    """A mean over 3x3, at twice the resolution."""

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)

    x = torch.randn(2, 3, 9, 13)
    out = torch.empty(2, 3, 18, 26)
    run_windowed(function, [(x, 1)], out, 2, 1, positions)
    assert torch.allclose(out, function(x))
