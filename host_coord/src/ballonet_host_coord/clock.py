"""The clock port over trio: the same time that trio's time-outs run on."""

from __future__ import annotations

import trio


class TrioClock:
    """Monotonic seconds from an arbitrary start. Usable inside trio.run only."""

    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)
