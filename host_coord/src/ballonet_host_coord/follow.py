"""`ballonet record`: the running coordinator's snapshots, asked for once a second and written to a file."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import trio

from .control import ControlError, request
from .recorder import FileRecorder

EVERY_S = 1.0
"""The coordinator's own period. Turns between, in the midst of a move, are in the recording that the service keeps."""

Say = Callable[[str], None]


class Follower:
    """Copies turns from the control socket to a recorder, each once."""

    def __init__(self, socket_path: str, recorder: FileRecorder, say: Say) -> None:
        self._socket_path = socket_path
        self._recorder = recorder
        self._say = say
        self._seen_s: Any = None
        self._away = False
        self.turns = 0

    async def run(self, for_s: float) -> None:
        """Until `for_s` have passed or a signal comes. Raises ControlError where the first request is not answered."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await self._take()
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + for_s
                nursery.start_soon(_end_on_signal, signals, nursery.cancel_scope)
                next_s = trio.current_time()
                while True:
                    next_s = max(next_s + EVERY_S, trio.current_time())
                    await trio.sleep_until(next_s)
                    await self._take_or_wait()

    async def _take_or_wait(self) -> None:
        """A coordinator that is restarted is waited for; the recording goes on with it."""
        try:
            await self._take()
        except ControlError as error:
            if not self._away:
                self._say(f"{error}; waiting for it")
            self._away = True
        else:
            if self._away:
                self._say("the coordinator answers again")
            self._away = False

    async def _take(self) -> None:
        answer = await request(self._socket_path, "snapshot")
        now_s = answer["snapshot"]["now_s"]
        if now_s != self._seen_s:
            self._seen_s = now_s
            self.turns += 1
            self._recorder.record("turn", now_s, answer)


async def _end_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return
