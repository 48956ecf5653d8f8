"""What is to be done, picture by picture, and what came of it."""

from __future__ import annotations

import dataclasses
import json

from ... import codec, weights_files
from ...quality import Quality
from .. import files

SCORES = ("psnr", "ssimulacra2", "none")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is to be done; `source` and `target` are paths or fsspec URLs of folders, `suffix` is of the new files.

    At most one of `quality`, `bpp`, `min_ssimulacra2`, `lossless`; none means quality 4.  effort: of `codec.encode`.
    score: measure every new `.mcq` file by decoding it again, "psnr" (dB) or "ssimulacra2", or "none".  Raises
    ValueError for settings that no file could be made with.
    """

    source: str
    target: str
    suffix: str = ".mcq"
    quality: float | None = None
    bpp: float | None = None
    min_ssimulacra2: float | None = None
    lossless: bool = False
    effort: int = codec.EFFORT_DEFAULT
    score: str = "psnr"
    overwrite: bool = False
    scale_16: bool = False  # whether pictures of 16 bits are taken, as 8 bits

    def __post_init__(self) -> None:
        given = [n for n in ("quality", "bpp", "min_ssimulacra2") if getattr(self, n) is not None]
        given += ["lossless"] * self.lossless
        if len(given) > 1:
            raise ValueError(f"give only one of {' and '.join(given)}")
        if self.quality is not None:
            Quality.parse(self.quality)
        if self.bpp is not None and not 0 < self.bpp < 1e6:
            raise ValueError(f"bpp must be a positive number of bits per pixel, got {self.bpp!r}")
        if self.min_ssimulacra2 is not None and not self.min_ssimulacra2 < 100:
            raise ValueError(f"min_ssimulacra2 must be below 100, got {self.min_ssimulacra2!r}")
        codec.refinement_iterations(self.effort)
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {self.score!r}")
        if self.suffix != ".mcq" and files.writable_format(self.suffix) is None:
            raise ValueError(f"no image format to decode to has the suffix {self.suffix}")

    @property
    def made_with(self) -> str:
        """What a file depends on beside its source: a rerun does again what was made with something else."""
        if self.suffix != ".mcq":
            return self.suffix
        wanted = {"quality": self.quality, "bpp": self.bpp, "min_ssimulacra2": self.min_ssimulacra2}
        wanted["lossless"] = True if self.lossless else None
        if self.effort != codec.EFFORT_DEFAULT:
            wanted["effort"] = self.effort
        chosen = {name: value for name, value in wanted.items() if value is not None}
        model = weights_files.default_id()
        return json.dumps({"model": model.hex(), "encoder": weights_files.encoder_digest(model), **chosen})


@dataclasses.dataclass(frozen=True)
class Task:
    """One picture: names relative to both folders, and what the source looked like (size, time) when it was listed."""

    name: str
    target: str
    state: str
    replace: bool  # whether a file at the target may be replaced


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: sizes in bytes; quality, score and what scores it, where there are any; or the error."""

    name: str
    target: str
    state: str
    before: int = 0
    after: int = 0
    pixels: int = 0
    quality: float | None = None
    score: float | None = None
    scored: str = "none"
    error: str | None = None
    made: str = ""  # what the new file looked like, if it is local
    left_out: str = ""  # metadata that the new file does not have


def failed(task: Task, error: str) -> Outcome:
    """The outcome of a task that could not be done."""
    return Outcome(task.name, task.target, task.state, error=error)
