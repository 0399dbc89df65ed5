"""Runs in the guest: notes every change of the kernel's stall counter, looking each 5 ms.

`stalls.py FILE`. At SIGTERM FILE gets JSON: [[CLOCK_MONOTONIC ns, total us of the `some` line], ...], one entry for
each look that found another total than the one before, and the look before each first change. It runs before all
others and keeps its pages: it must be able to look while everybody else waits for memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time

LOOK_EVERY_S = 0.005
CURRENT_AND_FUTURE = 1 | 2


def main() -> None:
    ctypes.CDLL(None).mlockall(CURRENT_AND_FUTURE)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    descriptor = os.open("/proc/pressure/memory", os.O_RDONLY)
    noted: list[tuple[int, int]] = []
    before = (0, -1)
    while not ended:
        text = os.pread(descriptor, 200, 0)
        now = (time.monotonic_ns(), int(text[text.index(b"total=") + 6 : text.index(b"\n")]))
        if now[1] != before[1]:
            if not noted or noted[-1] != before:
                noted.append(before)
            noted.append(now)
        before = now
        time.sleep(LOOK_EVERY_S)
    with open(sys.argv[1], "w") as file:
        json.dump(noted[1:], file)


main()
