"""Everything a training run depends on beside the photos: one small TOML file, kept with the weights."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from typing import Any

from ..model.config import Config, EncoderConfig, check_names

DECAYS = ("cosine", "linear")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run; every field may stand in the TOML file, `model` and `encoder` as tables of their own."""

    steps: int = 20000
    batch: int = 8
    crops_at_once: int = 0  # of a batch, whose gradients are summed; 0: all of them
    crop: int = 256
    shrink: float = 0.0  # share of crops from photos made smaller, by a factor of at most 2
    seed: int = 1
    lambda_reference: float = 0.013  # at which the KLT's own gain is right
    typical: float = 10.0  # R-D of a photo, bits per pixel, in roots of lambda
    # weight of the squared distance, in steps, between codewords and the vectors they stand for
    codebook_loss: float = 0.5
    # scale of the lattice that a stage begins with, for every bank in coding order
    codebook_scales: tuple[tuple[float, ...], ...] = (
        (16.0, 1.0),
        (16.0, 1.0),
        (1.0,),
        (16.0, 1.0),
        (14.0, 3.6, 1.0),
        (4.0, 1.0),
        (2.0, 1.0),
    )
    # optimisers: Muon for matrices, Adam for the rest
    muon_rate: float = 0.004
    adam_rate: float = 3e-4
    slow: float = 0.1  # factor for codebooks, the KLT of analysis and matrices that are `optimisers.EXPOSED`
    still: float = 0.001  # factor for the KLT of synthesis, a change of which is seen in every pixel
    tables: float = 10.0  # factor for the probability tables
    allocation: float = 0.01  # share of the way that gains and steps go in a step towards equal cost of errors
    warmup: int = 100
    hold: float = 0.3  # share of the steps, or of the time, at the full rate; then down to `floor`
    floor: float = 0.01
    decay: str = "cosine"
    average: float = 0.999  # decay per step of the running mean of the weights
    clip: float = 1.0
    model: Config = dataclasses.field(default_factory=Config)
    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        for name in ("average", "shrink"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {DECAYS}, got {self.decay!r}")
        stages = [len(bank.stages) for bank in self.model.banks]
        if [len(scales) for scales in self.codebook_scales] != stages:
            raise ValueError(f"codebook_scales must have a number for every stage of every bank: {stages} of them")

    def rate_factor(self, step: int, progress: float) -> float:
        """Learning-rate factor at a step: warm-up, hold, decay; progress: share of the steps or the time behind it."""
        factor = min(1.0, (step + 1) / self.warmup)
        if progress > self.hold:
            fall = min(1.0, (progress - self.hold) / (1 - self.hold))
            left = 0.5 * (1 + math.cos(math.pi * fall)) if self.decay == "cosine" else 1 - fall
            factor *= self.floor + (1 - self.floor) * left
        return factor

    def average_share(self, step: int) -> float:
        """How far the running mean of the weights goes towards those of a step: further while a run is young."""
        return max(1 - self.average, 9 / (step + 10))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of `to_dict`; ValueError for a name that is no setting, or a value out of range."""
        values = dict(values)
        check_names(values, cls)
        model, encoder = Config.from_dict(values.pop("model", {})), EncoderConfig.from_dict(values.pop("encoder", {}))
        if "codebook_scales" in values:
            values["codebook_scales"] = tuple(tuple(scales) for scales in values["codebook_scales"])
        return cls(**values, model=model, encoder=encoder)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Settings:
        """Settings from a TOML file; what it does not name keeps its default."""
        with open(path, "rb") as file:
            return cls.from_dict(tomllib.load(file))
