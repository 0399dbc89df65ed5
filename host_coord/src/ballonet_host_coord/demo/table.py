"""The demo's screen: lines that stay, and below them a table of what `ballonet status` shows, again and again."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from typing import TextIO

import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import Command, Decision, Snapshot
from ballonet_host_coord.status import render

from .verdict import Judge

ON_TERMINAL_EVERY_S = 0.5
IN_LOG_EVERY_S = 5.0

# ECMA-48 and DEC: cursor up and erase what follows; a line too long is cut, as a wrapped one would be two to erase.
UP_AND_ERASE = "\x1b[{}A\x1b[J"
CUT_LINES, WRAP_LINES = "\x1b[?7l", "\x1b[?7h"


class Screen:
    """On a terminal the table is redrawn in its place and lines go above it; elsewhere all comes one after the other.

    What is said goes to stdout, table and log to stderr.
    """

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.color = self.live and not os.environ.get("NO_COLOR")
        self._began_s = time.monotonic()
        self._drawn: list[str] = []

    def say(self, text: str) -> None:
        """Print lines that stay, with the time."""
        self._print_above(f"[{time.monotonic() - self._began_s:6.1f} s] {text}", sys.stdout)

    def note(self, text: str) -> None:
        """Print lines of the log, which stay, too."""
        self._print_above(text, sys.stderr)

    def show(self, table: str) -> None:
        """Put `table` in the place of the last one; an empty one leaves nothing behind."""
        self._erase()
        # More than a screen could not be erased: the cursor does not go up into what has scrolled away.
        self._drawn = table.splitlines()[: self.size().lines - 1] if self.live else []
        if self.live:
            self._draw()
        elif table:
            print(table, file=sys.stderr, flush=True)

    def size(self) -> os.terminal_size:
        """Columns and lines of where the table goes."""
        size = os.get_terminal_size(sys.stderr.fileno()) if self.live else None
        # A serial console, or a container's terminal, knows no size: 0 by 0.
        return size if size and all(size) else shutil.get_terminal_size()

    def _print_above(self, text: str, stream: TextIO) -> None:
        self._erase()
        print(text, file=stream, flush=True)
        self._draw()

    def _erase(self) -> None:
        if self._drawn:
            print(UP_AND_ERASE.format(len(self._drawn)), end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._drawn:
            print(CUT_LINES + "\n".join(self._drawn) + WRAP_LINES, file=sys.stderr, flush=True)


class ScreenHandler(logging.Handler):
    """Puts the log where it does not disturb the table."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.note(self.format(record))


class Table:
    """Shows the coordinator's status on the screen, while the judge looks at each of its turns."""

    def __init__(self, coordinator: Coordinator, judge: Judge, screen: Screen) -> None:
        self._coordinator = coordinator
        self._judge = judge
        self._screen = screen
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        self._judge.look(snapshot)

    async def run(self) -> None:
        while True:
            await trio.sleep(ON_TERMINAL_EVERY_S if self._screen.live else IN_LOG_EVERY_S)
            answer = await self._coordinator.handle("status", {})
            text = render(answer, self._screen.size().columns, color=self._screen.color)
            self._screen.show(f"{text}\nbooked at most {self._judge.booked_most_kib // 1024} MiB so far")
