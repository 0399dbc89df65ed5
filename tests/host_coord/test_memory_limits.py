"""The cgroup that holds one QEMU and nothing else is found and limited; any other is left alone, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real_parts import cannot

from ballonet_host_coord.cgroups import groups_of
from ballonet_host_coord.enforcement import Cell
from ballonet_host_coord.memory_limits import CgroupLimits, processes_in
from ballonet_host_coord.ports import PortError

from .builders import MIB

PID = 77
SCOPE = "machine.slice/machine-qemu-1-web.scope"


class Tree:
    """A /proc and a cgroup tree made of files, as libvirt makes them; the kernel's own rules apart."""

    def __init__(self, root: Path, version: int = 2) -> None:
        self.root = root
        kind = "cgroup2 cgroup2 rw" if version == 2 else "cgroup cgroup rw,memory"
        self.write("proc/self/mountinfo", f"30 24 0:26 / {root}/cg rw shared:4 - {kind}\n")
        self.limits = CgroupLimits(str(root / "proc"))

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, name: str, kind: str = "domain", procs: str = "", high: str | None = "max") -> None:
        self.write(f"cg/{name}/cgroup.type", kind + "\n")
        self.write(f"cg/{name}/cgroup.procs", procs)
        if high is not None:
            self.write(f"cg/{name}/memory.high", high + "\n")
            self.write(f"cg/{name}/memory.current", f"{300 * MIB * 1024}\n")

    def path(self, name: str) -> str:
        return str(self.root / "cg" / name)

    def says(self, name: str) -> str:
        return (self.root / "cg" / name).read_text().strip()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write(f"proc/{PID}/cgroup", f"0::/{SCOPE}/libvirt/emulator\n")
    tree.group("", procs="1\n", high=None)
    tree.group("machine.slice")
    tree.group(SCOPE)
    tree.group(f"{SCOPE}/libvirt", "domain threaded", f"{PID}\n")
    tree.group(f"{SCOPE}/libvirt/emulator", "threaded", high=None)
    tree.group(f"{SCOPE}/libvirt/vcpu0", "threaded", high=None)
    return tree


def test_the_innermost_group_that_counts_memory_is_limited(tree: Tree) -> None:
    """libvirt's threads are in threaded groups; the one above them has the file, and loses its limit again."""
    folder = tree.path(f"{SCOPE}/libvirt")
    assert tree.limits.look_now(PID) == Cell(folder, 2, None, 300 * MIB)
    tree.limits.set_now(PID, folder, 600 * MIB)
    assert tree.says(f"{SCOPE}/libvirt/memory.high") == str(600 * MIB * 1024)
    assert tree.limits.look_now(PID).limit_kib == 600 * MIB
    tree.limits.set_now(0, folder, None)
    assert tree.says(f"{SCOPE}/libvirt/memory.high") == "max"
    assert {tree.says(f"{above}/memory.high") for above in (SCOPE, "machine.slice")} == {"max"}


def test_without_the_controller_the_next_above_is_taken_while_nobody_else_is_in_it(tree: Tree) -> None:
    """And with somebody else in it none is: whoever it is would be held, too."""
    (tree.root / f"cg/{SCOPE}/libvirt/memory.high").unlink()
    assert tree.limits.look_now(PID).folder == tree.path(SCOPE)
    tree.group(f"{SCOPE}/other", procs="99\n", high=None)
    with pytest.raises(PortError, match=r"scope holds other processes, too \(99\)"):
        tree.limits.look_now(PID)


@pytest.mark.parametrize("others", ["88\n", f"{os.getpid()}\n"], ids=["a helper", "the coordinator itself"])
def test_a_group_that_others_live_in_is_never_limited(tree: Tree, others: str) -> None:
    """Neither when it is looked for nor when somebody came between looking and writing."""
    folder = tree.path(f"{SCOPE}/libvirt")
    cell = tree.limits.look_now(PID)
    tree.group(f"{SCOPE}/libvirt", "domain threaded", f"{PID}\n{others}")
    with pytest.raises(PortError, match="holds other processes"):
        tree.limits.look_now(PID)
    with pytest.raises(PortError, match="not its alone any more"):
        tree.limits.set_now(PID, cell.folder, 600 * MIB)
    assert tree.says(f"{SCOPE}/libvirt/memory.high") == "max"
    tree.limits.set_now(0, folder, None)  # what is ours is taken away whoever is there


def test_a_process_that_is_elsewhere_is_not_limited_by_a_group_we_see(tree: Tree) -> None:
    """In a container only our own branch is mounted: another's path leads to its top, where others live."""
    tree.write(f"proc/{PID}/cgroup", "0::/../../elsewhere\n")
    with pytest.raises(PortError, match="its limit cannot be set"):
        tree.limits.look_now(PID)
    with pytest.raises(PortError, match="no memory cgroup that can be seen"):
        tree.limits.look_now(PID + 1)


def test_a_group_that_is_gone_needs_no_word(tree: Tree) -> None:
    """Its machine has ended, and its limit with it; a limit that cannot be written is said."""
    tree.limits.set_now(0, tree.path("gone"), None)
    with pytest.raises(PortError, match="is not its alone any more"):
        tree.limits.set_now(PID, tree.path("gone"), 600 * MIB)


def test_version_1_has_its_soft_limit_alone(tmp_path: Path) -> None:
    """The hard limit, at which the OOM killer waits, is never written."""
    tree = Tree(tmp_path, version=1)
    tree.write(f"proc/{PID}/cgroup", "4:memory:/machine/web\n")
    tree.write("cg/machine/web/cgroup.procs", f"{PID}\n")
    tree.write("cg/machine/web/memory.limit_in_bytes", "9223372036854771712\n")
    tree.write("cg/machine/web/memory.soft_limit_in_bytes", "9223372036854771712\n")
    tree.write("cg/machine/web/memory.usage_in_bytes", f"{300 * MIB * 1024}\n")
    folder = tree.path("machine/web")
    assert tree.limits.look_now(PID) == Cell(folder, 1, None, 300 * MIB)
    tree.limits.set_now(PID, folder, 600 * MIB)
    assert tree.limits.look_now(PID).limit_kib == 600 * MIB
    assert tree.says("machine/web/memory.limit_in_bytes") == "9223372036854771712"


# --- this host ------------------------------------------------------------------------------------------


@pytest.fixture
def real_v1() -> Iterator[tuple[str, int]]:
    """A version 1 memory group of its own with a process standing for QEMU: its folder, and the process."""
    ours = next((group for group in groups_of("/proc") if group.version == 1), None)
    if ours is None:
        cannot("this host has no cgroup v1 memory controller")
    folder = os.path.join(ours.folder, f"ballonet-test-{uuid.uuid4().hex[:8]}")
    try:
        os.mkdir(folder)
    except OSError as error:
        cannot(f"no cgroup v1 group can be made in {ours.folder}: {error.strerror}")
    child = subprocess.Popen([sys.executable, "-c", "held = bytearray(64 << 20); input()"], stdin=subprocess.PIPE)
    try:
        with open(f"{folder}/cgroup.procs", "w", encoding="ascii") as file:
            file.write(str(child.pid))
        yield folder, child.pid
    finally:
        child.communicate(b"\n")
        os.rmdir(folder)


def test_on_a_real_version_1_group(real_v1: tuple[str, int]) -> None:
    """The kernel takes the soft limit and gives it back; a second process keeps us out; the hard limit stays."""
    folder, pid = real_v1
    limits = CgroupLimits()
    assert processes_in(folder) == {pid}
    before = Path(folder, "memory.limit_in_bytes").read_text()
    cell = limits.look_now(pid)
    assert (cell.folder, cell.version, cell.limit_kib) == (folder, 1, None)
    limits.set_now(pid, folder, 100 * MIB)
    assert limits.look_now(pid).limit_kib == 100 * MIB
    limits.set_now(pid, folder, None)
    assert limits.look_now(pid).limit_kib is None
    assert Path(folder, "memory.limit_in_bytes").read_text() == before
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as second:
        Path(folder, "cgroup.procs").write_text(str(second.pid))
        with pytest.raises(PortError, match="holds other processes"):
            limits.look_now(pid)
        second.communicate(b"\n")
