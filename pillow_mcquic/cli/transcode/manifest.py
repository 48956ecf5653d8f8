"""The record of a transcode, in SQLite: what was planned, what came of it, and which files are ours."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from .tasks import Outcome, Settings, Task

NAME = ".mcq-transcode.sqlite"  # in a local target folder
APPLICATION_ID = 0x4D435154  # "MCQT", in the header of the file: other databases stay untouched
# names are bytes, as of os.fsencode: a file name need not be text
TABLES = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE IF NOT EXISTS transcode (identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    name BLOB PRIMARY KEY,
    target BLOB NOT NULL,
    outcome TEXT,        -- JSON of the last one, unless planned again since
    made_with TEXT,      -- what it was made with
    made_size INTEGER,   -- of the last file that was made
    made_state TEXT
);
"""


class Manifest:
    """The record of one source, target and suffix; OSError from anything that cannot be written or read.

    By name: `planned`, targets; `done`, the last outcome and what it was made with, unless planned again since;
    `made`, of the last file that was made, size and state.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        identity = {"source": settings.source, "target": settings.target, "suffix": settings.suffix}
        self.identity = json.dumps(identity)
        self.planned: dict[str, str] = {}
        self.done: dict[str, tuple[Outcome, str]] = {}
        self.made: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Manifest:
        """Take hold of it; OSError when another run has it, ValueError when it is another's or no manifest."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._os_errors():
            self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            with self._os_errors():
                self._take_hold()
                self._read()
        except BaseException as error:
            self._database.close()
            if isinstance(error, (sqlite3.DatabaseError, json.JSONDecodeError, TypeError)):
                raise ValueError(f"{self.path} is no manifest of transcode ({error})") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise OSError(f"another transcode is at work with {self.path}") from error
            raise OSError(f"cannot use {self.path} ({error})") from error

    def _take_hold(self) -> None:
        run = self._database.execute
        run("PRAGMA locking_mode = EXCLUSIVE")  # from the first change to the end
        if self.path.stat().st_size and run("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise ValueError(f"{self.path} is no manifest of transcode")
        self._database.executescript(f"BEGIN EXCLUSIVE; {TABLES} COMMIT;")
        # whole after any kill; after a power cut the last entries may be missing, and are done again
        self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")

    def _read(self) -> None:
        identity = self._database.execute("SELECT identity FROM transcode").fetchone()
        if identity is None:
            self._database.execute("INSERT INTO transcode VALUES (?)", (self.identity,))
        elif identity[0] != self.identity:
            raise ValueError(f"{self.path} is of another transcode ({identity[0]}): give --manifest FILE")
        rows = self._database.execute("SELECT name, target, outcome, made_with, made_size, made_state FROM files")
        for encoded, target, outcome, made_with, size, state in rows:
            name = os.fsdecode(encoded)
            self.planned[name] = os.fsdecode(target)
            if outcome is not None:
                self.done[name] = Outcome(**json.loads(outcome)), made_with
            if size is not None:
                self.made[name] = size, state

    def record_plan(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks, each recorded as it is taken, before anything is written: what was not begun is not ours."""
        for task in tasks:
            with self._os_errors():
                self._database.execute(
                    "INSERT INTO files (name, target) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET target = excluded.target, outcome = NULL, made_with = NULL",
                    (os.fsencode(task.name), os.fsencode(task.target)),
                )
            yield task

    def add(self, outcome: Outcome, made_with: str) -> None:
        """Record what came of a task."""
        made = (None, None) if outcome.error else (outcome.after, outcome.made)
        text = json.dumps(dataclasses.asdict(outcome))
        with self._os_errors():
            self._database.execute(
                "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET outcome = excluded.outcome, made_with = excluded.made_with, "
                "made_size = ifnull(excluded.made_size, made_size), "
                "made_state = ifnull(excluded.made_state, made_state)",
                (os.fsencode(outcome.name), os.fsencode(outcome.target), text, made_with, *made),
            )
