"""The integer prior: which probability table codes each codeword, computed exactly on every device.

A float sum differs between machines, thread counts and batch sizes, so nothing here is a float in spirit:
integers are held in floats, whose sums are exact below 2^24 in any order.  They are short: embeddings,
activations, energies and weights have eight bits and products sixteen, so that not even a caller's TF32 or
reduced-precision products can round them (docs/format.md, "Classes").  Each output's weights have a power of two
of their own, which changes nothing in a float but its exponent: here weights and biases are divided by it, with
a half in the biases, so that sums are activations, or classes, and rounding half up is their floor.

Planes are (channels, h, w), or (channels, B, h, w) for several pictures of a size.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .class_networks import (
    ACTIVATION_ONE,
    EMBEDDING_ONE,
    ENERGY_ONE,
    SHORT_MAX,
    ClassNetwork,
    ContextNetwork,
    short_power,
)
from .distortion import QUALITIES
from .network import Config

QUALITY_ONE = 256  # quality is an integer number of 256ths: 256..2048
WORD_ONE = 64  # of codewords as weights files hold them
CLASS_ONE = 1 << 8  # of the static classes of level 3
EXACT = 1 << 24  # sums are whole numbers below this
BIAS_PARTS = 3  # of eight bits each
BIAS_SLACK = 1 << 18  # by which sums of those parts, and of a half, can be beyond the bias
LARGEST_SHIFT = 15
STRIP = 4096  # positions computed at once on a CPU
WIDE_STRIP = 1 << 17  # elsewhere
# by how much the whole numbers of an output are more than the real ones, over how much those of its inputs are
ENTER = ACTIVATION_ONE / (EMBEDDING_ONE / ClassNetwork.SCALE_IN)
NEIGHBOURS = 1.0
CLASSES = ClassNetwork.SCALE_OUT / ACTIVATION_ONE
COARSE = ClassNetwork.SCALE_OUT
ENERGIES = ACTIVATION_ONE / ENERGY_ONE


def number(device: torch.device) -> torch.dtype:
    """What integers are held in: on the CPU float32; elsewhere a type whose products nobody makes less exact."""
    return torch.float32 if device.type == "cpu" else torch.float64


def at_quality(table: Tensor, quality: int) -> Tensor:
    """Integer rows of a per-quality table (8, C) interpolated at quality in 256ths, rounded half up."""
    low = min((quality - QUALITY_ONE) // QUALITY_ONE, QUALITIES - 2)
    share = quality - QUALITY_ONE * (low + 1)
    mixed = table[low].long() * (QUALITY_ONE - share) + table[low + 1].long() * share
    return torch.div(mixed + QUALITY_ONE // 2, QUALITY_ONE, rounding_mode="floor")


def worst(weight: Tensor, bias: Tensor) -> Tensor:
    """The largest magnitude that each row of `weight . x + bias` can reach for |x| <= SHORT_MAX, float64."""
    return weight.double().abs().sum(-1) * SHORT_MAX + bias.double().abs()


def check_sums(sums: Tensor) -> None:
    """Raise ValueError unless sums, in units of what is added, are exact whatever the codes are."""
    if (most := float(sums.max())) >= EXACT:
        raise ValueError(f"sums of class networks may reach {most:.3g}, beyond exact float32")


def check_product(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """Largest magnitudes (outputs,) of a product, float64; ValueError unless it is short and always exact."""
    if int(weight.abs().max()) > SHORT_MAX or int(shift.min()) < 1 or int(shift.max()) > LARGEST_SHIFT:
        raise ValueError(f"class networks have weights of at most {SHORT_MAX} and shifts of 1 to {LARGEST_SHIFT}")
    sums = worst(weight, bias)
    check_sums(sums + BIAS_SLACK)
    return sums / one(shift)


def strip_rows(planes: Tensor, each: int = 1) -> int:
    """How many rows of planes are computed at once, where `each` position is so many of those that count."""
    positions = STRIP if planes.device.type == "cpu" else WIDE_STRIP
    return max(1, positions // (planes[0, ..., 0, :].numel() * each))


def with_bias(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """Weight (outputs, inputs), bias (outputs,) in whole numbers -> what `product` takes, both divided by 2^shift.

    The bias as the weights of ones, of eight bits each.
    """
    bias, parts = bias.long(), []
    for i in range(BIAS_PARTS):
        last = i == BIAS_PARTS - 1
        parts.append((bias >> 8 * i if last else bias >> 8 * i & 255) << 8 * i)
    columns = torch.cat([weight.float(), torch.stack(parts, 1).float()], 1)
    return columns / one(shift)[:, None]


def product(weight: Tensor, *parts: Tensor) -> Tensor:
    """Of `with_bias`, at every position of planes (C, ...) of any type, one part after another -> (outputs, ...)."""
    sizes, shape = [len(part) for part in parts], parts[0].shape[1:]
    inputs = torch.empty(sum(sizes) + BIAS_PARTS, *shape, dtype=weight.dtype, device=weight.device)
    for place, part in zip(torch.split(inputs[:-BIAS_PARTS], sizes), parts, strict=True):
        place.copy_(part)
    inputs[-BIAS_PARTS:] = 1
    with torch.autocast(weight.device.type, enabled=False):  # which would round the sums
        return (weight @ inputs.flatten(1)).view(-1, *shape)


def neighbourhood_product(weight: Tensor, padded: Tensor) -> Tensor:
    """`product` of the 3x3 around each position: of `by_row`, (C, ..., h+2, w+2) of any type -> (outputs, ..., h, w).

    The three columns side by side as inputs, the three rows as outputs, summed after: less to copy than with nine
    of either.
    """
    h, w = padded.shape[-2] - 2, padded.shape[-1] - 2
    above, here, below = product(weight, *(padded[..., left : left + w] for left in range(3))).chunk(3)
    return (above[..., :h, :] + here[..., 1 : 1 + h, :]).add_(below[..., 2:, :])


def by_row(weight: Tensor, bias: Tensor, shift: Tensor) -> Tensor:
    """`with_bias` of rows (outputs, 9 C) in unfold's order (channel, row, column), by row and by column.

    -> (3 * outputs, 3 * C + BIAS_PARTS).  The bias is with the first of the three rows.
    """
    outputs = len(weight)
    rows = weight.view(outputs, -1, 3, 3).permute(2, 0, 3, 1).reshape(3 * outputs, -1)
    return with_bias(rows, F.pad(bias, (0, 2 * outputs)), shift.repeat(3))


def finer(four: Tensor, onto: Tensor, add: bool) -> Tensor:
    """Put, or add, what belongs to the four finer positions of each, (n, 4, ..., h, w), onto (n, ..., <=2h, <=2w)."""
    for i, part in enumerate(four.unbind(1)):
        at = onto[..., i // 2 :: 2, i % 2 :: 2]
        part = part[..., : at.shape[-2], : at.shape[-1]]
        if add:
            at.add_(part)
        else:
            at.copy_(part)
    return onto


def pad(x: Tensor) -> Tensor:
    """(..., h, w) -> (..., h+2, w+2), edges replicated."""
    x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], -2)
    return torch.cat([x[..., :1], x, x[..., -1:]], -1)


class IntegerClassNetwork:
    """`class_networks.ClassNetwork` in integers; its tensors come from the weights file under one prefix."""

    NAMES = (
        "enter.weight",
        "enter.shift",
        "hidden_bias",
        "neighbours.weight",
        "neighbours.shift",
        "neighbours.bias",
        "leave.weight",
        "leave.shift",
        "leave.bias",
        "class_bias",
    )

    def __init__(self, tensors: Mapping[str, Tensor], groups: int) -> None:
        """groups: how many of the first outputs are classes; the others enter context networks."""
        self.enter, self.enter_shift, self.hidden_bias = (tensors[name] for name in self.NAMES[:3])
        neighbours, shift, bias = (tensors[name] for name in self.NAMES[3:6])
        leave, self.shift, leave_bias, self.class_bias = (tensors[name] for name in self.NAMES[6:])
        self.neighbours = by_row(neighbours, bias + half(shift), shift)
        outputs = len(self.shift)
        # a row for each of the four finer positions of each output
        self.leave, self.leave_bias = leave.view(outputs, 4, -1), leave_bias.view(outputs, 4)
        self.half = half(self.shift)
        self.half[groups:] = 0  # activations are rounded later
        check_product(self.enter, self.hidden_bias.abs().amax(0), self.enter_shift)
        check_product(neighbours, bias, shift)
        largest = self.leave_bias.abs() + self.class_bias.abs().amax(0)[:, None]
        by_row_shift = self.shift.repeat_interleave(4)
        self.largest = check_product(leave, largest.flatten(), by_row_shift).view(outputs, 4).amax(1)

    def hidden(self, embedding: Tensor, quality: int) -> Tensor:
        """Integer embeddings (inputs, ..., h, w) -> hidden activations (width, ..., h, w) uint8."""
        h, device = embedding.shape[-2], embedding.device
        bias = at_quality(self.hidden_bias, quality) + half(self.enter_shift)
        enter = with_bias(self.enter, bias, self.enter_shift).to(device, number(device))
        neighbours = self.neighbours.to(device, number(device))
        padded = pad(embedding)
        rows = strip_rows(embedding)
        strips = []
        for top in range(0, h, rows):
            part = padded[..., top : min(h, top + rows) + 2, :]
            near = product(enter, part).floor_().clamp_(0, SHORT_MAX)
            x = neighbourhood_product(neighbours, near).floor_().clamp_(min=0)
            strips.append(x.add_(near[..., 1:-1, 1:-1]).clamp_(max=SHORT_MAX).to(torch.uint8))
        return torch.cat(strips, -2)

    def outputs(self, quality: int, which: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function that gives some outputs, (n, 4, ..., h, w), of hidden activations (width, ..., h, w).

        Those are in classes, with a half more, or in activations of a context network, at the four finer positions.
        """
        which = list(which)
        bias = self.leave_bias + (at_quality(self.class_bias, quality) + self.half)[:, None]
        shift = self.shift[which].repeat_interleave(4)
        weight = with_bias(self.leave[which].flatten(0, 1), bias[which].flatten(), shift).to(device, number(device))
        return lambda hidden: product(weight, hidden).view(-1, 4, *hidden.shape[1:])


class IntegerContextNetwork:
    """`class_networks.ContextNetwork` in integers, of `inputs` log energies, at nine positions or at its own.

    `coarse` and `base`: the largest value, and the shift, of the outputs of the class network that enter, and of those
    that it adds to.
    """

    NAMES = ("enter.weight", "enter.shift", "enter.bias", "leave.weight", "leave.shift", "leave.bias")

    def __init__(
        self, tensors: Mapping[str, Tensor], inputs: int, coarse: tuple[Tensor, Tensor], base: tuple[Tensor, Tensor]
    ) -> None:
        enter, shift, bias, leave, leave_shift, leave_bias = (tensors[name] for name in self.NAMES)
        self.neighbours = enter.shape[1] != inputs
        for weight, own, mine, (largest, theirs) in (
            (enter, bias, shift, coarse),
            (leave, leave_bias, leave_shift, base),
        ):
            check_sums((check_product(weight, own, mine) + largest + 1) * one(torch.maximum(mine, theirs)))
        self.enter = (by_row if self.neighbours else with_bias)(enter, bias + half(shift), shift)
        self.leave = with_bias(leave, leave_bias, leave_shift)

    def __call__(self, log_energy: Tensor, coarse: Tensor) -> Tensor:
        """Padded log energies (inputs, ..., h+2, w+2), hidden input (width, 4, ..., h/2, w/2) -> what classes gain.

        The hidden input is as of `IntegerClassNetwork.outputs`, its sides rounded up or with more rows than are used;
        the gain is in classes, (groups, ..., h, w).
        """
        device = coarse.device
        seen = log_energy if self.neighbours else log_energy[..., 1:-1, 1:-1]
        x = (neighbourhood_product if self.neighbours else product)(self.enter.to(device, number(device)), seen)
        x = finer(coarse, x, add=True).floor_().clamp_(0, SHORT_MAX)
        return product(self.leave.to(device, number(device)), x)


class Prior:
    """Classes of all three levels from quality and codes already known; integers in, integers out.

    `tensors`: the entries "prior.*" of a weights file: class networks 1 and 2, a context network for each bank of
    level 1 but the first, static classes of level 3, and the integer embedding of every codeword, (groups, K, dim)
    for each level, bank and stage.
    """

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.config = config
        self.static = tensors["prior.class_3"]
        groups = sum(bank.groups for bank in config.level1)
        self.network_1 = IntegerClassNetwork(under("prior.network_1."), groups)
        self.network_2 = IntegerClassNetwork(under("prior.network_2."), sum(bank.groups for bank in config.level2))
        sizes = [bank.groups for bank in config.level1] + [config.context_width] * (len(config.level1) - 1)
        bounds = [*zip(*(torch.split(t, sizes) for t in (self.network_1.largest, self.network_1.shift)), strict=True)]
        banks, coarse = bounds[: len(config.level1)], bounds[len(config.level1) :]
        before = itertools.accumulate(sizes[: len(banks) - 1])
        self.contexts = [
            IntegerContextNetwork(under(f"prior.context_{b}."), inputs, mine, base)
            for b, (inputs, mine, base) in enumerate(zip(before, coarse, banks[1:], strict=True), 1)
        ]
        self.embeddings = {
            level: [
                [tensors[f"prior.embedding_{level}.{b}.{s}"] for s in range(len(bank.stages))]
                for b, bank in enumerate(config.banks(level))
            ]
            for level in (1, 2, 3)
        }
        # for every bank of level 1 the log energies of words of the last stage behind words 0, (groups, K) uint8
        summed = [
            [table[:, :1].double() for table in tables[:-1]] + [tables[-1].double()] for tables in self.embeddings[1]
        ]
        self.alone = [log_energy(functools.reduce(torch.add, parts)) for parts in summed]

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes of level 2 or 3 (symbols, ..., h, w) -> their integer embeddings (channels, ..., h, w)."""
        planes, start, dtype = [], 0, number(codes.device)
        for bank, stages in zip(self.config.banks(level), self.embeddings[level], strict=True):
            mine = codes[start : start + bank.symbols].reshape(bank.groups, len(stages), -1).long()
            start += bank.symbols
            total = torch.zeros(bank.groups, mine.shape[2], bank.dim, dtype=dtype, device=codes.device)
            for s, table in enumerate(stages):
                index = mine[:, s, :, None].expand(-1, -1, bank.dim)
                total += torch.gather(table.to(codes.device, dtype), 1, index)
            total = total.div_(WORD_ONE // EMBEDDING_ONE).add_(0.5).floor_().clamp_(-SHORT_MAX, SHORT_MAX)
            planes.append(total.permute(0, 2, 1).reshape(bank.groups * bank.dim, *codes.shape[1:]))
        return torch.cat(planes)

    def log_energy(self, bank: int, codes: Tensor) -> Tensor:
        """Codes of a bank of level 1 (symbols, ..., h, w) -> log2(1 + squared norm) of its groups, in eighths, uint8.

        Few vectors have a word other than 0 at an earlier stage than the last: the others are looked up.
        """
        tables, alone = self.embeddings[1][bank], self.alone[bank].to(codes.device)
        mine = codes.reshape(len(alone), len(tables), -1)
        result = torch.gather(alone, 1, mine[:, -1].long())
        if len(tables) > 1:
            g, at = (mine[:, :-1] != 0).any(1).nonzero(as_tuple=True)
            words = torch.zeros(len(g), tables[0].shape[2], dtype=torch.float64, device=codes.device)
            for s, table in enumerate(tables):
                words += table.to(codes.device)[g, mine[g, s, at].long()]
            result[g, at] = log_energy(words)
        return result.view(-1, *codes.shape[1:])

    def classes_3(self, quality: int, size: tuple[int, int]) -> Tensor:
        """Static classes (groups, *size) uint8."""
        classes = (at_quality(self.static, quality).double() / CLASS_ONE + 0.5).clamp_(0, self.config.classes - 1)
        return classes.to(torch.uint8)[:, None, None].expand(-1, *size)

    def classes_2(self, codes_3: Tensor, quality: int, size: tuple[int, int]) -> Tensor:
        """Classes of y2 (groups, ..., *size) uint8 from the codes of level 3."""
        hidden = self.network_2.hidden(self.embed(3, codes_3), quality)
        every = range(len(self.network_2.shift))
        four = self.network_2.outputs(quality, every, hidden.device)(hidden)
        classes = torch.empty(len(every), *hidden.shape[1:-2], *size, dtype=torch.uint8, device=hidden.device)
        return finer(four.clamp_(0, self.config.classes - 1), classes, add=False)

    def hidden_1(self, codes_3: Tensor, codes_2: Tensor, quality: int) -> Tensor:
        """Codes of levels 3 and 2 -> what they say about level 1, for `classes_1`."""
        h, w = codes_2.shape[-2:]
        above = self.embed(3, codes_3).repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :h, :w]
        return self.network_1.hidden(torch.cat([self.embed(2, codes_2), above]), quality)

    def classes_1(self, bank: int, hidden: Tensor, log_energy: Tensor, quality: int) -> Tensor:
        """Classes of a bank of y1 (groups, ..., h, w) uint8.

        hidden: of `hidden_1`; log_energy: of all earlier banks, padded, (their groups, ..., h + 2, w + 2).
        """
        h, w = log_energy.shape[-2] - 2, log_energy.shape[-1] - 2
        banks, top_class = self.config.level1, self.config.classes - 1
        first, groups = sum(b.groups for b in banks[:bank]), banks[bank].groups
        which = [*range(first, first + groups)]
        if bank:
            width = self.config.context_width
            inputs = sum(b.groups for b in banks) + (bank - 1) * width
            which += range(inputs, inputs + width)
        outputs = self.network_1.outputs(quality, which, hidden.device)
        classes = torch.empty(groups, *hidden.shape[1:-2], h, w, dtype=torch.uint8, device=hidden.device)
        rows = strip_rows(hidden, 4)  # of the level-2 grid
        for top in range(0, hidden.shape[-2], rows):
            four = outputs(hidden[..., top : top + rows, :])
            start, end = 2 * top, min(h, 2 * (top + rows))
            mine = classes[..., start:end, :]
            if bank:
                gained = self.contexts[bank - 1](log_energy[..., start : end + 2, :], four[groups:])
                mine.copy_(finer(four[:groups], gained, add=True).clamp_(0, top_class))
            else:
                finer(four.clamp_(0, top_class), mine, add=False)
        return classes


def log_energy(words: Tensor) -> Tensor:
    """Sums of integer embeddings (..., dim) float64 -> log2(1 + squared norm) in eighths, (...) uint8.

    Linear between powers of two: exponent and mantissa of a float64 that holds the energy exactly.
    """
    mantissa, exponent = torch.frexp(words.square().sum(-1) / WORD_ONE**2 + 1)
    eighths = (exponent - 2) * ENERGY_ONE + torch.floor(mantissa * (2 * ENERGY_ONE))
    return eighths.clamp_(max=SHORT_MAX).to(torch.uint8)


def one(shift: Tensor) -> Tensor:
    """One, (outputs,) int32, in units of 2^-shift."""
    return torch.bitwise_left_shift(torch.ones_like(shift, dtype=torch.int32), shift.int())


def half(shift: Tensor) -> Tensor:
    """A half, (outputs,) int32, in units of 2^-shift."""
    return one(shift - 1)


def fixed_weight(weight: Tensor, factor: Tensor | float, per: int = 1) -> tuple[Tensor, Tensor]:
    """Trained weight (outputs * per, inputs) -> whole numbers, int16, and the shift of each output, int16.

    factor: of each output, see `ENTER` and what follows.
    """
    power = short_power(weight.detach().view(-1, per * weight.shape[1]))
    whole = torch.round(weight.detach() * torch.exp2(power).repeat_interleave(per)[:, None])
    shift = (power - torch.log2(torch.as_tensor(factor))).round()
    return whole.clamp(-SHORT_MAX, SHORT_MAX).to(torch.int16), shift.to(torch.int16)


def fixed_bias(bias: Tensor, unit: Tensor | float, shift: Tensor) -> Tensor:
    """Trained bias (..., outputs) in whole numbers, int32; unit: what an output of 1 is, before it is shifted."""
    return torch.round(bias.detach().double() * unit * torch.exp2(shift.double())).to(torch.int32)


def leave_units(outputs: int, groups: int) -> tuple[Tensor, Tensor]:
    """Outputs of a class network, `groups` of them classes: what one is, and the factor as of `fixed_weight`."""
    of_groups = torch.arange(outputs) < groups
    return torch.where(of_groups, 1.0, float(ACTIVATION_ONE)), torch.where(of_groups, CLASSES, COARSE)


def export_class_network(network: ClassNetwork, groups: int) -> dict[str, Tensor]:
    """The integer tensors of a trained class network, by `IntegerClassNetwork.NAMES`; groups: as there."""
    outputs = network.class_bias.shape[1]
    unit, factor = leave_units(outputs, groups)
    enter, enter_shift = fixed_weight(network.enter.weight, ENTER)
    neighbours, shift = fixed_weight(network.neighbours.weight, NEIGHBOURS)
    leave, leave_shift = fixed_weight(network.leave.weight, factor, per=4)
    bias = network.leave.bias.view(outputs, 4).t() * ClassNetwork.SCALE_OUT
    return {
        "enter.weight": enter,
        "enter.shift": enter_shift,
        "hidden_bias": fixed_bias(network.hidden_bias + network.enter.bias, ACTIVATION_ONE, enter_shift),
        "neighbours.weight": neighbours,
        "neighbours.shift": shift,
        "neighbours.bias": fixed_bias(network.neighbours.bias, ACTIVATION_ONE, shift),
        "leave.weight": leave,
        "leave.shift": leave_shift,
        "leave.bias": fixed_bias(bias, unit, leave_shift).t().flatten(),
        "class_bias": fixed_bias(network.class_bias, unit, leave_shift),
    }


def export_context_network(network: ContextNetwork) -> dict[str, Tensor]:
    """The integer tensors of a trained context network, by `IntegerContextNetwork.NAMES`."""
    enter, shift = fixed_weight(network.enter.weight, ENERGIES)
    leave, leave_shift = fixed_weight(network.leave.weight, CLASSES)
    return {
        "enter.weight": enter,
        "enter.shift": shift,
        "enter.bias": fixed_bias(network.enter.bias, ACTIVATION_ONE, shift),
        "leave.weight": leave,
        "leave.shift": leave_shift,
        "leave.bias": fixed_bias(network.leave.bias, ClassNetwork.SCALE_OUT, leave_shift),
    }


def float_weight(weight: Tensor, shift: Tensor, factor: Tensor | float) -> Tensor:
    """The inverse of `fixed_weight`, but for rounding."""
    rows = len(weight) // len(shift)
    return weight.float() / (torch.exp2(shift.float()) * factor).repeat_interleave(rows)[:, None]


def float_bias(bias: Tensor, unit: Tensor | float, shift: Tensor) -> Tensor:
    """The inverse of `fixed_bias`, but for rounding."""
    return (bias.double() / (torch.exp2(shift.double()) * unit)).float()


def import_class_network(tensors: Mapping[str, Tensor], groups: int) -> dict[str, Tensor]:
    """The inverse of `export_class_network`, but for rounding."""
    enter_shift, shift, leave_shift = (tensors[f"{name}.shift"] for name in ("enter", "neighbours", "leave"))
    unit, factor = leave_units(len(leave_shift), groups)
    bias = float_bias(tensors["leave.bias"].view(-1, 4).t(), unit, leave_shift).t().flatten()
    return {
        "enter.weight": float_weight(tensors["enter.weight"], enter_shift, ENTER),
        "enter.bias": torch.zeros(len(enter_shift)),  # it is in the hidden bias
        "hidden_bias": float_bias(tensors["hidden_bias"], ACTIVATION_ONE, enter_shift),
        "neighbours.weight": float_weight(tensors["neighbours.weight"], shift, NEIGHBOURS),
        "neighbours.bias": float_bias(tensors["neighbours.bias"], ACTIVATION_ONE, shift),
        "leave.weight": float_weight(tensors["leave.weight"], leave_shift, factor),
        "leave.bias": bias / ClassNetwork.SCALE_OUT,
        "class_bias": float_bias(tensors["class_bias"], unit, leave_shift),
    }


def import_context_network(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `export_context_network`, but for rounding."""
    shift, leave_shift = tensors["enter.shift"], tensors["leave.shift"]
    return {
        "enter.weight": float_weight(tensors["enter.weight"], shift, ENERGIES),
        "enter.bias": float_bias(tensors["enter.bias"], ACTIVATION_ONE, shift),
        "leave.weight": float_weight(tensors["leave.weight"], leave_shift, CLASSES),
        "leave.bias": float_bias(tensors["leave.bias"], ClassNetwork.SCALE_OUT, leave_shift),
    }


def export_embedding(words: Tensor) -> Tensor:
    """Integer embeddings of the codewords of one stage (groups, K, dim), in 64ths of a step.

    A component beyond 512 steps counts as 512.
    """
    return torch.round(words.detach().double() * WORD_ONE).clamp(-32767, 32767).to(torch.int16)
