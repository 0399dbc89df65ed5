"""Where a process's memory limits are, by the texts of its kernel."""

from __future__ import annotations

import os

from ballonet_host_coord.cgroups import groups_of, memory_groups

V1_MOUNT = "32 24 0:28 {root} /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"


def limit_files(cgroup: str, mountinfo: str) -> list[str]:
    return [group.limit_path for group in memory_groups(cgroup, mountinfo)]


def test_container_sees_its_own_branch() -> None:
    """Where only our branch is mounted, the file is at the top of the mount."""
    mountinfo = V1_MOUNT.format(root="/docker/abc")
    top = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    assert limit_files("4:memory:/docker/abc\n", mountinfo) == [top]
    assert limit_files("4:memory:/docker/abcd\n", mountinfo) == [top]
    inner = "/sys/fs/cgroup/memory/in/memory.limit_in_bytes"
    assert limit_files("4:memory:/docker/abc/in\n", mountinfo) == [inner, top]


def test_both_versions_at_once() -> None:
    """A hybrid host has the controller in one of them; both are looked through, innermost first."""
    mountinfo = V1_MOUNT.format(root="/") + "30 24 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n"
    groups = memory_groups("4:memory:/a/b\n0::/c\n", mountinfo)
    assert [(group.version, group.folder) for group in groups] == [
        (1, "/sys/fs/cgroup/memory/a/b"), (1, "/sys/fs/cgroup/memory/a"), (1, "/sys/fs/cgroup/memory"),
        (2, "/sys/fs/cgroup/unified/c"), (2, "/sys/fs/cgroup/unified"),
    ]  # fmt: skip


def test_this_hosts_own_groups_are_there() -> None:
    """The running kernel's files are understood: whatever is named is a folder."""
    assert all(os.path.isdir(group.folder) for group in groups_of("/proc"))
    assert groups_of("/nowhere") == []
