"""Memory cgroups of both versions: which folders a process's limits are in, and what stands there."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """One memory cgroup as a folder."""

    folder: str
    version: int

    @property
    def limit_path(self) -> str:
        return os.path.join(self.folder, "memory.max" if self.version == 2 else "memory.limit_in_bytes")

    def limit_kib(self, total_kib: int) -> int | None:
        """None where it is none below the host's memory: version 2 says "max" then, version 1 a number near 2^63."""
        text = read_optional(self.limit_path).strip()
        return int(text) // 1024 if text.isdecimal() and int(text) // 1024 < total_kib else None

    def used_kib(self) -> int | None:
        """What it uses, file cache that can be dropped at once apart; None where its files do not say."""
        usage = "memory.current" if self.version == 2 else "memory.usage_in_bytes"
        text = read_optional(os.path.join(self.folder, usage)).strip()
        if not text.isdecimal():
            return None
        dropped_bytes = 0
        for line in read_optional(os.path.join(self.folder, "memory.stat")).splitlines():
            key, _, value = line.partition(" ")
            if key in ("inactive_file", "total_inactive_file") and value.isdecimal():
                dropped_bytes = max(dropped_bytes, int(value))
        return max(0, int(text) - dropped_bytes) // 1024


def groups_of(proc_root: str, pid: int | str = "self") -> list[Group]:
    """The process's own memory cgroup and those above it, as far as they can be seen; none where it cannot be told."""
    return memory_groups(
        read_optional(f"{proc_root}/{pid}/cgroup"), read_optional(f"{proc_root}/self/mountinfo")
    )  # fmt: skip


def memory_groups(cgroup: str, mountinfo: str) -> list[Group]:
    """The folders, innermost first, from the texts of /proc/PID/cgroup and /proc/self/mountinfo.

    Both versions of cgroups, and both at once, are understood: each mount of a memory controller is looked through.
    """
    inside_of: dict[str, str] = {}  # "cgroup2" or "cgroup" -> its path in that hierarchy
    for line in cgroup.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            inside_of["cgroup2"] = path
        elif "memory" in controllers.split(","):
            inside_of["cgroup"] = path
    groups = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        mount, kind = before.split(), after.split()
        if len(mount) < 5 or len(kind) < 3 or kind[0] not in inside_of:
            continue
        if kind[0] == "cgroup" and "memory" not in kind[2].split(","):
            continue
        root, top, path = mount[3], mount[4], inside_of[kind[0]]
        # In a container only our own branch is mounted, and its path may be outside of what we see.
        inside = path[len(root.rstrip("/")) :] if path == root or path.startswith(root.rstrip("/") + "/") else ""
        parts = [part for part in inside.split("/") if part]
        for depth in range(len(parts), -1, -1):
            groups.append(Group(os.path.join(top, *parts[:depth]), 2 if kind[0] == "cgroup2" else 1))
    return groups


def read_optional(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
