"""Processes and Ray actors that do tasks."""

from __future__ import annotations

import dataclasses
import functools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from ... import loading, weights_files
from ...runtime import cores
from .convert import convert
from .tasks import Outcome, Settings, Task, failed

ENGINES = ("processes", "ray")
MOST_WORKERS = 61  # processes that Windows can wait for
STARTS = 3  # tasks that may lose their workers before one is done
KILLED = "its worker process was killed (out of memory?)"


def default_workers() -> int:
    """One for each core; one where a GPU does the work."""
    from ...engine.device import find_device

    return 1 if find_device().type != "cpu" else min(cores(), MOST_WORKERS)


def check_workers(workers: int, engine: str) -> None:
    """Raise ValueError for an engine that is none, or so many workers as it cannot have."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
    if not 1 <= workers <= (MOST_WORKERS if engine == "processes" else math.inf):
        raise ValueError(f"workers must be from 1 to {MOST_WORKERS} (more with Ray), got {workers}")


def _start_worker(threads: int) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt stops
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # a killed parent leaves nobody to work for

    threading.Thread(target=follow, daemon=True).start()


def in_processes(work: Callable[[Task], Outcome], tasks: Iterable[Task], workers: int) -> Iterator[Outcome]:
    """Outcomes of tasks, in any order.

    A task that loses its process is tried once more, alone, and then a failure; the others go on.  Tasks are taken as
    workers get to them; on an interrupt those in hand are finished.  Raises OSError when worker processes do not live
    long enough to do a single one.
    """
    waiting, lost, failures, worked = iter(tasks), list[Task](), 0, False

    def taken() -> Iterator[Task]:
        while (worked or len(lost) < STARTS) and (task := next(waiting, None)):
            yield task

    while True:
        lost.clear()
        for task, outcome in _in_pool(work, taken(), workers):
            if outcome is None:
                lost.append(task)
            else:
                worked = True
                yield outcome
        if not lost:
            return
        for task in lost:
            for _, outcome in _in_pool(work, iter([task]), 1):
                failures += outcome is None
                worked |= outcome is not None
                if failures == STARTS and not worked:
                    raise OSError(f"{STARTS} times the worker processes died before any file was done: try --workers 1")
                yield outcome or failed(task, KILLED)


def _in_pool(
    work: Callable[[Task], Outcome], tasks: Iterator[Task], workers: int
) -> Iterator[tuple[Task, Outcome | None]]:
    """Tasks and their outcomes, None where a process died of it; ends early when no process can be had any more."""
    from pebble import ProcessExpired, ProcessPool

    pool = ProcessPool(
        workers,
        initializer=_start_worker,
        initargs=(max(1, cores() // workers),),
        context=multiprocessing.get_context("spawn"),
    )
    running: dict[Future[Outcome], Task] = {}
    broken = False
    try:
        while True:
            for task in islice(tasks, 0 if broken else 2 * workers - len(running)):
                try:
                    running[pool.schedule(work, args=(task,))] = task
                except RuntimeError:  # pebble's, for a pool whose processes died while they were idle
                    broken = True
                    yield task, None
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    yield task, future.result()
                except ProcessExpired:
                    yield task, None
                except BrokenProcessPool:
                    broken = True
                    yield task, None
    finally:
        try:
            pool.close()  # type: ignore[no-untyped-call]
            pool.join()  # an interrupt leaves no half of a file
        finally:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()


def on_ray(settings: Settings, tasks: list[Task], workers: int) -> Iterator[Outcome]:
    """Outcomes of tasks from actors of Ray Data that keep the model; Ray starts again what dies.

    What is still not done when Ray gives up on it is tried here, each task in a process of its own.
    """
    import ray

    class Converter:
        def __init__(self) -> None:
            loading.load_encoder() if settings.suffix == ".mcq" else loading.load_decoder(weights_files.default_id())

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            return dataclasses.asdict(convert(settings, Task(**row)))

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = 1 if resources.get("GPU", 0) >= workers else 0
    blocks = min(len(tasks), max(8 * workers, len(tasks) // 1000))
    rows = ray.data.from_items([dataclasses.asdict(t) for t in tasks], override_num_blocks=blocks)
    actor: Any = Converter  # Ray calls an instance of it for every row
    done = rows.map(
        actor,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if gpus else 1,
        num_gpus=gpus,
        max_task_retries=2,
    )
    left = {task.name: task for task in tasks}
    for row in done.iter_rows():
        del left[row["name"]]
        yield Outcome(**row)
    yield from in_processes(functools.partial(convert, settings), list(left.values()), 1)
