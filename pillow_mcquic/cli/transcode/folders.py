"""Folders, local or of any fsspec URL."""

from __future__ import annotations

import os
import stat
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

# what a remote listing says of a file's age, by file system
AGES = ("mtime", "LastModified", "last_modified", "updated", "ETag", "etag", "modified", "date_time", "created")


def open_folder(url: str) -> tuple[Any, str]:
    """File system and root path of a folder; ValueError for one that cannot be used."""
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} needs another package: {error}") from error
    return fs, root.rstrip("/")


def is_local(url: str) -> bool:
    """Whether a folder is given as a path."""
    return "://" not in url and "::" not in url


def is_local_system(fs: Any) -> bool:
    """Whether a file system is this machine's."""
    return isinstance(fs, LocalFileSystem)


def state_of(fs: Any, path: str, info: dict[str, Any]) -> str:
    """What changes when a file does; OSError for what is no file."""
    if is_local_system(fs):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("is no file")
        return f"{found.st_size}-{found.st_mtime_ns}"
    return f"{info['size']}-{next((info[age] for age in AGES if info.get(age)), '')}"
