"""Finds QEMU processes: a libvirt domain's, since libvirt tells everything of it but that, and all on the host. Reads
what a process was started with.

The channel's socket would tell (`SO_PEERCRED` is QEMU's, m), but only to who connects, and it serves one client.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import psutil

from .boots import Process
from .qemu_arguments import Arguments, read_arguments

SYSTEM_RUN = "/run/libvirt/qemu"
_OCTAL = re.compile(r"\\([0-7]{3})")
SAME_S = 2.0
"""When a process began is told by the wall clock, which is set now and then."""


def run_folders() -> tuple[str, ...]:
    """Where libvirt's QEMU driver puts NAME.pid: of the system, and of this user's session."""
    session = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return (SYSTEM_RUN, os.path.join(session, "libvirt/qemu/run"))


def find_qemu(name: str, uuid: str, user: str, folders: Iterable[str]) -> Process | None:
    """The process that runs the domain; None where it cannot be told.

    The pid file is a hint, the process's own arguments are the proof, and without a pid file that may be read every
    process is looked at. `user` is whom QEMU runs as (`+64055` or a name), empty where that is unknown. Two that say
    the same of themselves are none: one of them lies, and would be taken for the guest's memory.
    """
    uid = _uid(user)
    for folder in folders:
        process = _by_file(os.path.join(folder, f"{name}.pid"), uuid, uid)
        if process is not None:
            return process
    found = [process for process in psutil.process_iter() if _is_domain(process, uuid, uid)]
    return _known(found[0]) if len(found) == 1 else None


def belongs_to(process: Process, user: str = "") -> bool:
    """Whether the process is still there, and this user's where we know whom that means."""
    uid = _uid(user)
    with suppress(psutil.Error, ValueError):
        now = psutil.Process(process.pid)
        same = abs(now.create_time() - process.began_wall_s) < SAME_S
        return same and (uid is None or bool(now.uids().real == uid))
    return False


def arguments_of(pid: int, proc_root: str = "/proc") -> Arguments | None:
    """What its command line says, None where it cannot be read. It may keep the reader waiting: for a thread."""
    try:
        with open(f"{proc_root}/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            untrusted = file.read().split("\0")
    except OSError:
        return None
    return read_arguments(untrusted, _hugetlbfs(f"{proc_root}/{pid}/mounts"))


def _hugetlbfs(path: str) -> list[str] | None:
    """Where huge pages are mounted, as the process sees it; None where that is not shown."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split(" ") for line in file]
    except OSError:
        return None
    # The kernel writes spaces and the like in octal.
    return [_OCTAL.sub(lambda found: chr(int(found[1], 8)), row[1]) for row in rows if row[2:3] == ["hugetlbfs"]]


def age_s(process: Process) -> float:
    return max(0.0, time.time() - process.began_wall_s)


def _by_file(path: str, uuid: str, uid: int | None) -> Process | None:
    with suppress(OSError, ValueError, psutil.Error):
        with open(path, encoding="ascii") as file:
            process = psutil.Process(int(file.read(20)))
        if _is_domain(process, uuid, uid):
            return _known(process)
    return None


def _is_domain(process: psutil.Process, uuid: str, uid: int | None) -> bool:
    """Whether its arguments have `-uuid` and this uuid, and its user is right."""
    try:
        arguments = process.cmdline()
        if uuid not in arguments or arguments[arguments.index(uuid) - 1] != "-uuid":
            return False
        return uid is None or process.uids().real == uid
    except psutil.Error:
        return False


def _known(process: psutil.Process) -> Process | None:
    try:
        return Process(process.pid, process.create_time())
    except psutil.Error:
        return None


def _uid(user: str) -> int | None:
    number = user.removeprefix("+")
    if number.isascii() and number.isdecimal() and len(number) < 11:
        return int(number)
    try:
        return pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        return None


QEMU = re.compile(r"(qemu-system-[\w-]+|qemu-kvm|kvm)")
LOOKS = 2
"""A process may become a QEMU by exec() after it was seen first, and hardly later."""
FORGET_LOOKS = 20


class QemuFinder:
    """Every QEMU on the host, by its program's name. A process that is none is looked at twice and then passed over,
    so that a look costs little more than the list of the processes."""

    def __init__(self) -> None:
        self._looked: dict[int, int] = {}
        self._looks = 0

    def find(self) -> dict[int, str]:
        """Process -> its guest's name, as its command line says: untrusted."""
        self._looks += 1
        if self._looks % FORGET_LOOKS == 0:  # a number may be another process's by now
            self._looked.clear()
        pids = psutil.pids()
        found = {}
        looked = {}
        for pid in pids:
            looks = self._looked.get(pid, 0)
            if looks < LOOKS:
                arguments = _qemu_arguments(pid)
                if arguments is not None:
                    found[pid] = guest_name(arguments) or f"QEMU {pid}"
                    continue
                looks += 1
            looked[pid] = looks
        self._looked = looked
        return found


def _qemu_arguments(pid: int) -> list[str] | None:
    try:
        process = psutil.Process(pid)
        arguments: list[str] = process.cmdline()
        if not arguments:
            return None  # of the kernel, or a zombie
        if QEMU.fullmatch(os.path.basename(arguments[0])):
            return arguments
        return arguments if QEMU.fullmatch(os.path.basename(process.exe())) else None
    except psutil.Error:
        return None


def guest_name(arguments: Sequence[str]) -> str:
    """What `-name` says; empty where there is none."""
    for option, value in itertools.pairwise(arguments):
        if option in ("-name", "--name"):
            for number, part in enumerate(value.split(",")):
                key, equals, said = part.partition("=")
                if equals and key == "guest":
                    return said
                if not equals and number == 0:
                    return part
    return ""
