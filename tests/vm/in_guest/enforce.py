"""Runs in a guest, as root: a process that stands for QEMU grows in a cgroup of its own, its limit raised or not.

`enforce.py ZIP`: ZIP holds the coordinator's own modules. Writes one JSON object of what it saw, sizes in KiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

MIB = 1024
GROUP = Path("/sys/fs/cgroup/ballonet-test")
LIMIT_KIB = 64 * MIB
HELD_MIB, GROWN_MIB = 30, 120
RAISED_KIB = 180 * MIB

GROWS = """
import sys
held = []
for line in sys.stdin:
    block = bytearray(int(line) << 20)
    block[::4096] = b"x" * len(block[::4096])
    held.append(block)
    print("touched", flush=True)
"""


class Qemu:
    """It holds as much as it was told to, in anonymous memory, as QEMU does for its guest."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.held_mib = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def hold(self, mib: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mib - self.held_mib}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "touched\n"
        self.held_mib = mib

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def number(name: str) -> int:
    return int((GROUP / name).read_text())


def event(name: str) -> int:
    words = (GROUP / "memory.events").read_text().split()
    return int(words[words.index(name) + 1])


def seen() -> dict[str, int]:
    return {
        "used_kib": number("memory.current") // 1024,
        "swapped_kib": number("memory.swap.current") // 1024,
        "held_back": event("high"),
        "killed": event("oom_kill"),
    }


def grow(limits: types.ModuleType, raise_first: bool) -> dict[str, object]:
    """One life: limited while it holds little, then it takes what a grant would allow."""
    port = limits.CgroupLimits()
    qemu = Qemu()
    try:
        (GROUP / "cgroup.procs").write_text(str(qemu.pid))
        qemu.hold(HELD_MIB)
        cell = port.look_now(qemu.pid)
        said: dict[str, object] = {"folder": cell.folder, "version": cell.version, "limit_kib": cell.limit_kib}
        port.set_now(qemu.pid, cell.folder, LIMIT_KIB)
        said["read_back_kib"] = port.look_now(qemu.pid).limit_kib
        said["before"] = seen()
        if raise_first:
            port.set_now(qemu.pid, cell.folder, RAISED_KIB)
        qemu.hold(GROWN_MIB)
        said["grown"] = seen()
        if raise_first:
            for _ in range(20):  # what is on its way to the swap the kernel does not wait for
                port.set_now(qemu.pid, cell.folder, LIMIT_KIB)
                said["lowered"] = lowered = seen()
                if lowered["used_kib"] <= LIMIT_KIB:
                    break
                time.sleep(0.5)
        said["shared"] = shared(limits, port, qemu.pid)
        port.set_now(0, cell.folder, None)
        said["removed"] = (GROUP / "memory.high").read_text().strip()
        return said
    finally:
        qemu.end()


def shared(limits: types.ModuleType, port: object, pid: int) -> str:
    """What is said of the group when somebody else lives there, too."""
    other = Qemu()
    try:
        (GROUP / "cgroup.procs").write_text(str(other.pid))
        port.look_now(pid)  # type: ignore[attr-defined]
        return ""
    except limits.PortError as error:
        return str(error)
    finally:
        other.end()


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    sys.modules["trio"] = types.ModuleType("trio")  # for the threads of the service alone
    from ballonet_host_coord import memory_limits

    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
    said = {}
    for name, raise_first in (("not raised", False), ("raised first", True)):
        GROUP.mkdir()
        try:
            said[name] = grow(memory_limits, raise_first)
        finally:
            for pid in (GROUP / "cgroup.procs").read_text().split():
                os.kill(int(pid), 9)
            GROUP.rmdir()
    print(json.dumps(said))


if __name__ == "__main__":
    main()
