"""The clock port over trio: the same time that trio's time-outs run on; and one for what runs without trio."""

from __future__ import annotations

import time

import trio


class TrioClock:
    """Monotonic seconds from an arbitrary start. Usable inside trio.run only."""

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class SystemClock:
    """The system's own monotonic seconds, usable everywhere but in virtual time."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
