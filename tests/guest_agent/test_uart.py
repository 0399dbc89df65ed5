"""uart.py: a pty stands for the line; there is no end of file on it."""

from __future__ import annotations

import builtins
import os

import pytest

from ballonet_guest_agent.uart import UartPort


def test_conversation() -> None:
    """Bytes go both ways in raw mode; silence is None, never a host that left."""
    pytest.importorskip("serial", reason="pip install 'ballonet-guest-agent[uart]'")
    host, line = os.openpty()
    port = UartPort(os.ttyname(line))
    try:
        port.open()
        assert port.read() is None
        os.write(host, bytes(range(256)))
        assert port.read() == bytes(range(256))
        assert port.write(b"\x00\x03\n") == 3
        assert os.read(host, 10) == b"\x00\x03\n"
    finally:
        port.close()
        os.close(host)
        os.close(line)
    assert port.fileno() == -1


def test_line_is_the_agents_alone() -> None:
    """A second opener is refused while the agent has the line."""
    pytest.importorskip("serial", reason="pip install 'ballonet-guest-agent[uart]'")
    host, line = os.openpty()
    first, second = UartPort(os.ttyname(line)), UartPort(os.ttyname(line))
    try:
        first.open()
        with pytest.raises(OSError, match="lock"):
            second.open()
    finally:
        first.close()
        os.close(host)
        os.close(line)


def test_missing_device() -> None:
    """A device that is not there is an OSError, which the loop waits out."""
    pytest.importorskip("serial", reason="pip install 'ballonet-guest-agent[uart]'")
    with pytest.raises(OSError, match="/nowhere"):
        UartPort("/nowhere/ttyS9").open()


def test_without_pyserial(monkeypatch) -> None:
    """Without pyserial the error says what to install."""
    real = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name == "serial":
            raise ImportError("No module named 'serial'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OSError, match="pyserial is not installed"):
        UartPort("/dev/ttyS0").open()
