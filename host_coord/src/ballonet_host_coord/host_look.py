"""What `ballonet check` looks at on the host: /proc, /sys, the paths of the settings, and who asks. Changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress

from .host_check import Caller, HostSight, PathSight
from .host_survey import hugetlb_kib, meminfo_fields
from .model import HostFacts, Settings
from .ports import HostMemory, PortError


def look_at_host(
    settings: Settings, memory: HostMemory, *, proc_root: str = "/proc", sys_root: str = "/sys"
) -> HostSight:  # fmt: skip
    """The facts, the coordinator's and libvirt's answers apart."""
    pages = f"{sys_root}/kernel/mm"
    meminfo = meminfo_fields(_text(f"{proc_root}/meminfo"))
    host = settings.host
    named = (("control", host.control_path), ("state", host.state_path), ("record", host.record_path))
    return HostSight(
        memory=_facts(memory),
        huge_pages=_selected(_line(f"{pages}/transparent_hugepage/enabled")),
        max_ptes_none=_count(_line(f"{pages}/transparent_hugepage/khugepaged/max_ptes_none")),
        ksm_runs=_line(f"{pages}/ksm/run") == "1",
        hugetlb_kib=hugetlb_kib(meminfo, sys_root),
        swap_total_kib=meminfo.get("SwapTotal", 0),
        swap_free_kib=meminfo.get("SwapFree", 0),
        overcommit=_count(_line(f"{proc_root}/sys/vm/overcommit_memory")),
        commit_limit_kib=meminfo.get("CommitLimit"),
        committed_kib=meminfo.get("Committed_AS"),
        psi_error=_refusal(f"{proc_root}/pressure/memory"),
        caller=look_at_caller(),
        paths=tuple(_path(key, path) for key, path in named if path),
        control_group_missing=host.control_group is not None and not _is_group(host.control_group),
        control_socket_group=_other_group(host.control_path, host.control_group),
    )


def look_at_caller() -> Caller:
    uid = os.geteuid()
    user = str(uid)
    with suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
    groups = []
    for number in os.getgroups():
        with suppress(KeyError):
            groups.append(grp.getgrgid(number).gr_name)
    return Caller(uid, user, tuple(groups))


def _facts(memory: HostMemory) -> HostFacts | None:
    try:
        return memory.facts()
    except PortError:
        return None


def _path(key: str, path: str) -> PathSight:
    """Whether the caller could make the file, or write it where it is there."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return _folder(key, path)
    except OSError as error:
        return PathSight(key, path, error.strerror or str(error), isinstance(error, PermissionError))
    if key == "control":
        if not stat.S_ISSOCK(mode):
            return PathSight(key, path, "is there already and is no socket")
        return _folder(key, path)  # one that was left behind is removed, and its folder must allow that
    if not stat.S_ISREG(mode):
        return PathSight(key, path, "is there already and is no file")
    if not os.access(path, os.W_OK):
        return PathSight(key, path, "may not be written", denied=True)
    return _folder(key, path)


def _folder(key: str, path: str) -> PathSight:
    """The nearest folder that there is; the coordinator makes those below it."""
    folder = os.path.dirname(path)
    while not os.path.lexists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return PathSight(key, path, f"{folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        return PathSight(key, path, f"{folder} may not be written", denied=True)
    return PathSight(key, path)


def _other_group(path: str, wanted: str | None) -> str:
    """The group of the socket there, where `wanted` is another one; empty where there is none."""
    try:
        made = os.stat(path)
        if wanted is None or not stat.S_ISSOCK(made.st_mode) or made.st_gid == grp.getgrnam(wanted).gr_gid:
            return ""
    except (OSError, KeyError):
        return ""
    try:
        return grp.getgrgid(made.st_gid).gr_name
    except KeyError:
        return str(made.st_gid)


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _refusal(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _selected(line: str) -> str:
    """ "always [madvise] never" -> madvise."""
    return line.partition("[")[2].partition("]")[0]


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None


def _line(path: str) -> str:
    return _text(path).partition("\n")[0].strip()


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
