"""notify.py and libc.py: what the service manager hears, without the socket module."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.libc import send_datagram
from ballonet_guest_agent.notify import log, notify, watchdog_period_s


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, monkeypatch, abstract: bool) -> None:
    """The state arrives as one datagram, on a path or an abstract name."""
    address = f"@ballonet-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0") if abstract else address)
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_nobody_to_notify(tmp_path: Path, monkeypatch) -> None:
    """Without a service manager, with a dead one, or with an absurd path nothing happens and nothing leaks."""
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("READY=1")
    assert not send_datagram(b"/" + b"x" * 200, b"READY=1")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("microseconds", "pid", "period_s"),
    [("30000000", None, 15.0), ("30000000", "1", None), ("0", None, None), ("x", None, None), (None, None, None)],
)
def test_watchdog(monkeypatch, microseconds: str | None, pid: str | None, period_s: float | None) -> None:
    """Half of the manager's time, and only when it is meant for this process."""
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert watchdog_period_s() == period_s


def test_log(capfd, monkeypatch) -> None:
    """The journal gets priorities, a terminal gets words."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    log(4, "careful")
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    log(4, "careful")
    assert capfd.readouterr().err == "ballonet-agent: warning: careful\n<4>careful\n"


def test_log_never_waits() -> None:
    """A reader that does not read loses the line; the process goes on."""
    code = """
import os
from ballonet_guest_agent.notify import log
os.set_blocking(2, False)
try:
    while True:
        os.write(2, bytes(4096))
except BlockingIOError:
    os.set_blocking(2, True)
log(4, "x" * 5000)
log(4, "careful")
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_log_to_nobody(monkeypatch) -> None:
    """A pipe whose reader has gone, or no descriptor at all, is no error."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("ballonet_guest_agent.notify._STDERR", writer)
    log(4, "careful")
    os.close(writer)
    log(4, "careful")
