"""The record of a transcode, in SQLite: what was planned, what came of it, and which files are ours."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from .tasks import Outcome, Settings, Task

NAME = ".mcq-transcode.sqlite"  # in a local target folder
TABLES = """
CREATE TABLE IF NOT EXISTS transcode (identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    name TEXT PRIMARY KEY,
    target TEXT NOT NULL,
    outcome TEXT,        -- JSON of the last one, unless planned again since
    made_with TEXT,      -- what it was made with
    made_size INTEGER,   -- of the last file that was made
    made_state TEXT
);
"""


class Manifest:
    """The record of one source, target and suffix.

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
        try:
            self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        except sqlite3.Error as error:
            raise OSError(f"cannot use {self.path} ({error})") from error
        try:
            self._read()
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise OSError(f"another transcode is at work with {self.path}") from error
            if isinstance(error, sqlite3.OperationalError):
                raise OSError(f"cannot use {self.path} ({error})") from error
            if isinstance(error, (sqlite3.DatabaseError, json.JSONDecodeError, TypeError)):
                raise ValueError(f"{self.path} is no manifest of transcode ({error})") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def _read(self) -> None:
        # held from the first change to the end, and whole after any kill
        self._database.executescript("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;")
        self._database.executescript(f"BEGIN EXCLUSIVE; {TABLES} COMMIT;")
        identity = self._database.execute("SELECT identity FROM transcode").fetchone()
        if identity is None:
            self._database.execute("INSERT INTO transcode VALUES (?)", (self.identity,))
        elif identity[0] != self.identity:
            raise ValueError(f"{self.path} is of another transcode ({identity[0]}): give --manifest FILE")
        rows = self._database.execute("SELECT name, target, outcome, made_with, made_size, made_state FROM files")
        for name, target, outcome, made_with, size, state in rows:
            self.planned[name] = target
            if outcome is not None:
                self.done[name] = Outcome(**json.loads(outcome)), made_with
            if size is not None:
                self.made[name] = size, state

    def record_plan(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks, each recorded as it is taken, before anything is written: what was not begun is not ours."""
        for task in tasks:
            self._database.execute(
                "INSERT INTO files (name, target) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET target = excluded.target, outcome = NULL, made_with = NULL",
                (task.name, task.target),
            )
            yield task

    def add(self, outcome: Outcome, made_with: str) -> None:
        """Record what came of a task."""
        text = json.dumps(dataclasses.asdict(outcome))
        self._database.execute(
            "INSERT INTO files (name, target, outcome, made_with) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET outcome = excluded.outcome, made_with = excluded.made_with",
            (outcome.name, outcome.target, text, made_with),
        )
        if not outcome.error:
            self._database.execute(
                "UPDATE files SET made_size = ?, made_state = ? WHERE name = ?",
                (outcome.after, outcome.made, outcome.name),
            )
