"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

REFUSALS = (PermissionError, NotImplementedError)
UNKNOWN = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM})  # calls to a file system


def write_whole(target: Path, data: bytes, overwrite: bool) -> int:
    """Write under a temporary name in the target's folder, then rename; returns the size in bytes.

    The folder is made where it is missing.  FileExistsError unless `overwrite` when the target is there, OSError naming
    the target for all else.  Nothing is left behind on failure; only a kill during the writing itself can leave a
    temporary file.
    """
    part = None
    if overwrite and target.is_symlink():
        target = target.resolve()  # the file is replaced, not the link to it
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}: {error.filename}") from error
    try:
        handle, name = tempfile.mkstemp(prefix=".mcq-", suffix=".part", dir=target.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            _synchronise(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        there = overwrite and target.exists()
        with contextlib.suppress(*REFUSALS):  # some file systems have no permissions
            part.chmod(stat.S_IMODE(target.stat().st_mode) if there else 0o666 & ~mask)  # mkstemp made it private
        if overwrite:
            os.replace(part, target)
        else:
            _rename_anew(part, target)
        return len(data)
    except FileExistsError as error:
        raise FileExistsError(f"{target} exists (use --overwrite)") from error
    except OSError as error:
        raise OSError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _synchronise(handle: int) -> None:
    """`os.fsync`, where the file system knows it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNKNOWN:
            raise


def _rename_anew(part: Path, target: Path) -> None:
    """Give a file a name that no other has; FileExistsError when one has it."""
    try:
        os.link(part, target)  # in one step, also against another process
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.replace(part, target)
