"""What the service manager and the journal hear: sd_notify and lines on stderr."""

from __future__ import annotations

import os
import select

from ballonet_guest_agent.libc import send_datagram

_STDERR = 2
#: Less than a pipe's page: a pipe, socket or terminal with room at all takes it at once.
_LINE_MOST = 1024
#: Words for Log levels where nobody reads syslog prefixes.
_LEVELS = {3: "error", 4: "warning", 5: "notice", 6: "info", 7: "debug"}


def notify(state: str) -> None:
    """Send e.g. "READY=1" to $NOTIFY_SOCKET; nothing happens without one or when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    send_datagram(os.fsencode(address), state.encode())


def watchdog_period_s() -> float | None:
    """How often the service manager wants a sign of life: half of WATCHDOG_USEC; None without a watchdog."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 2_000_000


def log(level: int, text: str) -> None:
    """One line on stderr, with the journal's priority prefix when the journal reads it.

    Never waits: a reader that does not keep up loses the line. O_NONBLOCK would be simpler and is not ours to set:
    stderr is shared with whoever started us.
    """
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else f"ballonet-agent: {_LEVELS.get(level, 'notice')}: "
    line = f"{prefix}{text}"[: _LINE_MOST - 1] + "\n"
    try:
        room = select.poll()
        room.register(_STDERR, select.POLLOUT)
        if room.poll(0):
            os.write(_STDERR, line.encode("ascii", "replace"))
    except OSError:
        return
