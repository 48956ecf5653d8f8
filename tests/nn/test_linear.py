"""Which kernel multiplies: each is tried against the plain product, and left alone where it is off."""

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
from pillow_mcquic import runtime
from pillow_mcquic.engine.bundle import DecoderBundle
from pillow_mcquic.engine.device import int8_native
from pillow_mcquic.nn import linear
from pillow_mcquic.nn.layers import Pointwise
from pillow_mcquic.nn.linear import SLOPE, blocks_of
from pillow_mcquic.training.initial import draw_weights


class Emulated:
    """The fused operator, by plain products that round once."""

    def __call__(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        name: str,
        scalars: list[float],
        algorithm: str,
    ) -> torch.Tensor:
        result = F.linear(rows.float(), weight.float(), bias.float())
        return (F.leaky_relu(result, scalars[0]) if name == "leaky_relu" else result).to(torch.bfloat16)

    def binary(
        self, rows: torch.Tensor, onto: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, name: str
    ) -> torch.Tensor:
        assert name == "add"
        return (F.linear(rows.float(), weight.float(), bias.float()) + onto.float()).to(torch.bfloat16)


class Missing:
    """An operator of a torch that has changed it."""

    def __call__(self, *_: object) -> torch.Tensor:
        raise TypeError("takes 7 positional arguments but 6 were given")

    binary = __call__


class Off(Missing):
    """An operator that computes something else."""

    def __call__(self, rows: torch.Tensor, weight: torch.Tensor, *_: object) -> torch.Tensor:
        return 1.1 * F.linear(rows, weight)

    binary = __call__


@pytest.mark.parametrize(("leaky", "summed"), [(False, False), (True, False), (False, True)])
def test_the_fused_linear_is_a_product_then_the_rest(
    leaky: bool, summed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Result and gradients of `Pointwise.of_rows` fused and by passes of their own, as bfloat16 can tell."""
    if not linear.fused_works():  # no processor for it: its place is taken
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", Emulated())
    torch.manual_seed(3)
    layer = Pointwise(24, 40)
    draw_weights(layer)
    rows, onto, slope = (torch.randn(70, n).bfloat16().requires_grad_() for n in (24, 40, 40))
    found = []
    for known in (True, False):
        monkeypatch.setattr(linear, "fused_works", lambda known=known: known)
        layer.zero_grad()
        rows.grad = onto.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            result = layer.of_rows(rows, leaky=leaky, onto=onto.clone() if summed else None)
        assert ("FusedLinear" in type(result.grad_fn).__name__) == known
        result.backward(slope.detach())
        gradients = [rows.grad, layer.weight.grad, layer.bias.grad, onto.grad if summed else torch.zeros(1)]
        found.append([result.detach().float(), *(g.float() for g in gradients if g is not None)])
    for mine, other in zip(*found, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).norm() <= 8e-3 * other.norm()


def test_float32_layers_stay_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "fused_works", lambda: True)
    layer, rows = Pointwise(24, 40), torch.randn(70, 24)
    draw_weights(layer)
    assert torch.equal(layer.of_rows(rows), F.linear(rows, layer.weight, layer.bias))


@given(count=st.integers(1, 20_000), most=st.sampled_from([1024, 4096]))
def test_blocks_are_of_few_sizes_and_hardly_overlap(count: int, most: int) -> None:
    parts = blocks_of(count, most)
    seen = 0
    for part in parts:
        start = part.start or 0
        assert start <= seen < part.stop
        seen = part.stop
    assert seen == count
    sizes = [part.stop - (part.start or 0) for part in parts]
    assert sizes == [count] if count < 64 else set(sizes) <= {64 << k for k in range(7)}
    assert sum(sizes) <= count + max(63, count // 16)


needs_int8 = pytest.mark.skipif(not linear.int8_works(), reason="no int8 matrix products on this processor")


@needs_int8
def test_layers_use_int8_only_where_they_may_and_are_asked_to() -> None:
    rows, onto = torch.randn(1500, 64), torch.randn(1500, 32)
    rough, fine = Pointwise(64, 32, may_use_int8=True), Pointwise(64, 32)
    draw_weights(rough)
    fine.load_state_dict(rough.state_dict())
    plain = F.linear(rows, rough.weight, rough.bias).detach()
    with torch.no_grad():
        assert torch.equal(rough.of_rows(rows), plain)
        with linear.int8_products(True):
            assert torch.equal(fine.of_rows(rows), plain)
            found = rough.of_rows(rows)
            assert not torch.equal(found, plain)
            assert float((found - plain).norm()) < 0.02 * float(plain.norm())
            assert torch.allclose(rough.of_rows(rows, leaky=True), F.leaky_relu(found, SLOPE))
            assert torch.allclose(rough.of_rows(rows, onto=onto), found + onto, atol=1e-6)
            with linear.int8_products(False):
                assert torch.equal(rough.of_rows(rows), plain)
    with linear.int8_products(True):  # with gradients
        assert torch.equal(rough.of_rows(rows), plain)


def test_int8_is_asked_for_by_thread() -> None:
    found: list[bool] = []

    def look() -> None:
        with torch.no_grad():
            found.append(linear.int8_wanted())

    look()
    with linear.int8_products(True):
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        with linear.int8_products(False):
            look()
        look()
        found.append(linear.int8_wanted())  # with gradients
    look()
    assert found == [False, True, False, False, True, False, False]


@needs_int8
def test_a_model_that_used_int8_can_be_copied(small: Image.Image, bundle: DecoderBundle) -> None:
    runtime.configure(precision="int8")
    pillow_mcquic.decode(pillow_mcquic.encode(np.asarray(small)))
    for copied in (copy.deepcopy(bundle.model), pickle.loads(pickle.dumps(bundle.model))):
        for mine, other in zip(bundle.model.state_dict().values(), copied.state_dict().values(), strict=True):
            assert torch.equal(mine, other)


def test_an_operator_that_is_right_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", Emulated())
    assert linear.fused_works.__wrapped__()


@pytest.mark.parametrize("operator", [Missing, Off])
def test_a_torch_that_changed_its_fused_operator_is_slower_not_wrong(
    operator: type[Missing], small: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.configure(precision="bfloat16")
    pixels = np.asarray(small)
    expected = pillow_mcquic.decode(pillow_mcquic.encode(pixels)).astype(int)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", operator())
    monkeypatch.setattr(linear, "fused_works", linear.fused_works.__wrapped__)
    assert not linear.fused_works()
    decoded = pillow_mcquic.decode(pillow_mcquic.encode(pixels))
    assert abs(decoded - expected).mean() < 1


@pytest.mark.parametrize("operator", [Missing, Off])
def test_a_torch_that_changed_its_int8_operator_does_without(
    operator: type[Missing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", operator())
    assert not linear.int8_works.__wrapped__()
    monkeypatch.setattr(linear, "int8_works", linear.int8_works.__wrapped__)
    assert not int8_native(torch.device("cpu"))
