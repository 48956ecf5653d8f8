"""Products of bytes, for processors that have them (VNNI) and no bfloat16: four times as fast as float32's.

The weights are the ones of all other precisions, rounded to -127..127 times a scale for each output.  Inputs are coded
as they come, in a byte each: every row (position) by what is largest in it, so that flat places lose as little as busy
ones.  Before that columns of the weight and inputs share what is large in them, by its root.  Sums are exact; oneDNN
multiplies, as torch's compiler calls it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 127  # of a weight, and of a code without ZERO
ZERO = 128  # the code of 0
# Added to numbers of some hundreds it leaves float32 no place behind the point, and the low byte of their bits is their
# code: rounding and conversion in two passes (torch's own conversion from float32 to uint8 takes four times as long).
CODES = 1.5 * 2.0**23 + ZERO
LEAST = 1e-30  # so that rows and columns of zeros divide by something

_wanted: ContextVar[bool] = ContextVar("wanted", default=False)


@contextlib.contextmanager
def products(wanted: bool) -> Iterator[None]:
    """Context, of this thread, in which layers that may multiply bytes do so."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def wanted() -> bool:
    """Whether this thread is to multiply bytes; not where gradients are asked for, which they have none of."""
    return _wanted.get() and not torch.is_grad_enabled()


class Packed(NamedTuple):
    """The weight of a layer (out, in) as it is multiplied."""

    inverse: Tensor  # (in,) inputs are multiplied by it
    codes: Tensor  # (in,) of `CODES`: as one number it would be added several times as slowly
    weight: Tensor  # int8, in oneDNN's own layout
    scale: Tensor  # (out,) float32
    zeros: Tensor  # (out,) int32, codes of 0 among the weights


def pack(weight: Tensor) -> Packed:
    """Prepare a weight (out, in) float32."""
    step = weight.abs().amax(0).clamp(min=LEAST).rsqrt()
    columns = weight * step
    scale = columns.abs().amax(1).clamp(min=LEAST) / MOST
    packed = torch.ops.onednn.qlinear_prepack(rounded(columns / scale[:, None]).to(torch.int8), None)
    return Packed(1 / step, torch.full_like(step, CODES), packed, scale, torch.zeros_like(scale, dtype=torch.int32))


def rounded(x: Tensor) -> Tensor:
    """Whole numbers next to x (rows, columns), up or down so that rows have the sums they had, rounded.

    Inputs behind a leaky ReLU are alike and mostly positive, so what all of a row's errors have in common costs most.
    """
    low = x.floor()
    rest = x - low
    place = rest.argsort(1, descending=True).argsort(1)
    return low + (place < rest.sum(1, keepdim=True).round())


def multiply(
    rows: Tensor, layer: Packed, bias: Tensor, *, slope: float | None = None, onto: Tensor | None = None
) -> Tensor:
    """rows (N, in) @ weight.T + bias (out,), float32.

    slope: of a leaky ReLU behind it.  onto: (N, out) to be added, instead.
    """
    scaled = rows * layer.inverse
    most = scaled.abs().amax(1, keepdim=True).clamp_(min=LEAST)
    whole = torch.addcmul(layer.codes, scaled, MOST / most).view(torch.int32).to(torch.uint8)
    sums = product(whole, layer)
    step = most / MOST
    if onto is not None:
        return torch.addcmul(onto, sums, step).add_(bias)
    result = torch.addcmul(bias, sums, step)
    return result if slope is None else F.leaky_relu(result, slope, inplace=True)


def product(codes: Tensor, layer: Packed) -> Tensor:
    """Codes (N, in) uint8 without their zero @ the rounded weight.T -> (N, out) float32."""
    inputs = codes, 1.0, ZERO, layer.weight, layer.scale, layer.zeros, None  # no bias
    result: Tensor = torch.ops.onednn.qlinear_pointwise(*inputs, 1.0, 0, torch.float32, "none", [], "")
    return result


@functools.cache
def exact() -> bool:
    """Whether this processor's products of bytes are there, and right: without VNNI sums of two end at 32,767."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")):  # type: ignore[no-untyped-call]
        return False
    codes = torch.full((64, 128), 255, dtype=torch.uint8, device="cpu")
    try:
        sums = product(codes, pack(torch.ones(64, 128, dtype=torch.float32, device="cpu")))
    except RuntimeError:  # oneDNN has none for it
        return False
    return bool((sums - (255 - ZERO) * 128).abs().amax() < 1)
