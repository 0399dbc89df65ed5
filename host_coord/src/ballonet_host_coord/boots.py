"""Which boot a VM is in, and whether the balloon statistics that QEMU shows are of that boot.

A **boot** begins with a new QEMU process, a reset, or the end of an incoming migration. A new connection to the process
that was known before goes on with its boot: taking it for a new one would set a busy guest to its startup size. A
reset in between is missed, which is why a connection that is only slow is kept (`qmp`); what such a guest takes is
still booked, as `resident`. Where the process cannot be told, each connection is to a new one.

QEMU goes on showing the last boot's statistics. It stamps them with `last-update`, wall-clock seconds rounded down, 0
before any. So of this boot are statistics

* whose stamp is not the one that was seen last, and
* after a reset: whose stamp is above the second in which QEMU says it was reset. Those of the same second may be the
  last boot's. The second change of the stamp since the reset counts in any case, since at most one was unseen
  before it; that holds when the wall clock is set back, too.

What was there when a connection to a running guest was made is older than that connection and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .model import BalloonStatistics

UNSUPPORTED = (1 << 64) - 1
"""QEMU's value for what a guest's driver does not tell, in some versions printed as -1."""

# QEMU's name -> ours, and the size of a unit.
_SIZES_KIB = {
    "stat-total-memory": "total_kib",
    "stat-free-memory": "free_kib",
    "stat-available-memory": "available_kib",
    "stat-disk-caches": "caches_kib",
}
_COUNTERS = {
    "stat-swap-in": "swap_in_bytes",
    "stat-swap-out": "swap_out_bytes",
    "stat-major-faults": "major_faults",
}


@dataclass(frozen=True, slots=True)
class Process:
    """A QEMU process, told apart from a later one with the same number by when it began."""

    pid: int
    began_wall_s: float


class BootTracker:
    """Counts boots and each boot's statistics. Survives reconnections; times are the coordinator's clock."""

    def __init__(self) -> None:
        self.boot = 0
        self.boot_began_s = 0.0
        self.statistics: BalloonStatistics | None = None
        self.statistics_count = 0
        self._process: Process | None = None
        self._stamp: int | None = None  # the last-update that was seen last; None: not looked yet
        self._reset_stamp = 0  # wall-clock second of the last reset
        self._changes = 0  # of the stamp, in this boot
        self._read_s = 0.0

    def connected(self, process: Process | None, began_s: float, now_s: float) -> bool:
        """A new connection to `process` (None where it cannot be told), begun at `began_s`. True for a new boot."""
        if process is not None and process == self._process:
            return False
        self._process = process
        # A process that is new to us may be days old, but its age bounds the boot's from above, which is the
        # best to be had: the guest's own agent knows the rest.
        self._begin(began_s)
        self._stamp = None
        self._reset_stamp = 0
        self._read_s = now_s
        return True

    def found(self, process: Process) -> None:
        """The process of the connection that goes on could not be told before. That makes no other boot of it."""
        self._process = process

    def reset(self, now_s: float, wall_s: int) -> None:
        """The machine was reset at the second `wall_s` of QEMU's wall clock."""
        self._begin(now_s)
        self._reset_stamp = wall_s

    def migrated_in(self, now_s: float) -> None:
        self._begin(now_s)

    def statistics_read(self, stamp: int, values: Mapping[str, object], now_s: float) -> None:
        """QEMU showed statistics with this `last-update`."""
        since_s, self._read_s = self._read_s, now_s
        # A guest that never answered shows 0, so the first stamp it shows is news.
        seen = self._stamp if self._stamp is not None else stamp
        self._stamp = stamp
        if stamp == seen or stamp == 0:
            return
        self._changes += 1
        if stamp <= self._reset_stamp and self._changes < 2:
            return
        self.statistics_count += 1
        # They arrived some time after the last look; the earliest moment is the one that promises least.
        self.statistics = BalloonStatistics(
            arrived_s=since_s,
            **{ours: kib for name, ours in _SIZES_KIB.items() if (kib := _kib(values.get(name))) is not None},
            **{ours: count for name, ours in _COUNTERS.items() if (count := _count(values.get(name))) is not None},
        )

    def _begin(self, began_s: float) -> None:
        self.boot += 1
        self.boot_began_s = began_s
        self.statistics = None
        self.statistics_count = 0
        self._changes = 0


def _count(untrusted: object) -> int | None:
    if type(untrusted) is not int or not 0 <= untrusted < UNSUPPORTED:
        return None
    return untrusted


def _kib(untrusted: object) -> int | None:
    count = _count(untrusted)
    return None if count is None else count // 1024
