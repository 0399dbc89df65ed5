"""What watching the host's memory costs: files read and processor time, for each guest and second."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

import trio
from figures import Findings

from ballonet_host_coord.coordinator import SURVEY_EVERY_S
from ballonet_host_coord.host_memory import ProcHostMemory

NAME = "host_cost"
GUESTS = 20
RAM_KIB = 256 * 1024
SECONDS, QUICK_SECONDS = 120, 15
STANDS_FOR_QEMU = (
    f"import mmap; m = mmap.mmap(-1, {RAM_KIB * 1024}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); m[:: 4096 * 16] = "
    f"b'x' * len(m[:: 4096 * 16]); print(flush=True); input()"
)


class Clock:
    """Moves by a second for each round, so that nobody waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


class Reads:
    """Counts files of /proc and /sys as they are opened."""

    def __init__(self) -> None:
        self.count = 0
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(("/proc", "/sys")):
            self.count += 1


def measure(findings: Findings, quick: bool) -> None:
    """A round a second, as the coordinator makes them: each guest's residency, the host's facts, at times a survey."""
    seconds = QUICK_SECONDS if quick else SECONDS
    reads = Reads()
    with _guests() as pids:
        for label, parts in (("residency", "r"), ("and the host's facts", "rf"), ("and the survey", "rfs")):
            began_reads, cpu_s = reads.count, trio.run(_rounds, pids, seconds, parts)
            per_guest = len(pids) * seconds
            findings.add(NAME, f"{label}: CPU per guest-second, {GUESTS} guests", "us", [cpu_s / per_guest * 1e6])
            files = (reads.count - began_reads) / per_guest
            findings.add(NAME, f"{label}: files read per guest-second", "files", [files])


async def _rounds(pids: list[int], seconds: int, parts: str) -> float:
    clock = Clock()
    memory = ProcHostMemory(clock)
    began_s = time.process_time()
    for second in range(seconds):
        clock.now_s += 1
        for pid in pids:
            await memory.look(pid, RAM_KIB)
            memory.residency(pid, RAM_KIB)
        if "f" in parts:
            memory.facts()
        if "s" in parts and second % int(SURVEY_EVERY_S) == 0:
            await memory.survey(pids)
    return time.process_time() - began_s


@contextlib.contextmanager
def _guests() -> Iterator[list[int]]:
    with contextlib.ExitStack() as running:
        children = []
        for _ in range(GUESTS):
            child = running.enter_context(
                subprocess.Popen([sys.executable, "-c", STANDS_FOR_QEMU], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            children.append(child)
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        yield [child.pid for child in children]
        for child in children:
            child.communicate(b"\n")
