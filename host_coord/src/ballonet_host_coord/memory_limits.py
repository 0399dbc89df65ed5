"""The memory limits port over cgroups: finds the group that holds one QEMU and nothing else, and writes its limit.

Version 2 has `memory.high`: above it the kernel takes pages away and slows down, and kills nobody. Version 1 has
nothing like it. `memory.limit_in_bytes` ends in the OOM killer and refuses to go below what is held (EBUSY), so it is
left alone; `memory.soft_limit_in_bytes` is written instead: a host that is short takes from who is above it first.

libvirt puts QEMU into threaded groups below the one that counts its memory, so the search goes upwards: past threaded
groups and those without the file, never past one that somebody else lives in.
"""

from __future__ import annotations

import os

import trio

from .cgroups import Group, groups_of, read_optional
from .enforcement import Cell
from .ports import PortError

HIGH = {2: "memory.high", 1: "memory.soft_limit_in_bytes"}
USED = {2: "memory.current", 1: "memory.usage_in_bytes"}
NONE = {2: "max", 1: "-1"}
NO_LIMIT_BYTES = 1 << 62
"""Version 1 says that there is no limit with a number near 2^63."""
MOST_NAMED = 3


class CgroupLimits:
    """In threads: a limit that is lowered is written when the kernel has come below it, or has given up."""

    def __init__(self, proc_root: str = "/proc") -> None:
        self._root = proc_root

    async def look(self, qemu_pid: int) -> Cell:
        return await trio.to_thread.run_sync(self.look_now, qemu_pid)

    async def set(self, qemu_pid: int, folder: str, limit_kib: int | None) -> None:
        await trio.to_thread.run_sync(self.set_now, qemu_pid, folder, limit_kib)

    def look_now(self, qemu_pid: int) -> Cell:
        """Raises PortError with the reason where no group is this process's alone."""
        why = "has no memory cgroup that can be seen"
        for group in sorted(groups_of(self._root, qemu_pid), key=lambda group: -group.version):
            path = os.path.join(group.folder, HIGH[group.version])
            if not os.path.exists(path) or read_optional(f"{group.folder}/cgroup.type").strip() == "threaded":
                why = f"no memory.high in {group.folder} (is its memory controller on?)"
                continue
            processes = processes_in(group.folder)
            if processes == {qemu_pid}:
                return self._cell(group)
            why = _shared(group, sorted(processes - {qemu_pid}))
            break  # whoever lives here lives in all above, too
        raise PortError(f"its limit cannot be set: {why}")

    def set_now(self, qemu_pid: int, folder: str, limit_kib: int | None) -> None:
        """None: no limit, which may be written wherever there was one of ours. Raises PortError."""
        version = 2 if os.path.exists(os.path.join(folder, HIGH[2])) else 1
        if limit_kib is not None and processes_in(folder) != {qemu_pid}:
            raise PortError(f"its limit cannot be set: {folder} is not its alone any more")
        path = os.path.join(folder, HIGH[version])
        try:
            file = os.open(path, os.O_WRONLY | os.O_TRUNC)
            try:
                os.write(file, (NONE[version] if limit_kib is None else str(limit_kib * 1024)).encode())
            finally:
                os.close(file)
        except FileNotFoundError as error:
            if limit_kib is not None:
                raise PortError(f"{path} is gone") from error
        except OSError as error:
            raise PortError(f"{path} cannot be written: {error.strerror}") from error

    @staticmethod
    def _cell(group: Group) -> Cell:
        limit = read_optional(os.path.join(group.folder, HIGH[group.version])).strip()
        used = read_optional(os.path.join(group.folder, USED[group.version])).strip()
        limited = limit.isdecimal() and int(limit) < NO_LIMIT_BYTES
        return Cell(
            folder=group.folder,
            version=group.version,
            limit_kib=int(limit) // 1024 if limited else None,
            used_kib=int(used) // 1024 if used.isdecimal() else 0,
        )


def processes_in(folder: str) -> set[int]:
    """Those of a group and of all below it. A threaded group's file cannot be read: its processes are told above."""
    found: set[int] = set()
    for inside, _, _ in os.walk(folder):
        for word in read_optional(os.path.join(inside, "cgroup.procs")).split():
            if word.isdecimal():
                found.add(int(word))
    return found


def _shared(group: Group, others: list[int]) -> str:
    if not others:
        return f"{group.folder} does not hold its process"
    more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
    named = ", ".join(str(pid) for pid in others[:MOST_NAMED])
    return f"its cgroup {group.folder} holds other processes, too ({named}{more})"
