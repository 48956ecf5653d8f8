"""The layers that the transforms are built of."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .linear import MOST_INT8_ROWS, MOST_ROWS, SLOPE, Linear, in_blocks
from .reshape import pad_to_multiple, to_patches, to_pixels, to_planes, to_rows


def at_quality(table: Tensor, quality: Tensor) -> Tensor:
    """Rows of a per-quality table (qualities, C), for qualities 1, 2, ..., interpolated at quality (B,) -> (B, C)."""
    low = (quality.detach() - 1).floor().clamp(0, len(table) - 2).long()
    return torch.lerp(table[low], table[low + 1], (quality - 1 - low)[:, None])


def per_channel(rows: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, 1), to broadcast over positions."""
    return rows[:, :, None, None]


def leaky_relu(x: Tensor) -> Tensor:
    """The activation of all networks."""
    return F.leaky_relu(x, SLOPE)


def unit_range(x: Tensor) -> Tensor:
    """Pixels as float32 in 0..1, from such or from uint8."""
    return x.float().mul_(1 / 255) if x.dtype == torch.uint8 else x.float()


class Pointwise(nn.Module):
    """1x1 convolution whose weight is a matrix (out, in), as Muon wants it.

    Parameters
    ----------
    inputs, outputs : channels.
    gain : deviation of the outputs for inputs of deviation one, when training begins.
    may_use_int8 : see `linear.Linear`.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, *, may_use_int8: bool = False) -> None:
        super().__init__()
        self.initial_deviation = gain / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.linear = Linear(may_use_int8)

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w), or added to `onto`, which is such."""
        return to_planes(self.of_rows(to_rows(x), onto=None if onto is None else to_rows(onto)), x)

    def of_rows(self, rows: Tensor, *, leaky: bool = False, onto: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out), through a leaky ReLU, or added to `onto` (N, out)."""
        return self.linear(rows, self.weight, self.bias, leaky=leaky, onto=onto)


class Block(nn.Module):
    """Residual 1x1 - act - depthwise 3x3 - 1x1, then residual 1x1 - act - 1x1; sees one position around.

    `expansion` 0 leaves the second half out.
    """

    def __init__(self, width: int, expansion: int = 2, *, may_use_int8: bool = False) -> None:
        super().__init__()
        self.input = Pointwise(width, width, 1.4, may_use_int8=may_use_int8)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.output = Pointwise(width, width, 0.3, may_use_int8=may_use_int8)
        self.expansion = expansion
        if expansion:
            self.expand = Pointwise(width, expansion * width, 1.4, may_use_int8=may_use_int8)
            self.contract = Pointwise(expansion * width, width, 0.3, may_use_int8=may_use_int8)
        with torch.no_grad():
            self.depthwise.weight.mul_(0.3)
            self.depthwise.weight[:, :, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same."""
        # on rows: of a change in place to a view autograd makes copies (half of a block's time in training)
        rows = to_rows(x)
        inner = to_rows(self.depthwise(to_planes(self.input.of_rows(rows, leaky=True), x)))
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return to_planes(self.rest(inner, rows), x)
        most = MOST_INT8_ROWS if self.output.linear.uses_int8(rows) else MOST_ROWS
        return to_planes(in_blocks(self.rest, inner, rows, most=most), x)

    def rest(self, inner: Tensor, rows: Tensor) -> Tensor:
        """All behind the depthwise convolution, (N, width): what came of it, and the block's input."""
        rows = self.output.of_rows(inner, onto=rows)
        if self.expansion:
            rows = self.contract.of_rows(self.expand.of_rows(rows, leaky=True), onto=rows)
        return rows


def blocks(width: int, count: int, *, may_use_int8: bool = False) -> nn.Sequential:
    """So many blocks, one after the other."""
    return nn.Sequential(*(Block(width, may_use_int8=may_use_int8) for _ in range(count)))


class PatchMerge(nn.Module):
    """Halve the resolution: (B, C, h, w) -> (B, outputs, ceil(h/2), ceil(w/2)), edges replicated.

    Columns of the weight are in the order of `to_patches`: (row, column, channel).
    """

    def __init__(self, inputs: int, outputs: int, *, may_use_int8: bool = False) -> None:
        super().__init__()
        self.projection = Pointwise(inputs * 4, outputs, may_use_int8=may_use_int8)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, ceil(h/2), ceil(w/2))."""
        x = self.projection(to_patches(pad_to_multiple(x, 2), 2).permute(0, 3, 1, 2))
        return x


class PatchExpand(nn.Module):
    """Double the resolution; the caller crops the odd row or column away.

    Rows of the weight are in the order of `to_patches`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.projection = Pointwise(inputs, outputs * 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, 2h, 2w)."""
        return to_pixels(self.projection(x).permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)


class GainUnit(nn.Module):
    """Per-channel scale that depends on quality: one set of weights serves all rates (Cui et al., CVPR 2021)."""

    def __init__(self, width: int, qualities: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(qualities, width))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """(B, width, h, w), quality (B,) -> the same."""
        return x * per_channel(torch.exp(at_quality(self.log_gain, quality)).to(x.dtype))
