"""Section 7: weights files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadFileError


@dataclasses.dataclass(frozen=True)
class Bank:
    """An entry of the configuration's `banks`."""

    level: int
    groups: int
    dim: int
    stages: tuple[int, ...]


class Weights:
    """A decoder's file: its configuration and tensors, by name."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        self.config, self._tensors = config, tensors
        self.banks = [Bank(**{**bank, "stages": tuple(bank["stages"])}) for bank in config["banks"]]
        self.classes, self.qualities = config["classes"], config["qualities"]
        self._floats: dict[str, NDArray[np.float32]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name]

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor of section 5, as float32."""
        if name not in self._floats:
            self._floats[name] = self._tensors[name].astype(np.float32)
        return self._floats[name]

    def banks_of(self, level: int) -> list[int]:
        """Numbers of the banks of a level."""
        return [number for number, bank in enumerate(self.banks) if bank.level == level]

    def channels(self, level: int) -> int:
        """Channels of a level."""
        return sum(self.banks[number].groups * self.banks[number].dim for number in self.banks_of(level))


@functools.lru_cache(maxsize=4)
def read(path: Path) -> Weights:
    """Read a decoder's file; BadFileError when its content does not give its name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            config = file.metadata()["config"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, OSError) as error:
        raise BadFileError(f"weights file {path} cannot be read ({error}); reinstall pillow_mcquic") from error
    digest = hashlib.sha256(config.encode())
    for name in sorted(name for name in tensors if not name.startswith("previews.")):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    if digest.hexdigest()[:8] != path.stem:
        raise BadFileError(f"weights file {path} is damaged; reinstall pillow_mcquic")
    return Weights(json.loads(config), tensors)
