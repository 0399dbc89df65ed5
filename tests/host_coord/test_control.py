"""The control socket: what it answers, who may use it, and what clients cannot do to the coordinator."""

from __future__ import annotations

import errno
import grp
import json
import os
import re
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord import control
from ballonet_host_coord.activation import turn_away
from ballonet_host_coord.control import ControlError, Unreachable, request, serve_control


async def echo(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if operation == "lookup":
        raise LookupError("no guest 'wbe'; known: web")
    if operation == "value":
        raise ValueError("observing: nothing is moved")
    if operation == "bug":
        raise RuntimeError("a fault")
    return {"op": operation, **arguments}


def with_server(folder: Path, test: Callable[[str], Awaitable[None]]) -> None:
    """Run `test` with the path of a served socket; time jumps when all wait."""

    async def main() -> None:
        path = str(folder / "run" / "control")
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, path, echo)
            with trio.fail_after(600):
                await test(path)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


async def say(path: str, data: bytes) -> list[dict[str, Any]]:
    """Send bytes, and return the replies until the server closes or has nothing more to say."""
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(data)
        received = b""
        with trio.move_on_after(5):
            while more := await stream.receive_some():
                received += more
    return [json.loads(line) for line in received.splitlines()]


def test_request_is_answered(tmp_path: Path) -> None:
    """A request reaches the handler with its arguments, and the handler's answer the client."""

    async def test(path: str) -> None:
        assert await request(path, "release", {"guest": "web", "force": True}) == {
            "op": "release", "guest": "web", "force": True,
        }  # fmt: skip
        assert await say(path, b'{"op": "a"}\n{"op":\t"b"}\n') == [
            {"ok": True, "result": {"op": "a"}},
            {"ok": True, "result": {"op": "b"}},
        ]

    with_server(tmp_path, test)


@pytest.mark.parametrize(
    ("operation", "words"), [("lookup", "known: web"), ("value", "observing"), ("bug", "internal error")]
)
def test_refusal_reaches_the_operator(tmp_path: Path, operation: str, words: str) -> None:
    """What the coordinator refuses, or fails at, is told to this client, and the next one is served."""

    async def test(path: str) -> None:
        with pytest.raises(ControlError, match=words) as caught:
            await request(path, operation)
        assert not isinstance(caught.value, Unreachable)
        assert await request(path, "status") == {"op": "status"}

    with_server(tmp_path, test)


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1", b"", b"[]", b"null", b"{}", b'{"op": 7}', b"[" * 50_000, b"\xff\xfe", b'{"op": "']
)
def test_what_is_no_request_is_refused(tmp_path: Path, line: bytes) -> None:
    """Rubbish is answered with what a request is, and the conversation goes on."""

    async def test(path: str) -> None:
        rubbish, good = await say(path, line + b'\n{"op": "status"}\n')
        assert rubbish["ok"] is False
        assert "one JSON object" in rubbish["error"]
        assert good["ok"] is True

    with_server(tmp_path, test)


def test_endless_line_is_cut_off(tmp_path: Path) -> None:
    """A line longer than any request ends the conversation, before it can fill our memory."""

    async def test(path: str) -> None:
        (reply,) = await say(path, b"x" * (control.MOST_REQUEST_BYTES + 2))
        assert "at most" in reply["error"]

    with_server(tmp_path, test)


def test_idle_clients_are_bounded_and_leave_in_time(tmp_path: Path) -> None:
    """When all places are taken the next client is told so; who says nothing for a minute loses its place."""

    async def test(path: str) -> None:
        idle = [await trio.open_unix_socket(path) for _ in range(control.MOST_CLIENTS)]
        with pytest.raises(ControlError, match="try again"):
            await request(path, "status")
        await trio.sleep(control.IDLE_TIMEOUT_S + 1)
        assert await request(path, "status") == {"op": "status"}
        for stream in idle:
            assert await stream.receive_some() == b""
            await stream.aclose()

    with_server(tmp_path, test)


def test_only_owner_and_group_may_connect(tmp_path: Path) -> None:
    """The socket's mode is 0660, whatever the umask, and its group the one that the operator named."""
    group = grp.getgrgid(os.getgid()).gr_name

    async def main() -> None:
        path = str(tmp_path / "control")
        before = os.umask(0)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(lambda task_status: serve_control(path, echo, group=group, task_status=task_status))
                found = os.stat(path)
                assert stat.filemode(found.st_mode) == "srw-rw----"
                assert found.st_gid == os.getgid()
                nursery.cancel_scope.cancel()
        finally:
            assert os.umask(before) == 0
        assert not os.path.exists(path)
        with pytest.raises(ControlError, match="no group 'nobody has this'"):
            await serve_control(path, echo, group="nobody has this")

    trio.run(main)


def test_who_may_not_give_the_socket_away_serves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The unit has no CAP_CHOWN: the service would be started for ever. The journal says where the group is set."""

    def refuse(path: str, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async def main() -> None:
        path = str(tmp_path / "control")
        async with trio.open_nursery() as nursery:
            group = grp.getgrgid(os.getgid()).gr_name
            await nursery.start(lambda task_status: serve_control(path, echo, group=group, task_status=task_status))
            assert await request(path, "status")
            assert stat.filemode(os.stat(path).st_mode) == "srw-rw----"
            nursery.cancel_scope.cancel()

    monkeypatch.setattr(os, "chown", refuse)
    trio.run(main)
    assert "control_group = " in caplog.text
    assert "SocketGroup=" in caplog.text


def test_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    """A coordinator that was killed does not keep the next one from its socket."""
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run" / "control"))

    async def test(path: str) -> None:
        assert await request(path, "status") == {"op": "status"}

    with_server(tmp_path, test)


def test_running_coordinator_keeps_its_socket(tmp_path: Path) -> None:
    """A second coordinator is refused while the first answers, and a file that is no socket is left alone."""

    async def test(path: str) -> None:
        with pytest.raises(ControlError, match="another coordinator answers"):
            await serve_control(path, echo)
        assert await request(path, "status") == {"op": "status"}
        (tmp_path / "file").touch()
        with pytest.raises(ControlError, match="is no socket"):
            await serve_control(str(tmp_path / "file"), echo)
        assert (tmp_path / "file").exists()

    with_server(tmp_path, test)


def test_nobody_there_is_said_with_the_way_out(tmp_path: Path) -> None:
    """A missing socket and a dead one are unreachable, with the path and what to do."""
    path = str(tmp_path / "control")
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"no coordinator runs at .*ballonet serve"):
            trio.run(request, path, "status")
        with socket.socket(socket.AF_UNIX) as dead:
            if not os.path.exists(path):
                dead.bind(path)


@pytest.mark.parametrize(
    ("answer", "words"), [(None, "did not answer within"), (b"", "no coordinator"), (b"220 mail\n", "no coordinator")]
)
def test_stranger_at_the_socket_is_said(tmp_path: Path, answer: bytes | None, words: str) -> None:
    """Something that hangs, closes or speaks otherwise is given up in bounded time."""

    async def main() -> None:
        async def stranger(stream: trio.SocketStream) -> None:
            async with stream:
                if answer is None:
                    await trio.sleep_forever()
                await stream.receive_some()
                await stream.send_all(answer or b"")

        path = str(tmp_path / "control")
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(path)
            listening.listen()
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, stranger, [trio.SocketListener(listening)])
                with pytest.raises(Unreachable, match=words):
                    await request(path, "status")
                nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


# --- with systemd's socket --------------------------------------------------------------------------------


def systemds(path: Path) -> socket.socket:
    """As it comes from systemd: bound, with its mode, and listened at before any coordinator runs."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    os.chmod(path, 0o660)
    made.listen(32)
    return made


def test_who_asks_before_the_service_runs_is_answered_by_it(tmp_path: Path) -> None:
    """systemd's socket is served as it is, and stays there when the coordinator ends: the next one answers at it."""
    path = tmp_path / "control"
    held = systemds(path)
    inode = path.stat().st_ino
    answers = []

    async def ask() -> None:
        answers.append(await request(str(path), "status"))

    async def main() -> None:
        async with trio.open_nursery() as asking:
            for _ in range(2):
                asking.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                async with trio.open_nursery() as nursery:
                    passed = [held.dup()]
                    await nursery.start(
                        lambda passed, task_status: serve_control(
                            str(path), echo, passed=passed, task_status=task_status
                        ),
                        passed,
                    )
                    with trio.fail_after(60):
                        await request(str(path), "status")
                    nursery.cancel_scope.cancel()
                assert path.stat().st_ino == inode

    trio.run(main, strict_exception_groups=True)
    assert answers == [{"op": "status"}] * 2
    held.close()


@pytest.mark.parametrize(
    ("group", "words"),
    [("nogroup", "SocketGroup=nogroup"), ("nobody has this", "is not used"), (None, "")],
)
def test_the_group_of_systemds_socket_is_systemds(
    tmp_path: Path, group: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """`control_group` changes nothing there, and an operator who believes otherwise is told what does."""
    path = tmp_path / "control"
    before = systemds(path)
    owner = path.stat().st_gid

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_control(
                    str(path), echo, group=group, passed=[before], task_status=task_status
                )
            )
            nursery.cancel_scope.cancel()

    trio.run(main, strict_exception_groups=True)
    assert path.stat().st_gid == owner
    assert bool(caplog.messages) == bool(words)
    assert re.search(words, caplog.text)


def test_a_socket_at_another_path_is_served_beside_the_settings_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where systemd and the settings disagree nobody who asks hangs, and the journal says what to make equal."""
    held = systemds(tmp_path / "systemds")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_control(
                    str(tmp_path / "ours"), echo, passed=[held], task_status=task_status
                )
            )
            with trio.fail_after(60):
                for name in ("systemds", "ours"):
                    assert await request(str(tmp_path / name), "status") == {"op": "status"}
            nursery.cancel_scope.cancel()

    trio.run(main, strict_exception_groups=True)
    assert not (tmp_path / "ours").exists()
    assert (tmp_path / "systemds").exists()
    assert "ListenStream=" in caplog.text


def test_a_socket_that_lost_its_path_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """systemd goes on listening at a socket that somebody removed: nobody gets in, and the way out is said."""
    held = systemds(tmp_path / "control")
    (tmp_path / "control").unlink()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                lambda task_status: serve_control(
                    str(tmp_path / "control"), echo, passed=[held], task_status=task_status
                )
            )
            nursery.cancel_scope.cancel()

    trio.run(main, strict_exception_groups=True)
    assert "systemctl restart ballonet.socket" in caplog.text


def test_a_coordinator_that_ends_is_not_the_last_one_asked(tmp_path: Path) -> None:
    """Who loses the coordinator before an answer asks again; after some times that is told instead."""
    path = tmp_path / "control"
    held = systemds(path)
    let_go = 0

    async def main(times: int) -> Any:
        nonlocal let_go
        let_go = 0

        async def systemd() -> None:
            nonlocal let_go
            listening = trio.socket.from_stdlib_socket(held.dup())
            with listening:
                while let_go < times:
                    client, _ = await listening.accept()
                    client.close()
                    let_go += 1
                await serve_control(str(path), echo, passed=[held.dup()])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(systemd)
            try:
                return await request(str(path), "status")
            finally:
                nursery.cancel_scope.cancel()

    clock = trio.testing.MockClock(autojump_threshold=0.01)
    assert trio.run(main, control.ATTEMPTS - 1, clock=clock) == {"op": "status"}
    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main, 100, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)
    assert caught.group_contains(Unreachable, match="systemctl status ballonet.service")
    assert let_go == control.ATTEMPTS
    held.close()


def test_who_is_turned_away_hears_why(tmp_path: Path) -> None:
    """A service that will not serve is no coordinator: its reason is the message, and it is asked once."""
    path = tmp_path / "control"
    held = systemds(path)

    async def main() -> None:
        async def asks() -> None:
            with pytest.raises(Unreachable, match=r"^the coordinator does not start: c\.toml: x$"):
                await request(str(path), "status")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks)
            await trio.testing.wait_all_tasks_blocked()
            assert turn_away([held], "the coordinator does not start: c.toml: x") == 1

    trio.run(main, strict_exception_groups=True)
    held.close()
