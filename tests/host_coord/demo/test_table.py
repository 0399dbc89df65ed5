"""The demo's screen on a terminal and in a log: what is said stays, and the table is redrawn in one place."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

import trio
import trio.testing
from tests.host_coord.builders import MIB, make_guest, make_snapshot

from ballonet_host_coord.demo.table import Screen, ScreenHandler, Table
from ballonet_host_coord.demo.verdict import Judge

LINES, COLUMNS = 8, 60


def displayed(written: str, columns: int = COLUMNS, lines: int = LINES) -> list[str]:
    """What a terminal shows after this, with what has scrolled away above it: enough of one for what we send."""
    rows, row, column, top, wraps = [""], 0, 0, 0, True
    for control, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|\n|\r)|([^\x1b\n\r]+)", written):
        if control == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            top = max(top, row - lines + 1)
        elif control.endswith("A"):
            row = max(top, row - int(control[2:-1]))
        elif control == "\x1b[J":
            rows[row:] = [rows[row][:column]]
        elif control in ("\x1b[?7l", "\x1b[?7h"):
            wraps = control.endswith("h")
        elif text:
            assert not wraps or column + len(text) <= columns, "a wrapped line is two lines to erase"
            rows[row] = (rows[row][:column] + text)[:columns]
            column += len(text)
    return [line for line in rows if line]


@contextmanager
def terminal(lines: int = LINES, columns: int = COLUMNS) -> Iterator[Callable[[], list[str]]]:
    """Puts a real terminal in the place of stdout and stderr; returns what is to be seen on it."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.set_blocking(ours, False)
    written = ""

    def look() -> list[str]:
        nonlocal written
        with suppress(BlockingIOError):
            while True:
                written += os.read(ours, 65536).decode()
        return displayed(written)

    try:
        with os.fdopen(theirs, "w") as file, redirect_stdout(file), redirect_stderr(file):
            yield look
    finally:
        os.close(ours)


def without_time(lines: list[str]) -> list[str]:
    return [re.sub(r"^\[ *[\d.]+ s\] ", "", line) for line in lines]


def test_what_is_said_stays_above_the_table():
    """On a terminal each line is to be seen once, in order, and one table below: the last one."""
    with terminal() as look:
        screen = Screen()
        assert screen.live
        screen.say("alpha boots")
        for turn in range(20):
            screen.show(f"guest\nturn {turn}")
            if turn % 4 == 0:
                screen.say(f"step {turn}")
        steps = [f"step {turn}" for turn in range(0, 20, 4)]
        assert without_time(look()) == ["alpha boots", *steps, "guest", "turn 19"]


def test_a_table_that_shrinks_or_ends_leaves_nothing():
    """The lines of a longer table before it are gone, and an empty one is none."""
    with terminal() as look:
        screen = Screen()
        screen.show("one\ntwo\nthree")
        screen.show("one")
        assert look() == ["one"]
        screen.show("")
        screen.say("the end")
        assert without_time(look()) == ["the end"]


def test_a_table_larger_than_the_terminal_is_cut():
    """Neither more lines nor longer ones than the terminal has leave parts of old tables behind."""
    with terminal() as look:
        screen = Screen()
        for turn in range(3):
            screen.show("\n".join(f"{turn}{row}" + "x" * COLUMNS * 2 for row in range(LINES * 2)))
        seen = look()
        assert len(seen) == LINES - 1
        assert all(line.startswith("2") and len(line) == COLUMNS for line in seen)


def test_a_terminal_without_a_size_gets_a_whole_table():
    """A serial console says that it has no lines; nothing is cut to that."""
    with terminal(lines=0, columns=0) as look:
        screen = Screen()
        screen.show("one\ntwo\nthree")
        assert look() == ["one", "two", "three"]
        assert screen.size().columns > 0


def test_the_log_goes_above_the_table():
    """A line of the log stays as what is said does."""
    with terminal() as look:
        screen = Screen()
        screen.show("table")
        ScreenHandler(screen).emit(logging.LogRecord("x", logging.ERROR, "", 0, "alpha: lost", None, None))
        screen.show("table 2")
        assert look() == ["alpha: lost", "table 2"]


def test_in_a_log_tables_follow_each_other(capsys):
    """Where there is no terminal nothing is erased and no control character is written."""
    screen = Screen()
    assert not screen.live
    screen.say("alpha boots")
    screen.show("table 1")
    screen.show("")
    screen.show("table 2")
    said, tables = capsys.readouterr()
    assert without_time(said.splitlines()) == ["alpha boots"]
    assert tables == "table 1\ntable 2\n"


class StandingCoordinator:
    """Answers `status` as the service does and lets a test take its turns."""

    on_turn = None

    async def handle(self, operation, arguments):
        assert operation == "status"
        return {"host": {"budget_kib": 2048 * MIB}, "guests": [{"name": "alpha", "assigned_kib": 512 * MIB}]}


def test_each_turn_is_judged_and_the_table_shows_the_worst(capsys):
    """The judge sees every turn, also those between two tables."""
    coordinator, judge = StandingCoordinator(), Judge(2048 * MIB)

    async def main() -> None:
        table = Table(coordinator, judge, Screen())
        for actual_kib in (900 * MIB, 300 * MIB):
            coordinator.on_turn(make_snapshot(make_guest(actual_kib=actual_kib)), None, [])
        with trio.move_on_after(6):
            await table.run()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    text = capsys.readouterr().err
    assert "alpha" in text
    assert text.count("booked at most 900 MiB so far") == 1
