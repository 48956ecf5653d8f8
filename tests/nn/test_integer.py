"""Products of whole numbers: exact, in any order, in eight bits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pillow_mcquic.nn.integer import add_finer, at_quality, by_row, neighbourhood_product, put_finer, with_bias
from pillow_mcquic.nn.reshape import pad_ring


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (6, 7)])
def test_neighbourhood_product_is_unfold_times_weights(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1, 3, *size), generator=generator).float()
    weight = torch.randint(-255, 256, (4, 27), generator=generator)
    bias = torch.randint(-999_999, 999_999, (4,), generator=generator)
    shift = torch.tensor([1, 2, 3, 11])
    sums = weight.float() @ F.unfold(pad_ring(x), 3)[0] + bias[:, None]
    expected = (sums / 2.0 ** shift[:, None]).view(1, 4, *size)
    assert torch.equal(neighbourhood_product(by_row(weight, bias, shift), pad_ring(x)), expected)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (4, 5), (3, 6)])
def test_four_finer_positions_go_where_pixel_shuffle_puts_them(size: tuple[int, int]) -> None:
    quarters = torch.arange(2 * 4 * 2 * 3).double().view(1, 2, 4, 2, 3)
    expected = F.pixel_shuffle(quarters.flatten(1, 2), 2)[..., : size[0], : size[1]]
    assert torch.equal(put_finer(quarters, torch.full((1, 2, *size), 9.0)), expected)
    assert torch.equal(add_finer(quarters, torch.full((1, 2, *size), 9.0)), expected + 9)


@pytest.mark.parametrize("bias", [0, 1, -1, 255, 256, -256, -257, 65535, 65536, 8388607, -8388608])
def test_a_bias_is_the_sum_of_its_parts(bias: int) -> None:
    shift = torch.tensor([3], dtype=torch.int16)
    columns = with_bias(torch.tensor([[7]]), torch.tensor([bias]), shift)
    assert columns[0, 0] == 7 / 8
    assert columns[0, 1:].sum().item() == bias / 8
    assert torch.equal(columns.bfloat16().float(), columns)


@pytest.mark.parametrize(("quality", "expected"), [(256, 10), (257, 10), (384, 15), (511, 20), (512, 20), (2048, 80)])
def test_quality_interpolates_in_integers(quality: int, expected: int) -> None:
    table = torch.arange(10, 90, 10, dtype=torch.int32)[:, None]
    assert at_quality(table, quality, 256).tolist() == [expected]


def test_pictures_of_a_batch_are_multiplied_as_each_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (3, 5, 6, 7), generator=generator).to(torch.uint8)
    weight = torch.randint(-255, 256, (4, 45), generator=generator)
    held = by_row(weight, torch.randint(-9, 9, (4,), generator=generator), torch.tensor([1, 2, 3, 4]))
    together = neighbourhood_product(held, pad_ring(x))
    each = [neighbourhood_product(held, pad_ring(x[i : i + 1])) for i in range(3)]
    assert torch.equal(together, torch.cat(each))
