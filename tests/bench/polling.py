"""What there is without an agent: a loop of the bench's own that reads balloon statistics and moves the balloon."""

from __future__ import annotations

from typing import Any

import trio
from house import RAM_KIB

from ballonet_host_coord.demo.machine import Monitor

SHORT_RATIO = 0.15
"""Available below this share of what the guest has: it gets more."""
SPARE_RATIO = 0.25
LOOK_EVERY_S = 0.05
"""For news: QEMU renews the statistics once a period, and the loop acts on them at once, its best case."""


async def run(monitor: Monitor) -> None:
    """Deflate to use + 25 % whenever less than 15 % is available; until cancelled."""
    seen = 0
    while True:
        shown = await monitor.guest_stats()
        if shown["last-update"] != seen:
            seen = shown["last-update"]
            actual_kib = await monitor.actual_kib()
            target_kib = wanted_kib(shown["stats"], actual_kib)
            if target_kib is not None:
                await monitor.set_balloon(target_kib)
        await trio.sleep(LOOK_EVERY_S)


def wanted_kib(stats: dict[str, Any], actual_kib: int) -> int | None:
    """The next size; None where the guest has enough, or has not said."""
    available_kib = int(stats["stat-available-memory"]) // 1024
    if available_kib >= RAM_KIB or available_kib >= actual_kib * SHORT_RATIO:
        return None
    used_kib = actual_kib - available_kib
    return min(RAM_KIB, int(used_kib * (1 + SPARE_RATIO)))
