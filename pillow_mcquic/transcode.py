"""`mcq transcode`: a tree of images to `.mcq` files of the same tree, or back; on processes here or on Ray.

A manifest, one JSON object a line, says what was planned and what came of it.  A run that was stopped, killed or lost
a machine is repeated with the same command: finished files are left alone, the rest is done.  A local file is written
whole or not at all, a remote one as its file system does it; doing one twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import os
import signal
import stat
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, UnidentifiedImageError

from . import codec, files, metrics, runtime

MANIFEST = ".mcq-transcode.jsonl"  # in a local target folder
SCORES = ("psnr", "ssimulacra2", "none")
QUALITY_STEP = 1 / 8  # of the search for a score
ENGINES = ("processes", "ray")
WORST = 20  # pictures that a report names
MOST_WORKERS = 61  # processes that Windows can wait for
STARTS = 3  # of worker processes that bring nothing
# what a remote listing says of a file's age, by file system
AGES = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "modified", "date_time", "created")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is to be done; `source` and `target` are paths or fsspec URLs of folders, `suffix` is of the new files.

    At most one of `quality`, `bpp`, `min_ssimulacra2`; none means quality 4.  effort: of `codec.encode`.  score:
    measure every new `.mcq` file by decoding it again, "psnr" (dB) or "ssimulacra2", or "none".  Raises ValueError for
    settings that no file could be made with.
    """

    source: str
    target: str
    suffix: str = ".mcq"
    quality: float | None = None
    bpp: float | None = None
    min_ssimulacra2: float | None = None
    effort: int = codec.EFFORT_DEFAULT
    score: str = "psnr"
    overwrite: bool = False

    def __post_init__(self) -> None:
        given = [n for n in ("quality", "bpp", "min_ssimulacra2") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of quality, bpp and min_ssimulacra2, not {' and '.join(given)}")
        if self.quality is not None:
            codec.quality_in_256ths(self.quality)
        if self.bpp is not None and not 0 < self.bpp < 1e6:
            raise ValueError(f"bpp must be a positive number of bits per pixel, got {self.bpp!r}")
        if self.min_ssimulacra2 is not None and not self.min_ssimulacra2 < 100:
            raise ValueError(f"min_ssimulacra2 must be below 100, got {self.min_ssimulacra2!r}")
        codec.refinement_rounds(self.effort)
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {SCORES}, got {self.score!r}")
        if self.suffix != ".mcq" and files.writable_format(self.suffix) is None:
            raise ValueError(f"no image format to decode to has the suffix {self.suffix}")

    def made_with(self) -> str:
        """What a file depends on beside its source: a rerun does again what was made with something else."""
        if self.suffix != ".mcq":
            return self.suffix
        from . import weights

        wanted = {"quality": self.quality, "bpp": self.bpp, "min_ssimulacra2": self.min_ssimulacra2}
        if self.effort != codec.EFFORT_DEFAULT:
            wanted["effort"] = self.effort
        return json.dumps({"model": weights.default_id().hex(), **{k: v for k, v in wanted.items() if v is not None}})


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


def open_folder(url: str) -> tuple[Any, str]:
    """File system and root path of a folder, local or of any fsspec URL; ValueError for one that cannot be used."""
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} needs another package: {error}") from error
    return fs, root.rstrip("/")


def is_local(url: str) -> bool:
    """Whether a folder is given as a path."""
    return "://" not in url and "::" not in url


def state_of(fs: Any, path: str, info: dict[str, Any]) -> str:
    """What changes when a file does; OSError for what is no file."""
    if isinstance(fs, LocalFileSystem):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("is no file")
        return f"{found.st_size}-{found.st_mtime_ns}"
    return f"{info['size']}-{next((info[age] for age in AGES if info.get(age)), '')}"


def as_line(entry: dict[str, Any]) -> bytes:
    """As a manifest has it."""
    return json.dumps(entry).encode() + b"\n"


class Manifest:
    """The record of one source, target and suffix.

    By name: `planned`, targets; `done`, the last outcome and what it was made with, unless planned again since;
    `made`, of the last file that was made, size and state.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        """Take hold of a manifest; OSError when another run has it."""
        self.path = path
        self.identity = {"source": settings.source, "target": settings.target, "suffix": settings.suffix}
        self.planned: dict[str, str] = {}
        self.done: dict[str, tuple[Outcome, str]] = {}
        self.made: dict[str, tuple[int, str]] = {}
        self._file: IO[bytes] | None = None
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        self._first_entry = {"transcode": self.identity}

    def __enter__(self) -> Manifest:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OSError(f"another transcode is at work with {self.path}") from error
        try:
            whole = self._read() if self.path.exists() else 0
            self._file = open(self.path, "ab")
            self._file.truncate(whole)
            if not whole:
                self._write([self._first_entry])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.release()

    def _read(self) -> int:
        """Take in what is there; the size without a last line that a kill cut short.  ValueError for another file."""
        whole = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and (number > 1 or as_line(self._first_entry).startswith(line)):
                    break
                try:
                    entry = json.loads(line)
                    if number == 1:
                        if entry["transcode"] != self.identity:
                            raise ValueError(
                                f"{self.path} is of another transcode ({entry['transcode']}): give --manifest FILE"
                            )
                    elif "planned" in entry:
                        self.planned[entry["planned"]] = entry["target"]
                        self.done.pop(entry["planned"], None)
                    else:
                        outcome = Outcome(**entry["outcome"])
                        self.done[outcome.name] = outcome, entry["made_with"]
                        if not outcome.error:
                            self.made[outcome.name] = outcome.after, outcome.made
                except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
                    raise ValueError(f"{self.path} is no manifest of transcode (line {number})") from error
                whole += len(line)
        return whole

    def _write(self, entries: Iterable[dict[str, Any]]) -> None:
        assert self._file is not None
        self._file.writelines(map(as_line, entries))
        self._file.flush()

    def plan(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks, each recorded as it is taken, before anything is written: what was not begun is not ours."""
        for task in tasks:
            self._write([{"planned": task.name, "target": task.target}])
            yield task

    def add(self, outcome: Outcome, made_with: str) -> None:
        """Record what came of a task."""
        self._write([{"outcome": dataclasses.asdict(outcome), "made_with": made_with}])


def same_file(target: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", target).casefold()


def list_tasks(settings: Settings, manifest: Manifest) -> tuple[list[Task], list[Outcome], list[Outcome]]:
    """What is left to do, what an earlier run finished, and what cannot be done.

    A target is the source's name with the new suffix; where two sources would share it the later one, by name, keeps
    its own suffix before the new one (a.jpg.mcq).
    """
    fs, root = open_folder(settings.source)
    out, out_root = open_folder(settings.target)
    suffixes = {".mcq"} if settings.suffix != ".mcq" else files.readable_suffixes() - {".mcq"}
    # an unreadable folder must not look like an empty one
    strict = {"on_error": "raise"} if isinstance(fs, LocalFileSystem) else {}
    found: dict[str, dict[str, Any]] = fs.find(root, detail=True, **strict)
    # pictures made by an earlier run, into a folder inside the source, are no sources
    inside = f"{out_root}/" if fs == out and out_root.startswith(f"{root}/") else None
    there = out.find(out_root, detail=True) if out.exists(out_root) else {}
    existing = {path: info["size"] for path, info in there.items()}
    made_with = settings.made_with()
    local = isinstance(out, LocalFileSystem)

    def target_state(target: str) -> str:
        try:
            return state_of(out, f"{out_root}/{target}", {}) if local else ""
        except OSError:  # no file, or gone
            return "unknown"

    taken = {same_file(target) for target in manifest.planned.values()}
    tasks, finished, blocked = [], [], []
    for path in sorted(found):
        if PurePosixPath(path).suffix.lower() not in suffixes or (inside and path.startswith(inside)):
            continue
        name = path[len(root) :].lstrip("/")
        target = manifest.planned.get(name)
        if target is None:
            target, number = str(PurePosixPath(name).with_suffix(settings.suffix)), 1
            while same_file(target) in taken:
                target = name + (f".{number}" if number > 1 else "") + settings.suffix
                number += 1
            taken.add(same_file(target))
        if ".." in PurePosixPath(target).parts or "\\" in target:
            blocked.append(Outcome(name, target, "", error="its name leads out of the folder"))
            continue
        try:
            state = state_of(fs, path, found[path])
        except OSError as error:
            blocked.append(Outcome(name, target, "", error=f"cannot be read: {error.strerror or error}"))
            continue
        size = existing.get(f"{out_root}/{target}")
        earlier, with_what = manifest.done.get(name, (None, ""))
        if earlier and not earlier.error and (size, state, made_with) == (earlier.after, earlier.state, with_what):
            finished.append(earlier)
            continue
        begun = name in manifest.planned and earlier is None  # killed between writing it and saying so
        ours = size is None or (begun and not local) or (size, target_state(target)) == manifest.made.get(name)
        # a local file of a task that was begun is whole: equal to what it will make, or somebody else's
        if not (ours or begun or settings.overwrite):
            blocked.append(Outcome(name, target, state, error=f"{target} exists (use --overwrite)"))
        else:
            tasks.append(Task(name, target, state, ours or settings.overwrite))
    return tasks, finished, blocked


def convert(settings: Settings, task: Task) -> Outcome:
    """Do a task; whatever one file does to a decoder is its outcome's error."""
    try:
        return _convert(settings, task)
    except UnidentifiedImageError:
        return failed(task, "is no image that Pillow can read")
    except Exception as error:
        return failed(task, str(error) or type(error).__name__)


def failed(task: Task, error: str) -> Outcome:
    """The outcome of a task that could not be done."""
    return Outcome(task.name, task.target, task.state, error=error)


def _convert(settings: Settings, task: Task) -> Outcome:
    fs, root = open_folder(settings.source)
    data = fs.cat_file(f"{root}/{task.name}")
    quality = score = None
    source = files.open_picture if settings.suffix == ".mcq" else files.open_mcq
    with source(io.BytesIO(data)) as image:
        pixels = image.width * image.height
        if settings.suffix == ".mcq":
            if settings.min_ssimulacra2 is not None:
                made = least_quality(image, settings.min_ssimulacra2, settings.effort)
            elif settings.bpp is not None:
                made = files.to_mcq(image, target_bpp=settings.bpp, effort=settings.effort)
            else:
                made = files.to_mcq(image, quality=settings.quality, effort=settings.effort)
            quality, score = measure(image, made, settings.score)
        else:
            format = files.writable_format(settings.suffix)
            assert format is not None
            made = files.from_mcq(image, format)
    out, out_root = open_folder(settings.target)
    path = f"{out_root}/{task.target}"
    if not task.replace and out.exists(path):
        if out.cat_file(path) != made:  # else it is ours, of a worker that died before it could say so
            raise FileExistsError(f"{task.target} exists (use --overwrite)")
    elif isinstance(out, LocalFileSystem):
        files.write_whole(Path(path), made, task.replace)
    else:
        out.makedirs(path.rpartition("/")[0], exist_ok=True)
        out.pipe_file(path, made)
    scored = "none" if score is None else settings.score
    local = state_of(out, path, {}) if isinstance(out, LocalFileSystem) else ""
    after = len(made)
    return Outcome(task.name, task.target, task.state, len(data), after, pixels, quality, score, scored, made=local)


def measure(image: Image.Image, made: bytes, score: str) -> tuple[float, float | None]:
    """Quality of an `.mcq` file and its score against the picture it was made of, colours only."""
    import numpy as np

    with Image.open(io.BytesIO(made)) as again:
        quality = float(again.info["quality"])
        if score == "none":
            return quality, None
        pictures = [np.asarray(i.convert("RGB")) for i in (image, again)]
    if score == "psnr":
        return quality, min(metrics.psnr(*pictures), 99.0)  # equal pictures have no finite one
    return quality, metrics.ssimulacra2(*pictures)


def least_quality(image: Image.Image, wanted: float, effort: int) -> bytes:
    """The `.mcq` file of the lowest quality, in eighths, of at least that SSIMULACRA2; ValueError where 8 has less."""
    if min(image.size) < 8:
        raise ValueError("SSIMULACRA2 needs sides of 8 pixels: give quality or bpp for such pictures")

    def tried(step: int) -> tuple[bytes, float]:
        made = files.to_mcq(image, quality=1 + step * QUALITY_STEP, effort=effort)
        score = measure(image, made, "ssimulacra2")[1]
        assert score is not None
        return made, score

    low, high = 0, round(7 / QUALITY_STEP)
    best, score = tried(high)
    if score < wanted:
        raise ValueError(f"SSIMULACRA2 {wanted:g} is out of reach, quality 8 has {score:.1f}: keep the original")
    while low < high:
        middle = (low + high) // 2
        made, score = tried(middle)
        if score >= wanted:
            high, best = middle, made
        else:
            low = middle + 1
    return best


def _start_worker(threads: int) -> None:
    import multiprocessing

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt stops
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # a killed parent leaves nobody to work for

    threading.Thread(target=follow, daemon=True).start()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One for each core; one where a GPU does the work."""
    return 1 if runtime.device().type != "cpu" else min(cores(), MOST_WORKERS)


def in_processes(work: Callable[[Task], Outcome], tasks: Iterable[Task], workers: int) -> Iterator[Outcome]:
    """Outcomes of tasks, in any order; a task that kills its process, even alone, is a failure.

    Tasks are taken as workers get to them.  Raises OSError when worker processes do not live long enough to do a single
    one.
    """
    import multiprocessing

    threads = max(1, cores() // workers)

    def start() -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(threads,))

    waiting, suspects = iter(tasks), deque[Task]()
    running: dict[Future[Outcome], Task] = {}
    pool, fruitless, worked = start(), 0, False
    try:
        while True:
            # what was running when a process died runs alone, so that the next death has one cause
            alone = bool(suspects)
            taken = [suspects.popleft()] if alone else list(islice(waiting, 2 * workers - len(running)))
            broken = list[Task]()
            for task in taken:
                try:
                    running[pool.submit(work, task)] = task
                except BrokenProcessPool:
                    broken.append(task)
            if not running and not broken:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    yield future.result()
                    worked = True
                except BrokenProcessPool:
                    broken.append(task)
            if broken:
                broken += running.values()
                running.clear()
                pool.shutdown(cancel_futures=True)
                if alone and len(broken) == 1:
                    yield failed(broken[0], "its worker process was killed (out of memory?)")
                    fruitless += 1
                else:
                    suspects.extend(broken)
                if fruitless == STARTS and not worked:
                    raise OSError(f"{STARTS} times the worker processes died before any file was done: try --workers 1")
                pool = start()
    finally:
        pool.shutdown(cancel_futures=True)


def on_ray(settings: Settings, tasks: list[Task], workers: int) -> Iterator[Outcome]:
    """Outcomes of tasks from actors of Ray Data that keep the model; Ray starts again what dies.

    What is still not done when Ray gives up on it is tried here, each task in a process of its own.
    """
    import ray

    class Converter:
        def __init__(self) -> None:
            from . import weights

            codec.load_weights(weights.default_id())

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


@dataclasses.dataclass
class Report:
    """Everything a run did: outcomes of this run, what an earlier one had finished, seconds."""

    outcomes: list[Outcome]
    finished: list[Outcome]
    seconds: float
    score: str

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.error]

    @property
    def made(self) -> list[Outcome]:
        return [o for o in self.outcomes if not o.error]

    @property
    def worst(self) -> list[Outcome]:
        """The pictures of the lowest scores, earlier runs' too, lowest first."""
        scored = [o for o in self.made + self.finished if o.score is not None and o.scored == self.score]
        return sorted(scored, key=lambda o: (o.score, o.name))[:WORST]

    def totals(self) -> tuple[int, int, float]:
        """Bytes before and after, and megapixels, of the files that were made."""
        made = self.made
        return sum(o.before for o in made), sum(o.after for o in made), sum(o.pixels for o in made) / 1e6

    def to_dict(self) -> dict[str, Any]:
        """For JSON: totals, failures with reasons, worst pictures, every file."""
        before, after, megapixels = self.totals()
        return {
            "files": len(self.made),
            "skipped": len(self.finished),
            "failed": len(self.failures),
            "bytes_before": before,
            "bytes_after": after,
            "megapixels": megapixels,
            "seconds": round(self.seconds, 3),
            "score": self.score,
            "failures": {o.name: o.error for o in self.failures},
            "worst": [{"name": o.name, "score": o.score, "quality": o.quality} for o in self.worst],
            "made": [{k: v for k, v in dataclasses.asdict(o).items() if v is not None} for o in self.made],
        }

    def text(self) -> str:
        """For people."""
        before, after, megapixels = self.totals()
        lines = [
            f"{len(self.made)} files in {self.seconds:.1f} s ({megapixels:.1f} MP), "
            f"{before:,} -> {after:,} bytes" + (f" ({after / before:.1%})" if before else "")
        ]
        if self.finished:
            lines.append(f"{len(self.finished)} files were there already, from an earlier run")
        if failures := self.failures:
            lines.append(f"{len(failures)} failed:")
            lines += [f"  {o.name}: {o.error}" for o in failures[:WORST]]
            if len(failures) > WORST:
                lines.append(f"  and {len(failures) - WORST} more")
        if worst := self.worst:
            lines.append(f"lowest {self.score}:")
            lines += [f"  {o.name}: {o.score:.2f} at quality {o.quality:g}" for o in worst[:5]]
        return "\n".join(lines)


def check_workers(workers: int, engine: str) -> None:
    """Raise ValueError for an engine that is none, or so many workers as it cannot have."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {ENGINES}, got {engine!r}")
    if not 1 <= workers <= (MOST_WORKERS if engine == "processes" else math.inf):
        raise ValueError(f"workers must be from 1 to {MOST_WORKERS} (more with Ray), got {workers}")


def run(settings: Settings, manifest_path: Path, workers: int, engine: str = "processes") -> Report:
    """Do what is left of a tree, with a progress bar, recording every file; returns the report.

    workers, engine: as of `check_workers`.  Raises ValueError for a source that is no folder, or a manifest that is
    another's, and OSError when a folder or the manifest cannot be used.
    """
    from tqdm import tqdm

    folders = {n: os.path.abspath(url) for n in ("source", "target") if is_local(url := getattr(settings, n))}
    settings = dataclasses.replace(settings, **folders)
    fs, root = open_folder(settings.source)
    if not fs.isdir(root):
        raise ValueError(f"{settings.source} is no folder")
    began = time.monotonic()
    with Manifest(manifest_path, settings) as manifest:
        tasks, finished, blocked = list_tasks(settings, manifest)
        begun = manifest.plan(tasks)
        outcomes = list(blocked)
        made_with = settings.made_with()
        if engine == "ray" and tasks:
            results = on_ray(settings, list(begun), workers)
        elif min(workers, len(tasks)) < 2:
            results = (convert(settings, task) for task in begun)
        else:
            results = in_processes(functools.partial(convert, settings), begun, min(workers, len(tasks)))
        with tqdm(total=len(tasks), unit="file", disable=None) as bar:
            for outcome in results:
                manifest.add(outcome, made_with)
                outcomes.append(outcome)
                bar.update()
    return Report(outcomes, finished, time.monotonic() - began, settings.score)
