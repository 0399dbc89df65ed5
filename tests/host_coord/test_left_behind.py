"""What does not come back in time is left behind, and what does is returned."""

from __future__ import annotations

import threading

import trio

from ballonet_host_coord.left_behind import in_time


def test_who_waits_for_ever_keeps_nobody_waiting() -> None:
    """The caller goes on without an answer while the thread still waits."""
    end = threading.Event()

    async def main() -> None:
        with trio.fail_after(60):
            assert await in_time(0.01, end.wait, 20) is None
            assert await in_time(60, lambda number: number + 1, 6) == 7
        assert not end.is_set()

    try:
        trio.run(main)
    finally:
        end.set()
