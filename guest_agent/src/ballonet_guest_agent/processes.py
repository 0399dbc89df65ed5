"""Which processes matter to `ballonet-agent check`: agents, whoever holds the port, and what kills."""

from __future__ import annotations

import os

from ballonet_guest_agent.values import Value, parse_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: They kill on pressure by themselves, often sooner than a host can return memory.
KILLERS = ("systemd-oomd", "earlyoom", "nohang", "oomd")


class Process(Value):
    """A process of the guest. `locked_kib` and `oom_score_adj` None: not readable."""

    pid: int
    command: str
    is_agent: bool = False
    capabilities: int | None = None
    locked_kib: int | None = None
    oom_score_adj: int | None = None


def running(proc_root: str) -> list[Process]:
    """All processes but this one, by number."""
    return [process for pid in _pids(proc_root) if (process := _process(proc_root, pid)) is not None]


def holders(proc_root: str, path: str) -> tuple[Process, ...] | None:
    """Who has this file or device open; None when no other process's descriptors could be read."""
    try:
        wanted = os.stat(path)
    except OSError:
        return ()
    found, readable = [], False
    for pid in _pids(proc_root):
        try:
            names = os.listdir(f"{proc_root}/{pid}/fd")
        except OSError:
            continue
        readable = True
        if any(_is_same(f"{proc_root}/{pid}/fd/{name}", wanted) for name in names):
            process = _process(proc_root, pid)
            found += [] if process is None else [process]
    return tuple(found) if readable else None


def _is_same(link: str, wanted: os.stat_result) -> bool:
    try:
        status = os.stat(link)
    except OSError:
        return False
    if wanted.st_rdev:  # a device may have several names
        return status.st_rdev == wanted.st_rdev
    return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)


def _pids(proc_root: str) -> Iterator[int]:
    try:
        names = os.listdir(proc_root)
    except OSError:
        return iter(())
    return iter(sorted(int(name) for name in names if name.isdigit() and int(name) != os.getpid()))


def _process(proc_root: str, pid: int) -> Process | None:
    folder = f"{proc_root}/{pid}"
    try:
        with open(f"{folder}/cmdline", "rb") as file:
            words = file.read(65536).split(b"\0")
        with open(f"{folder}/status", encoding="latin-1") as file:
            status = dict(line.rstrip("\n").partition(":")[::2] for line in file)
    except OSError:
        return None
    try:
        capabilities = int(status.get("CapEff", "").strip(), 16)
    except ValueError:
        capabilities = None
    return Process(
        pid=pid,
        command=status.get("Name", "").strip() or "?",
        is_agent=is_agent(words),
        capabilities=capabilities,
        locked_kib=parse_count((status.get("VmLck", "").split() or [""])[0]),
        oom_score_adj=_integer(f"{folder}/oom_score_adj"),
    )


def _integer(path: str) -> int | None:
    try:
        with open(path, encoding="latin-1") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def is_agent(words: list[bytes]) -> bool:
    """Is this command line one that serves as the agent?"""
    if b"-m" in words and words[words.index(b"-m") + 1 :][:1] == [b"ballonet_guest_agent"]:
        return True
    if any(b"from ballonet_guest_agent.daemon import main" in word for word in words):
        return True
    return any(word.endswith(b"ballonet-agent") for word in words[:2]) and b"run" in words[1:3]
