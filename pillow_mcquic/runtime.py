"""Device, precision, threads and forks: where and how inference runs, decided at first use."""

from __future__ import annotations

import contextlib
import logging  # noqa: F401  # before our own hook, which then comes first: it takes a lock that imports need
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "PILLOW_MCQUIC_DEVICE"
PRECISION_VARIABLE = "PILLOW_MCQUIC_PRECISION"
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

_options = {"device": "", "precision": ""}


def _imported_after_fork() -> bool:
    """Whether this process is a fork of one that had torch already (Linux: its stack lies where the parent's does)."""
    if "torch" not in sys.modules:
        return False
    try:
        stacks = [
            [
                line.split("-")[1].split()[0]
                for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
                if "[stack]" in line
            ]
            for pid in ("self", os.getppid())
        ]
    except OSError:
        return False
    return stacks[0] == stacks[1]  # after exec it lies elsewhere


_forked = _imported_after_fork()
lock = threading.RLock()  # guards what is imported and loaded once; forks wait for it
_held = False  # by a fork
LONGEST_WAIT = 60.0  # seconds; on a busy machine loading takes more than ten


def configure(*, device: str | None = None, precision: str | None = None) -> None:
    """Fix the device and the precision of the networks for this process, before or between images.

    device: "auto" (CUDA where there is one, not in a forked child), "cpu", "cuda" or "cuda:N".
    precision: "auto" (bfloat16 where the processor has it, else int8 where it has that), "float32", "bfloat16" or
    "int8" (most layers in products of bytes, the rest in float32).
    Environment variables PILLOW_MCQUIC_DEVICE and PILLOW_MCQUIC_PRECISION set the defaults.
    Raises ValueError for any other value.
    """
    if device is not None:
        _check_device(device)
        _options["device"] = device
    if precision is not None:
        _check_precision(precision)
        _options["precision"] = precision


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,3}", str(device)):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")


def _before_fork() -> None:
    """Wait for what another thread loads: in the child its imports would stay half done, and locked, for ever.

    Not for ever: somebody else's hook may already hold what that thread is waiting for.
    """
    global _held
    _held = lock.acquire(timeout=LONGEST_WAIT)


def _after_fork_in_parent() -> None:
    if _held:
        lock.release()


def _after_fork_in_child() -> None:
    global _forked, lock, _at_work, _before
    _forked = True
    _at_work = 0  # threads of the parent are not here
    if _before is not None:
        _before()
        _before = None
    lock = threading.RLock()  # the parent, or one of its threads, holds it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

_threads_fixed = False


def prepare_thread_pool() -> None:
    """In a forked child, keep torch from waiting for threads that only the parent has.

    The parent's OpenMP pool does not exist in the child, where the first parallel operation would hang for
    ever.  One thread is also what a data loader's worker wants.
    """
    global _threads_fixed
    if _forked and not _threads_fixed:
        import torch

        torch.set_num_threads(1)
        _threads_fixed = True


_at_work = 0  # blocks of `full_products` that are open
_before: Callable[[], None] | None = None  # brings back what they changed


@contextlib.contextmanager
def full_products() -> Iterator[None]:
    """Context in which torch multiplies float32 as float32, whatever the caller lets it do.

    The setting is the process's, so it stays until the last thread is through.
    """
    global _at_work, _before
    with lock:
        _at_work += 1
        if _at_work == 1:
            _before = _multiply_fully()
    try:
        yield
    finally:
        with lock:
            _at_work -= 1
            if _at_work == 0 and _before is not None:
                _before()
                _before = None


def _multiply_fully() -> Callable[[], None] | None:
    """Set the precision of products; returns what sets it back, None where nothing had to be changed."""
    import torch

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


FREED_BLOCK = (32 << 20) - (64 << 10)  # glibc's heuristic ends at 32 MB


def keep_freed_memory() -> None:
    """Have glibc keep up to 64 MB of what is freed, for the next picture.

    Otherwise planes of a few MB go back to the system, and come again page by page: a twentieth of an encode's time.
    glibc takes its threshold from the largest block that was freed; this one is never touched.
    """
    import torch

    torch.empty(FREED_BLOCK, dtype=torch.uint8, device="cpu")


def _configured(option: str, variable: str, check: Callable[[str], None]) -> str:
    """What this process or its environment asks for, else "auto"; ValueError naming the variable."""
    if _options[option]:
        return _options[option]
    name = os.environ.get(variable) or "auto"
    try:
        check(name)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from error
    return name


def device(wanted: torch.device | str | None = None) -> torch.device:
    """The device inference runs on: the wanted one (as of `configure`), or what is configured now."""
    import torch

    name = str(wanted or "") or _configured("device", DEVICE_VARIABLE, _check_device)
    _check_device(name)
    if name == "auto":
        # CUDA cannot be used in a child forked from a process that used it: do not even ask
        name = "cuda" if not _forked and torch.cuda.is_available() else "cpu"
    elif name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA here")
    elif ":" in name and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} was asked for, but torch finds {torch.cuda.device_count()} here")
    if name == "cuda":
        return torch.device("cuda", torch.cuda.current_device())  # what is made for it stays there
    return torch.device(name)


def bfloat16_native(where: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware."""
    import torch

    if where.type == "cuda":
        return torch.cuda.get_device_capability(where) >= (8, 0)
    return _processor_has("amx_bf16", "avx512_bf16")


def _processor_has(*instructions: str) -> bool:
    """Whether torch knows the processor to have any of these."""
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in instructions)


def int8_native(where: torch.device) -> bool:
    """Whether a device multiplies matrices of bytes in hardware, four products at once and exactly."""
    if where.type != "cpu" or not _processor_has("avx512_vnni", "avx_vnni"):
        return False
    from .model import int8

    return int8.exact()


def precision(where: torch.device) -> str:
    """What the networks run in on a device, "float32", "bfloat16" or "int8".

    The linear shortcut of the largest channels is always float32.  ValueError for int8 where it is not there.
    """
    name = _configured("precision", PRECISION_VARIABLE, _check_precision)
    if name == "auto":
        return "bfloat16" if bfloat16_native(where) else "int8" if int8_native(where) else "float32"
    if name == "int8" and not int8_native(where):
        raise ValueError(
            f"precision 'int8' was asked for, but {where} has no products of bytes (VNNI) that torch can use"
        )
    return name
