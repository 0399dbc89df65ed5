"""What is looked at on a host, from faked /proc and /sys."""

from __future__ import annotations

import grp
import os
import socket
from pathlib import Path

import pytest

from ballonet_host_coord.clock import SystemClock
from ballonet_host_coord.host_check import HostSight
from ballonet_host_coord.host_look import look_at_host
from ballonet_host_coord.host_memory import ProcHostMemory
from ballonet_host_coord.model import HostSettings, Settings

MEMINFO = """MemTotal: 16000 kB
MemAvailable: 9000 kB
SwapTotal: 500 kB
SwapFree: 100 kB
CommitLimit: 8000 kB
Committed_AS: 3000 kB
HugePages_Total: 3
Hugepagesize: 2048 kB
"""


def look(folder: Path, **host: str) -> HostSight:
    paths = {"control_path": str(folder / "run/control"), "state_path": str(folder / "state"), **host}
    proc = str(folder / "proc")
    memory = ProcHostMemory(SystemClock(), proc_root=proc)
    return look_at_host(Settings(HostSettings(**paths), ()), memory, proc_root=proc, sys_root=str(folder / "sys"))


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for path, text in {
        "proc/meminfo": MEMINFO,
        "proc/sys/vm/overcommit_memory": "2\n",
        "proc/pressure/memory": "some avg10=0.00 total=1\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none": "511\n",
        "sys/kernel/mm/ksm/run": "1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_the_kernels_files_are_read(host: Path) -> None:
    """Each fact is what its file says; huge pages of the default size count where no sum is told."""
    seen = look(host)
    assert seen.memory is not None
    assert (seen.memory.total_kib, seen.huge_pages, seen.max_ptes_none, seen.ksm_runs) == (16000, "madvise", 511, True)
    assert (seen.swap_total_kib, seen.swap_free_kib, seen.hugetlb_kib, seen.overcommit) == (500, 100, 6144, 2)
    assert (seen.commit_limit_kib, seen.committed_kib, seen.psi_error) == (8000, 3000, "")
    (host / "proc/meminfo").write_text(MEMINFO + "Hugetlb: 7000 kB\n")
    assert look(host).hugetlb_kib == 7000


def test_a_kernel_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    """Without any of the files the facts are unknown, and PSI says why."""
    seen = look(tmp_path)
    assert (seen.memory, seen.max_ptes_none, seen.overcommit, seen.huge_pages) == (None, None, None, "")
    assert seen.psi_error == "No such file or directory"


def test_paths_are_tried_and_nothing_is_made(host: Path) -> None:
    """Folders that are missing can be made below one that there is; what is no folder, file or socket is told."""
    before = sorted(os.listdir(host))
    assert [(path.key, path.error) for path in look(host).paths] == [("control", ""), ("state", "")]
    assert sorted(os.listdir(host)) == before
    (host / "file").write_text("")
    said = look(host, control_path=str(host / "file"), state_path=str(host / "proc"), record_path=str(host / "file/x"))
    assert [bool(path.error) for path in said.paths] == [True, True, True]


def test_a_socket_that_was_left_behind_is_no_fault(host: Path) -> None:
    """The next coordinator removes it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(host / "control"))
    assert [path.error for path in look(host, control_path=str(host / "control")).paths] == ["", ""]


def test_a_socket_of_another_group_is_seen(host: Path) -> None:
    """What stands in the settings may not be what is in force."""
    path = str(host / "control")
    own = grp.getgrgid(os.getgid()).gr_name
    other = next(group.gr_name for group in grp.getgrall() if group.gr_gid != os.getgid())
    assert look(host, control_path=path, control_group=other).control_socket_group == ""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
    assert look(host, control_path=path, control_group=other).control_socket_group == own
    assert look(host, control_path=path, control_group=own).control_socket_group == ""


def test_a_group_that_is_missing_is_seen(host: Path) -> None:
    """`control_group` must be a group of this host."""
    assert look(host, control_group="no-such-group-here").control_group_missing
    assert not look(host, control_group="root").control_group_missing
