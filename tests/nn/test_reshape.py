"""How pixels, patches and planes become each other."""

from __future__ import annotations

import pytest
import torch

from pillow_mcquic.nn.reshape import pad_ring, pad_to_multiple, quarters_to_pixels, repeat_2x2, to_patches, to_pixels


@pytest.mark.parametrize("step", [2, 8, 16])
def test_patches_hold_pixels_row_by_row(step: int) -> None:
    x = torch.randn(2, 3, 32, 48)
    patches = to_patches(x, step)
    assert torch.equal(patches[1, 1, 0].view(step, step, 3), x[1, :, step : 2 * step, :step].permute(1, 2, 0))
    assert torch.equal(to_pixels(patches, step).permute(0, 3, 1, 2), x)


def test_quarters_are_the_four_patches_of_eight_in_one_of_sixteen() -> None:
    x = torch.randn(2, 3, 32, 48)
    quarters = to_patches(to_patches(x, 8).permute(0, 3, 1, 2), 2)
    assert torch.equal(quarters_to_pixels(quarters).permute(0, 3, 1, 2), x)


def test_a_ring_replicates_edges() -> None:
    x = torch.arange(6, dtype=torch.int16).view(1, 2, 3)
    assert pad_ring(x)[0].tolist() == [[0, 0, 1, 2, 2], [0, 0, 1, 2, 2], [3, 3, 4, 5, 5], [3, 3, 4, 5, 5]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_padding_repeats_the_last_row_and_column(dtype: torch.dtype) -> None:
    x = torch.arange(6).view(1, 1, 2, 3).to(dtype)
    assert pad_to_multiple(x, 4)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(pad_to_multiple(x, 1), x)


def test_positions_are_repeated_up_to_a_finer_grid() -> None:
    x = torch.tensor([[[[1, 2]]]])
    assert repeat_2x2(x, (2, 3))[0, 0].tolist() == [[1, 1, 2], [1, 1, 2]]
