"""Which pictures of a tree are left to do."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from .. import files
from .folders import is_local_system, open_folder, state_of
from .manifest import Manifest
from .target_names import TargetNames
from .tasks import Outcome, Settings, Task


class Listing:
    """What is left to do, what an earlier run finished, and what cannot be done."""

    def __init__(self, settings: Settings, manifest: Manifest) -> None:
        self.settings, self.manifest = settings, manifest
        self.fs, self.root = open_folder(settings.source)
        self.out, self.out_root = open_folder(settings.target)
        self.local = is_local_system(self.out)
        self.made_with = settings.made_with
        self.tasks: list[Task] = []
        self.finished: list[Outcome] = []
        self.blocked: list[Outcome] = []
        there = self.out.find(self.out_root, detail=True) if self.out.exists(self.out_root) else {}
        self._existing = {path: info["size"] for path, info in there.items()}
        self._names = TargetNames(manifest.planned, settings.suffix)
        for path, info in self._sources():
            self._add(path, info)

    def _sources(self) -> list[tuple[str, dict[str, Any]]]:
        """Paths of the pictures, in order, and what their file system says of them."""
        suffixes = {".mcq"} if self.settings.suffix != ".mcq" else files.readable_suffixes() - {".mcq"}
        # an unreadable folder must not look like an empty one
        strict = {"on_error": "raise"} if is_local_system(self.fs) else {}
        found: dict[str, dict[str, Any]] = self.fs.find(self.root, detail=True, **strict)
        # pictures made by an earlier run, into a folder inside the source, are no sources
        inside = self.fs == self.out and self.out_root.startswith(f"{self.root}/")
        return [
            (path, found[path])
            for path in sorted(found)
            if PurePosixPath(path).suffix.lower() in suffixes and not (inside and path.startswith(f"{self.out_root}/"))
        ]

    def _add(self, path: str, info: dict[str, Any]) -> None:
        """Sort one picture into tasks, finished and blocked."""
        name, manifest = path[len(self.root) :].lstrip("/"), self.manifest
        target = self._names.target_of(name)
        if ".." in PurePosixPath(target).parts or "\\" in target:
            self.blocked.append(Outcome(name, target, "", error="its name leads out of the folder"))
            return
        try:
            state = state_of(self.fs, path, info)
        except OSError as error:
            self.blocked.append(Outcome(name, target, "", error=f"cannot be read: {error.strerror or error}"))
            return
        size = self._existing.get(f"{self.out_root}/{target}")
        earlier, with_what = manifest.done.get(name, (None, ""))
        found = size, state, self.made_with
        if earlier and not earlier.error and found == (earlier.after, earlier.state, with_what):
            self.finished.append(earlier)
            return
        begun = name in manifest.planned and earlier is None  # killed between writing it and saying so
        ours = size is None or (begun and not self.local) or (size, self._state_of(target)) == manifest.made.get(name)
        # a local file of a task that was begun is whole: equal to what it will make, or somebody else's
        if not (ours or begun or self.settings.overwrite):
            self.blocked.append(Outcome(name, target, state, error=f"{target} exists (use --overwrite)"))
        else:
            self.tasks.append(Task(name, target, state, ours or self.settings.overwrite))

    def _state_of(self, target: str) -> str:
        """What a new file looks like, if it is local."""
        try:
            return state_of(self.out, f"{self.out_root}/{target}", {}) if self.local else ""
        except OSError:  # no file, or gone
            return "unknown"
