"""Monitors of QEMUs that a test has started."""

from __future__ import annotations

import trio

from ballonet_host_coord.qmp import QmpClient, QmpClosed

ANSWERS_WITHIN_S = 60.0


async def until_it_answers(path: str) -> None:
    """The socket is there before QEMU serves it."""
    with trio.fail_after(ANSWERS_WITHIN_S):
        while True:
            try:
                await (await QmpClient.connect(path)).aclose()
                return
            except QmpClosed:
                await trio.sleep(0.1)
