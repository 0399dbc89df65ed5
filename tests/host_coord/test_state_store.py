"""What must outlive the process does, and a damaged file does not keep the coordinator from starting."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_host_coord import state_store
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.state_store import MIGRATIONS, SqliteState


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lib" / "state.sqlite")


def test_values_outlive_the_process(path: str) -> None:
    """What was put is there for the next one; what was deleted, or never put, is None."""
    state = SqliteState(path)
    state.put("released", ["web", "db"])
    state.put("gen", {"web": 7})
    state.put("gen", {"web": 8})
    state.put("gone", 1)
    state.delete("gone")
    state.delete("never there")
    state.close()
    state = SqliteState(path)
    assert [state.get(key) for key in ("released", "gen", "gone")] == [["web", "db"], {"web": 8}, None]
    state.close()


def test_put_is_safe_when_it_has_returned(path: str) -> None:
    """A process that is killed right after `put` has kept the value, however it dies."""
    program = (
        "import os, signal, sys; from ballonet_host_coord.state_store import SqliteState\n"
        "state = SqliteState(sys.argv[1]); state.put('k', 1); state.put('k', 2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == -signal.SIGKILL
    state = SqliteState(path)
    assert state.get("k") == 2
    state.close()


def test_commits_wait_for_the_disk(path: str) -> None:
    """The database is in the mode in which a commit that returned is on disk."""
    state = SqliteState(path)
    assert state._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert state._database.execute("PRAGMA synchronous").fetchone() == (2,)
    state.close()


def scribble_all_over(path: str) -> None:
    Path(path).write_bytes(b"this is no database " * 500)


def scribble_in_the_middle(path: str) -> None:
    data = bytearray(Path(path).read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    Path(path).write_bytes(data)


def cut(path: str) -> None:
    os.truncate(path, 5000)


@pytest.mark.parametrize("damage", [scribble_all_over, scribble_in_the_middle, cut])
def test_damaged_file_is_put_aside_and_said(path: str, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    """Damage costs what was kept and not the start: the file stays for who wants to look, and a new one works."""
    assert callable(damage)
    for number in (1, 2):
        state = SqliteState(path)
        for key in range(200):
            state.put(f"key {key}", "x" * 100)
        state.close()
        damage(path)
        damaged = Path(path).read_bytes()
        state = SqliteState(path)
        assert state.moved_aside == f"{path}.damaged-{number}"
        assert Path(state.moved_aside).read_bytes() == damaged
        assert state.get("key 1") is None
        state.put("key 1", 2)
        assert state.get("key 1") == 2
        state.close()
    assert "put aside as" in caplog.text


def test_file_in_use_is_not_taken_for_damaged(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another process locks is an error that goes away, not one to begin anew for."""
    monkeypatch.setattr("ballonet_host_coord.state_store.LOCK_TIMEOUT_S", 0.0)
    SqliteState(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(PortError, match="locked"):
        SqliteState(path)
    other.close()
    assert os.listdir(os.path.dirname(path)) == ["state.sqlite"]


def test_failed_write_is_told_and_changes_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that could not be written is not silently lost: `put` raises and the old value stands."""
    monkeypatch.setattr("ballonet_host_coord.state_store.LOCK_TIMEOUT_S", 0.0)
    state = SqliteState(path)
    state.put("k", "old")
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(PortError, match="cannot write k"):
        state.put("k", "new")
    other.close()
    assert state.get("k") == "old"
    state.close()


def test_a_change_of_several_is_whole_or_not_at_all(path: str) -> None:
    """Where one of them cannot be written all are as they were, and the error says which and how many."""
    state = SqliteState(path)
    state.put("a", 1)
    state.put("b", 1)
    state.change({"a": 2, "b": None})
    assert (state.get("a"), state.get("b")) == (2, None)
    state._database.execute("CREATE TRIGGER full BEFORE DELETE ON state BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    with pytest.raises(PortError, match="cannot write c and 1 more: disk is full"):
        state.change({"c": 3, "a": None})
    assert (state.get("a"), state.get("c")) == (2, None)
    state.close()


def test_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A path that cannot be made is told with its path."""
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match="cannot keep state"):
        SqliteState(str(tmp_path / "file" / "state.sqlite"))


def test_file_without_a_version_is_migrated(path: str) -> None:
    """What the first ballonet wrote is read on, and has a version from then on."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    first = sqlite3.connect(path)
    first.execute("CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    first.execute("INSERT INTO state VALUES ('released:web', 'true')")
    first.commit()
    first.close()
    state = SqliteState(path)
    assert state.get("released:web") is True
    state.close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


def test_file_of_a_newer_version_is_left_alone(path: str) -> None:
    """A downgrade does not misread what it does not know, nor throw it away: it says what to do."""
    SqliteState(path).close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()
    with pytest.raises(PortError, match="written by a newer ballonet"):
        SqliteState(path)
    assert not [name for name in os.listdir(os.path.dirname(path)) if "damaged" in name]


def test_a_migration_is_done_whole_or_not(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that fails in its midst leaves version and schema as they were; the next start does it again."""
    SqliteState(path).close()
    steps = (*MIGRATIONS, "ALTER TABLE state ADD COLUMN key REAL")
    monkeypatch.setattr(state_store, "MIGRATIONS", steps)
    with pytest.raises(PortError):
        SqliteState(path)
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    monkeypatch.setattr(state_store, "MIGRATIONS", (*MIGRATIONS, "ALTER TABLE state ADD COLUMN at REAL"))
    SqliteState(path).close()
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
