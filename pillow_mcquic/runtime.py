"""What the process may use: cores, and the device and precision asked for; torch is not needed to say so."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

DEVICE_VARIABLE = "PILLOW_MCQUIC_DEVICE"
PRECISION_VARIABLE = "PILLOW_MCQUIC_PRECISION"
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

chosen = {"device": "", "precision": ""}  # by `configure`; empty: the environment decides


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure(*, device: str | None = None, precision: str | None = None) -> None:
    """Fix the device and the precision of the networks for this process, before or between images.

    Parameters
    ----------
    device : "auto" (CUDA where there is one, but not in a forked child), "cpu", "cuda" or "cuda:N".
    precision : "auto" (bfloat16 where the processor has it, else int8 where it has that), "float32", "bfloat16" or
        "int8" (most layers as int8 matrix products, the rest in float32).

    What is None stays as it is.  The environment variables PILLOW_MCQUIC_DEVICE and PILLOW_MCQUIC_PRECISION set the
    defaults.

    Raises
    ------
    ValueError : for any other value.
    """
    if device is not None:
        check_device(device)
        chosen["device"] = device
    if precision is not None:
        check_precision(precision)
        chosen["precision"] = precision


def check_device(device: str) -> None:
    """Raise ValueError for a name that is no device."""
    if device not in ("auto", "cpu", "cuda") and not re.fullmatch(r"cuda:[0-9]{1,3}", str(device)):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")


def check_precision(precision: str) -> None:
    """Raise ValueError for a name that is no precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")


def configured_device() -> str:
    """The device this process or its environment asks for, else "auto"; ValueError naming the variable."""
    return _configured("device", DEVICE_VARIABLE, check_device)


def configured_precision() -> str:
    """The precision this process or its environment asks for, else "auto"; ValueError naming the variable."""
    return _configured("precision", PRECISION_VARIABLE, check_precision)


def _configured(option: str, variable: str, check: Callable[[str], None]) -> str:
    if chosen[option]:
        return chosen[option]
    name = os.environ.get(variable) or "auto"
    try:
        check(name)
    except ValueError as error:
        raise ValueError(f"{variable}: {error}") from error
    return name
