"""What systemd hears of the service."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ballonet_host_coord.notify import notify, watchdog_interval_s


@pytest.mark.parametrize("abstract", [False, True])
def test_state_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    """A state arrives as one datagram, at a socket with a path or with an abstract name."""
    name = f"@{tmp_path}/n" if abstract else f"{tmp_path}/n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1\nSTATUS=two guests")
        assert systemd.recv(100) == b"READY=1\nSTATUS=two guests"


@pytest.mark.parametrize("address", [None, "", "/nowhere/notify", "vsock:2:1"])
def test_without_a_listener_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Outside of systemd, or where its socket is gone, telling is no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert notify("READY=1") is False


@pytest.mark.parametrize(
    ("limit", "pid", "interval_s"),
    [("10000000", str(os.getpid()), 5.0), ("10000000", None, 5.0), ("10000000", "1", None), (None, None, None),
     ("soon", None, None), ("0", None, None)],
)  # fmt: skip
def test_watchdog_is_fed_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, pid: str | None, interval_s: float | None
) -> None:
    """The interval is half of systemd's limit, and only where the limit is meant for this process."""
    for name, value in (("WATCHDOG_USEC", limit), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_interval_s() == interval_s
