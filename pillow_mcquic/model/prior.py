"""The integer prior: which probability table codes each codeword, computed exactly on every device.

A float sum differs between machines, thread counts and batch sizes, so nothing here is a float in spirit:
integers are held in float64, whose sums are exact below 2^53 in any order, on CPU and CUDA alike and
whatever a caller set for TF32 or reduced-precision products.  Fixed-point scales of what weights files hold:
embeddings and activations 2^8, weights 2^12, products 2^20, classes 2^18 (docs/format.md, "Classes").  A
power of two more or less changes nothing in a float but its exponent, so here weights and biases are divided
by what their sums would be divided by, with a half in the biases: sums are activations, or classes, and
rounding half up is their floor.

Planes are (channels, h, w), or (channels, B, h, w) for several pictures of a size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .distortion import QUALITIES
from .network import ClassNetwork, Config, ContextNetwork

QUALITY_ONE = 256  # quality is an integer number of 256ths: 256..2048
EMBEDDING_SCALE = 64  # of codewords; times ClassNetwork.SCALE_IN this is ACTIVATION_ONE
ACTIVATION_ONE = 1 << 8
WEIGHT_ONE = 1 << 12
PRODUCT_ONE = ACTIVATION_ONE * WEIGHT_ONE
CLASS_ONE = PRODUCT_ONE // int(ClassNetwork.SCALE_OUT)
ACTIVATION_MAX = int(ClassNetwork.LIMIT) * ACTIVATION_ONE
WEIGHT_MAX = (1 << 15) - 1
EMBEDDING_MAX = (1 << 20) - 1  # more stages of int16 than any configuration has
LOG_ENERGY_MAX = 53 * ACTIVATION_ONE  # of a number that float64 holds exactly
EXACT = (1 << 53) - CLASS_ONE  # with room for what rounding adds
STRIP = 4096  # positions computed at once on a CPU
WIDE_STRIP = 1 << 17  # elsewhere


def at_quality(table: Tensor, quality: int) -> Tensor:
    """Integer rows of a per-quality table (8, C) interpolated at quality in 256ths, rounded half up."""
    low = min((quality - QUALITY_ONE) // QUALITY_ONE, QUALITIES - 2)
    share = quality - QUALITY_ONE * (low + 1)
    mixed = table[low].long() * (QUALITY_ONE - share) + table[low + 1].long() * share
    return torch.div(mixed + QUALITY_ONE // 2, QUALITY_ONE, rounding_mode="floor")


def worst(weight: Tensor, bias: Tensor, largest: int) -> float:
    """The largest magnitude a row of `weight . x + bias` can reach for 0 <= |x| <= largest."""
    return float(weight.abs().sum(-1).max()) * largest + float(bias.abs().max())


def check_bounds(*sums: float) -> None:
    """Raise ValueError unless every sum stays below 2^53 whatever the codes are."""
    if max(sums) >= EXACT:
        raise ValueError(f"class network sums may reach {max(sums):.3g}, beyond exact float64")


def strip_rows(planes: Tensor, each: int = 1) -> int:
    """How many rows of planes are computed at once, where `each` position is so many of those that count."""
    positions = STRIP if planes.device.type == "cpu" else WIDE_STRIP
    return max(1, positions // (planes[0, ..., 0, :].numel() * each))


def with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """Weight (outputs, inputs) and bias (outputs,) -> what `product` takes: the bias as the weight of a one."""
    return torch.cat([weight, bias[:, None]], 1)


def product(weight: Tensor, *parts: Tensor) -> Tensor:
    """Of `with_bias`, at every position of planes (C, ...) of any type, one part after another -> (outputs, ...)."""
    sizes, shape = [len(part) for part in parts], parts[0].shape[1:]
    inputs = torch.empty(sum(sizes) + 1, *shape, dtype=torch.float64, device=parts[0].device)
    for place, part in zip(torch.split(inputs[:-1], sizes), parts, strict=True):
        place.copy_(part)
    inputs[-1] = 1
    return (weight @ inputs.flatten(1)).view(-1, *shape)


def neighbourhood_product(weight: Tensor, padded: Tensor) -> Tensor:
    """`product` of the 3x3 around each position: of `by_row`, (C, ..., h+2, w+2) of any type -> (outputs, ..., h, w).

    The three columns side by side as inputs, the three rows as outputs, summed after: less to copy than with nine
    of either.
    """
    h, w = padded.shape[-2] - 2, padded.shape[-1] - 2
    above, here, below = product(weight, *(padded[..., left : left + w] for left in range(3))).chunk(3)
    return (above[..., :h, :] + here[..., 1 : 1 + h, :]).add_(below[..., 2:, :])


def by_row(weight: Tensor, bias: Tensor) -> Tensor:
    """Rows (outputs, 9 C) in unfold's order (channel, row, column) -> (3 * outputs, 3 * C + 1), by row and by column.

    The bias is with the first of the three rows.
    """
    outputs = len(weight)
    rows = weight.view(outputs, -1, 3, 3).permute(2, 0, 3, 1).reshape(3 * outputs, -1)
    return with_bias(rows, F.pad(bias, (0, 2 * outputs)))


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
    """`network.ClassNetwork` in integers; its tensors come from the weights file under one prefix."""

    NAMES = (
        "enter.weight",
        "neighbours.weight",
        "neighbours.bias",
        "leave.weight",
        "leave.bias",
        "hidden_bias",
        "class_bias",
    )

    def __init__(self, tensors: Mapping[str, Tensor], groups: int) -> None:
        """groups: how many of the first outputs are classes; the others enter context networks."""
        enter, neighbours, neighbours_bias, leave, leave_bias = (
            tensors[name].to(torch.float64) for name in self.NAMES[:5]
        )
        self.hidden_bias, self.class_bias = (tensors[name] for name in self.NAMES[5:])
        self.enter = enter / WEIGHT_ONE
        self.neighbours = by_row(neighbours / WEIGHT_ONE, neighbours_bias / WEIGHT_ONE + 0.5)
        # what one is in each output: a class, or an activation of a context network
        self.one = one = torch.full_like(self.class_bias[0], CLASS_ONE, dtype=torch.float64)
        one[groups:] = WEIGHT_ONE * CLASS_ONE / PRODUCT_ONE
        # a row for each of the four finer positions of each output
        self.leave = leave.view(len(one), 4, -1) / one[:, None, None]
        self.leave_bias = leave_bias.view(len(one), 4) / one[:, None]
        self.leave_bias[:groups] += 0.5  # activations are rounded later
        self.largest = worst(leave, leave_bias, ACTIVATION_MAX) + float(self.class_bias.abs().max())
        check_bounds(
            worst(enter, self.hidden_bias, EMBEDDING_MAX),
            worst(neighbours, neighbours_bias, ACTIVATION_MAX),
            self.largest,
        )

    def hidden(self, embedding: Tensor, quality: int) -> Tensor:
        """Integer embeddings (inputs, ..., h, w) float64 -> hidden activations (width, ..., h, w) int32."""
        h, device = embedding.shape[-2], embedding.device
        enter = with_bias(self.enter, at_quality(self.hidden_bias, quality).double() / WEIGHT_ONE + 0.5).to(device)
        neighbours = self.neighbours.to(device)
        padded = pad(embedding)
        rows = strip_rows(embedding)
        strips = []
        for top in range(0, h, rows):
            part = padded[..., top : min(h, top + rows) + 2, :]
            near = product(enter, part).floor_().clamp_(0, ACTIVATION_MAX)
            x = neighbourhood_product(neighbours, near).floor_().clamp_(min=0)
            strips.append(x.add_(near[..., 1:-1, 1:-1]).clamp_(max=ACTIVATION_MAX).int())
        return torch.cat(strips, -2)

    def outputs(self, quality: int, which: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function that gives some outputs, (n, 4, ..., h, w) float64, of hidden activations (width, ..., h, w).

        Those are in classes, with a half more, or in activations of a context network, at the four finer positions.
        """
        which = list(which)
        bias = self.leave_bias + (at_quality(self.class_bias, quality) / self.one)[:, None]
        weight = with_bias(self.leave[which].flatten(0, 1), bias[which].flatten()).to(device)
        return lambda hidden: product(weight, hidden).view(-1, 4, *hidden.shape[1:])


class IntegerContextNetwork:
    """`network.ContextNetwork` in integers; `largest` bounds what comes in from the class network."""

    NAMES = ("enter.weight", "enter.bias", "leave.weight", "leave.bias")

    def __init__(self, tensors: Mapping[str, Tensor], largest: float) -> None:
        enter, enter_bias, leave, leave_bias = (tensors[name].to(torch.float64) for name in self.NAMES)
        check_bounds(
            worst(enter, enter_bias, LOG_ENERGY_MAX) + largest * (PRODUCT_ONE // CLASS_ONE),
            worst(leave, leave_bias, ACTIVATION_MAX) + largest,
        )
        self.enter = by_row(enter / WEIGHT_ONE, enter_bias / WEIGHT_ONE + 0.5)
        self.leave = with_bias(leave / CLASS_ONE, leave_bias / CLASS_ONE)

    def __call__(self, log_energy: Tensor, coarse: Tensor) -> Tensor:
        """Padded log energies (inputs, ..., h+2, w+2), hidden input (width, 4, ..., h/2, w/2) -> what classes gain.

        The hidden input is as of `IntegerClassNetwork.outputs`, its sides rounded up or with more rows than are used;
        the gain is in classes, (groups, ..., h, w) float64.
        """
        device = log_energy.device
        x = neighbourhood_product(self.enter.to(device), log_energy)
        return product(self.leave.to(device), finer(coarse, x, add=True).floor_().clamp_(0, ACTIVATION_MAX))


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
        largest = self.network_1.largest
        self.contexts = [
            IntegerContextNetwork(under(f"prior.context_{b}."), largest) for b in range(1, len(config.level1))
        ]
        self.embeddings = {
            level: [
                [tensors[f"prior.embedding_{level}.{b}.{s}"] for s in range(len(bank.stages))]
                for b, bank in enumerate(config.banks(level))
            ]
            for level in (1, 2, 3)
        }
        # for every bank of level 1 the log energies of words of the last stage behind words 0, (groups, K) int16
        summed = [
            [table[:, :1].double() for table in tables[:-1]] + [tables[-1].double()] for tables in self.embeddings[1]
        ]
        self.alone = [log_energy(functools.reduce(torch.add, parts)) for parts in summed]

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes of level 2 or 3 (symbols, ..., h, w) -> sums of integer embeddings (channels, ..., h, w) float64."""
        planes, start = [], 0
        for bank, stages in zip(self.config.banks(level), self.embeddings[level], strict=True):
            mine = codes[start : start + bank.symbols].reshape(bank.groups, len(stages), -1).long()
            start += bank.symbols
            total = torch.zeros(bank.groups, mine.shape[2], bank.dim, dtype=torch.float64, device=codes.device)
            for s, table in enumerate(stages):
                index = mine[:, s, :, None].expand(-1, -1, bank.dim)
                total += torch.gather(table.to(codes.device, torch.float64), 1, index)
            planes.append(total.permute(0, 2, 1).reshape(bank.groups * bank.dim, *codes.shape[1:]))
        return torch.cat(planes)

    def log_energy(self, bank: int, codes: Tensor) -> Tensor:
        """Codes of a bank of level 1 (symbols, ..., h, w) -> log2(1 + squared norm) of its groups, in 256ths, int16.

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
        every = range(len(self.network_2.one))
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
    """Sums of integer embeddings (..., dim) float64 -> log2(1 + squared norm) in 256ths, (...) int16.

    Linear between powers of two: exponent and mantissa of a float64 that holds the energy exactly.
    """
    mantissa, exponent = torch.frexp(words.square().sum(-1) / EMBEDDING_SCALE**2 + 1)
    return ((exponent - 2) * ACTIVATION_ONE + torch.floor(mantissa * (2 * ACTIVATION_ONE))).to(torch.int16)


def fixed_weight(x: Tensor) -> Tensor:
    fixed = torch.round(x.detach().double() * WEIGHT_ONE)
    return fixed.clamp(-WEIGHT_MAX, WEIGHT_MAX).to(torch.int16)


def fixed_bias(x: Tensor, one: int) -> Tensor:
    return torch.round(x.detach().double() * one).to(torch.int32)


def export_class_network(network: ClassNetwork) -> dict[str, Tensor]:
    """The integer tensors of a trained class network, by `IntegerClassNetwork.NAMES`."""
    return {
        "enter.weight": fixed_weight(network.enter.weight),
        "neighbours.weight": fixed_weight(network.neighbours.weight),
        "neighbours.bias": fixed_bias(network.neighbours.bias, PRODUCT_ONE),
        "leave.weight": fixed_weight(network.leave.weight),
        "leave.bias": fixed_bias(network.leave.bias, PRODUCT_ONE),
        "hidden_bias": fixed_bias(network.hidden_bias + network.enter.bias, PRODUCT_ONE),
        "class_bias": fixed_bias(network.class_bias, CLASS_ONE),
    }


def export_context_network(network: ContextNetwork) -> dict[str, Tensor]:
    """The integer tensors of a trained context network, by `IntegerContextNetwork.NAMES`."""
    return {
        "enter.weight": fixed_weight(network.enter.weight),
        "enter.bias": fixed_bias(network.enter.bias, PRODUCT_ONE),
        "leave.weight": fixed_weight(network.leave.weight),
        "leave.bias": fixed_bias(network.leave.bias, PRODUCT_ONE),
    }


def export_embedding(words: Tensor) -> Tensor:
    """Integer embeddings of the codewords of one stage (groups, K, dim), as the class networks see them.

    A component beyond 512 steps counts as 512.
    """
    return torch.round(words.detach().double() * EMBEDDING_SCALE).clamp(-32767, 32767).to(torch.int16)
