"""What the service manager and the journal hear: sd_notify and lines on stderr."""

from __future__ import annotations

import os
import sys

from ballonet_guest_agent.libc import send_datagram

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
    """One line on stderr, with the journal's priority prefix when the journal reads it."""
    prefix = f"<{level}>" if "JOURNAL_STREAM" in os.environ else f"ballonet-agent: {_LEVELS.get(level, 'notice')}: "
    try:
        sys.stderr.write(f"{prefix}{text}\n")
        sys.stderr.flush()
    except OSError:
        return
