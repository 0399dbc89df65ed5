"""What the processes of the host's benchmark tell each other of each guest: a file of numbers that all of them map.

The guest's process writes what the machine has become and when it asked; the coordinator's process writes targets,
where it has libvirt's stand-in. Each number is eight bytes and has one writer at a time, so no lock is needed.
"""

from __future__ import annotations

import mmap
from pathlib import Path

FIELDS = (
    "target_kib",
    "actual_kib",
    "available_kib",
    "demanded_ns",  # CLOCK_MONOTONIC when a DEMAND was written that nobody has answered; 0 for none
    "demands",  # DEMANDs written so far
    "lost_frames",  # frames that the channel did not take
    "stalled_ms",  # how long its workload waited for memory in all
    "unmet_ms",  # the longest that it waited without a break
)
BYTES = 8


class Table:
    """`table.actual_kib[number]`, one array for each field."""

    target_kib: memoryview
    actual_kib: memoryview
    available_kib: memoryview
    demanded_ns: memoryview
    demands: memoryview
    lost_frames: memoryview
    stalled_ms: memoryview
    unmet_ms: memoryview

    def __init__(self, path: Path, count: int) -> None:
        """Map the file, which is made where it is missing."""
        size_bytes = len(FIELDS) * count * BYTES
        with open(path, "a+b") as file:
            file.truncate(size_bytes)
            self._map = mmap.mmap(file.fileno(), size_bytes)
        numbers = memoryview(self._map).cast("q")
        for index, name in enumerate(FIELDS):
            setattr(self, name, numbers[index * count : (index + 1) * count])
