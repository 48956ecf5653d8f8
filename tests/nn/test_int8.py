"""Int8 matrix products: exact sums, rounding that follows every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pillow_mcquic.nn import int8, linear

needs_int8 = pytest.mark.skipif(not linear.int8_works(), reason="no int8 matrix products on this processor")


@needs_int8
def test_sums_are_exact() -> None:
    whole = torch.randint(-127, 128, (48, 128))
    whole[0], whole[:, 0] = 127, 127  # no row or column larger than another: all scales are one
    codes = torch.randint(0, 256, (70, 128))
    codes[0], codes[1] = 0, 255
    layer = int8.pack(whole.float())
    sums = int8.product(codes.to(torch.uint8), layer) / layer.scale
    assert torch.equal(sums.round().long(), (codes - 128) @ whole.t())


@given(st.integers(0, 2**31))
def test_rounding_keeps_the_sum_of_a_row(seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-127, 127, (5, 33))).float()
    whole = int8.round_rows(x)
    assert torch.equal(whole, whole.round())
    assert float((whole - x).abs().amax()) < 1
    assert float((whole.sum(1) - x.sum(1)).abs().amax()) <= 0.5 + 1e-3


@needs_int8
def test_rows_are_rounded_by_what_is_largest_in_them() -> None:
    """A flat place next to a busy one loses no more of what it has."""
    rows = torch.randn(64, 192) * torch.logspace(-3, 3, 64)[:, None]
    weight = torch.randn(96, 192) / 192**0.5
    expected = rows @ weight.t()
    found = int8.multiply(rows, int8.pack(weight), torch.zeros(96))
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert 0.001 < float(error.amin()) < float(error.amax()) < 0.03


@needs_int8
def test_nothing_comes_of_nothing() -> None:
    bias = torch.randn(8)
    layer = int8.pack(torch.zeros(8, 16))
    assert torch.equal(int8.multiply(torch.zeros(3, 16), layer, bias), bias.expand(3, 8))
    assert torch.equal(int8.multiply(torch.randn(3, 16), layer, bias), bias.expand(3, 8))


@needs_int8
def test_the_callers_defaults_change_nothing() -> None:
    rows, weight, bias = torch.randn(5, 16), torch.randn(8, 16), torch.randn(8)
    expected = int8.multiply(rows, int8.pack(weight), bias)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert linear.int8_works.__wrapped__()
            assert torch.equal(int8.multiply(rows, int8.pack(weight), bias), expected)
    finally:
        torch.set_default_dtype(torch.float32)
