"""Everything a training run depends on beside the photos: one small TOML file, kept with the weights."""

from __future__ import annotations

import dataclasses
import math
import os
import tomllib
from typing import Any

from ..model.network import Config


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run; every field may stand in the TOML file, `model` as a table of its own."""

    steps: int = 20000
    batch: int = 8
    crop: int = 256
    shrink: float = 0.0  # share of crops from photos made smaller, by a factor of at most 2
    seed: int = 1
    lambda_reference: float = 0.013  # at which the KLT's own gain is right
    typical: float = 10.0  # R-D of a photo, bits per pixel, in roots of lambda
    # weight of the squared distance, in steps, between words and the vectors they stand for
    codebook_loss: float = 0.5
    # optimisers: Muon for matrices, Adam for the rest
    muon_rate: float = 0.004
    adam_rate: float = 3e-4
    slow: float = 0.1  # factor for codebooks, the KLT of analysis and matrices that are `train.EXPOSED`
    still: float = 0.001  # factor for the KLT of synthesis, a change of which is seen in every pixel
    tables: float = 10.0  # factor for the probability tables
    allocation: float = 0.01  # share of the way that gains and steps go in a step towards equal cost of errors
    warmup: int = 100
    hold: float = 0.3  # share of the steps, or of the time, at the full rate; then cosine down to `floor`
    floor: float = 0.01
    average: float = 0.999  # decay per step of the running mean of the weights
    clip: float = 1.0
    model: Config = dataclasses.field(default_factory=Config)

    def __post_init__(self) -> None:
        if not 0 <= self.average <= 1:
            raise ValueError(f"average must be in 0..1, got {self.average}")
        if not 0 <= self.shrink <= 1:
            raise ValueError(f"shrink must be in 0..1, got {self.shrink}")

    def rate_factor(self, step: int, progress: float) -> float:
        """Learning-rate factor at a step: warm-up, hold, cosine; progress: share of the steps or the time behind it."""
        factor = min(1.0, (step + 1) / self.warmup)
        if progress > self.hold:
            fall = min(1.0, (progress - self.hold) / (1 - self.hold))
            factor *= self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fall))
        return factor

    def average_share(self, step: int) -> float:
        """How far the running mean of the weights goes towards those of a step: further while a run is young."""
        return max(1 - self.average, 9 / (step + 10))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The inverse of `to_dict`; ValueError for a name that is no setting."""
        unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown training settings: {', '.join(sorted(unknown))}")
        model = Config.from_dict(values.get("model", {}))
        return cls(**{**values, "model": model})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Settings:
        """Settings from a TOML file; what it does not name keeps its default."""
        with open(path, "rb") as file:
            return cls.from_dict(tomllib.load(file))
