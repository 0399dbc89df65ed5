"""What differs between kernels in the files of a sample: one table for tests, manual and `ballonet-agent sample`.

The daemon does not load it: meminfo.py, vmstat.py and psi.py know all names at once and take what is there. A line
that is not in this table is the same on every kernel from 4.4 on. Sources: fs/proc/meminfo.c, mm/vmstat.c,
include/linux/vm_event_item.h and kernel/sched/psi.c of the versions named, and the recordings in
tests/guest_agent/kernels.
"""

from __future__ import annotations

from ballonet_guest_agent.values import Value


class Difference(Value):
    """Where a sensor is read on kernels from `since` on and before `until`; None: the oldest, still so.

    `sensor` is a field of MemInfo, VmStat or Psi; `line` a name in the file, where * stands for a zone.
    """

    sensor: str
    file: str
    line: str
    since: tuple[int, int] | None
    until: tuple[int, int] | None
    note: str = ""


_MEMINFO, _VMSTAT, _PSI = "meminfo", "vmstat", "pressure/memory"

DIFFERENCES = (
    Difference("refaults_file", _VMSTAT, "workingset_refault", None, (5, 9), "one counter, files only"),
    Difference("refaults_file", _VMSTAT, "workingset_refault_file", (5, 9), None),
    Difference("refaults_anon", _VMSTAT, "workingset_refault_anon", (5, 9), None),
    Difference("restored_pages", _VMSTAT, "workingset_restore", (4, 20), (5, 9), "one counter, files only"),
    Difference("restored_pages", _VMSTAT, "workingset_restore_*", (5, 9), None, "one a kind, added up"),
    Difference("kswapd_scan_pages", _VMSTAT, "pgscan_kswapd", (4, 8), None, "one a zone before, not read"),
    Difference("direct_scan_pages", _VMSTAT, "pgscan_direct_*", None, (4, 8), "one a zone, added up"),
    Difference("direct_scan_pages", _VMSTAT, "pgscan_direct", (4, 8), None, "before 6.2 with khugepaged's scans"),
    Difference("alloc_stalls", _VMSTAT, "allocstall", None, (4, 8)),
    Difference("alloc_stalls", _VMSTAT, "allocstall_*", (4, 8), None, "one a zone, added up"),
    Difference("oom_kills", _VMSTAT, "oom_kill", (4, 13), None),
    Difference("balloon_kib", _VMSTAT, "balloon_inflate", None, None, "less `balloon_deflate`; comes first"),
    Difference("balloon_kib", _MEMINFO, "Balloon", (6, 15), None),
    Difference("some_us", _PSI, "some", (4, 20), None, "with CONFIG_PSI, unless switched off"),
    Difference("full_us", _PSI, "full", (4, 20), None, "with CONFIG_PSI, unless switched off"),
)


def differences_on(kernel: tuple[int, int]) -> list[Difference]:
    """The rows that hold on a kernel (major, minor)."""
    return [
        row
        for row in DIFFERENCES
        if (row.since is None or row.since <= kernel) and (row.until is None or kernel < row.until)
    ]


def first_kernel(sensor: str) -> str | None:
    """The first kernel with this sensor, as "5.9"; None when all have it."""
    since = [row.since for row in DIFFERENCES if row.sensor == sensor]
    if not since or since[0] is None:
        return None
    return f"{since[0][0]}.{since[0][1]}"


def markdown() -> str:
    """The table as the manual has it."""
    lines = ["| sensor | file | line | kernels | what else |", "|---|---|---|---|---|"]
    for row in DIFFERENCES:
        since = f"{row.since[0]}.{row.since[1]} and later" if row.since else "all"
        until = f"before {row.until[0]}.{row.until[1]}" if row.until else ""
        kernels = f"{since}, {until}" if row.since and until else until or since
        lines.append(f"| `{row.sensor}` | {row.file} | `{row.line}` | {kernels} | {row.note} |")
    return "\n".join(lines) + "\n"
