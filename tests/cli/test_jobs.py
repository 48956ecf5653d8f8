"""Many files in one command: inputs, outputs, and what came of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pillow_mcquic import cli


def test_default_output_lies_beside_the_input(folder: Path) -> None:
    assert cli.main(["encode", str(folder / "*.png")]) == 0
    assert (folder / "a.mcq").exists()


def test_a_run_that_was_stopped_can_be_repeated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mcq").write_text("done before")
    assert cli.main(["encode", "--skip-existing", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "skipped 1 files" in out
    assert "encoded 1 of 1 files" in out
    assert (folder / "a.mcq").read_text() == "done before"
    assert (folder / "sub" / "b.mcq").exists()


def test_a_failure_is_counted_and_the_rest_is_done(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("I;16", (5, 5)).save(folder / "deep.png")
    out = tmp_path / "mcq"
    assert cli.main(["encode", str(folder), "-o", str(out)]) == 1
    printed = capsys.readouterr()
    assert "encoded 2 of 4 files" in printed.out
    assert "2 failed" in printed.out
    assert "broken.png" in printed.err
    assert "has I;16 samples, .mcq files have 8 bits: --scale-16" in printed.err
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.mcq", "b.mcq"]


def test_two_inputs_never_share_an_output(folder: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]) -> None:
    small.save(folder / "a.bmp")
    assert cli.main(["encode", "--overwrite", str(folder / "a.*")]) == 1
    assert "already the output" in capsys.readouterr().err


def test_a_glob_of_folders_is_searched(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", f"{tmp_path}/i*", "-o", str(tmp_path / "mcq")]) == 0
    assert sorted(p.name for p in (tmp_path / "mcq").rglob("*.mcq")) == ["a.mcq", "b.mcq"]
    (folder / "a.png").unlink()  # one picture, still in a folder
    assert cli.main(["encode", f"{tmp_path}/i*", "-o", str(tmp_path / "new.mcq")]) == 0
    assert (tmp_path / "new.mcq" / "sub" / "b.mcq").is_file()


@pytest.mark.parametrize("made", [False, True])
def test_decoding_into_a_folder_with_a_dot(made: bool, tmp_path: Path, small_file: bytes) -> None:
    (tmp_path / "a.mcq").write_bytes(small_file)
    if made:
        (tmp_path / "out.d").mkdir()
    out = f"{tmp_path}/out.d" + ("" if made else "/")
    assert cli.main(["decode", str(tmp_path / "a.mcq"), "-o", out]) == 0
    assert (tmp_path / "out.d" / "a.png").is_file()


def test_what_was_refused_is_not_skipped_later(
    folder: Path, small: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """a.png would have a.bmp's output: in a first run, and when that output is there."""
    small.save(folder / "a.bmp")
    for _ in range(2):
        assert cli.main(["encode", "--skip-existing", str(folder / "a.[bp]*")]) == 1
        assert "already the output of another input" in capsys.readouterr().err


def test_a_file_named_twice_is_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["encode", str(folder / "a.png"), str(folder / "*.png")]) == 0
    assert "encoded 1 of 1 files" in capsys.readouterr().out


def test_trailing_slash_names_a_folder(folder: Path, tmp_path: Path) -> None:
    assert cli.main(["encode", str(folder / "a.png"), "-o", f"{tmp_path}/new.v2/"]) == 0
    assert (tmp_path / "new.v2" / "a.mcq").is_file()


def test_one_output_under_two_names_is_one_output(
    folder: Path, small: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.save(folder / "a.bmp")
    monkeypatch.chdir(folder)
    assert cli.main(["encode", "a.png", str(folder / "a.bmp"), "--overwrite"]) == 1
