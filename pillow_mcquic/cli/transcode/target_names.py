"""Names of new files."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import PurePosixPath


def same_file(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


class TargetNames:
    """The source's name with the new suffix, or as it was planned before.

    Where two sources would share a name the later one, in order, keeps its own suffix before the new one (a.jpg.mcq).
    """

    def __init__(self, planned: Mapping[str, str], suffix: str) -> None:
        self.planned, self.suffix = planned, suffix
        self.taken = {same_file(target) for target in planned.values()}

    def target_of(self, name: str) -> str:
        """The name of the new file of a source."""
        if name in self.planned:
            return self.planned[name]
        target, number = str(PurePosixPath(name).with_suffix(self.suffix)), 1
        while same_file(target) in self.taken:
            target = name + (f".{number}" if number > 1 else "") + self.suffix
            number += 1
        self.taken.add(same_file(target))
        return target
