"""Processes and actors that die lose one picture at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic.cli.transcode import workers
from pillow_mcquic.cli.transcode.tasks import Outcome, Task
from pillow_mcquic.cli.transcode.workers import in_processes

from .conftest import recorded


def die_on_c(task: Task) -> Outcome:
    if task.name == "c":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, task.target, task.state)


def die_the_first_time(task: Task) -> Outcome:
    first = Path(task.target)
    if task.name == "c" and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, task.target, task.state)


def test_a_task_that_lost_its_process_once_is_tried_again(tmp_path: Path) -> None:
    tasks = [Task(name, str(tmp_path / "died"), "", False) for name in "abcd"]
    outcomes = list(in_processes(die_the_first_time, tasks, workers=2))
    assert sorted(o.name for o in outcomes) == list("abcd")
    assert [o.error for o in outcomes] == [None] * 4
    assert (tmp_path / "died").exists()


def die(*_: object) -> None:
    os._exit(1)


def test_processes_that_never_begin_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_start_worker", die)
    with pytest.raises(OSError, match="3 times the worker processes died before any file was done"):
        list(in_processes(die_on_c, [Task(name, name, "", False) for name in "abcdefgh"], workers=2))


def test_a_task_that_kills_its_process_is_the_only_failure() -> None:
    tasks = [Task(name, name, "", False) for name in "abcdefgh"]
    outcomes = list(in_processes(die_on_c, tasks, workers=2))
    assert sorted(o.name for o in outcomes) == list("abcdefgh")
    assert {o.name: o.error for o in outcomes if o.error} == {"c": "its worker process was killed (out of memory?)"}


def die_on_consonants(task: Task) -> Outcome:
    if task.name not in "aei":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, task.target, task.state)


@pytest.mark.slow
def test_many_tasks_that_kill_their_process_are_failures_too() -> None:
    outcomes = list(in_processes(die_on_consonants, [Task(n, n, "", False) for n in "abcdefi"], workers=2))
    assert sorted(o.name for o in outcomes if o.error) == ["b", "c", "d", "f"]


def many(folder: Path, photo: Image.Image, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        photo.crop((i, i, i + 32, i + 32)).save(folder / f"{i:03d}.png")
    return folder


def heed_interrupts() -> None:
    """What a shell starts in the background ignores them, and so does what that starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def begun(source: Path, out: Path) -> tuple[list[str], subprocess.Popen[bytes]]:
    """A run by two workers that has made five files."""
    command = [sys.executable, "-m", "pillow_mcquic", "transcode", str(source), str(out), "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts
    )
    while len(list(out.glob("*.mcq"))) < 5:
        time.sleep(0.02)
        assert process.poll() is None
    return command, process


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"PPid:\t{pid}\n" in (entry / "status").read_text():
                yield int(entry.name)
        except OSError:
            continue


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no such interrupt for one process")
def test_an_interrupted_run_finishes_what_it_began(tmp_path: Path, photo: Image.Image) -> None:
    out = tmp_path / "dst"
    command, process = begun(many(tmp_path / "src", photo, 60), out)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert 5 <= len(list(out.glob("*.mcq"))) < 60
    assert list(out.glob("*.part")) == []
    subprocess.run(command, capture_output=True, check=True)
    assert recorded(out) == [f"{i:03d}.png" for i in range(60)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_killed_run_is_repeated_without_loss(tmp_path: Path, photo: Image.Image) -> None:
    out = tmp_path / "dst"
    command, process = begun(many(tmp_path / "src", photo, 60), out)
    pids = list(children(process.pid))
    process.kill()
    process.wait()
    done = len(list(out.glob("*.mcq")))
    assert done < 60
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "workers outlived the run that was killed"
        time.sleep(0.1)
    subprocess.run(command, capture_output=True, check=True)
    assert sorted(p.stem for p in out.glob("*.mcq")) == [f"{i:03d}" for i in range(60)]
    assert recorded(out) == [f"{i:03d}.png" for i in range(60)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_ray_with_a_killed_worker_loses_nothing(tmp_path: Path, photo: Image.Image) -> None:
    pytest.importorskip("ray")
    source, out = many(tmp_path / "src", photo, 200), tmp_path / "dst"
    command = [sys.executable, "-m", "pillow_mcquic", "transcode", str(source), str(out)]
    command += ["--engine", "ray", "--workers", "2", "--score", "none"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(list(out.glob("*.mcq"))) < 10:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    actors = [p for p in Path("/proc").iterdir() if p.name.isdigit() and b"ray::" in read(p / "cmdline")]
    busy = [int(p.name) for p in actors if b"Map" in read(p / "cmdline")]
    os.kill(busy[0], signal.SIGKILL)
    text = process.communicate(timeout=240)[0]
    assert process.returncode == 0, text
    assert "200 files in" in text
    assert len(list(out.glob("*.mcq"))) == 200
    assert recorded(out) == [f"{i:03d}.png" for i in range(200)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
