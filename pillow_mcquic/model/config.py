"""Sizes of the model: enough, with a weights file, to rebuild it."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..bitstream.coding_order import Bank
from ..bitstream.grids import LEVELS
from .distortion import Distortion

PREVIEW_BANKS = {2: 4, 4: 3, 8: 2}  # scale of a preview: how many banks of level 1 it is made of


@dataclasses.dataclass(frozen=True)
class Config:
    """What a decoder needs to know, beside tensors; part of the model's id.

    `banks` are in coding order: level 3, level 2, then those of level 1 by falling variance.
    """

    qualities: int = 10  # rows of per-quality tables, for qualities 1, 2, ...
    # features and means at 1/64, 1/32 and 1/16
    hyper_width: int = 192
    means_blocks: int = 2
    means_expansion: int = 0  # of the one block at 1/16
    # synthesis transform: blocks at 1/16, then at 1/8
    synthesis_width_16: int = 192
    synthesis_blocks_16: int = 5
    synthesis_width_8: int = 96  # bfloat16 tiles are of 32: not slower than 88
    synthesis_blocks_8: int = 2
    # entropy model: hyper networks and context networks
    hyper_network_width: int = 96
    context_width: int = 40
    classes: int = 24
    checkerboard_width: int = 64
    banks: tuple[Bank, ...] = (
        Bank(level=3, groups=24, dim=2, stages=(64, 256)),
        Bank(level=2, groups=24, dim=2, stages=(64, 256)),
        Bank(level=1, groups=8, dim=1, stages=(1536,)),
        Bank(level=1, groups=12, dim=2, stages=(256, 256)),
        Bank(level=1, groups=16, dim=4, stages=(256, 64, 256)),
        Bank(level=1, groups=40, dim=4, stages=(256, 256)),
        Bank(level=1, groups=16, dim=8, stages=(241, 256)),
    )
    # how many of the last channels of level 1 take the linear shortcut alone: no mean, no part in the networks
    linear_channels: int = 128

    def __post_init__(self) -> None:
        levels = [bank.level for bank in self.banks]
        if set(levels) != set(LEVELS) or levels != sorted(levels, reverse=True):
            raise ValueError(f"banks must be of levels 3, 2 and 1 in this order, got {levels}")

    def banks_of(self, level: int) -> range:
        """Places in `banks` of those of a level."""
        places = [number for number, bank in enumerate(self.banks) if bank.level == level]
        return range(places[0], places[-1] + 1)

    def channels(self, level: int) -> int:
        """Channels of the latent of a level."""
        return sum(self.banks[number].channels for number in self.banks_of(level))

    def groups(self, level: int) -> int:
        """Groups of all banks of a level."""
        return sum(self.banks[number].groups for number in self.banks_of(level))

    @property
    def network_channels(self) -> int:
        """The first channels of level 1, which the networks see."""
        return self.channels(1) - self.linear_channels

    def banks_at(self, scale: int) -> int:
        """How many banks, in coding order, a picture of 1/`scale` of the sides is made of."""
        return len(self.banks) if scale == 1 else self.banks_of(1).start + PREVIEW_BANKS[scale]

    def preview_channels(self, scale: int) -> int:
        """Channels of level 1 that a preview of 1/`scale` of the sides is made of."""
        return sum(self.banks[number].channels for number in range(self.banks_of(1).start, self.banks_at(scale)))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and dicts, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The inverse of `to_dict`, also after a trip through JSON; ValueError for a name that is none of ours."""
        values = dict(values)
        check_names(values, cls)
        if "banks" in values:
            values["banks"] = tuple(Bank(**{**bank, "stages": tuple(bank["stages"])}) for bank in values["banks"])
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """What only an encoder needs to know."""

    # analysis transform: blocks at 1/8, then at 1/16
    analysis_width_8: int = 128
    analysis_blocks_8: int = 2
    analysis_width_16: int = 320
    analysis_blocks_16: int = 6
    # squared error, in quantiser steps, that the codeword search accepts to save a bit
    error_per_bit: float = 0.11
    # what the model was trained for, and latent refinement works for
    distortion: Distortion = dataclasses.field(default_factory=Distortion)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and dicts, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderConfig:
        """As `Config.from_dict`."""
        check_names(values, cls)
        distortion = values.get("distortion", {})
        check_names(distortion, Distortion)
        return cls(**{**values, "distortion": Distortion(**distortion)})


def check_names(values: dict[str, Any], kind: type[Any]) -> None:
    """Raise ValueError for names that a dataclass does not have."""
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"unknown settings of {kind.__name__}: {', '.join(sorted(unknown))}")
