"""Who holds the host's memory: /proc, our cgroups and the list of processes in, a `model.Survey` out. Blocks.

All is read within some milliseconds, so that what a guest touches meanwhile is not taken for somebody else's. Whatever
is neither available nor set aside as huge pages nor in our guests is held by others: that needs no look at each of the
host's processes, and counts the kernel too. Of guests in shared memory the part in swap is in none of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from .budget import HOST_ACCOUNT
from .cgroups import groups_of, read_optional
from .model import Account, Survey, UnmanagedGuest
from .qemu_process import QemuFinder, arguments_of
from .residency import parse_status

SCAN_EVERY_S = 30.0
"""Which processes are QEMU: an unmanaged guest's memory counts at once, and only its name and margin come later."""

FindQemus = Callable[[], Mapping[int, str]]


class Surveyor:
    def __init__(self, proc_root: str = "/proc", sys_root: str = "/sys", find_qemus: FindQemus | None = None) -> None:
        self._root = proc_root
        self._sys_root = sys_root
        self._find_qemus = find_qemus or QemuFinder().find
        self._qemus: Mapping[int, str] = {}
        self._scan_next_s = float("-inf")
        self._was_managed: frozenset[int] = frozenset()

    def survey(self, managed: frozenset[int], now_s: float) -> Survey:
        """Raises OSError, KeyError or ValueError where there is no meminfo."""
        if now_s >= self._scan_next_s or managed != self._was_managed:
            self._qemus, self._scan_next_s, self._was_managed = self._find_qemus(), now_s + SCAN_EVERY_S, managed
        # Nothing slow from here on.
        held_kib = sum(self._held_kib(pid) for pid in managed)
        with open(f"{self._root}/meminfo", encoding="ascii") as file:
            meminfo = meminfo_fields(file.read())
        total_kib, huge_kib = meminfo["MemTotal"], hugetlb_kib(meminfo, self._sys_root)
        others_kib = max(0, total_kib - meminfo["MemAvailable"] - huge_kib - held_kib)
        accounts = [Account(HOST_ACCOUNT, total_kib, huge_kib, others_kib)]
        for group in groups_of(self._root):
            limit_kib = group.limit_kib(total_kib)
            if limit_kib is not None:
                others_kib = max(0, (group.used_kib() or 0) - held_kib)
                accounts.append(Account(f"the limit of {group.folder}", limit_kib, 0, others_kib))
        unmanaged = [
            UnmanagedGuest(pid, name, self._held_kib(pid), self._ram_kib(pid))
            for pid, name in self._qemus.items()
            if pid not in managed
        ]
        return Survey(now_s, tuple(accounts), tuple(unmanaged), managed, self._refills())

    def _held_kib(self, pid: int) -> int:
        """In memory; what is in swap takes none of it. 0 for a process that has ended."""
        try:
            process = parse_status(read_optional(f"{self._root}/{pid}/status"))
        except (ValueError, IndexError):
            process = None
        return process.anon_kib + process.shmem_kib if process is not None else 0

    def _ram_kib(self, pid: int) -> int:
        """Of its command line, what is in ordinary memory; 0 for a process that has ended."""
        said = arguments_of(pid, self._root)
        return max(0, said.ram_kib - said.hugepages_kib) if said is not None else 0

    def _refills(self) -> bool | None:
        holes = read_optional(f"{self._sys_root}/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none").strip()
        enabled = read_optional(f"{self._sys_root}/kernel/mm/transparent_hugepage/enabled")
        if not holes.isdecimal() or not enabled:
            return None
        return "[never]" not in enabled and int(holes) > 0


def meminfo_fields(text: str) -> dict[str, int]:
    """`Name:   123 kB` lines as numbers."""
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        number = value.split()[0] if colon and value.split() else ""
        if number.isascii() and number.isdecimal():
            fields[name] = int(number)
    return fields


def hugetlb_kib(meminfo: Mapping[str, int], sys_root: str = "/sys") -> int:
    """Set aside as huge pages of all sizes: by `Hugetlb` (Linux 4.15 and later), else by sysfs, else of the default
    size."""
    if "Hugetlb" in meminfo:
        return meminfo["Hugetlb"]
    kib = 0
    folder = f"{sys_root}/kernel/mm/hugepages"
    sizes = os.listdir(folder) if os.path.isdir(folder) else []
    for name in sizes:  # hugepages-2048kB
        size, count = name.partition("-")[2].removesuffix("kB"), read_optional(f"{folder}/{name}/nr_hugepages").strip()
        if size.isdecimal() and count.isdecimal():
            kib += int(size) * int(count)
    return kib if sizes else meminfo.get("HugePages_Total", 0) * meminfo.get("Hugepagesize", 0)
