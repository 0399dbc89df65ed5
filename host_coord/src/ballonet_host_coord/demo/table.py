"""The live table of the demo: what `ballonet status` shows, again and again, while the judge looks at every turn."""

from __future__ import annotations

import os
import shutil
import sys

import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import Command, Decision, Snapshot
from ballonet_host_coord.status import render

from .verdict import Judge

ON_TERMINAL_EVERY_S = 0.5
IN_LOG_EVERY_S = 5.0
CLEAR = "\x1b[H\x1b[J"


class Table:
    """Redraws on a terminal; elsewhere a table every few seconds. `say` lines stay readable in both."""

    def __init__(self, coordinator: Coordinator, judge: Judge) -> None:
        self._coordinator = coordinator
        self._judge = judge
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        self._judge.look(snapshot)

    async def run(self) -> None:
        live = sys.stderr.isatty()
        color = live and not os.environ.get("NO_COLOR")
        while True:
            await trio.sleep(ON_TERMINAL_EVERY_S if live else IN_LOG_EVERY_S)
            answer = await self._coordinator.handle("status", {})
            width = shutil.get_terminal_size().columns
            text = render(answer, width, color=color)
            booked = f"booked at most {self._judge.booked_most_kib // 1024} MiB so far"
            print(f"{CLEAR if live else ''}{text}\n{booked}", file=sys.stderr, flush=True)
