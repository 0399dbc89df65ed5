"""The state port over SQLite: what must outlive the process, safe on disk when `put` returns.

With write-ahead logging and synchronous=FULL a commit has reached the disk when it returns, and a process that dies
in the midst of one leaves the last commit behind. A file that is damaged all the same (a disk, an editor) must not
keep memory from moving: it is put aside under another name, said, and a new one begun.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from typing import Any

from .ports import PortError

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 2.0
"""Writes are a few per minute and take milliseconds; who waits longer meets a second coordinator."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


MIGRATIONS = ("CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL)",)
"""Each makes the schema of one version that of the next; only ever added to. `user_version` counts those done."""


class _Damaged(Exception):
    pass


class SqliteState:
    """Keys to JSON values. Not for several threads."""

    def __init__(self, path: str) -> None:
        """Open or make the file. Raises PortError where it cannot be used and that is not the file's damage."""
        self._path = path
        self.moved_aside: str | None = None
        """Where a damaged file was put, if there was one."""
        try:
            os.makedirs(os.path.dirname(path) or ".", mode=0o750, exist_ok=True)
            try:
                self._database = _open(path)
            except _Damaged as error:
                self.moved_aside = _move_aside(path)
                log.error(
                    "%s is damaged (%s); put aside as %s. Begun anew: what was chosen at run time is lost",
                    path,
                    error,
                    self.moved_aside,
                )
                self._database = _open(path)
        except (OSError, sqlite3.Error, _Damaged) as error:
            raise PortError(f"{path}: cannot keep state: {error}") from error

    def get(self, key: str) -> Any:
        """The value, None where there is none. Raises PortError."""
        try:
            row = self._database.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])
        except (sqlite3.Error, ValueError) as error:
            raise PortError(f"{self._path}: cannot read {key}: {error}") from error

    def put(self, key: str, value: Any) -> None:
        """Raises PortError; then the old value stands."""
        self.change({key: value})

    def delete(self, key: str) -> None:
        """No error where there is no such key. Raises PortError; then the old value stands."""
        self.change({key: None})

    def change(self, values: Mapping[str, Any]) -> None:
        """One commit, since each waits for the disk; None deletes. Raises PortError; then all old values stand."""
        new = [(key, json.dumps(value, allow_nan=False)) for key, value in values.items() if value is not None]
        gone = [(key,) for key, value in values.items() if value is None]
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)", new)
                self._database.executemany("DELETE FROM state WHERE key = ?", gone)
        except sqlite3.Error as error:
            more = f" and {len(values) - 1} more" if len(values) > 1 else ""
            raise PortError(f"{self._path}: cannot write {next(iter(values))}{more}: {error}") from error

    def close(self) -> None:
        self._database.close()


def _open(path: str) -> sqlite3.Connection:
    """An open, whole database with our table. Raises _Damaged, sqlite3.Error."""
    database = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise _Damaged(verdict)
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise PortError(
                f"{path}: written by a newer ballonet (version {version}, this one knows {len(MIGRATIONS)}); "
                "install that one again, or move the file away"
            )
        for number, statement in enumerate(MIGRATIONS[version:], version + 1):
            with database:  # one transaction: killed in between, the next start does this step again
                database.execute("BEGIN IMMEDIATE")
                database.execute(statement)
                database.execute(f"PRAGMA user_version = {number}")
        # A file that is a database of somebody else's has a table of that name and not of that shape.
        database.execute("SELECT key, value FROM state LIMIT 1").fetchall()
    except BaseException as error:
        database.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise _Damaged(str(error)) from error
        raise
    return database


def _move_aside(path: str) -> str:
    number = 1
    while os.path.lexists(aside := f"{path}.damaged-{number}"):
        number += 1
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, aside + suffix)
    return aside
