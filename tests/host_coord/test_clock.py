"""The clock that decisions are made by."""

from __future__ import annotations

import trio
import trio.testing

from ballonet_host_coord.clock import TrioClock


def test_clock_and_time_outs_agree() -> None:
    """Sleeping for a time takes that time on the same clock, also where trio's clock is a virtual one."""

    async def main() -> float:
        clock = TrioClock()
        before = clock.now()
        await clock.sleep(3600)
        return clock.now() - before

    assert trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) == 3600
