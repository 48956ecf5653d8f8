"""Int8 matrix products, for processors that have them (VNNI) and no bfloat16: four times as fast as float32's.

The weights are those of all other precisions, rounded to -127..127 times a scale for each output.  Inputs are rounded
as they come: every row (position) by its own largest value, so that flat places lose as little as busy ones.  Before
that, columns of the weight and inputs share what is large in them, by its root.  Sums are exact.  oneDNN multiplies,
called as torch's compiler calls it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 127  # of a rounded weight, and of a rounded input without ZERO
ZERO = 128  # the byte that stands for 0
# Added to numbers of some hundreds it leaves float32 no place behind the point, and the low byte of their bits is the
# rounded input: two passes (torch's own conversion from float32 to uint8 takes four times as long).
ROUNDING = 1.5 * 2.0**23 + ZERO
LEAST = 1e-30  # so that rows and columns of zeros divide by something


class PackedWeight(NamedTuple):
    """The weight of a layer (out, in) as it is multiplied."""

    inverse: Tensor  # (in,) float32, inputs are multiplied by it
    rounding: Tensor  # (in,) of `ROUNDING`: as one number it would be added several times as slowly
    weight: Tensor  # int8, in oneDNN's own layout
    scale: Tensor  # (out,) float32
    zeros: Tensor  # (out,) int32, what stands for 0 among the weights


def pack(weight: Tensor) -> PackedWeight:
    """Prepare a weight (out, in) float32."""
    step = weight.abs().amax(0).clamp(min=LEAST).rsqrt()
    columns = weight * step
    scale = columns.abs().amax(1).clamp(min=LEAST) / MOST
    packed = torch.ops.onednn.qlinear_prepack(round_rows(columns / scale[:, None]).to(torch.int8), None)
    zeros = torch.zeros_like(scale, dtype=torch.int32)
    return PackedWeight(1 / step, torch.full_like(step, ROUNDING), packed, scale, zeros)


def round_rows(x: Tensor) -> Tensor:
    """Whole numbers next to x (rows, columns), up or down so that rows have the sums they had, rounded.

    Inputs behind a leaky ReLU are alike and mostly positive, so what all of a row's errors have in common costs most.
    """
    low = x.floor()
    rest = x - low
    rank = rest.argsort(1, descending=True).argsort(1)
    return low + (rank < rest.sum(1, keepdim=True).round())


def multiply(
    rows: Tensor, layer: PackedWeight, bias: Tensor, *, slope: float | None = None, onto: Tensor | None = None
) -> Tensor:
    """rows (N, in) @ weight.T + bias (out,), float32.

    slope: of a leaky ReLU behind it.  onto: (N, out) to be added, instead.
    """
    scaled = rows * layer.inverse
    most = scaled.abs().amax(1, keepdim=True).clamp_(min=LEAST)
    rounded = torch.addcmul(layer.rounding, scaled, MOST / most).view(torch.int32).to(torch.uint8)
    sums = product(rounded, layer)
    step = most / MOST
    if onto is not None:
        return torch.addcmul(onto, sums, step).add_(bias)
    result = torch.addcmul(bias, sums, step)
    return result if slope is None else F.leaky_relu(result, slope, inplace=True)


def product(rounded: Tensor, layer: PackedWeight) -> Tensor:
    """Rounded inputs (N, in) uint8, their zero at `ZERO`, @ the rounded weight.T -> (N, out) float32."""
    inputs = rounded, 1.0, ZERO, layer.weight, layer.scale, layer.zeros, None  # no bias
    result: Tensor = torch.ops.onednn.qlinear_pointwise(*inputs, 1.0, 0, torch.float32, "none", [], "")
    return result
