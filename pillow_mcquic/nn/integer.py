"""Matrix products of whole numbers that are the same on every device, in any order of summation.

A float sum differs between machines, thread counts and batch sizes, so nothing here is a float in spirit: integers are
held in floats, whose sums are exact below 2^24.  Inputs and weights have eight bits and products sixteen, so that not
even a caller's TF32 or bfloat16 products can round them.  An output's weights have a power of two of their own, the
shift; weights and bias are divided by it beforehand, which changes nothing in a float but its exponent.

Planes are (B, channels, h, w); an output is `floor` of what a product gives, with a half in the bias to round.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAGNITUDE = 255  # the largest of inputs and weights
EXACT = 1 << 24  # sums are whole numbers below this
LARGEST_SHIFT = 15
BIAS_PARTS = 3  # of eight bits each
BIAS_SLACK = 1 << 18  # by which sums of those parts, and of a half, can be beyond the bias
BLOCK_POSITIONS = 4096  # computed at once on a CPU
WIDE_BLOCK_POSITIONS = 1 << 17  # elsewhere


def holding_type(device: torch.device) -> torch.dtype:
    """What integers are held in: on the CPU float32; elsewhere a type whose products nobody makes less exact."""
    return torch.float32 if device.type == "cpu" else torch.float64


def at_quality(table: Tensor, steps: int, one: int) -> Tensor:
    """Integer rows of a per-quality table (qualities, C) interpolated, rounded half up: (C,) int64.

    steps: quality in units of which `one` make a whole quality; the first row is quality 1.
    """
    low = min(steps // one - 1, len(table) - 2)
    share = steps - one * (low + 1)
    mixed = table[low].long() * (one - share) + table[low + 1].long() * share
    return torch.div(mixed + one // 2, one, rounding_mode="floor")


def power(shift: Tensor) -> Tensor:
    """2^shift, (outputs,) int32."""
    return torch.bitwise_left_shift(torch.ones_like(shift, dtype=torch.int32), shift.int())


def half(shift: Tensor) -> Tensor:
    """A half in units of 2^-shift, (outputs,) int32."""
    return power(shift - 1)


def bound(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """The largest magnitude (outputs,) float64 that a product can reach, before rounding.

    Raises ValueError unless weights and shifts are in range, and sums exact whatever the inputs are: 255 times the sum
    of |weights|, plus |bias|, before it is divided by 2^shift, must be below 2^24.
    """
    if int(weight.abs().max()) > MAGNITUDE or int(shift.min()) < 1 or int(shift.max()) > LARGEST_SHIFT:
        raise ValueError(f"entropy networks have weights of at most {MAGNITUDE} and shifts of 1 to {LARGEST_SHIFT}")
    sums = weight.double().abs().sum(-1) * MAGNITUDE + bias.double().abs()
    check_sums(sums + BIAS_SLACK)
    return sums / power(shift)


def check_sums(sums: Tensor) -> None:
    """Raise ValueError unless sums, in units of what is added, are exact whatever the codes are."""
    if (most := float(sums.max())) >= EXACT:
        raise ValueError(f"sums of entropy networks may reach {most:.3g}, beyond exact float32")


def with_bias(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """Weight (outputs, inputs), bias (outputs,) in whole numbers -> what `product` takes, both divided by 2^shift.

    The bias becomes the weights of three ones, of eight bits each.
    """
    bias, parts = bias.long(), []
    for i in range(BIAS_PARTS):
        last = i == BIAS_PARTS - 1
        parts.append((bias >> 8 * i if last else bias >> 8 * i & 255) << 8 * i)
    columns = torch.cat([weight.float(), torch.stack(parts, 1).float()], 1)
    return columns / power(shift)[:, None]


def by_row(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """`with_bias` for `neighbourhood_product`: weight (outputs, 9 C) in the order (channel, row, column).

    Returns (3 * outputs, 3 * C + BIAS_PARTS), by row, and within by column; the bias is with the first of the rows.
    """
    outputs = len(weight)
    rows = weight.view(outputs, -1, 3, 3).permute(2, 0, 3, 1).reshape(3 * outputs, -1)
    return with_bias(rows, F.pad(bias, (0, 2 * outputs)), shift.repeat(3))


def product(weight: Tensor, *parts: Tensor) -> Tensor:
    """A layer of each position: inputs (B, C, h, w), one part after another -> (B, outputs, h, w).

    weight: of `with_bias`.  The parts may be of any type.
    """
    sizes, (B, _, h, w) = [part.shape[1] for part in parts], parts[0].shape
    inputs = torch.empty(B, sum(sizes) + BIAS_PARTS, h, w, dtype=weight.dtype, device=weight.device)
    for place, part in zip(torch.split(inputs[:, :-BIAS_PARTS], sizes, 1), parts, strict=True):
        place.copy_(part)
    inputs[:, -BIAS_PARTS:] = 1
    columns = inputs.flatten(2)
    with torch.autocast(weight.device.type, enabled=False):  # which would round the sums
        sums = (weight @ columns[0])[None] if B == 1 else torch.bmm(weight.expand(B, -1, -1), columns)
    return sums.view(B, -1, h, w)


def neighbourhood_product(weight: Tensor, *padded: Tensor) -> Tensor:
    """`product` of the 3x3 around each position: weight of `by_row`, inputs (B, C, h+2, w+2) -> (B, outputs, h, w).

    The three columns side by side as inputs, the three rows as outputs, summed after: less to copy than with nine of
    either.
    """
    h, w = padded[0].shape[-2] - 2, padded[0].shape[-1] - 2
    columns = [part[..., left : left + w] for left in range(3) for part in padded]
    above, here, below = product(weight, *columns).chunk(3, 1)
    return (above[..., :h, :] + here[..., 1 : 1 + h, :]).add_(below[..., 2:, :])


def add_finer(quarters: Tensor, onto: Tensor) -> Tensor:
    """Add what belongs to the four finer positions of each, (B, n, 4, h, w), onto (B, n, <=2h, <=2w)."""
    for i, part in enumerate(quarters.unbind(2)):
        place = onto[..., i // 2 :: 2, i % 2 :: 2]
        place.add_(part[..., : place.shape[-2], : place.shape[-1]])
    return onto


def put_finer(quarters: Tensor, out: Tensor) -> Tensor:
    """`add_finer`, in place of what was there."""
    for i, part in enumerate(quarters.unbind(2)):
        place = out[..., i // 2 :: 2, i % 2 :: 2]
        place.copy_(part[..., : place.shape[-2], : place.shape[-1]])
    return out


def block_rows(planes: Tensor, weight: int = 1) -> int:
    """How many rows of planes (B, C, h, w) are computed at once, where each position counts `weight` times."""
    positions = BLOCK_POSITIONS if planes.device.type == "cpu" else WIDE_BLOCK_POSITIONS
    return max(1, positions // (planes.shape[0] * planes.shape[3] * weight))
