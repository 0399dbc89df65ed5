"""The host memory port over /proc: what the host has left, and what its kernel says that each QEMU holds.

`/proc/PID/status` is cheap (some 40 us) and is read each time. `smaps` says which part of it is the guest's. It has
some 500 mappings, 25 ms' worth on a busy host, and the kernel walks the guest's page tables for it, which takes a good
part of a second for 100 GiB in 4 KiB pages. So it is read in a thread, only when its age or the movement since then
make it worth while, and for no more than `SMAPS_SHARE` of the time. Between two readings what moves is counted as
the guest's, since QEMU's own hardly moves.

Every file but meminfo is optional: PSI and cgroups may be missing, a process may end while it is read.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

import trio

from .cgroups import Group, groups_of, read_optional
from .host_survey import Surveyor, hugetlb_kib, meminfo_fields
from .left_behind import LEFT_BEHIND
from .model import HostFacts, Residency, Survey
from .ports import Clock, PortError
from .residency import Mapping, ProcessMemory, guest_memory, parse_smaps, parse_status, split

log = logging.getLogger("ballonet")

SMAPS_AGE_S = 10.0
"""QEMU's own memory creeps; a reading this old is replaced."""
SMAPS_MOVED_KIB = 16384
"""Movement that makes an older split doubtful: less than the smallest step that a balloon is moved by."""
LOOK_WAITS_S = 1.0
"""For one process's smaps; 25 ms are usual."""
GROUPS_AGE_S = 10.0
"""How long it is believed which cgroup we are in."""
SMAPS_SHARE = 0.05
"""Of our time, at the most, goes into reading smaps, whatever moves in however many guests."""

_Looked = tuple[ProcessMemory | None, Mapping | None, float]


@dataclass(slots=True)
class _Seen:
    """The last split of one process."""

    began_ticks: int
    """Tells a process from a later one with the same number."""
    ram_kib: int
    held_kib: int
    guest_kib: int
    overhead_kib: int
    read_s: float
    next_s: float
    """Not before, whatever moves."""


class ProcHostMemory:
    def __init__(self, clock: Clock, *, proc_root: str = "/proc", sys_root: str = "/sys") -> None:
        self._clock = clock
        self._root = proc_root
        self._sys_root = sys_root
        self._surveyor = Surveyor(proc_root, sys_root)
        self._groups: list[Group] = []
        self._groups_until_s = float("-inf")
        self._seen: dict[int, _Seen] = {}
        self._turn = trio.Lock()
        self._reading: set[int] = set()
        """Processes whose smaps are being read, or were begun to be and have not come back."""

    def facts(self) -> HostFacts:
        """Raises PortError where there is no meminfo."""
        try:
            meminfo = meminfo_fields(_read(f"{self._root}/meminfo"))
            total_kib, available_kib = meminfo["MemTotal"], meminfo["MemAvailable"]
        except (OSError, KeyError, ValueError) as error:
            raise PortError(f"{self._root}/meminfo does not tell the host's memory: {error!r}") from error
        some_us, full_us = parse_stall_totals(read_optional(f"{self._root}/pressure/memory"))
        limits = self._limits(total_kib)
        limit_kib, group = min(limits, key=lambda limit: limit[0]) if limits else (None, None)
        return HostFacts(
            total_kib=total_kib,
            available_kib=available_kib,
            psi_some_us=some_us,
            psi_full_us=full_us,
            cgroup_limit_kib=limit_kib,
            cgroup_used_kib=group.used_kib() if group is not None else None,
            read_s=self._clock.now(),
            hugetlb_kib=hugetlb_kib(meminfo, self._sys_root),
        )

    def _limits(self, total_kib: int) -> list[tuple[int, Group]]:
        """The limits below the host's memory of our own memory cgroup and of those above it."""
        now_s = self._clock.now()
        if now_s >= self._groups_until_s:  # where we are hardly changes, and a host of containers has long tables
            self._groups, self._groups_until_s = groups_of(self._root), now_s + GROUPS_AGE_S
        limits = ((group.limit_kib(total_kib), group) for group in self._groups)
        return [(limit_kib, group) for limit_kib, group in limits if limit_kib is not None]

    async def survey(self, managed: Iterable[int]) -> Survey:
        """Who holds the host's memory, in a thread. Raises PortError where there is no meminfo."""
        now_s = self._clock.now()
        pids = frozenset(managed)
        try:
            return await trio.to_thread.run_sync(self._surveyor.survey, pids, now_s, **LEFT_BEHIND)
        except (OSError, KeyError, ValueError) as error:
            raise PortError(f"the host's memory cannot be surveyed: {error!r}") from error

    async def look(self, qemu_pid: int, ram_kib: int, hotplug_kib: int = 0) -> None:
        """Read smaps where that is worth while, in a thread: the loop goes on meanwhile. One is read at a time; what
        takes longer than `LOOK_WAITS_S` (its process holds the lock that it needs) is left behind."""
        now_s = self._clock.now()
        process, began_ticks = self._process(qemu_pid, ram_kib)
        if process is None or qemu_pid in self._reading:
            return
        seen = self._known(qemu_pid, ram_kib, began_ticks)
        if seen is not None and not self._worth_while(seen, process.held_kib, now_s):
            return
        # Read once more in the thread: status and smaps are to be of one moment, however long it waits for its turn.
        looked = await self._look_beside(qemu_pid, ram_kib, hotplug_kib)
        if looked is None:
            return
        process, ram, took_s = looked
        if process is None:
            return
        guest_kib, overhead_kib = split(process, ram, ram_kib)
        self._forget(now_s)
        next_s = now_s + took_s * len(self._seen.keys() | {qemu_pid}) / SMAPS_SHARE
        self._seen[qemu_pid] = _Seen(began_ticks, ram_kib, process.held_kib, guest_kib, overhead_kib, now_s, next_s)

    async def _look_beside(self, qemu_pid: int, ram_kib: int, hotplug_kib: int) -> _Looked | None:
        """`_look` in a thread when it is its turn; None where it does not come back in time."""

        def job() -> _Looked:
            try:
                return self._look(qemu_pid, ram_kib, hotplug_kib)
            finally:
                self._reading.discard(qemu_pid)

        async with self._turn:
            with trio.move_on_after(LOOK_WAITS_S):
                await trio.lowlevel.checkpoint_if_cancelled()
                self._reading.add(qemu_pid)
                return await trio.to_thread.run_sync(job, limiter=trio.CapacityLimiter(1), **LEFT_BEHIND)
        log.warning("smaps of process %d: not read within %.0f s; its last reading counts", qemu_pid, LOOK_WAITS_S)
        return None

    def residency(self, qemu_pid: int, ram_kib: int) -> Residency | None:
        """By the last `look`. Before the first, all that the process holds counts as its guest's."""
        process, began_ticks = self._process(qemu_pid, ram_kib)
        if process is None:
            self._seen.pop(qemu_pid, None)
            return None
        seen = self._known(qemu_pid, ram_kib, began_ticks)
        if seen is None:
            guest_kib, overhead_kib = split(process, None, ram_kib)
        else:
            moved_kib = process.held_kib - seen.held_kib
            guest_kib = min(max(0, seen.guest_kib + moved_kib), ram_kib)
            overhead_kib = max(0, seen.overhead_kib + seen.guest_kib + moved_kib - guest_kib)
        return Residency(resident_kib=guest_kib, overhead_kib=overhead_kib, read_s=self._clock.now())

    def _process(self, qemu_pid: int, ram_kib: int) -> tuple[ProcessMemory | None, int]:
        """What the process holds and when it began. None where it is gone, may not be read or is not QEMU."""
        try:
            process = parse_status(_read(f"{self._root}/{qemu_pid}/status"))
            began_ticks = _began_ticks(_read(f"{self._root}/{qemu_pid}/stat"))
        except (OSError, ValueError, IndexError):
            return None, 0
        # Whoever has less address space than the guest has RAM is not its QEMU.
        too_small = process is not None and process.size_kib < ram_kib
        return (None if too_small else process), began_ticks

    def _known(self, qemu_pid: int, ram_kib: int, began_ticks: int) -> _Seen | None:
        seen = self._seen.get(qemu_pid)
        return seen if seen is not None and (seen.began_ticks, seen.ram_kib) == (began_ticks, ram_kib) else None

    def _look(self, qemu_pid: int, ram_kib: int, hotplug_kib: int) -> _Looked:
        """In a thread: what the process holds, its guest's RAM, and the seconds that it took.

        smaps may not be read by a coordinator that is neither root nor QEMU's user. Then all that the process holds
        counts as the guest's, which is too much and never too little.
        """
        began_s = time.perf_counter()
        process, _ = self._process(qemu_pid, ram_kib)
        ram = None
        try:
            ram = guest_memory(parse_smaps(_read(f"{self._root}/{qemu_pid}/smaps")), ram_kib, hotplug_kib)
        except OSError as error:
            if qemu_pid not in self._seen:
                log.warning("smaps of process %d: %s; all it holds counts as its guest's", qemu_pid, error.strerror)
        return process, ram, time.perf_counter() - began_s

    def is_alive(self, qemu_pid: int) -> bool:
        """Whether the process is there and has memory: a zombie has none, a later process of that number is another."""
        try:
            process = parse_status(_read(f"{self._root}/{qemu_pid}/status"))
            began_ticks = _began_ticks(_read(f"{self._root}/{qemu_pid}/stat"))
        except (OSError, ValueError, IndexError):
            return False
        seen = self._seen.get(qemu_pid)
        return process is not None and (seen is None or seen.began_ticks == began_ticks)

    def _worth_while(self, seen: _Seen, held_kib: int, now_s: float) -> bool:
        due = now_s - seen.read_s >= SMAPS_AGE_S or abs(held_kib - seen.held_kib) > SMAPS_MOVED_KIB
        return due and now_s >= seen.next_s

    def _forget(self, now_s: float) -> None:
        """Drop processes that nobody asks for any more."""
        for pid in [pid for pid, seen in self._seen.items() if now_s > seen.next_s + 2 * SMAPS_AGE_S]:
            del self._seen[pid]


def parse_stall_totals(text: str) -> tuple[int | None, int | None]:
    """Microseconds of `some` and `full` in the text of /proc/pressure/memory; None where it does not say."""
    totals: dict[str, int] = {}
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        total = rest.rpartition("total=")[2]
        if total.isdecimal():
            totals[kind] = int(total)
    return totals.get("some"), totals.get("full")


def _began_ticks(stat: str) -> int:
    # The name in brackets may hold anything; what follows its last bracket is numbers.
    return int(stat.rpartition(")")[2].split()[19])


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
