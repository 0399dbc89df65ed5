"""The sockets that systemd passes: which are taken, which are not, and what who waits there is told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet_host_coord.activation import is_at, name_of, passed_sockets, turn_away

US = 4242


@pytest.fixture
def first_fd() -> Iterator[int]:
    """Where the test's descriptors begin, in the place of 3: two numbers that nobody has."""
    yield 700
    for fd in (700, 701):
        with contextlib.suppress(OSError):
            os.close(fd)


def listening(path: Path | str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


def put(made: socket.socket, fd: int) -> None:
    """As systemd does: at that number, and left open over an exec."""
    os.dup2(made.fileno(), fd)
    made.close()


def test_a_socket_that_is_passed_is_taken(tmp_path: Path, first_fd: int) -> None:
    """It is the one that systemd listens at, no child gets it, and the variables are gone."""
    put(listening(tmp_path / "control"), first_fd)
    environment = {"LISTEN_PID": str(US), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "ballonet.socket", "HOME": "/root"}
    (taken,) = passed_sockets(environment, US, first_fd)
    assert environment == {"HOME": "/root"}
    assert taken.fileno() == first_fd
    assert not os.get_inheritable(first_fd)
    assert is_at(taken, str(tmp_path / "control"))
    (tmp_path / "link").symlink_to(tmp_path)
    assert is_at(taken, str(tmp_path / "link" / "control"))
    assert not is_at(taken, str(tmp_path / "other"))
    taken.detach()


def test_nothing_passed_is_nothing_taken(caplog: pytest.LogCaptureFixture) -> None:
    """Outside of systemd nobody hears of it."""
    assert passed_sockets({"HOME": "/root"}, US) == []
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, "meant for process 1"),
        ({"LISTEN_FDS": "1"}, "meant for process ?"),
        ({"LISTEN_PID": str(US), "LISTEN_FDS": "-1"}, "no number"),
        ({"LISTEN_PID": str(US), "LISTEN_FDS": "many"}, "no number"),
    ],
)
def test_what_is_meant_for_another_is_left_to_it(
    said: dict[str, str], words: str, tmp_path: Path, first_fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Variables that a parent left in the environment are not ours: the descriptor stays as it is, and that is said."""
    put(listening(tmp_path / "control"), first_fd)
    assert passed_sockets(dict(said), US, first_fd) == []
    assert words in caplog.text
    os.fstat(first_fd)


def test_what_is_no_control_socket_is_not_served(
    tmp_path: Path, first_fd: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Datagrams, a socket that does not listen, one of the network, no socket: each is said, the rest is taken."""
    strangers = (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX),
        socket.create_server(("127.0.0.1", 0)), None,
    )  # fmt: skip
    for stranger in strangers:
        caplog.clear()
        if stranger is not None:
            put(stranger, first_fd)
        good = tmp_path / f"control-{len(os.listdir(tmp_path))}"
        put(listening(good), first_fd + 1)
        environment = {"LISTEN_PID": str(US), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "odd"}
        (taken,) = passed_sockets(environment, US, first_fd)
        assert name_of(taken) == str(good)
        assert f"file descriptor {first_fd} (odd)" in caplog.text
        taken.close()


def test_an_abstract_name_is_told() -> None:
    """A socket without a place in the file system is at no path, and has a name all the same."""
    with listening(f"\0ballonet-test-{os.getpid()}") as abstract:
        assert not is_at(abstract, "/run/ballonet/control.sock")
        assert name_of(abstract) == f"@ballonet-test-{os.getpid()}"


def test_who_waits_is_told_why_nobody_serves(tmp_path: Path) -> None:
    """Each gets its answer, whether it has asked yet or gone already, and nobody is waited for."""
    with listening(tmp_path / "control") as waited_at:
        assert turn_away([waited_at], "no") == 0
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect(str(tmp_path / "control"))
        clients[0].sendall(b'{"op": "status"}\n')
        clients[1].close()
        assert turn_away([waited_at], "the coordinator does not start: c.toml: x") == 3
        for client in (clients[0], clients[2]):
            with client:
                client.settimeout(10)
                assert json.loads(client.recv(1000)) == {
                    "ok": False, "error": "the coordinator does not start: c.toml: x", "ended": True,
                }  # fmt: skip
