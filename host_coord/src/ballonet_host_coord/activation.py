"""The control socket that systemd listens at for the service and passes to it when it starts: see sd_listen_fds(3).

systemd holds it from boot on and over every start of the service, so whoever asks meanwhile waits. A service that will
not serve answers those (`turn_away`) before it ends; whoever comes after that is let go by systemd (`FlushPending=`).
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import suppress

log = logging.getLogger(__name__)

FIRST_FD = 3
"""SD_LISTEN_FDS_START: where the passed file descriptors begin."""
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def passed_sockets(environment: MutableMapping[str, str], pid: int, first_fd: int = FIRST_FD) -> list[socket.socket]:
    """Those that systemd passed to process `pid`; what else it passed is said and closed.

    The variables are taken out of `environment`: they are nobody else's.
    """
    whose, count, names = (environment.pop(name, "") for name in VARIABLES)
    if not count:
        return []
    if whose != str(pid):
        log.warning("LISTEN_FDS=%s is meant for process %s, not for this one (%d): not used", count, whose or "?", pid)
        return []
    if not (count.isascii() and count.isdecimal()):
        log.warning("LISTEN_FDS=%s is no number: not used", count)
        return []
    found = []
    said = names.split(":") if names else []
    for number in range(int(count)):
        name = said[number] if number < len(said) else "unknown"
        passed = _listening(first_fd + number)
        if passed is not None:
            found.append(passed)
        else:
            log.error(
                "file descriptor %d (%s) from systemd is no listening Unix stream socket: not used",
                first_fd + number,
                name,
            )
    return found


def _listening(fd: int) -> socket.socket | None:
    try:
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
    except OSError:
        with suppress(OSError):
            os.close(fd)
        return None
    if (
        passed.family == socket.AF_UNIX
        and passed.type == socket.SOCK_STREAM
        and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        return passed
    passed.close()
    return None


def is_at(passed: socket.socket, path: str) -> bool:
    """Whether who connects to `path` reaches this socket, as far as its name tells."""
    bound = passed.getsockname()
    return isinstance(bound, str) and bound != "" and os.path.realpath(bound) == os.path.realpath(path)


def name_of(passed: socket.socket) -> str:
    """Its path, or @name for one that has none in the file system."""
    bound = passed.getsockname()
    return f"@{os.fsdecode(bound[1:])}" if isinstance(bound, bytes) else bound


def turn_away(listening: Iterable[socket.socket], why: str) -> int:
    """Tell whoever waits at the sockets that nobody will serve, and why. Waits for nobody; returns how many there were.

    The answer is a refusal of the control socket (control.py) that says `"ended": true`.
    """
    reply = json.dumps({"ok": False, "error": why, "ended": True}).encode() + b"\n"
    told = 0
    for each in listening:
        with suppress(OSError):  # nobody waits there any more, or it is closed
            each.setblocking(False)
            while True:
                client, _ = each.accept()
                told += 1
                with client, suppress(OSError):
                    client.setblocking(False)
                    client.send(reply)
    return told
