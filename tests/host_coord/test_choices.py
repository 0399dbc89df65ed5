"""choices.py: what is kept is there for the next coordinator, and a row that cannot be read does not end its start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.choices import Choices
from ballonet_host_coord.enforcement import Cell
from ballonet_host_coord.limiting import lift
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.reservations import Reservation
from ballonet_host_coord.simulated.stores import MemoryState
from ballonet_host_coord.state_store import SqliteState

from .builders import GIB

GOOD = ["web", GIB, 5000, 1060.0]


class Limits:
    """Notes which folders are set."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    async def look(self, qemu_pid: int) -> Cell:
        raise PortError("nobody looks")

    async def set(self, qemu_pid: int, folder: str, limit_kib: int | None) -> None:
        self.folders.append(folder)


def damaged(path: Path, key: str, text: str = "{") -> Choices:
    """A store whose file is whole and one row of which is not JSON."""
    state = SqliteState(str(path / "state.sqlite"))
    with state._database:
        state._database.execute("INSERT INTO state (key, value) VALUES (?, ?)", (key, text))
    return Choices(state)


def test_limits_that_cannot_be_told_do_not_end_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The row is named, and whoever starts goes on."""
    limits = Limits()
    trio.run(lift, limits, damaged(tmp_path, "limited"))
    assert "cannot read limited" in caplog.text
    assert limits.folders == []


def test_reservations_that_cannot_be_read_do_not_end_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The row is named, nothing is held, and what is held next is kept in its place."""
    choices = damaged(tmp_path, "reservations")
    assert choices.kept_reservations(0.0, 1000.0) == []
    assert "cannot read reservations" in caplog.text
    choices.keep_reservations([Reservation("web", GIB, 5000, 0.0, 0.0, 60.0, held_since_s=0.0)], 0.0, 1000.0)
    assert [item.name for item in choices.kept_reservations(0.0, 1000.0)] == ["web"]


@pytest.mark.parametrize(
    "row",
    [
        "web", 7, None, [], ["web"], [*GOOD, 1], ["", *GOOD[1:]], ["web", "1G", 5000, 1060.0], ["web", 0, 5000, 1060.0],
        ["web", GIB, 0, 1060.0], ["web", GIB, 5000, "soon"], ["web", GIB, 5000, True], {"name": "web"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("among", [True, False])
def test_a_row_that_is_no_reservation_is_said_and_left_out(
    row: Any, among: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Those beside it are held as before."""
    state = MemoryState()
    state.put("reservations", [row, GOOD] if among else row)
    with caplog.at_level(logging.ERROR, "ballonet"):
        held = Choices(state).kept_reservations(0.0, 1000.0)
    assert [item.name for item in held] == (["web"] if among else [])
    if among:
        assert f"has {row!r} for it" in caplog.text


def test_what_is_chosen_for_all_guests_is_one_commit(tmp_path: Path) -> None:
    """Each commit waits for the disk: five hundred guests are one, and all of it is there for the next coordinator."""
    path = str(tmp_path / "state.sqlite")
    state = SqliteState(path)
    names = [f"guest{number}" for number in range(500)]
    choices = Choices(state)
    choices.mark(names, {"released": True})
    statements: list[str] = []
    state._database.set_trace_callback(statements.append)
    choices.mark(names, {"released": False, "paused": True})
    assert statements.count("COMMIT") == 1
    state.close()
    later = Choices(SqliteState(path))
    assert all(later.is_paused(name) and not later.is_released(name) for name in names)
