"""Where networks run, and in what precision."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from .. import runtime
from ..nn import linear
from . import forks

WINDOW_POSITIONS = 8192  # of level 1, 2 MP, run through the networks at once on a CPU
WIDE_WINDOW_POSITIONS = 1 << 15  # on other devices: 8 MP
BLOCK_POSITIONS = 1024  # whose pixels are touched at once on a CPU: fresh memory costs more than arithmetic
EVERY_POSITION = 1 << 60  # on other devices: a window in one block
FREED_BLOCK = (32 << 20) - (64 << 10)  # bytes; glibc's heuristic ends at 32 MB


@dataclasses.dataclass(frozen=True)
class Device:
    """A device, the precision of its networks, and how much goes through them at once.

    `window_positions` bounds windows, `block_positions` what is done with the pixels of one at once, both in positions
    of level 1.  Device, precision, threads and windows move pixels by rounding only, and codes not at all.
    """

    where: torch.device
    precision: str
    window_positions: int
    block_positions: int

    @classmethod
    def choose(cls, wanted: torch.device | str | None = None, window_positions: int | None = None) -> Device:
        """The wanted device, or what is configured now; ValueError for one that is not here."""
        device = find_device(wanted)
        cpu = device.type == "cpu"
        default = WINDOW_POSITIONS if cpu else WIDE_WINDOW_POSITIONS
        blocks = BLOCK_POSITIONS if cpu else EVERY_POSITION
        return cls(device, find_precision(device), window_positions or default, blocks)

    @property
    def feature_dtype(self) -> torch.dtype:
        """Type of the features of networks."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @property
    def search_positions(self) -> int:
        """Positions whose codewords are searched at once."""
        return (2 if self.where.type == "cpu" else 1) * self.window_positions

    @contextlib.contextmanager
    def networks(self) -> Iterator[None]:
        """Context in which networks run at the chosen precision, and what is float32 by design stays it."""
        reduced = self.precision == "bfloat16"
        autocast = torch.autocast(self.where.type, self.feature_dtype, enabled=reduced)
        with full_products(), autocast, linear.int8_products(self.precision == "int8"):
            yield


def find_device(wanted: torch.device | str | None = None) -> torch.device:
    """The wanted device (as of `runtime.configure`), or what is configured now; ValueError when it is not here."""
    name = str(wanted or "") or runtime.configured_device()
    runtime.check_device(name)
    if name == "auto":
        # CUDA cannot be used in a child forked from a process that used it: do not even ask
        name = "cuda" if not forks.forked and torch.cuda.is_available() else "cpu"
    elif name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA here")
    elif ":" in name and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but torch finds {torch.cuda.device_count()} here")
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())  # what is made for it stays there
    return torch.device(name)


def find_precision(device: torch.device) -> str:
    """What networks run in on a device: "float32", "bfloat16" or "int8"; ValueError for int8 where it is not there."""
    name = runtime.configured_precision()
    if name == "auto":
        return "bfloat16" if bfloat16_native(device) else "int8" if int8_native(device) else "float32"
    if name == "int8" and not int8_native(device):
        raise ValueError(
            f"precision 'int8' was asked for, but {device} has no int8 matrix products (VNNI) that torch can use"
        )
    return name


def bfloat16_native(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return processor_has("amx_bf16", "avx512_bf16")


def int8_native(device: torch.device) -> bool:
    """Whether a device multiplies int8 matrices in hardware, four products at once and exactly."""
    return device.type == "cpu" and processor_has("avx512_vnni", "avx_vnni") and linear.int8_works()


def processor_has(*instructions: str) -> bool:
    """Whether torch knows the processor to have any of these; torch 2.9 knows of none, and then float32 is used."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in instructions)


_at_work = 0  # blocks of `full_products` that are open
_restore: Callable[[], None] | None = None  # brings back what they changed


@contextlib.contextmanager
def full_products() -> Iterator[None]:
    """Context in which torch multiplies float32 as float32, whatever the caller lets it do.

    The setting is the process's, so it stays until the last thread is through.
    """
    global _at_work, _restore
    with forks.lock:
        _at_work += 1
        if _at_work == 1:
            _restore = _multiply_fully()
    try:
        yield
    finally:
        with forks.lock:
            _at_work -= 1
            if _at_work == 0:
                _put_back()


def _put_back() -> None:
    global _restore
    if _restore is not None:
        _restore()
        _restore = None


def _forget_threads() -> None:
    """In a forked child, where the threads of the parent are not."""
    global _at_work
    _at_work = 0
    _put_back()


forks.in_child.append(_forget_threads)


def _multiply_fully() -> Callable[[], None] | None:
    """Set the precision of products; returns what sets it back, None where nothing had to be changed."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer way, which the older one does not want to hear of
        backends: Any = torch.backends
        parts = backends.mkldnn.matmul, backends.cuda.matmul
        precisions = [part.fp32_precision for part in parts]

        def put(values: Iterable[str]) -> None:
            for part, value in zip(parts, values, strict=True):
                part.fp32_precision = value

        put(("ieee", "ieee"))
        return partial(put, precisions)
    if precision == "highest":
        return None
    torch.set_float32_matmul_precision("highest")
    return partial(torch.set_float32_matmul_precision, precision)


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of what is freed, for the next picture.

    Otherwise planes of a few MB go back to the system, and come again page by page: a twentieth of an encode's time.
    glibc takes its threshold from the largest block that was freed; this one is never touched.
    """
    torch.empty(FREED_BLOCK, dtype=torch.uint8, device="cpu")
