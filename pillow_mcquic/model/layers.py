"""The layers that the transforms are built of, and how pixels, patches, planes and rows become each other.

A picture is planes (B, C, h, w), channels-last in memory; products see rows (positions, channels), which are the same
memory.  On the CPU they go through in pieces of few sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import int8
from .distortion import QUALITIES

# Positions that go through a product, or the last ones of a block, at once: so that they stay in the cache, and so that
# oneDNN, which keeps half a megabyte or more for every size a product meets, meets few.
LEAST_ROWS, MOST_ROWS, MOST_CODED_ROWS = 64, 4096, 1024
REPEATED = 16  # at most one in so many of them goes through twice
SLOPE = 0.1  # of leaky ReLUs, below zero


def at_quality(table: Tensor, quality: Tensor) -> Tensor:
    """Rows of a per-quality table (8, C) interpolated at quality (B,) in 1..8 -> (B, C)."""
    low = (quality.detach() - 1).floor().clamp(0, QUALITIES - 2).long()
    return torch.lerp(table[low], table[low + 1], (quality - 1 - low)[:, None])


def per_channel(rows: Tensor) -> Tensor:
    """(B, C) -> (B, C, 1, 1), to broadcast over positions."""
    return rows[:, :, None, None]


def unit_range(x: Tensor) -> Tensor:
    """Pixels as float32 in 0..1, from such or from uint8."""
    return x.float().mul_(1 / 255) if x.dtype == torch.uint8 else x.float()


def grey_levels(x: Tensor) -> Tensor:
    """Pixels as whole numbers 0..255, from uint8, which they stay, or from float32 in 0..1."""
    return x if x.dtype == torch.uint8 else x * 255


def to_patches(x: Tensor, step: int) -> Tensor:
    """Planes (B, C, H, W) -> patches (B, H / step, W / step, step * step * C), in the order (row, column, channel).

    From channels-last planes, as images lie in memory, this moves whole rows of a patch.
    """
    B, C, H, W = x.shape
    x = x.permute(0, 2, 3, 1).reshape(B, H // step, step, W // step, step * C).permute(0, 1, 3, 2, 4)
    return x.reshape(B, H // step, W // step, step * step * C)


def to_pixels(x: Tensor, step: int) -> Tensor:
    """Patches as of `to_patches` -> pixels (B, h * step, w * step, C), in memory of their own."""
    B, h, w, size = x.shape
    row = size // step
    x = x.reshape(B, h, w, step, row).permute(0, 1, 3, 2, 4)
    return x.reshape(B, h * step, w * step, row // step)


def quarters_to_pixels(x: Tensor) -> Tensor:
    """Patches of 16x16 as four of 8x8, (B, h, w, 2 * 2 * 8 * 8 * C) -> pixels (B, h * 16, w * 16, C)."""
    B, h, w, size = x.shape
    x = x.view(B, h, w, 2, 2, 8, size // 32).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(B, h * 16, w * 16, size // 256)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B * h * w, C).

    As one matrix: of a window's rows torch would make a batch of products, with a copy of the weights for each.
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def to_planes(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_rows`, channels-last; `like` (B, ..., h, w) gives the other sizes."""
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


@functools.lru_cache(1024)
def pieces(count: int, most: int) -> tuple[slice, ...]:
    """So many rows in pieces of LEAST_ROWS 2^k, up to `most`; the last ones may overlap."""
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


def in_pieces(function: Callable[..., Tensor], *rows: Tensor, most: int = MOST_ROWS) -> Tensor:
    """function(*rows), which maps row by row, in `pieces`; without gradients."""
    first, *others = pieces(len(rows[0]), most)
    if not others:
        return function(*rows)
    result = function(*(t[first] for t in rows))
    out = result.new_empty(len(rows[0]), *result.shape[1:])
    out[first] = result
    for part in others:
        out[part] = function(*(t[part] for t in rows))
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, for bfloat16 on the CPU in pieces: (..., in) -> (..., out)."""
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    return in_pieces(lambda mine: F.linear(mine, weight, bias), x.flatten(0, -2)).view(*x.shape[:-1], -1)


Made = TypeVar("Made")


class Kept(Generic[Made]):
    """What is made of parameters for a precision: anew while they learn, once of those that will stay as they are."""

    def __init__(self) -> None:
        self._kept: tuple[object, Made] | None = None

    def __reduce__(self) -> tuple[type[Kept[Made]], tuple[()]]:
        return Kept, ()  # a copy makes its own: not all of it can be copied, or pickled

    def __call__(self, parameter: Tensor, dtype: torch.dtype, make: Callable[[], Made]) -> Made:
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
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def affine(rows: Tensor, weight: Tensor, bias: Tensor, leaky: bool, onto: Tensor | None) -> Tensor:
    """rows @ weight.T + bias, then a leaky ReLU or a sum, in one pass over the result.

    By oneDNN on the CPU, as torch's own compiler calls it: passes of their own over rows for the bias, the activation
    and the sum take as long as the product.
    """
    product = torch.ops.mkldnn._linear_pointwise
    if onto is not None:
        return in_pieces(lambda mine, under: product.binary(mine, under, weight, bias, "add"), rows, onto)
    name, slope = ("leaky_relu", [SLOPE]) if leaky else ("none", [])
    return in_pieces(lambda mine: product(mine, weight, bias, name, slope, ""), rows)


class Affine(torch.autograd.Function):
    """`affine` with its gradient."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, leaky: bool, onto: Tensor | None) -> Tensor:
        out = affine(rows, weight, bias, leaky, onto)
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


@functools.cache
def one_pass() -> bool:
    """Whether `affine` is there on this machine: oneDNN, and a processor it takes bfloat16 from.

    In float32 it gains a twentieth, for kernels that the plain product does not keep.
    """
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Pointwise(nn.Module):
    """1x1 convolution whose weight is a matrix (out, in), as Muon wants it.

    `coarse`: it may be a product of bytes (`int8.py`) where those are wanted.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0, *, coarse: bool = False) -> None:
        super().__init__()
        self.coarse = coarse
        self.deviation = scale / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self._reduced, self._packed = Kept[tuple[Tensor, ...]](), Kept[int8.Packed]()

    def reduced(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Weight and bias in a precision."""
        return self._reduced(self.weight, dtype, lambda: (self.weight.to(dtype), self.bias.to(dtype)))

    def forward(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w), or added to `onto`, which is such."""
        return to_planes(self.of_rows(to_rows(x), onto=None if onto is None else to_rows(onto)), x)

    def coded(self, rows: Tensor) -> bool:
        """Whether these rows go through a product of bytes."""
        return self.coarse and int8.wanted() and rows.dtype == torch.float32 and rows.device.type == "cpu"

    def of_rows(self, rows: Tensor, *, leaky: bool = False, onto: Tensor | None = None) -> Tensor:
        """(N, in) -> (N, out), through a leaky ReLU, or added to `onto` (N, out)."""
        assert not leaky or onto is None
        if self.coded(rows):
            layer = self._packed(self.weight, torch.int8, lambda: int8.pack(self.weight))
            slope = SLOPE if leaky else None

            def multiply(mine: Tensor, under: Tensor | None = None) -> Tensor:
                return int8.multiply(mine, layer, self.bias, slope=slope, onto=under)

            return in_pieces(multiply, *(t for t in (rows, onto) if t is not None), most=MOST_CODED_ROWS)
        if rows.device.type == "cpu" and one_pass():
            dtype = network_dtype(rows)
            rows, (weight, bias) = rows.to(dtype), self.reduced(dtype)
            if {t.dtype for t in (rows, weight, onto) if t is not None} == {torch.bfloat16}:
                # a twentieth of a small picture's time, where no gradient is wanted
                function = Affine.apply if torch.is_grad_enabled() else affine
                return function(rows, weight, bias, leaky, onto)
        result = F.linear(rows, self.weight, self.bias)
        # in place, as fresh memory costs more than the arithmetic
        if leaky:
            result = F.leaky_relu(result, SLOPE, inplace=True)
        return result if onto is None else result.add_(onto)


def initialise(networks: nn.Module) -> None:
    """Draw the weights of all pointwise layers, for training; a model that is read has its own, sooner than drawn."""
    with torch.no_grad():
        for layer in networks.modules():
            if isinstance(layer, Pointwise):
                layer.weight.normal_(std=layer.deviation)


class Block(nn.Module):
    """Residual 1x1 - act - depthwise 3x3 - 1x1, then residual 1x1 - act - 1x1; reaches one position.

    `expansion` 0 leaves the second half out.  `coarse`: see `Pointwise`.
    """

    def __init__(self, width: int, expansion: int = 2, *, coarse: bool = False) -> None:
        super().__init__()
        self.enter = Pointwise(width, width, 1.4, coarse=coarse)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.leave = Pointwise(width, width, 0.3, coarse=coarse)
        self.expansion = expansion
        if expansion:
            self.expand = Pointwise(width, expansion * width, 1.4, coarse=coarse)
            self.contract = Pointwise(expansion * width, width, 0.3, coarse=coarse)
        with torch.no_grad():
            self.depthwise.weight.mul_(0.3)
            self.depthwise.weight[:, :, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        # on rows, as of a change in place to a view autograd makes copies (half of a block's time in training)
        rows = to_rows(x)
        inner = to_rows(self.depthwise(to_planes(self.enter.of_rows(rows, leaky=True), x)))
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return to_planes(self.rest(inner, rows), x)
        most = MOST_CODED_ROWS if self.leave.coded(rows) else MOST_ROWS
        return to_planes(in_pieces(self.rest, inner, rows, most=most), x)

    def rest(self, inner: Tensor, rows: Tensor) -> Tensor:
        """All of a block behind the depthwise convolution, (N, width): what came of it, and the block's input."""
        rows = self.leave.of_rows(inner, onto=rows)
        if self.expansion:
            rows = self.contract.of_rows(self.expand.of_rows(rows, leaky=True), onto=rows)
        return rows


class Down(nn.Module):
    """Halve the resolution: (B, C, h, w) -> (B, outputs, ceil(h/2), ceil(w/2)), edges replicated.

    Columns of the weight are in the order of `to_patches`.
    """

    def __init__(self, inputs: int, outputs: int, *, coarse: bool = False) -> None:
        super().__init__()
        self.of_four = Pointwise(inputs * 4, outputs, coarse=coarse)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        if h % 2 or w % 2:
            x = F.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
        x = self.of_four(to_patches(x, 2).permute(0, 3, 1, 2))
        return x


class Up(nn.Module):
    """Double the resolution; the caller crops the odd row or column away.  Rows of the weight: see `Down`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.to_four = Pointwise(inputs, outputs * 4)

    def forward(self, x: Tensor) -> Tensor:
        return to_pixels(self.to_four(x).permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)


class Gain(nn.Module):
    """Per-channel scale that depends on quality: one set of weights serves all rates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(QUALITIES, width))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        return x * per_channel(torch.exp(at_quality(self.log, quality)).to(x.dtype))


def blocks(width: int, count: int, *, coarse: bool = False) -> nn.Sequential:
    return nn.Sequential(*(Block(width, coarse=coarse) for _ in range(count)))


def neighbourhood(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 9 C, h, w): the 3x3 around every position, edges replicated."""
    B, _, h, w = x.shape
    return F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).view(B, -1, h, w)
