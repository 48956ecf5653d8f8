"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pillow_mcquic.atomic_write import write_whole


def test_a_file_appears_with_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.mcq"
    assert write_whole(target, b"data", overwrite=False) == 4
    assert target.read_bytes() == b"data"
    assert [p.name for p in target.parent.iterdir()] == ["a.mcq"]


def test_what_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a.mcq"
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"a\.mcq exists \(use --overwrite\)"):
        write_whole(target, b"data", overwrite=False)
    assert target.read_bytes() == b"precious"
    write_whole(target, b"data", overwrite=True)
    assert target.read_bytes() == b"data"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "a.mcq"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"cannot write {target}: No space left on device"):
        write_whole(target, b"data", overwrite=True)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("refused", ["chmod", "fsync", "link"])
def test_a_file_system_that_refuses_a_call_still_takes_files(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, refused, refuse)
    write_whole(tmp_path / "a.mcq", b"data", overwrite=False)
    assert (tmp_path / "a.mcq").read_bytes() == b"data"
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a.mcq", b"other", overwrite=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mcq"]


def test_a_parent_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/a\.mcq"):
        write_whole(tmp_path / "file" / "a.mcq", b"data", overwrite=False)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_replacing_keeps_permissions_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "a.mcq", tmp_path / "link.mcq"
    target.touch()
    target.chmod(0o640)
    link.symlink_to(target)
    write_whole(link, b"data", overwrite=True)
    assert link.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"data", 0o640)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_new_file_is_readable_as_the_mask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a.mcq", b"", overwrite=False)
    finally:
        os.umask(before)
    assert (tmp_path / "a.mcq").stat().st_mode & 0o777 == 0o640
