"""unixport.py: the agent listens, one coordinator at a time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet_guest_agent.port import AWAY
from ballonet_guest_agent.unixport import UnixPort


@pytest.fixture
def port(tmp_path: Path) -> Iterator[UnixPort]:
    port = UnixPort(str(tmp_path / "agent.sock"))
    port.open()
    yield port
    port.close()


def connect(port: UnixPort) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(port.name.partition(":")[2])
    return client


def test_conversation(port: UnixPort) -> None:
    """Bytes go both ways; silence is None; the client's leaving is AWAY."""
    assert port.fileno() == -1
    with connect(port) as client:
        port.accept()
        assert port.read() is None
        client.sendall(b"abc")
        assert port.read() == b"abc"
        assert port.write(b"def") == 3
        assert client.recv(10) == b"def"
    assert port.read() == AWAY


@pytest.mark.fault(19)
def test_second_client_waits(port: UnixPort) -> None:
    """While one is served the listener is not looked at; the next is served after it left, with what it said before."""
    first, second = connect(port), connect(port)
    port.accept()
    assert port.listener_fileno() == -1
    second.sendall(b"second")
    assert port.read() is None
    port.accept()
    first.close()
    assert port.read() == AWAY
    port.host_left()
    assert port.listener_fileno() >= 0
    port.accept()
    assert port.read() == b"second"
    second.close()


def test_write_to_a_client_that_left(port: UnixPort) -> None:
    """The bytes are gone; that the client is away is for the next read to say."""
    connect(port).close()
    port.accept()
    assert port.write(b"x") == 1
    assert port.read() == AWAY


def test_full_client(port: UnixPort) -> None:
    """A client that does not read makes writes short, then refused, never waited for."""
    with connect(port):
        port.accept()
        while port.write(bytes(4096)):
            pass
        assert port.write(b"x") == 0


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """The file that a killed agent left does not keep the next one from starting."""
    path = tmp_path / "agent.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    port = UnixPort(str(path))
    port.open()
    connect(port).close()
    port.close()
    assert not path.exists()


def test_ordinary_file_is_not_taken(tmp_path: Path) -> None:
    """A path with a file that is no socket is refused, and the file stays as it was."""
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    port = UnixPort(str(path))
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        port.open()
    port.close()
    assert path.read_text() == "mine"


def test_what_stands_there_now_is_left_alone(port: UnixPort) -> None:
    """A file that took the socket's place while it was served is not ours to remove."""
    path = Path(port.name.partition(":")[2])
    path.unlink()
    path.write_text("mine")
    port.close()
    assert path.read_text() == "mine"


def test_served_socket_is_not_taken(port: UnixPort) -> None:
    """A second agent on the same path is refused and harms nothing."""
    second = UnixPort(port.name.partition(":")[2])
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        second.open()
    second.close()
    connect(port).close()


def test_knock_that_is_gone(port: UnixPort) -> None:
    """Accepting when nobody waits any more is harmless."""
    port.accept()
    assert port.fileno() == -1
