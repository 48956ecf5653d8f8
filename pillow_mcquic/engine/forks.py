"""Forks: a forked child neither waits for its parent's threads nor finds imports half done.  No torch is needed here.

torch's thread pool does not exist in a forked child, where the first parallel operation would hang for ever.  What one
thread imports or loads while another forks would stay half done, and locked, in the child.
"""

from __future__ import annotations

import logging  # noqa: F401  # before our own hook, which then comes first: it takes a lock that imports need
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

LONGEST_WAIT = 60.0  # seconds that a fork waits; on a busy machine loading takes more than ten


def _imported_after_fork() -> bool:
    """Whether this process is a fork of one that had torch already (Linux: its stack lies where the parent's does)."""
    if "torch" not in sys.modules:
        return False
    try:
        stacks = [
            [
                line.split("-")[1].split()[0]
                for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines()
                if "[stack]" in line
            ]
            for pid in ("self", os.getppid())
        ]
    except OSError:
        return False
    return stacks[0] == stacks[1]  # after exec it lies elsewhere


forked = _imported_after_fork()
lock = threading.RLock()  # guards what is imported and loaded once; forks wait for it
in_child: list[Callable[[], None]] = []  # called first in every forked child
_held = False  # by a fork
_threads_fixed = False


def _before_fork() -> None:
    """Wait for what another thread loads, but not for ever: another hook may hold what that thread is waiting for."""
    global _held
    _held = lock.acquire(timeout=LONGEST_WAIT)


def _after_fork_in_parent() -> None:
    if _held:
        lock.release()


def _after_fork_in_child() -> None:
    global forked, lock
    forked = True
    for call in in_child:
        call()
    lock = threading.RLock()  # the parent, or one of its threads, holds it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def prepare_thread_pool() -> None:
    """In a forked child, keep torch to one thread, which is also what a data loader's worker wants."""
    global _threads_fixed
    if forked and not _threads_fixed:
        import torch

        torch.set_num_threads(1)
        _threads_fixed = True
