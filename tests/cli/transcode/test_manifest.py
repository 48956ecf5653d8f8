"""The record of a transcode: whole after any kill, one run at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli
from pillow_mcquic.cli.transcode import run as transcode_run
from pillow_mcquic.cli.transcode.manifest import NAME, Manifest
from pillow_mcquic.cli.transcode.tasks import Outcome, Settings, Task

from .conftest import names, run

SETTINGS = Settings("photos", "small")
DONE = Outcome("a.png", "a.mcq", "3-5", before=9, after=4, pixels=6, quality=4.0, score=33.5, scored="psnr", made="4-7")


def test_what_came_of_a_task_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with Manifest(path, SETTINGS) as manifest:
        assert [*manifest.record_plan([Task("a.png", "a.mcq", "3-5", True)])]
        manifest.add(DONE, "quality 4")
    with Manifest(path, SETTINGS) as manifest:
        assert manifest.planned == {"a.png": "a.mcq"}
        assert manifest.done == {"a.png": (DONE, "quality 4")}
        assert manifest.made == {"a.png": (4, "4-7")}


def test_a_task_planned_again_is_open_but_its_last_file_stays_ours(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with Manifest(path, SETTINGS) as manifest:
        manifest.add(DONE, "quality 4")
        assert [*manifest.record_plan([Task("a.png", "a.mcq", "3-5", True)])]
    with Manifest(path, SETTINGS) as manifest:
        assert (manifest.done, manifest.made) == ({}, {"a.png": (4, "4-7")})


def test_a_failure_leaves_the_last_file_ours(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with Manifest(path, SETTINGS) as manifest:
        manifest.add(DONE, "quality 4")
        manifest.add(Outcome("a.png", "a.mcq", "3-6", error="broken"), "quality 4")
    with Manifest(path, SETTINGS) as manifest:
        assert manifest.done["a.png"][0].error == "broken"
        assert manifest.made == {"a.png": (4, "4-7")}


def test_every_entry_survives_a_kill_right_after_it(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pillow_mcquic.cli.transcode.manifest import Manifest;"
        "from pillow_mcquic.cli.transcode.tasks import Outcome, Settings;"
        "manifest = Manifest(Path(sys.argv[1]), Settings('photos', 'small')).__enter__();"
        "[manifest.add(Outcome(f'{i}.png', f'{i}.mcq', ''), '') for i in range(50)]; os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "record")], capture_output=True)
    with Manifest(tmp_path / "record", SETTINGS) as manifest:
        assert len(manifest.done) == 50


def test_a_name_need_not_be_text(tmp_path: Path) -> None:
    outcome = Outcome("\udcff.png", "\udcff.mcq", "3-5", after=4, made="4-7")
    with Manifest(tmp_path / "record", SETTINGS) as manifest:
        assert [*manifest.record_plan([Task(outcome.name, outcome.target, "3-5", True)])]
        manifest.add(outcome, "quality 4")
    with Manifest(tmp_path / "record", SETTINGS) as manifest:
        assert manifest.done == {"\udcff.png": (outcome, "quality 4")}
        assert manifest.planned == {"\udcff.png": "\udcff.mcq"}


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with Manifest(tmp_path / "record", SETTINGS) as manifest:
        manifest._database.execute("PRAGMA max_page_count = 1")
        large = Outcome("a.png", "a.mcq", "x" * 100_000)
        with pytest.raises(OSError, match=r"cannot use .*record .*full"):
            manifest.add(large, "quality 4")


@pytest.mark.parametrize("content", [b"no database\n" * 100, b'{"planned": "a"}\n' * 200, b"x"])
def test_another_file_is_no_manifest(tree: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tree.parent / "notes.txt"
    path.write_bytes(content)
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--manifest", str(path)]) == 1
    assert "is no manifest of transcode" in capsys.readouterr().err
    assert path.read_bytes() == content


@pytest.mark.parametrize("table", ["files (size INTEGER)", "others (size INTEGER)"])
def test_another_database_is_no_manifest(tree: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tree.parent / "other.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE {table}")
    content = path.read_bytes()
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--manifest", str(path)]) == 1
    assert "other.sqlite is no manifest of transcode" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_two_runs_on_one_manifest(tree: Path) -> None:
    run(tree)
    path, out = tree.parent / "dst" / NAME, tree.parent / "dst"
    with Manifest(path, Settings(str(tree), str(out))):
        changed = path.stat().st_mtime_ns  # to read and close the file here would give up its lock (POSIX)
        command = [sys.executable, "-m", "pillow_mcquic", "transcode", str(tree), str(out)]
        second = subprocess.run(command, capture_output=True, text=True)
        assert path.stat().st_mtime_ns == changed
    assert second.returncode == 1
    assert "another transcode is at work" in second.stderr
    assert run(tree)["skipped"] == 3


def test_killed_while_doing_files_again(tree: Path) -> None:
    """The new file is there, the record of it is not."""
    run(tree)
    manifest = tree.parent / "dst" / NAME
    before = manifest.read_bytes()
    run(tree, "-q", "8")
    manifest.write_bytes(before)
    with Manifest(manifest, Settings(str(tree), str(tree.parent / "dst"))) as record:
        assert [*record.record_plan([Task("a.png", "a.mcq", "", True)])]
    report = run(tree, "-q", "8", status=1)
    assert names(report) == ["a.png"]
    assert sorted(report["failures"]) == ["b/c.jpg", "b/d.webp"]  # by the record these are other people's files


def test_own_files_stay_own_after_a_failure(tree: Path) -> None:
    run(tree, "-q", "2")
    good = (tree / "a.png").read_bytes()
    (tree / "a.png").write_bytes(good[:200])
    assert sorted(run(tree, "-q", "2", status=1)["failures"]) == ["a.png"]
    (tree / "a.png").write_bytes(good)
    assert names(run(tree, "-q", "3")) == ["a.png", "b/c.jpg", "b/d.webp"]


def test_a_run_stopped_early_owns_only_what_it_began(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> Outcome:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(transcode_run, "convert", stop)
        assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--workers", "1"]) == 130
    out = tree.parent / "dst"
    (out / "b").mkdir()
    for name in ("a.mcq", "b/d.mcq"):  # of the one it had begun, and of one that it had not
        (out / name).write_bytes(b"precious")
    assert sorted(run(tree, status=1)["failures"]) == ["a.png", "b/d.webp"]
    assert (out / "a.mcq").read_bytes() == (out / "b" / "d.mcq").read_bytes() == b"precious"


def test_manifest_belongs_to_its_folders_and_suffix(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tree)
    out = tree.parent / "dst"
    before = (out / "a.mcq").read_bytes()
    other = tree.parent / "other"
    other.mkdir()
    with Image.open(tree / "a.png") as image:
        image.rotate(180).save(other / "a.png")
    assert cli.main(["transcode", str(other), str(out)]) == 1
    assert "is of another transcode" in capsys.readouterr().err
    command = ["transcode", str(other), str(out), "--manifest", str(tree.parent / "other.sqlite")]
    assert cli.main(command) == 1
    assert "a.mcq exists (use --overwrite)" in capsys.readouterr().out
    assert (out / "a.mcq").read_bytes() == before
    back = tree.parent / "back"
    assert cli.main(["transcode", str(out), str(back), "--to", "png"]) == 0
    assert cli.main(["transcode", str(out), str(back), "--to", "jpg"]) == 1
    with Image.open(back / "a.png") as image:
        assert image.format == "PNG"
