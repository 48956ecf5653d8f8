"""The integer prior: which probability table codes each codeword, computed exactly on every device.

A float sum differs between machines, thread counts and batch sizes, so nothing here is a float in spirit:
integers are held in float64, whose sums are exact below 2^53 in any order, on CPU and CUDA alike and
whatever a caller set for TF32 or reduced-precision products.  Fixed-point scales: embeddings and
activations 2^8, weights 2^12, products 2^20, classes 2^18 (docs/format.md, "Classes").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .network import QUALITIES, ClassNetwork, Config

QUALITY_ONE = 256  # quality is an integer number of 256ths: 256..2048
EMBEDDING_SCALE = 64  # of codewords; times ClassNetwork.SCALE_IN this is ACTIVATION_ONE
ACTIVATION_ONE = 1 << 8
WEIGHT_ONE = 1 << 12
PRODUCT_ONE = ACTIVATION_ONE * WEIGHT_ONE
CLASS_ONE = PRODUCT_ONE // int(ClassNetwork.SCALE_OUT)
ACTIVATION_MAX = int(ClassNetwork.LIMIT) * ACTIVATION_ONE
WEIGHT_MAX = (1 << 15) - 1
EMBEDDING_MAX = (1 << 20) - 1  # more stages of int16 than any configuration has
EXACT = 1 << 53
STRIP = 4096  # positions computed at once


def at_quality(table: Tensor, quality: int) -> Tensor:
    """Integer rows of a per-quality table (8, C) interpolated at quality in 256ths, rounded half up."""
    low = min((quality - QUALITY_ONE) // QUALITY_ONE, QUALITIES - 2)
    share = quality - QUALITY_ONE * (low + 1)
    mixed = table[low].long() * (QUALITY_ONE - share) + table[low + 1].long() * share
    return torch.div(mixed + QUALITY_ONE // 2, QUALITY_ONE, rounding_mode="floor")


def scaled(x: Tensor) -> Tensor:
    """Products back to the scale of activations, rounded half up, in place."""
    return x.div_(WEIGHT_ONE).add_(0.5).floor_()


def to_class(x: Tensor, classes: int) -> Tensor:
    """Fixed-point class values -> table indices 0..classes-1, uint8."""
    return torch.floor(x / CLASS_ONE + 0.5).clamp(0, classes - 1).to(torch.uint8)


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

    def __init__(self, tensors: Mapping[str, Tensor], classes: int) -> None:
        self.classes = classes
        self.enter, neighbours, self.neighbours_bias, self.leave, self.leave_bias = (
            tensors[name].to(torch.float64) for name in self.NAMES[:5]
        )
        self.hidden_bias, self.class_bias = (tensors[name] for name in self.NAMES[5:])
        width = self.enter.shape[0]
        # unfold's order is (channel, row, column): one matrix for each of the nine neighbours
        self.neighbours = neighbours.view(width, width, 9).permute(2, 0, 1).contiguous()
        self.check_bounds()

    def check_bounds(self) -> None:
        """Raise ValueError unless every sum stays below 2^53 whatever the codes are."""

        def worst(weight: Tensor, bias: Tensor, largest: int) -> float:
            return float(weight.abs().sum(-1).max()) * largest + float(bias.abs().max())

        sums = (
            worst(self.enter, self.hidden_bias, EMBEDDING_MAX),
            worst(self.neighbours.permute(1, 0, 2).flatten(1), self.neighbours_bias, ACTIVATION_MAX),
            worst(self.leave, self.leave_bias, ACTIVATION_MAX) + float(self.class_bias.abs().max()),
        )
        if max(sums) >= EXACT:
            raise ValueError(f"class network sums may reach {max(sums):.3g}, beyond exact float64")

    def __call__(self, embedding: Tensor, quality: int) -> Tensor:
        """Integer embeddings (inputs, h, w) float64 -> classes (groups, 2h, 2w) uint8."""
        _, h, w = embedding.shape
        hidden_bias = at_quality(self.hidden_bias.to(embedding.device), quality)
        class_bias = at_quality(self.class_bias.to(embedding.device), quality)
        padded = F.pad(embedding[None], (1, 1, 1, 1), mode="replicate")[0]
        rows = max(1, STRIP // w)
        strips = [
            self._strip(padded[:, top : min(h, top + rows) + 2], hidden_bias, class_bias) for top in range(0, h, rows)
        ]
        return torch.cat(strips, 1)

    def _strip(self, padded: Tensor, hidden_bias: Tensor, class_bias: Tensor) -> Tensor:
        """Classes of a strip, whose embedding has one more row and column on each side."""
        inputs, h, w = padded.shape[0], padded.shape[1] - 2, padded.shape[2] - 2
        device = padded.device
        near = self.enter.to(device) @ padded.reshape(inputs, -1)
        near = scaled(near.add_(hidden_bias[:, None])).clamp_(0, ACTIVATION_MAX).view(-1, h + 2, w + 2)
        total = self.neighbours_bias.to(device)[:, None].expand(-1, h * w).clone()
        for i, weight in enumerate(self.neighbours.to(device)):
            top, left = divmod(i, 3)
            total += weight @ near[:, top : top + h, left : left + w].reshape(-1, h * w)
        x = scaled(total).clamp_(min=0) + near[:, 1:-1, 1:-1].reshape(-1, h * w)
        out = self.leave.to(device) @ x.clamp_(max=ACTIVATION_MAX) + self.leave_bias.to(device)[:, None]
        fine = F.pixel_shuffle(out.view(1, -1, h, w), 2)[0]
        return to_class(fine + class_bias[:, None, None], self.classes)


class Prior:
    """Classes of all three levels from quality and the codes above; integers in, integers out.

    `tensors`: the entries "prior.*" of a weights file: class networks 1 and 2, static classes of level 3,
    and for levels 2 and 3 the integer embedding of every codeword, (groups, K, dim) for each bank and stage.
    """

    def __init__(self, config: Config, tensors: Mapping[str, Tensor]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

        self.config = config
        self.static = tensors["prior.class_3"]
        self.network_1 = IntegerClassNetwork(under("prior.network_1."), config.classes)
        self.network_2 = IntegerClassNetwork(under("prior.network_2."), config.classes)
        self.embeddings = {
            level: [
                [tensors[f"prior.embedding_{level}.{b}.{s}"] for s in range(len(bank.stages))]
                for b, bank in enumerate(config.banks(level))
            ]
            for level in (2, 3)
        }

    def embed(self, level: int, codes: Tensor) -> Tensor:
        """Codes (symbols, h, w) -> sums of integer embeddings (channels, h, w) float64."""
        _, h, w = codes.shape
        planes, start = [], 0
        for bank, stages in zip(self.config.banks(level), self.embeddings[level], strict=True):
            mine = codes[start : start + bank.symbols].view(bank.groups, len(bank.stages), h * w).long()
            start += bank.symbols
            total = torch.zeros(bank.groups, h * w, bank.dim, dtype=torch.float64, device=codes.device)
            for s, table in enumerate(stages):
                index = mine[:, s, :, None].expand(-1, -1, bank.dim)
                total += torch.gather(table.to(codes.device, torch.float64), 1, index)
            planes.append(total.permute(0, 2, 1).reshape(bank.groups * bank.dim, h, w))
        return torch.cat(planes)

    def classes_3(self, quality: int, size: tuple[int, int]) -> Tensor:
        """Static classes (groups, *size) uint8."""
        rows = to_class(at_quality(self.static, quality).double(), self.config.classes)
        return rows[:, None, None].expand(-1, *size)

    def classes_2(self, codes_3: Tensor, quality: int, size: tuple[int, int]) -> Tensor:
        """Classes of y2 (groups, *size) uint8 from the codes of level 3."""
        return self.network_2(self.embed(3, codes_3), quality)[:, : size[0], : size[1]]

    def classes_1(self, codes_3: Tensor, codes_2: Tensor, quality: int, size: tuple[int, int]) -> Tensor:
        """Classes of y1 (groups, *size) uint8 from the codes of levels 3 and 2."""
        _, h, w = codes_2.shape
        above = self.embed(3, codes_3).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :h, :w]
        embedding = torch.cat([self.embed(2, codes_2), above])
        return self.network_1(embedding, quality)[:, : size[0], : size[1]]


def export_class_network(network: ClassNetwork) -> dict[str, Tensor]:
    """The integer tensors of a trained class network, by `IntegerClassNetwork.NAMES`."""

    def weight(x: Tensor) -> Tensor:
        fixed = torch.round(x.detach().double() * WEIGHT_ONE)
        return fixed.clamp(-WEIGHT_MAX, WEIGHT_MAX).to(torch.int16)

    def bias(x: Tensor, one: int) -> Tensor:
        return torch.round(x.detach().double() * one).to(torch.int32)

    return {
        "enter.weight": weight(network.enter.weight),
        "neighbours.weight": weight(network.neighbours.weight),
        "neighbours.bias": bias(network.neighbours.bias, PRODUCT_ONE),
        "leave.weight": weight(network.leave.weight),
        "leave.bias": bias(network.leave.bias, PRODUCT_ONE),
        "hidden_bias": bias(network.hidden_bias + network.enter.bias, PRODUCT_ONE),
        "class_bias": bias(network.class_bias, CLASS_ONE),
    }


def export_embedding(words: Tensor) -> Tensor:
    """Integer embeddings of the codewords of one stage (groups, K, dim), as the class networks see them."""
    return torch.round(words.detach().double() * EMBEDDING_SCALE).clamp(-32767, 32767).to(torch.int16)
