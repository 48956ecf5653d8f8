"""`mcq transcode`: trees to `.mcq` and back, stopped anywhere and repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from pillow_mcquic import cli, transcode
from pillow_mcquic.transcode import Outcome, Task

from .conftest import psnr


@pytest.fixture
def tree(tmp_path: Path, photo: Image.Image) -> Path:
    """src/a.png, src/b/c.jpg with metadata, src/b/d.webp, src/notes.txt"""
    source = tmp_path / "src"
    (source / "b").mkdir(parents=True)
    crop = photo.crop((90, 220, 218, 316))
    crop.save(source / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    crop.save(source / "b" / "c.jpg", exif=exif, comment=b"hello", quality=95)
    crop.save(source / "b" / "d.webp", lossless=True)
    (source / "notes.txt").write_text("no image")
    return source


def run(tree: Path, *options: str, target: str = "dst", status: int = 0) -> dict[str, Any]:
    """Transcode with one worker; the report."""
    report = tree.parent / "report.json"
    command = ["transcode", str(tree), str(tree.parent / target), "--workers", "1", "--report", str(report)]
    assert cli.main([*command, *options]) == status
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def names(report: dict[str, Any]) -> list[str]:
    return sorted(made["name"] for made in report["made"])


def test_tree_there_and_back(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(tree, "-q", "6")
    out = tree.parent / "dst"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.mcq")) == ["a.mcq", "b/c.mcq", "b/d.mcq"]
    with Image.open(out / "b" / "c.mcq") as image:
        assert (image.getexif()[0x0112], image.info["comment"], image.info["quality"]) == (6, b"hello", 6)
    assert (report["files"], report["failed"], report["skipped"]) == (3, 0, 0)
    sizes = [sum(p.stat().st_size for p in tree.rglob("*.*") if p.suffix != ".txt")]
    assert report["bytes_before"] == sizes[0]
    assert report["bytes_after"] == sum(p.stat().st_size for p in out.rglob("*.mcq"))
    assert f"{report['bytes_before']:,} -> {report['bytes_after']:,} bytes" in capsys.readouterr().out

    back = tree.parent / "back"
    assert cli.main(["transcode", str(out), str(back), "--to", "png", "--workers", "1"]) == 0
    with Image.open(back / "b" / "c.png") as image, Image.open(tree / "b" / "c.jpg") as original:
        assert image.getexif()[0x0112] == 6
        assert psnr(image, original) > 28


def test_scores_are_those_of_the_files(tree: Path) -> None:
    report = run(tree, "--bpp", "0.5")
    for made in report["made"]:
        with Image.open(tree / made["name"]) as image, Image.open(tree.parent / "dst" / made["target"]) as decoded:
            assert made["score"] == pytest.approx(psnr(image, decoded))
            assert made["quality"] == decoded.info["quality"]
        assert 8 * made["after"] / made["pixels"] == pytest.approx(0.5, rel=0.05)
    worst = [entry["score"] for entry in report["worst"]]
    assert worst == sorted(worst)


def test_repeated_run_does_nothing_twice(tree: Path) -> None:
    run(tree)
    before = {p: p.stat().st_mtime_ns for p in (tree.parent / "dst").rglob("*.mcq")}
    report = run(tree)
    assert (report["files"], report["skipped"]) == (0, 3)
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_what_changed_is_done_again(tree: Path) -> None:
    run(tree)
    with Image.open(tree / "a.png") as image:
        image.rotate(90, expand=True).save(tree / "a.png")
    (tree.parent / "dst" / "b" / "c.mcq").unlink()
    assert names(run(tree)) == ["a.png", "b/c.jpg"]
    with Image.open(tree.parent / "dst" / "a.mcq") as image:
        assert image.size == (96, 128)
    assert len(names(run(tree, "-q", "2"))) == 3  # another quality is another file
    assert run(tree, "-q", "2")["skipped"] == 3


def test_a_file_of_somebody_else_is_left_alone(tree: Path) -> None:
    out = tree.parent / "dst"
    out.mkdir()
    (out / "a.mcq").write_bytes(b"precious")
    report = run(tree, status=1)
    assert report["failures"] == {"a.png": "a.mcq exists (use --overwrite)"}
    assert (out / "a.mcq").read_bytes() == b"precious"
    (out / "b" / "c.mcq").write_bytes(b"mine now")
    assert run(tree, status=1)["failed"] == 2
    assert (out / "b" / "c.mcq").read_bytes() == b"mine now"
    assert names(run(tree, "--overwrite")) == ["a.png", "b/c.jpg"]


def test_a_file_of_the_same_size_is_not_taken_for_an_own_one(tree: Path) -> None:
    run(tree)
    theirs = tree.parent / "dst" / "a.mcq"
    theirs.write_bytes(bytes(theirs.stat().st_size))
    (tree / "a.png").touch()
    assert run(tree, status=1)["failures"] == {"a.png": "a.mcq exists (use --overwrite)"}
    assert not any(theirs.read_bytes())


def test_sources_of_one_name_keep_apart(tree: Path) -> None:
    with Image.open(tree / "a.png") as image:
        image.convert("L").save(tree / "a.jpg")
    run(tree)
    out = tree.parent / "dst"
    with Image.open(out / "a.mcq") as first, Image.open(out / "a.png.mcq") as second:
        assert (first.mode, second.mode) == ("L", "RGB")
    with Image.open(tree / "a.png") as image:
        image.save(tree / "a.bmp")  # sorts before both, but comes later
    assert [made["target"] for made in run(tree)["made"]] == ["a.bmp.mcq"]


def test_failures_have_reasons_and_are_tried_again(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (tree / "a.png").read_bytes()
    (tree / "a.png").write_bytes(good[:200])
    (tree / "b" / "e.gif").write_bytes(b"GIF89a, not")
    report = run(tree, status=1)
    assert sorted(report["failures"]) == ["a.png", "b/e.gif"]
    assert report["failures"]["b/e.gif"] == "is no image that Pillow can read"
    assert "2 failed" in capsys.readouterr().out
    (tree / "a.png").write_bytes(good)
    report = run(tree, status=1)
    assert (names(report), list(report["failures"])) == (["a.png"], ["b/e.gif"])


def test_least_quality_that_reaches_a_score(tree: Path, photo: Image.Image) -> None:
    pytest.importorskip("ssimulacra2")
    for old in tree.rglob("*.*"):
        old.unlink()
    photo.crop((90, 220, 282, 348)).save(tree / "x.png")
    (made,) = run(tree, "--min-ssimulacra2", "40")["made"]
    assert made["score"] >= 40
    (below,) = run(tree, "-q", str(made["quality"] - 1 / 8), "--score", "ssimulacra2", target="below")["made"]
    assert below["score"] < 40
    report = run(tree, "--min-ssimulacra2", "99", status=1, target="never")
    assert "out of reach" in report["failures"]["x.png"]


def test_pictures_inside_a_zip(tree: Path) -> None:
    archive = tree.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tree / "a.png", "deep/a.png")
    out = tree.parent / "unzipped"
    assert cli.main(["transcode", f"zip::{archive}", str(out), "--workers", "1"]) == 0
    with Image.open(out / "deep" / "a.mcq") as image, Image.open(tree / "a.png") as original:
        assert image.size == original.size


def test_target_inside_the_source(tree: Path) -> None:
    run(tree, target="src/small")
    out = tree / "small"
    assert cli.main(["transcode", str(tree), str(out / "png"), "--to", "png", "--workers", "1"]) == 0
    assert (out / "png" / "small" / "b" / "c.png").exists()
    assert run(tree, target="src/small")["skipped"] == 3  # pictures in the target are no sources


def die_on_c(task: Task) -> Outcome:
    if task.name == "c":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, task.target, task.state)


def test_a_task_that_kills_its_process_is_the_only_failure() -> None:
    tasks = [Task(name, name, "", False) for name in "abcdefgh"]
    outcomes = list(transcode.in_processes(die_on_c, tasks, workers=2))
    assert sorted(o.name for o in outcomes) == list("abcdefgh")
    assert {o.name: o.error for o in outcomes if o.error} == {"c": "its worker process was killed (out of memory?)"}


def die_on_consonants(task: Task) -> Outcome:
    if task.name not in "aei":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(task.name, task.target, task.state)


def test_many_tasks_that_kill_their_process_are_failures_too() -> None:
    outcomes = list(transcode.in_processes(die_on_consonants, [Task(n, n, "", False) for n in "abcdefi"], workers=2))
    assert sorted(o.name for o in outcomes if o.error) == ["b", "c", "d", "f"]


def many(folder: Path, photo: Image.Image, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        photo.crop((i, i, i + 32, i + 32)).save(folder / f"{i:03d}.png")
    return folder


def manifest_names(out: Path) -> list[str]:
    lines = (out / transcode.MANIFEST).read_text().splitlines()
    return sorted(json.loads(line)["outcome"]["name"] for line in lines if "outcome" in line)


def children(pid: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"PPid:\t{pid}\n" in (entry / "status").read_text():
                yield int(entry.name)
        except OSError:
            continue


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_killed_run_is_repeated_without_loss(tmp_path: Path, photo: Image.Image) -> None:
    source, out = many(tmp_path / "src", photo, 60), tmp_path / "dst"
    command = [sys.executable, "-m", "pillow_mcquic", "transcode", str(source), str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(out.glob("*.mcq"))) < 5:
        time.sleep(0.02)
        assert process.poll() is None
    workers = list(children(process.pid))
    process.kill()
    process.wait()
    done = len(list(out.glob("*.mcq")))
    assert done < 60
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "workers outlived the run that was killed"
        time.sleep(0.1)
    subprocess.run(command, capture_output=True, check=True)
    assert sorted(p.stem for p in out.glob("*.mcq")) == [f"{i:03d}" for i in range(60)]
    assert manifest_names(out) == [f"{i:03d}.png" for i in range(60)]


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
    assert manifest_names(out) == [f"{i:03d}.png" for i in range(200)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("lost", [1, 2, 10])
def test_manifest_cut_short_by_a_kill(lost: int, tree: Path) -> None:
    run(tree)
    manifest = tree.parent / "dst" / transcode.MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:-lost])
    assert run(tree)["files"] == 1  # the one whose line is lost
    assert run(tree)["skipped"] == 3


@pytest.mark.parametrize("kept", [0, 5, -1])
def test_manifest_cut_short_in_its_first_line(kept: int, tree: Path) -> None:
    run(tree, target="other")
    line = (tree.parent / "other" / transcode.MANIFEST).read_bytes().splitlines(keepends=True)[0]
    manifest = tree.parent / "dst" / transcode.MANIFEST
    manifest.parent.mkdir()
    manifest.write_bytes(line.replace(b"other", b"dst")[:kept])
    assert run(tree)["files"] == 3
    assert run(tree)["skipped"] == 3


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
        patched.setattr(transcode, "convert", stop)
        assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--workers", "1"]) == 130
    out = tree.parent / "dst"
    (out / "b").mkdir()
    for name in ("a.mcq", "b/d.mcq"):  # of the one it had begun, and of one that it had not
        (out / name).write_bytes(b"precious")
    assert sorted(run(tree, status=1)["failures"]) == ["a.png", "b/d.webp"]
    assert (out / "a.mcq").read_bytes() == (out / "b" / "d.mcq").read_bytes() == b"precious"


def test_what_is_called_mcq_is_not_read_as_another_format(tree: Path) -> None:
    (tree / "x.mcq").write_bytes((tree / "a.png").read_bytes())
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), "--to", "bmp", "--workers", "1"]) == 1
    assert not list((tree.parent / "dst").rglob("*.bmp"))


@pytest.mark.parametrize("text", ["no json\n{}\n", '{"other": 1}\n\n', "[1]\n\n", '{"precious": 1}'])
def test_another_file_is_no_manifest(tree: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tree.parent / "notes.jsonl"
    manifest.write_text(text)
    command = ["transcode", str(tree), str(tree.parent / "dst"), "--manifest", str(manifest)]
    assert cli.main(command) == 1
    assert "is no manifest" in capsys.readouterr().err
    assert manifest.read_text() == text


def test_killed_while_doing_files_again(tree: Path) -> None:
    """The new file is there, the line that says so is not."""
    run(tree)
    out = tree.parent / "dst"
    manifest = (out / transcode.MANIFEST).read_bytes()
    run(tree, "-q", "8")
    (out / transcode.MANIFEST).write_bytes(manifest + b'{"planned": "a.png", "target": "a.mcq"}\n{"outc')
    report = run(tree, "-q", "8", status=1)
    assert names(report) == ["a.png"]
    assert sorted(report["failures"]) == ["b/c.jpg", "b/d.webp"]  # by the record these are other people's files


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
    command = ["transcode", str(other), str(out), "--manifest", str(tree.parent / "other.jsonl")]
    assert cli.main(command) == 1
    assert "a.mcq exists (use --overwrite)" in capsys.readouterr().out
    assert (out / "a.mcq").read_bytes() == before
    back = tree.parent / "back"
    assert cli.main(["transcode", str(out), str(back), "--to", "png"]) == 0
    assert cli.main(["transcode", str(out), str(back), "--to", "jpg"]) == 1
    with Image.open(back / "a.png") as image:
        assert image.format == "PNG"


def test_two_runs_on_one_manifest(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tree)
    manifest = tree.parent / "dst" / transcode.MANIFEST
    before = manifest.read_bytes()
    with FileLock(f"{manifest}.lock"):
        code = "import sys; from pillow_mcquic import cli; sys.exit(cli.main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "transcode", str(tree), str(tree.parent / "dst")]
        second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 1
    assert "another transcode is at work" in second.stderr
    assert manifest.read_bytes() == before


def test_names_that_differ_in_case_alone_keep_apart(tmp_path: Path, photo: Image.Image) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in ("IMG.JPG", "img.png", "Img.webp"):
        photo.crop((0, 0, 32, 32)).save(source / name)
    targets = [made["target"] for made in run(source)["made"]]
    assert len({target.casefold() for target in targets}) == 3


def test_target_above_the_source(tree: Path) -> None:
    assert len(names(run(tree / "b", target="."))) == 2
    assert (tree / "c.mcq").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_what_is_no_readable_file_is_a_failure(tree: Path) -> None:
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    os.mkfifo(tree / "pipe.png")
    report = run(tree, status=1)
    assert len(names(report)) == 3
    assert "gone.png" in report["failures"]
    assert report["failures"]["pipe.png"] == "cannot be read: is no file"


def test_a_name_does_not_lead_out_of_the_target(tree: Path) -> None:
    archive = tree.parent / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(tree / "a.png", "../../evil.png")
    out = tree.parent / "x" / "y"
    assert cli.main(["transcode", f"zip::{archive}", str(out)]) == 1
    assert not list(tree.parent.glob("**/evil.mcq"))


def test_report_replaces_only_a_report(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (tree / "a.png").read_bytes()
    command = ["transcode", str(tree), str(tree.parent / "dst"), "--report", str(tree / "a.png")]
    assert cli.main(command) == 2
    assert "is no report of transcode" in capsys.readouterr().err
    assert (tree / "a.png").read_bytes() == before
    assert not (tree.parent / "dst").exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["-q", "9"], 2, "quality must be from 1"),
        (["--bpp", "-1"], 2, "bpp must be a positive number"),
        (["--min-ssimulacra2", "100"], 2, "min_ssimulacra2 must be below 100"),
        (["--to", "xyz"], 2, "no image format to decode to has the suffix .xyz"),
        (["--workers", "99"], 2, "workers must be from 1"),
    ],
)
def test_bad_arguments(
    tree: Path, options: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["transcode", str(tree), str(tree.parent / "dst"), *options]) == status
    assert message in capsys.readouterr().err
    assert not (tree.parent / "dst").exists()


def test_missing_source_and_remote_target(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcode", str(tree / "nowhere"), str(tree.parent / "dst")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert cli.main(["transcode", str(tree), "memory://x"]) == 2
    assert "give --manifest" in capsys.readouterr().err
