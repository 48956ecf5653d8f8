"""The whole model: transforms, residual vector quantisers, means and class networks.

An image x is analysed into three latents, coarse to fine: y3 at 1/64, y2 at 1/32 and y1 at 1/16 of its
resolution.  y3 is quantised first; its codewords predict the mean of y2; those of y2 predict the mean of
y1; the synthesis transform turns y1 and the features met on the way back into pixels.  This is the cascade
of McQuic (Zhu et al., CVPR 2022, arXiv 2203.10897, section 3) with four changes: the latents are residuals
around predicted means (their conditional mixture, equation 7), those of the largest channels also around what
is known of their neighbours, a linear KLT shortcut runs beside the networks, and the probability table of
every codeword is chosen by a class network that sees codewords only.

Shapes in the comments: B batch, H x W pixels (multiples of 16 here), (h, w) = (H/16, W/16) the level-1 grid;
each coarser grid is the finer one halved, rounded up.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Generic, TypeVar, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import int8
from .distortion import QUALITIES, Distortion
from .quantiser import Bank, Codebooks, Quantiser

MEAN_SCALE = 4.0  # y2 and y3 are about this many quantiser steps wide at first
# the first, and largest, channels of y1: the linear shortcut keeps them in float32, as in bfloat16 they would cost
# whole grey levels, and previews see those of the positions around
LARGE = 32
# Positions that go through a product, or the last ones of a block, at once: so that they stay in the cache, and so that
# oneDNN, which keeps half a megabyte or more for every size a product meets, meets few.
LEAST_ROWS, MOST_ROWS, MOST_CODED_ROWS = 64, 4096, 1024
REPEATED = 16  # at most one in so many of them goes through twice
SLOPE = 0.1  # of leaky ReLUs, below zero
PREVIEW_BANKS = {2: 4, 4: 3, 8: 2}  # scale of a preview: how many banks of level 1 it is made of


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the model; saved with the weights, enough to rebuild the networks."""

    # analysis transform: blocks at 1/8, then at 1/16
    analysis_width_8: int = 128
    analysis_blocks_8: int = 2
    analysis_width_16: int = 320
    analysis_blocks_16: int = 6
    # hyper transforms and means at 1/64, 1/32 and 1/16
    hyper_width: int = 192
    means_blocks: int = 2
    means_expansion_1: int = 0  # of the one block at 1/16
    # synthesis transform: blocks at 1/16, then at 1/8
    synthesis_width_16: int = 192
    synthesis_blocks_16: int = 5
    synthesis_width_8: int = 96  # bfloat16 tiles are of 32: not slower than 88
    synthesis_blocks_8: int = 2
    # class networks
    class_width: int = 96
    context_width: int = 40
    classes: int = 24
    # mean of the first bank from neighbours
    phase_width: int = 64
    # quantisers: banks of codebooks of one dimension, each with its residual stages (words, initial scale)
    level1: tuple[Bank, ...] = (
        Bank(groups=8, dim=1, stages=((1536, 1.0),)),
        Bank(groups=12, dim=2, stages=((256, 16.0), (256, 1.0))),
        Bank(groups=16, dim=4, stages=((256, 14.0), (64, 3.6), (256, 1.0))),
        Bank(groups=40, dim=4, stages=((256, 4.0), (256, 1.0))),
        Bank(groups=16, dim=8, stages=((241, 2.0), (256, 1.0))),
    )
    level2: tuple[Bank, ...] = (Bank(groups=24, dim=2, stages=((64, 16.0), (256, 1.0))),)
    level3: tuple[Bank, ...] = (Bank(groups=24, dim=2, stages=((64, 16.0), (256, 1.0))),)
    # how many of the last channels of y1 take the linear shortcut alone: no mean, no part in the networks
    linear_channels: int = 128
    # squared error, in quantiser steps, that the encoder accepts to save a bit
    error_per_bit: float = 0.11
    # what the model was trained for, and a refining encoder works for
    distortion: Distortion = dataclasses.field(default_factory=Distortion)

    def banks(self, level: int) -> tuple[Bank, ...]:
        """The banks of level 1, 2 or 3."""
        return (self.level1, self.level2, self.level3)[level - 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and dicts, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`, also after a trip through JSON; what is not named keeps its default."""
        values = dict(values)
        distortion = dict(values.get("distortion", {}))
        for given, kind in ((values, cls), (distortion, Distortion)):
            unknown = set(given) - {f.name for f in dataclasses.fields(kind)}
            if unknown:
                raise ValueError(f"unknown model settings: {', '.join(sorted(unknown))}")
        for key in {"level1", "level2", "level3"} & set(values):
            values[key] = tuple(
                Bank(b["groups"], b["dim"], tuple((int(k), float(s)) for k, s in b["stages"])) for b in values[key]
            )
        return cls(**{**values, "distortion": Distortion(**distortion)})


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


MIDDLE = 127.5  # of the grey levels; what is left of one without it bfloat16 holds exactly


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
    result = function(*(t[first] for t in rows))
    if not others:
        return result
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


class Affine(torch.autograd.Function):
    """rows @ weight.T + bias, then a leaky ReLU or a sum, in one pass over the result.

    By oneDNN on the CPU, as torch's own compiler calls it: passes of their own over rows for the bias, the activation
    and the sum take as long as the product.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, leaky: bool, onto: Tensor | None) -> Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        if onto is None:
            name, slope = ("leaky_relu", [SLOPE]) if leaky else ("none", [])
            out = in_pieces(lambda mine: product(mine, weight, bias, name, slope, ""), rows)
        else:
            out = in_pieces(lambda mine, under: product.binary(mine, under, weight, bias, "add"), rows, onto)
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
    """Whether `Affine` is there on this machine: oneDNN, and a processor it takes bfloat16 from.

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
                return Affine.apply(rows, weight, bias, leaky, onto)  # type: ignore[no-any-return,no-untyped-call]
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


# What class networks and context networks compute with, in whole numbers (`prior.py`): activations and energies of 0 to
# SHORT_MAX, embeddings of -SHORT_MAX to SHORT_MAX, weights likewise with a power of two for each output.
SHORT_MAX = 255
SHORT_SUM = 56_000  # of the magnitudes of an output's weights: times SHORT_MAX well below 2^24
SHORT_POWERS = 3, 9  # least and greatest exponent of what weights are multiplied by
ACTIVATION_ONE = 32  # of an activation of 1
EMBEDDING_ONE = 4  # of a codeword of one step
ENERGY_ONE = 8  # of a factor of two


def whole(x: Tensor) -> Tensor:
    """Rounded half up; the gradient goes straight through."""
    return x + (torch.floor(x + 0.5) - x).detach()


def short_power(weight: Tensor) -> Tensor:
    """Weights (outputs, ...) -> for each output the exponent (outputs,) of the power of two that makes them short."""
    size = weight.detach().abs().flatten(1)
    return torch.minimum(SHORT_MAX / size.amax(1), SHORT_SUM / size.sum(1)).log2().floor().clamp(*SHORT_POWERS)


def short(weight: Tensor) -> Tensor:
    """Weights (outputs, inputs) as the integer networks have them; the gradient goes straight through."""
    one = short_power(weight).exp2()[:, None]
    return weight + ((weight * one).round().clamp(-SHORT_MAX, SHORT_MAX) / one - weight).detach()


def activation(x: Tensor) -> Tensor:
    """Clamped and rounded to what an activation of the integer networks can be."""
    return whole((x * ACTIVATION_ONE).clamp(0, SHORT_MAX)) / ACTIVATION_ONE


class ClassNetwork(nn.Module):
    """Codewords of the coarser levels and quality -> fractional class of every group one level finer.

    Trained in float, with the rounding of the integers in which `prior.py` runs the same network, exactly,
    everywhere.  Hence its shape: clamped ReLU, edges replicated, no normalisation.
    """

    SCALE_IN = 0.25  # of codewords, SCALE_OUT of classes: keep the weights themselves near one
    SCALE_OUT = 4.0

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.enter = Pointwise(inputs, width, 1.4)
        self.neighbours = Pointwise(width * 9, width, 0.7)
        self.leave = Pointwise(width, outputs * 4, 0.3)
        self.hidden_bias = nn.Parameter(torch.zeros(QUALITIES, width))
        self.class_bias = nn.Parameter(torch.zeros(QUALITIES, outputs))

    def forward(self, embedding: Tensor, quality: Tensor) -> Tensor:
        """Sums of codewords (B, inputs, h, w) -> classes (B, outputs, 2h, 2w), float32.

        Level 1 has more outputs than groups: the rest enters the context networks.
        """
        x = whole(embedding * EMBEDDING_ONE).clamp(-SHORT_MAX, SHORT_MAX) * (self.SCALE_IN / EMBEDDING_ONE)
        x = of_position(short(self.enter.weight), self.enter.bias, x)
        x = activation(x + per_channel(at_quality(self.hidden_bias, quality)))
        x = activation(x + of_neighbourhood(short(self.neighbours.weight), self.neighbours.bias, x).clamp(min=0))
        # the four positions of an output share their power of two
        weight = short(self.leave.weight.view(-1, 4 * x.shape[1])).view_as(self.leave.weight)
        classes = F.pixel_shuffle(of_position(weight, self.leave.bias, x) * self.SCALE_OUT, 2)
        return classes + per_channel(at_quality(self.class_bias, quality))


def neighbourhood(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 9 C, h, w): the 3x3 around every position, edges replicated."""
    B, _, h, w = x.shape
    return F.unfold(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3).view(B, -1, h, w)


def of_position(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of each position: (B, inputs, h, w) -> (B, outputs, h, w)."""
    return F.conv2d(x, weight[:, :, None, None], bias)


def of_neighbourhood(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """A layer of `neighbourhood(x)`, which as a convolution takes a fifth of the time."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight.view(len(weight), -1, 3, 3), bias)


class ContextNetwork(nn.Module):
    """Codewords of the earlier banks of level 1 -> what they add to the classes of a bank.

    Where the large components of a photo need many steps the small ones do too, here and next door: the log
    energies of the earlier banks' groups in a 3x3 neighbourhood, or at the position alone, say so without side
    information.  Trained in float, run in integers, like `ClassNetwork`.
    """

    def __init__(self, inputs: int, groups: int, width: int, neighbours: bool = True) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.enter = Pointwise(inputs * (9 if neighbours else 1), width, 0.3)
        self.leave = Pointwise(width, groups, 0.0)

    def forward(self, log_energy: Tensor, coarse: Tensor) -> Tensor:
        """Log energies (B, inputs, h, w), hidden input from the coarse levels (B, width, h, w) -> (B, groups, h, w)."""
        enter = of_neighbourhood if self.neighbours else of_position
        x = activation(enter(short(self.enter.weight), self.enter.bias, log_energy) + coarse)
        return of_position(short(self.leave.weight), self.leave.bias, x) * ClassNetwork.SCALE_OUT


def context_networks(config: Config) -> list[ContextNetwork]:
    """A context network for every bank of level 1 but the first, each with all groups before it as inputs.

    The last one has so many at its own position that their neighbours tell next to nothing more.
    """
    banks = config.level1
    before = list(itertools.accumulate(bank.groups for bank in banks[:-1]))
    return [
        ContextNetwork(inputs, bank.groups, config.context_width, neighbours=i < len(before))
        for i, (inputs, bank) in enumerate(zip(before, banks[1:], strict=True), 1)
    ]


def log_energy(words: Tensor, dim: int) -> Tensor:
    """Quantised vectors (B, groups * dim, h, w), in steps -> log2(1 + squared norm) of each (B, groups, h, w).

    The logarithm is linear between powers of two, in steps of an eighth, and ends below 32, which short integers can
    follow exactly; its gradient is smooth.
    """
    B, C, h, w = words.shape
    energy = words.view(B, C // dim, dim, h, w).square().sum(2) + 1
    mantissa, exponent = torch.frexp(energy.detach())
    smooth = torch.log2(energy)
    eighths = ((exponent - 2 + 2 * mantissa) * ENERGY_ONE).floor().clamp(max=SHORT_MAX)
    return smooth + (eighths / ENERGY_ONE - smooth).detach()


# The positions of level 1 in four phases, (row, column) modulo 2: first one in four, then those in the middle of four,
# then those between, and last those all around which are known.
PHASES = (0, 0), (1, 1), (0, 1), (1, 0)


def at_phase(phase: int) -> tuple[EllipsisType, slice, slice]:
    """Index of the positions of a phase, in planes (..., h, w)."""
    top, left = PHASES[phase]
    return ..., slice(top, None, 2), slice(left, None, 2)


class PhaseMean(nn.Module):
    """Mean of the first bank at the positions of a phase, from what is known at the eight around each.

    What the means of the coarse levels miss in these channels, brightness and slopes, is much the same next door.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.straight = Pointwise(8 * channels, channels, 0.0)
        self.enter = Pointwise(8 * channels, width, 0.5)
        self.hidden_bias = nn.Parameter(torch.zeros(QUALITIES, width))
        self.leave = Pointwise(width, channels, 0.0)
        self.gain = Gain(channels)

    def forward(self, around: Tensor, quality: Tensor) -> Tensor:
        """Quantised residuals, in steps (B, 8 * channels, h, w), 0 where they are not known -> (B, channels, h, w)."""
        hidden = self.enter(around) + per_channel(at_quality(self.hidden_bias, quality))
        mean: Tensor = self.gain(self.straight(around) + self.leave(F.leaky_relu(hidden, SLOPE)), quality)
        return mean


class Model(nn.Module):
    """Everything that turns pixels into codewords and codewords into pixels.

    `klt` = (basis (C, 768), mean (768,), deviation (C,)) of 16x16x3 training patches initialises the linear
    shortcut; it is only needed to start a training run.  Its weights and words are not set
    (`initialise`, `Quantiser.initialise`).
    """

    patch_mean: Tensor
    deviation: Tensor
    REFERENCE_GAIN = 5.7  # steps per unit of pixel value at the lambda the KLT is scaled for

    def __init__(self, config: Config, klt: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.quantiser1 = Quantiser(c.level1, c.classes)
        self.quantiser2 = Quantiser(c.level2, c.classes)
        self.quantiser3 = Quantiser(c.level3, c.classes)
        n1, n2, n3 = (q.channels for q in (self.quantiser1, self.quantiser2, self.quantiser3))
        self.deep = deep = n1 - c.linear_channels  # channels of y1 that the networks see
        # level-1 positions that a part of the model sees beyond its own: one a block at 1/16, two blocks at 1/8
        self.entered_reach, self.analysis_reach = -(-c.analysis_blocks_8 // 2), c.analysis_blocks_16
        self.mean_reach = 1
        self.preview_reach = self.mean_reach + 1
        self.synthesis_reach = self.mean_reach + c.synthesis_blocks_16 + -(-c.synthesis_blocks_8 // 2)
        hyper = c.hyper_width

        self.analysis_8 = nn.Sequential(
            Pointwise(192, c.analysis_width_8, 2.0), blocks(c.analysis_width_8, c.analysis_blocks_8, coarse=True)
        )
        self.analysis_down = Down(c.analysis_width_8, c.analysis_width_16, coarse=True)
        self.analysis_gain_8 = Gain(c.analysis_width_16)
        self.analysis_16 = blocks(c.analysis_width_16, c.analysis_blocks_16, coarse=True)
        self.analysis_gain_16 = Gain(c.analysis_width_16)
        self.analysis_head = Pointwise(c.analysis_width_16, n1, 0.01)

        self.hyper_analysis_2 = nn.Sequential(Down(deep, hyper), blocks(hyper, 1))
        self.hyper_gain_2 = Gain(hyper)
        self.hyper_head_2 = Pointwise(hyper, n2)
        self.hyper_analysis_3 = nn.Sequential(Down(hyper, hyper), blocks(hyper, 1))
        self.hyper_gain_3 = Gain(hyper)
        self.hyper_head_3 = Pointwise(hyper, n3)

        self.features_3 = nn.Sequential(Pointwise(n3, hyper), blocks(hyper, 1), Up(hyper, hyper))
        self.features_gain_3 = Gain(hyper)
        self.means_2 = nn.Sequential(blocks(hyper, 1), Pointwise(hyper, n2, 0.1))
        self.features_2 = nn.Sequential(Pointwise(n2 + hyper, hyper), blocks(hyper, c.means_blocks), Up(hyper, hyper))
        self.features_gain_2 = Gain(hyper)
        self.means_1 = nn.Sequential(Block(hyper, c.means_expansion_1), Pointwise(hyper, deep, 0.1))
        first = self.quantiser1.channel_split[0]
        self.phase_means = nn.ModuleList([PhaseMean(first, c.phase_width) for _ in PHASES[1:]])

        self.synthesis_16 = nn.Sequential(
            Pointwise(deep + hyper, c.synthesis_width_16),
            blocks(c.synthesis_width_16, c.synthesis_blocks_16, coarse=True),
            Up(c.synthesis_width_16, c.synthesis_width_8),
        )
        self.synthesis_gain_16 = Gain(c.synthesis_width_8)
        self.synthesis_8 = blocks(c.synthesis_width_8, c.synthesis_blocks_8)
        self.synthesis_gain_8 = Gain(c.synthesis_width_8)
        self.synthesis_head = Pointwise(c.synthesis_width_8, 192, 0.01)

        if klt is None:
            klt = torch.zeros(n1, 768), torch.zeros(768), torch.ones(n1)
        basis, mean, deviation = klt
        self.klt_analysis = nn.Parameter(basis * self.REFERENCE_GAIN)  # (n1, 768)
        self.klt_synthesis = nn.Parameter(basis.t().contiguous() / self.REFERENCE_GAIN)  # (768, n1)
        self.register_buffer("patch_mean", mean)  # (768,)
        self._analysis_matrices, self._synthesis_matrices = Kept[tuple[Tensor, ...]](), Kept[tuple[Tensor, ...]]()
        self.register_buffer("deviation", deviation * self.REFERENCE_GAIN)  # of each y1 channel

        # previews are fitted at export, to what the synthesis transform makes of the same codes
        self.previews = nn.ModuleDict()
        for scale, banks in PREVIEW_BANKS.items():
            inputs = sum(self.quantiser1.channel_split[:banks]) + 8 * LARGE + hyper
            self.previews[str(scale)] = nn.Linear(inputs, 3 * (16 // scale) ** 2).requires_grad_(False)

        # log of quantiser steps per unit of latent, for each quality and channel
        self.log_gain_1 = nn.Parameter(torch.zeros(QUALITIES, n1))
        self.log_gain_2 = nn.Parameter(torch.zeros(QUALITIES, n2))
        self.log_gain_3 = nn.Parameter(torch.zeros(QUALITIES, n3))

    # --- the steps of encoding and decoding, each local: the codec may run them tile by tile ---

    def analyse(self, x: Tensor, quality: Tensor) -> Tensor:
        """Analysis transform: pixels (B, 3, H, W) in 0..1 -> y1 (B, n1, h, w) float32.

        Reach: `entered_reach` and then `analysis_reach`.
        """
        deviations = self.analyse_features(self.analyse_entered(self.enter(x)), quality)
        return torch.addcmul(self.shortcut(x), deviations.float(), self.spread)

    def shortcut(self, x: Tensor) -> Tensor:
        """Pixels, uint8 too -> linear shortcut (B, n1, h, w) float32.  Reach: 0."""

        def make() -> tuple[Tensor, ...]:
            large, small = self.klt_analysis[:LARGE], self.klt_analysis[LARGE:]
            middle = small @ (MIDDLE / 255 - self.patch_mean)
            return large / 255, large @ -self.patch_mean, (small / 255).to(dtype), middle.to(dtype)

        rows = to_patches(grey_levels(x), 16)  # bytes are moved, not floats
        dtype = network_dtype(self.klt_analysis)
        with torch.autocast(x.device.type, enabled=False):
            large, mean, small, middle = self._analysis_matrices(self.klt_analysis, dtype, make)
            parts = [F.linear(rows.float(), large, mean), linear(rows.to(dtype) - MIDDLE, small, middle).float()]
        return torch.cat(parts, -1).permute(0, 3, 1, 2)

    def enter(self, x: Tensor) -> Tensor:
        """Pixels, uint8 too -> first features (B, width, 2h, 2w).  Reach: 0."""
        layer = cast(Pointwise, self.analysis_8[0])
        rows = (to_patches(grey_levels(x), 8).to(network_dtype(layer.weight)) - MIDDLE) * (1 / 255)
        t: Tensor = layer(rows.permute(0, 3, 1, 2))
        return t

    def analyse_entered(self, entered: Tensor) -> Tensor:
        """The rest of what no quality changes: first features -> features (B, width, h, w).  Reach: `entered_reach`."""
        t: Tensor = self.analysis_down(self.analysis_8[1](entered))
        return t

    def analyse_features(self, features: Tensor, quality: Tensor) -> Tensor:
        """Features -> what the networks add to the shortcut, in units of `spread`, (B, n1, h, w).

        Reach: `analysis_reach`.
        """
        t = self.analysis_gain_8(features, quality)
        t = self.analysis_head(self.analysis_gain_16(self.analysis_16(t), quality))
        return t  # type: ignore[no-any-return]

    @property
    def spread(self) -> Tensor:
        """How far the networks can move each channel of y1: (1, n1, 1, 1)."""
        return self.deviation.clamp(max=8).view(1, -1, 1, 1)

    def hyper_features(self, y1: Tensor, quality: Tensor) -> Tensor:
        """y1 -> what y2 and y3 are made of (B, hyper, h/2, w/2).  Reach: 1 position."""
        t: Tensor = self.hyper_analysis_2(self.normal(y1))
        return self.hyper_gain_2(t, quality)  # type: ignore[no-any-return]

    def hyper_analyse(self, t: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Hyper features -> y2 (B, n2, h/2, w/2), y3 (B, n3, h/4, w/4), both float32."""
        y2 = self.hyper_head_2(t).float() * MEAN_SCALE
        t = self.hyper_gain_3(self.hyper_analysis_3(t), quality)
        return y2, self.hyper_head_3(t).float() * MEAN_SCALE

    def predict_2(self, z3: Tensor, quality: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Quantised y3 -> features on the level-2 grid `size`, and the mean of y2."""
        t = self.features_3(z3 / MEAN_SCALE)[:, :, : size[0], : size[1]]
        t = self.features_gain_3(t, quality)
        return t, self.means_2(t).float() * MEAN_SCALE

    def predict_1(self, z2: Tensor, features: Tensor, quality: Tensor, size: tuple[int, int]) -> Tensor:
        """Quantised y2 and the level-2 features -> features on the level-1 grid `size`."""
        t: Tensor = self.features_2(torch.cat([z2 / MEAN_SCALE, features.to(z2.dtype)], 1))
        t = self.features_gain_2(t[:, :, : size[0], : size[1]], quality)
        return t

    def mean_1(self, features: Tensor) -> Tensor:
        """Level-1 features -> mean of the first `deep` channels of y1 (the rest: 0), in units of `unit`, float32.

        Reach: `mean_reach`.
        """
        return self.means_1(features).float()  # type: ignore[no-any-return]

    @property
    def unit(self) -> Tensor:
        """Deviation of each channel of y1 that the networks see: (1, deep, 1, 1)."""
        return self.deviation[: self.deep].view(1, -1, 1, 1)

    def by_phase(
        self, words_of: Callable[[int, Tensor | float], Tensor], size: tuple[int, ...], quality: Tensor
    ) -> Tensor:
        """The first bank of level 1, its channels in steps, (B, channels, h, w) of `size`: words and phase means.

        words_of(phase, mean) gives what is quantised at the positions of a phase, once their mean is known.  Not in
        tiles: each phase sees one position of those before it.
        """
        B, C, h, w = size
        known = torch.zeros(B, h, w, C, device=quality.device, dtype=torch.float32).permute(0, 3, 1, 2)
        around = [(row, column) for row in range(3) for column in range(3) if (row, column) != (1, 1)]
        with torch.autocast(quality.device.type, enabled=False):
            for phase, (top, left) in enumerate(PHASES):
                if top >= h or left >= w:
                    continue
                mean: Tensor | float = 0.0
                if phase:
                    padded = F.pad(known, (1, 1, 1, 1))
                    parts = [
                        padded[..., top + row : h + row : 2, left + column : w + column : 2] for row, column in around
                    ]
                    mean = self.phase_means[phase - 1](torch.cat(parts, 1), quality)
                known[at_phase(phase)] = words_of(phase, mean) + mean
        return known

    def normal(self, y1: Tensor) -> Tensor:
        """The channels of y1 that the networks see, (B, deep, h, w), of deviation about one."""
        return y1[:, : self.deep] / self.unit

    def synthesise(self, z1: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """Synthesis transform: quantised y1 and level-1 features -> pixels about 0..1 (B, 3, H, W) float32.

        Reach: `synthesis_reach`, with that of the mean.
        """
        patches = self.leave(z1, self.synthesise_features(z1, features, quality))
        return quarters_to_pixels(patches).permute(0, 3, 1, 2)

    def synthesise_features(self, z1: Tensor, features: Tensor, quality: Tensor) -> Tensor:
        """All of the synthesis that sees neighbours: -> last features (B, width, 2h, 2w)."""
        t = self.synthesis_16(torch.cat([self.normal(z1).to(features.dtype), features], 1))
        t = self.synthesis_8(self.synthesis_gain_16(t, quality))
        return self.synthesis_gain_8(t, quality)  # type: ignore[no-any-return]

    def leave(self, z1: Tensor, last: Tensor, one: float = 1.0, offset: float = 0.0) -> Tensor:
        """Quantised y1 and last features -> patches as of `quarters_to_pixels`, (B, h, w, 768) float32.  Reach: 0.

        Their pixels are about offset..offset + one.
        """

        def make() -> tuple[Tensor, ...]:
            def by_quarter(rows: Tensor) -> Tensor:
                return rows.view(2, 8, 2, 24, -1).transpose(1, 2).reshape(768, -1)

            mean = self.patch_mean[:, None]
            large = torch.cat([self.klt_synthesis[:, :LARGE], mean, torch.ones_like(mean)], 1)
            return by_quarter(large), by_quarter(self.klt_synthesis[:, LARGE:]).to(dtype)

        B, _, h, w = z1.shape

        def planes(quarters: Tensor) -> Tensor:
            return quarters.view(B, h, 4 * w, -1).permute(0, 3, 1, 2)

        rows, dtype = to_rows(z1.float()), network_dtype(self.klt_synthesis)
        with torch.autocast(z1.device.type, enabled=False):
            large, small = self._synthesis_matrices(self.klt_synthesis, dtype, make)
            quarters = linear(rows[:, LARGE:].to(dtype), small)
        quarters = to_rows(self.synthesis_head(planes(to_patches(last, 2)), planes(quarters)))
        with torch.autocast(z1.device.type, enabled=False):
            constant = rows.new_tensor([1.0, offset / one]).expand(len(rows), 2)
            known = torch.cat([rows[:, :LARGE], constant], 1)
            # in place, as fresh memory costs more than the arithmetic
            patches = quarters.view(-1, 768).float().addmm_(known, large.t(), beta=one, alpha=one)
        return patches.view(B, h, w, -1)

    def preview_inputs(self, z1: Tensor, features: Tensor) -> Tensor:
        """Quantised y1, its `LARGE` channels with those of the eight positions around, and level-1 features, in rows.

        z1 (B, channels, h, w): the first channels; features on its grid -> (B, h, w, channels + 8 LARGE + hyper)
        float32.  Without the positions around, previews of quality 1 are 4 dB further from the full decode.
        """
        around = neighbourhood(z1[:, :LARGE])
        return torch.cat([around, z1[:, LARGE:], features.float()], 1).permute(0, 2, 3, 1)

    def preview(self, z1: Tensor, features: Tensor, scale: int) -> Tensor:
        """A small picture without the networks: (B, 3, h * 16 / scale, w * 16 / scale) about 0..1, float32.

        z1: the channels of the first `PREVIEW_BANKS[scale]` banks, quantised; features: on the level-1 grid.
        Reach: `preview_reach`, with that of the mean.
        """
        with torch.autocast(z1.device.type, enabled=False):
            rows = self.previews[str(scale)](self.preview_inputs(z1, features))
            return to_pixels(rows, 16 // scale).permute(0, 3, 1, 2)

    def banks(self, level: int) -> list[Codebooks]:
        """The codebooks of level 1, 2 or 3."""
        return (self.quantiser1, self.quantiser2, self.quantiser3)[level - 1].codebooks

    def gain(self, level: int, quality: Tensor) -> Tensor:
        """Quantiser steps per unit of latent: (B, channels, 1, 1)."""
        table = (self.log_gain_1, self.log_gain_2, self.log_gain_3)[level - 1]
        return per_channel(torch.exp(at_quality(table, quality)))
