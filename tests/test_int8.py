"""Products of bytes: exact sums, rounding that follows every row, and the codec in them."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pillow_mcquic
from pillow_mcquic import codec, runtime, weights
from pillow_mcquic.model import int8
from pillow_mcquic.model.layers import SLOPE, Pointwise, initialise

from .conftest import psnr

CPU = torch.device("cpu")
needs_bytes = pytest.mark.skipif(not runtime.int8_native(CPU), reason="this processor multiplies no bytes")


@needs_bytes
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
    whole = int8.rounded(x)
    assert torch.equal(whole, whole.round())
    assert float((whole - x).abs().amax()) < 1
    assert float((whole.sum(1) - x.sum(1)).abs().amax()) <= 0.5 + 1e-3


@needs_bytes
def test_rows_are_rounded_by_what_is_largest_in_them() -> None:
    """A flat place next to a busy one loses no more of what it has."""
    rows = torch.randn(64, 192) * torch.logspace(-3, 3, 64)[:, None]
    weight = torch.randn(96, 192) / 192**0.5
    expected = rows @ weight.t()
    found = int8.multiply(rows, int8.pack(weight), torch.zeros(96))
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert 0.001 < float(error.amin()) < float(error.amax()) < 0.03


@needs_bytes
def test_nothing_comes_of_nothing() -> None:
    bias = torch.randn(8)
    layer = int8.pack(torch.zeros(8, 16))
    assert torch.equal(int8.multiply(torch.zeros(3, 16), layer, bias), bias.expand(3, 8))
    assert torch.equal(int8.multiply(torch.randn(3, 16), layer, bias), bias.expand(3, 8))


@needs_bytes
def test_the_callers_defaults_change_nothing() -> None:
    rows, weight, bias = torch.randn(5, 16), torch.randn(8, 16), torch.randn(8)
    expected = int8.multiply(rows, int8.pack(weight), bias)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert int8.exact.__wrapped__()
            assert torch.equal(int8.multiply(rows, int8.pack(weight), bias), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@needs_bytes
def test_layers_multiply_bytes_only_where_they_may_and_are_asked_to() -> None:
    rows, onto = torch.randn(1500, 64), torch.randn(1500, 32)
    coarse, fine = Pointwise(64, 32, coarse=True), Pointwise(64, 32)
    initialise(coarse)
    fine.load_state_dict(coarse.state_dict())
    plain = F.linear(rows, coarse.weight, coarse.bias).detach()
    with torch.no_grad():
        assert torch.equal(coarse.of_rows(rows), plain)
        with int8.products(True):
            assert torch.equal(fine.of_rows(rows), plain)
            found = coarse.of_rows(rows)
            assert not torch.equal(found, plain)
            assert float((found - plain).norm()) < 0.02 * float(plain.norm())
            assert torch.allclose(coarse.of_rows(rows, leaky=True), F.leaky_relu(found, SLOPE))
            assert torch.allclose(coarse.of_rows(rows, onto=onto), found + onto, atol=1e-6)
            with int8.products(False):
                assert torch.equal(coarse.of_rows(rows), plain)
    with int8.products(True):  # with gradients
        assert torch.equal(coarse.of_rows(rows), plain)


def test_products_are_asked_for_by_thread() -> None:
    found: list[bool] = []

    def look() -> None:
        with torch.no_grad():
            found.append(int8.wanted())

    look()
    with int8.products(True):
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with int8.products(False):
            look()
        look()
        found.append(int8.wanted())  # with gradients
    look()
    assert found == [False, True, False, False, True, False, False]


@needs_bytes
def test_a_model_that_multiplied_bytes_can_be_copied(small: Image.Image) -> None:
    loaded = codec.load_weights(weights.default_id())
    runtime.configure(precision="int8")
    pillow_mcquic.decode(pillow_mcquic.encode(np.asarray(small)))
    for copied in (copy.deepcopy(loaded.model), pickle.loads(pickle.dumps(loaded.model))):
        for mine, other in zip(loaded.model.state_dict().values(), copied.state_dict().values(), strict=True):
            assert torch.equal(mine, other)


@needs_bytes
@pytest.mark.parametrize(("effort", "quality"), [(1, 1), (1, 4), (1, 8), (2, 4)])
def test_bytes_cost_little(effort: int, quality: int, photo: Image.Image) -> None:
    crop = photo.crop((200, 100, 520, 356))
    found = {}
    for precision in ("float32", "int8"):
        runtime.configure(precision=precision)
        data = pillow_mcquic.encode(np.asarray(crop), quality=quality, effort=effort)
        found[precision] = len(data), psnr(crop, Image.fromarray(pillow_mcquic.decode(data)))
    (size, best), (size_8, psnr_8) = found["float32"], found["int8"]
    assert size_8 == pytest.approx(size, rel=0.01)
    assert best - 0.15 < psnr_8 < best + 0.05


@pytest.mark.parametrize(
    ("bfloat16", "bytes_", "expected"),
    [(True, True, "bfloat16"), (True, False, "bfloat16"), (False, True, "int8"), (False, False, "float32")],
)
def test_precision_follows_the_processor(
    bfloat16: bool, bytes_: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(runtime.PRECISION_VARIABLE, raising=False)
    monkeypatch.setattr(runtime, "bfloat16_native", lambda where: bfloat16)
    monkeypatch.setattr(runtime, "int8_native", lambda where: bytes_)
    assert runtime.precision(CPU) == expected


def test_bytes_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not runtime.int8_native(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not runtime.int8_native(CPU)
    runtime.configure(precision="int8")
    with pytest.raises(ValueError, match="precision 'int8' was asked for, but cpu has no products of bytes"):
        runtime.precision(CPU)
