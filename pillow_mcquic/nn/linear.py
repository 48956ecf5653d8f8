"""Matrix products of rows, by the fastest kernel that works here; no other file chooses one.

There are three kernels:

- the plain product, `F.linear`, everywhere;
- the fused linear of oneDNN in bfloat16 on the CPU: product, bias, and activation or sum in one pass;
- int8 matrix products (`int8.py`), float32 around them, where the engine asks for them.

The last two are private operators of torch.  Each is tried once against the plain product, and left alone where it
raises or is off: a torch that has changed them is slower, not wrong.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import int8

# Rows that go through a product at once: so that they stay in the cache, and so that oneDNN, which keeps half a
# megabyte or more for every number of rows a product meets, meets few.
LEAST_ROWS, MOST_ROWS, MOST_INT8_ROWS = 64, 4096, 1024
REPEATED = 16  # at most one in so many of them goes through twice
SLOPE = 0.1  # of leaky ReLUs, below zero
FUSED_TOLERANCE = 2.0**-7  # of the terms' magnitude: bfloat16 has 8 bits, and the plain product rounds several times

_int8_wanted: ContextVar[bool] = ContextVar("int8_wanted", default=False)


@contextlib.contextmanager
def int8_products(wanted: bool) -> Iterator[None]:
    """Context, of this thread, in which layers that may use int8 matrix products do so."""
    token = _int8_wanted.set(wanted)
    try:
        yield
    finally:
        _int8_wanted.reset(token)


def int8_wanted() -> bool:
    """Whether this thread is to use int8 matrix products; they have no gradients."""
    return _int8_wanted.get() and not torch.is_grad_enabled()


@functools.cache
def int8_works() -> bool:
    """Whether int8 matrix products are there, and exact: without VNNI sums of two end at 32,767."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    codes = torch.full((64, 128), 255, dtype=torch.uint8, device="cpu")
    try:
        sums = int8.product(codes, int8.pack(torch.ones(64, 128, dtype=torch.float32, device="cpu")))
        return bool((sums - (255 - int8.ZERO) * 128).abs().amax() < 1)
    except Exception:  # a private operator: gone, of another signature, or without a kernel for this processor
        return False


@functools.cache
def fused_works() -> bool:
    """Whether the fused linear is there for bfloat16, and gives the plain product within `FUSED_TOLERANCE`."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        numbers = torch.arange(6000, dtype=torch.float32, device="cpu").mul_(0.37).sin_().to(torch.bfloat16)
        rows, weight = numbers[: 70 * 24].view(70, 24), numbers[1700 : 1700 + 40 * 24].view(40, 24)
        bias, onto = numbers[2700:2740], numbers[2800 : 2800 + 70 * 40].view(70, 40)
        product = rows.float() @ weight.float().t() + bias.float()
        size = rows.float().abs() @ weight.float().abs().t() + bias.float().abs() + onto.float().abs()
        cases = (
            (False, None, product),
            (True, None, F.leaky_relu(product, SLOPE)),
            (False, onto, product + onto.float()),
        )
        try:
            if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return False
            errors = [(_fused(rows, weight, bias, leaky, under).float() - exact).abs() for leaky, under, exact in cases]
            return all(bool((error <= FUSED_TOLERANCE * size).all()) for error in errors)
        except Exception:  # as above
            return False


@functools.lru_cache(1024)
def blocks_of(count: int, most: int) -> tuple[slice, ...]:
    """So many rows in blocks of LEAST_ROWS 2^k, up to `most`; the last ones may overlap."""
    if count < LEAST_ROWS:
        return (slice(count),)
    result, at = list[slice](), 0
    while at < count:
        rest = count - at
        size = min(most, max(LEAST_ROWS, 1 << (rest - 1).bit_length()))
        if size > LEAST_ROWS and (size > count or size - rest > count // REPEATED):
            size //= 2
        at = min(at, count - size)
        result.append(slice(at, at + size))
        at += size
    return tuple(result)


def in_blocks(function: Callable[..., Tensor], *rows: Tensor, most: int = MOST_ROWS) -> Tensor:
    """function(*rows), which maps row by row, in blocks; without gradients."""
    first, *others = blocks_of(len(rows[0]), most)
    if not others:
        return function(*rows)
    result = function(*(t[first] for t in rows))
    out = result.new_empty(len(rows[0]), *result.shape[1:])
    out[first] = result
    for block in others:
        out[block] = function(*(t[block] for t in rows))
    return out


def matrix_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear of matrices that are cast already, for bfloat16 on the CPU in blocks: (..., in) -> (..., out)."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return in_blocks(lambda rows: F.linear(rows, weight, bias), x.flatten(0, -2)).view(*x.shape[:-1], -1)


Cast = TypeVar("Cast")


class CachedCast(Generic[Cast]):
    """What is made of parameters for a precision: anew while they learn, once of those that stay as they are."""

    def __init__(self) -> None:
        self._kept: tuple[object, Cast] | None = None

    def __reduce__(self) -> tuple[type[CachedCast[Cast]], tuple[()]]:
        return CachedCast, ()  # a copy makes its own: not all of it can be copied, or pickled

    def __call__(self, parameter: Tensor, dtype: torch.dtype, make: Callable[[], Cast]) -> Cast:
        """What `make` gives for a precision; `parameter`: one of those it uses, which learn together."""
        if parameter.requires_grad:
            self._kept = None
            return make()
        wanted, kept = (dtype, parameter.device, parameter.data_ptr()), self._kept
        if kept is None or kept[0] != wanted:
            with torch.inference_mode(False):  # what is made in inference mode has no place in a gradient
                self._kept = kept = wanted, make()
        return kept[1]


def network_dtype(x: Tensor) -> torch.dtype:
    """The precision of products here: that of autocast, or of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _fused(rows: Tensor, weight: Tensor, bias: Tensor, leaky: bool, onto: Tensor | None) -> Tensor:
    """rows @ weight.T + bias, then a leaky ReLU or a sum, in one pass over the result, by oneDNN."""
    product = torch.ops.mkldnn._linear_pointwise
    if onto is not None:
        return in_blocks(lambda block, under: product.binary(block, under, weight, bias, "add"), rows, onto)
    name, slope = ("leaky_relu", [SLOPE]) if leaky else ("none", [])
    return in_blocks(lambda block: product(block, weight, bias, name, slope, ""), rows)


class _FusedLinear(torch.autograd.Function):
    """`_fused` with its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, leaky: bool, onto: Tensor | None) -> Tensor:
        out = _fused(rows, weight, bias, leaky, onto)
        ctx.save_for_backward(rows, weight, out if leaky else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, out = ctx.saved_tensors
        inner = gradient if out is None else torch.ops.aten.leaky_relu_backward(gradient, out, SLOPE, True)
        needed = ctx.needs_input_grad
        return (
            inner @ weight if needed[0] else None,
            inner.t() @ rows if needed[1] else None,
            inner.sum(0) if needed[2] else None,
            None,
            gradient if needed[4] else None,
        )


class Linear:
    """The product of a layer, with what is made of its parameters once for each precision.

    may_use_int8: whether int8 matrix products are good enough for this layer.
    """

    def __init__(self, may_use_int8: bool) -> None:
        self.may_use_int8 = may_use_int8
        self._reduced, self._packed = CachedCast[tuple[Tensor, Tensor]](), CachedCast[int8.PackedWeight]()

    def uses_int8(self, rows: Tensor) -> bool:
        """Whether these rows go through int8 matrix products."""
        return self.may_use_int8 and int8_wanted() and rows.dtype == torch.float32 and rows.device.type == "cpu"

    def __call__(
        self, rows: Tensor, weight: Tensor, bias: Tensor, *, leaky: bool = False, onto: Tensor | None = None
    ) -> Tensor:
        """rows (N, in) -> (N, out), through a leaky ReLU, or added to `onto` (N, out), which is overwritten.

        weight (out, in) and bias (out,): the layer's own parameters, float32.
        """
        assert not leaky or onto is None
        if self.uses_int8(rows):
            layer = self._packed(weight, torch.int8, lambda: int8.pack(weight))
            slope = SLOPE if leaky else None

            def multiply(block: Tensor, under: Tensor | None = None) -> Tensor:
                return int8.multiply(block, layer, bias, slope=slope, onto=under)

            return in_blocks(multiply, *(t for t in (rows, onto) if t is not None), most=MOST_INT8_ROWS)
        if rows.device.type == "cpu" and fused_works():
            dtype = network_dtype(rows)
            rows = rows.to(dtype)
            reduced = self._reduced(weight, dtype, lambda: (weight.to(dtype), bias.to(dtype)))
            if {t.dtype for t in (rows, reduced[0], onto) if t is not None} == {torch.bfloat16}:
                # past autograd where no gradient is wanted: a twentieth of a small picture's time
                product = _FusedLinear.apply if torch.is_grad_enabled() else _fused
                return product(rows, *reduced, leaky, onto)
        result = F.linear(rows, weight, bias)
        # in place, as fresh memory costs more than the arithmetic
        if leaky:
            result = F.leaky_relu(result, SLOPE, inplace=True)
        return result if onto is None else result.add_(onto)
