"""The QMP client against monitors with character: silent, slow, dying, talkative and mad ones."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord import qmp
from ballonet_host_coord.qmp import QmpAbsent, QmpClient, QmpClosed, QmpError, QmpTimeout

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}\r\n'


class Monitor:
    """The server's end of one connection: reads commands, writes whatever a test wants it to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            await self.raw(json.dumps(message).encode() + b"\r\n")

    async def raw(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def hear(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        command: dict[str, Any] = json.loads(line)
        return command

    async def greet(self) -> None:
        await self.raw(GREETING)
        command = await self.hear()
        assert command["execute"] == "qmp_capabilities"
        await self.say({"return": {}, "id": command["id"]})

    async def answer(self, value: object) -> dict[str, Any]:
        command = await self.hear()
        await self.say({"return": value, "id": command["id"]})
        return command

    async def until_closed(self) -> None:
        """Wait until the client has left. What it still says is thrown away."""
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass


Serve = Callable[[Monitor], Awaitable[None]]
Test = Callable[[str], Awaitable[None]]


def with_monitor(folder: Path, serve: Serve, test: Test) -> None:
    """Run `test` with the path of a socket on which `serve` answers each client; time jumps when all wait."""

    async def main() -> None:
        path = str(folder / "qmp")
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        await listening.bind(path)
        listening.listen()

        async def handler(stream: trio.SocketStream) -> None:
            async with stream:
                await serve(Monitor(stream))

        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handler, [trio.SocketListener(listening)])
            with trio.fail_after(600):
                await test(path)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01), strict_exception_groups=True)


def test_command_returns_what_qemu_returns(tmp_path: Path) -> None:
    """A command carries its arguments to QEMU and QEMU's value back."""
    commands = []

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        commands.append(await monitor.answer({"actual": 1024}))
        commands.append(await monitor.answer({}))
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        assert await client.command("query-balloon") == {"actual": 1024}
        assert await client.command("balloon", {"value": 512}) == {}
        assert client.peer == (os.getpid(), os.getuid())
        await client.aclose()

    with_monitor(tmp_path, serve, test)
    assert [(command["execute"], command.get("arguments")) for command in commands] == [
        ("query-balloon", None),
        ("balloon", {"value": 512}),
    ]


def test_refusal_carries_qemus_words(tmp_path: Path) -> None:
    """An error reply becomes QmpError with class and description, and the connection goes on."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        command = await monitor.hear()
        await monitor.say({"id": command["id"], "error": {"class": "GenericError", "desc": "no such thing"}})
        await monitor.answer(1)
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        with pytest.raises(QmpError, match=r"qom-get: no such thing \(GenericError\)") as caught:
            await client.command("qom-get")
        assert (caught.value.error_class, caught.value.description) == ("GenericError", "no such thing")
        assert await client.command("query-status") == 1
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_commands_of_one_write_are_refused_one_by_one(tmp_path: Path) -> None:
    """Each has its own answer, and what QEMU refuses keeps none of the others from theirs."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        await monitor.answer({"status": "running"})
        refused = await monitor.hear()
        await monitor.say({"error": {"class": "GenericError", "desc": "no such property"}, "id": refused["id"]})
        await monitor.answer({"actual": 1024})
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        wanted = ("query-status", None), ("qom-get", {"path": "/"}), ("query-balloon", None)
        status, refused, actual = await client.commands(*wanted)
        assert (status, actual) == ({"status": "running"}, {"actual": 1024})
        assert isinstance(refused, QmpError) and refused.description == "no such property"  # noqa: PT018
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_replies_find_their_commands_in_any_order(tmp_path: Path) -> None:
    """Two commands in flight each get the reply with their id, though the second is answered first."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        first, second = await monitor.hear(), await monitor.hear()
        await monitor.say(*({"return": command["execute"], "id": command["id"]} for command in (second, first)))
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        results = []

        async def ask(name: str) -> None:
            results.append((name, await client.command(name)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "one")
            nursery.start_soon(ask, "two")
        assert sorted(results) == [("one", "one"), ("two", "two")]
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_events_between_replies_are_kept_in_order(tmp_path: Path) -> None:
    """An event that QEMU sent before a reply is known before the reply returns, and none disturbs a command."""
    known: list[str] = []

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        command = await monitor.hear()
        await monitor.say({"event": "RESET"}, {"return": 1, "id": command["id"]}, {"event": "STOP"})
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path, on_event=lambda event: known.append(event["event"]))
        assert await client.command("query-status") == 1
        assert known[0] == "RESET"
        assert [(await client.next_event())["event"] for _ in range(2)] == ["RESET", "STOP"]
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_command_and_wait_for_events_share_the_socket(tmp_path: Path) -> None:
    """Commands are answered while another task waits for an event, and the event reaches that task."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        for number in range(3):
            await monitor.answer(number)
        await monitor.say({"event": "RESET"})
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        seen = []

        async def listen() -> None:
            seen.append((await client.next_event())["event"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            assert [await client.command("x") for _ in range(3)] == [0, 1, 2]
        assert seen == ["RESET"]
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_another_task_reads_on_when_the_reader_is_cancelled(tmp_path: Path) -> None:
    """Cancelling the task that happens to read neither loses a byte nor leaves the others without a reader."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        command = await monitor.hear()
        await monitor.raw(b'{"return": "wh')
        await trio.sleep(1)
        await monitor.raw(b'ole", "id": %d}\n' % command["id"])
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        answers = []

        async def ask() -> None:
            answers.append(await client.command("x"))

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0.5):
                nursery.start_soon(ask)
                await client.next_event()
        assert answers == ["whole"]
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_late_reply_to_a_cancelled_command_is_dropped(tmp_path: Path) -> None:
    """A caller that gave up leaves a usable connection; the reply that it no longer wants goes to nobody."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        first = await monitor.hear()
        await trio.sleep(1)
        await monitor.say({"return": "late", "id": first["id"]})
        await monitor.answer("mine")
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        with trio.move_on_after(0.5):
            await client.command("slow")
        assert await client.command("quick") == "mine"
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_second_client_learns_why_nobody_greets(tmp_path: Path) -> None:
    """A monitor that is silent because it has a client is given up within seconds, and the error says why."""

    async def serve(monitor: Monitor) -> None:
        await monitor.until_closed()

    async def test(path: str) -> None:
        began = trio.current_time()
        with pytest.raises(QmpClosed, match="another client holds this monitor") as caught:
            await QmpClient.connect(path)
        assert not isinstance(caught.value, QmpAbsent)
        assert caught.value.peer_pid == os.getpid()  # whose monitor it is, is known all the same
        assert trio.current_time() - began == pytest.approx(qmp.GREETING_TIMEOUT_S)

    with_monitor(tmp_path, serve, test)


@pytest.mark.parametrize(("there", "words"), [(False, "no such socket"), (True, "nobody listens")])
def test_socket_without_a_listener_is_said_so(tmp_path: Path, there: bool, words: str) -> None:
    """A socket that is not there and one that its VM left behind are told apart."""
    path = tmp_path / "qmp"

    async def main() -> None:
        if there:
            with trio.socket.socket(trio.socket.AF_UNIX) as dead:
                await dead.bind(str(path))
        with pytest.raises(QmpAbsent, match=words):
            await QmpClient.connect(str(path))

    trio.run(main)


async def die_in_a_line(monitor: Monitor) -> None:
    await monitor.greet()
    await monitor.hear()
    await monitor.raw(b'{"return": {"act')


async def never_end_a_line(monitor: Monitor) -> None:
    await monitor.greet()
    await monitor.hear()
    with suppress(trio.BrokenResourceError):
        while True:
            await monitor.raw(b"x" * 65536)


async def end_a_line_too_late(monitor: Monitor) -> None:
    await monitor.greet()
    command = await monitor.hear()
    with suppress(trio.BrokenResourceError):
        await monitor.say({"return": "x" * qmp.MOST_LINE_BYTES, "id": command["id"]})


async def talk_rubbish(monitor: Monitor) -> None:
    await monitor.greet()
    await monitor.hear()
    await monitor.raw(b"220 mail.example.org ESMTP\r\n")
    await monitor.until_closed()


async def nest_deep(monitor: Monitor) -> None:
    await monitor.greet()
    await monitor.hear()
    await monitor.raw(b"[" * 100_000 + b"\n")
    await monitor.until_closed()


async def say_a_number(monitor: Monitor) -> None:
    await monitor.greet()
    await monitor.hear()
    await monitor.raw(b"42\n")
    await monitor.until_closed()


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (die_in_a_line, "closed the connection"),
        (never_end_a_line, "a line of more than"),
        (end_a_line_too_late, "a line of more than"),
        (talk_rubbish, "does not speak QMP"),
        (nest_deep, "does not speak QMP"),
        (say_a_number, "does not speak QMP"),
    ],
)
def test_broken_connection_stays_broken(tmp_path: Path, serve: Serve, words: str) -> None:
    """Whatever ends a connection ends it for every task at once and for good, and nothing is sent after it."""

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        listener_ended = trio.Event()

        async def listen() -> None:
            with pytest.raises(QmpClosed, match=words):
                await client.next_event()
            listener_ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            with pytest.raises(QmpClosed, match=words):
                await client.command("query-status")
            await listener_ended.wait()
        assert client.closed
        with pytest.raises(QmpClosed, match=words):
            await client.command("balloon", {"value": 1})
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_slow_qemu_costs_a_command_and_not_the_connection(tmp_path: Path) -> None:
    """A QEMU that stands still is given up for this command in bounded time; its events are not missed."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        first = await monitor.hear()
        await trio.sleep(60)
        await monitor.say({"event": "RESET"}, {"return": "late", "id": first["id"]})
        await monitor.answer("prompt")
        await monitor.until_closed()

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        began = trio.current_time()
        with pytest.raises(QmpTimeout, match="did not answer query-status within 5 s"):
            await client.command("query-status")
        assert trio.current_time() - began == pytest.approx(qmp.COMMAND_TIMEOUT_S)
        assert (await client.next_event())["event"] == "RESET"
        assert await client.command("query-status") == "prompt"
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_command_cut_short_ends_the_connection(tmp_path: Path) -> None:
    """A cancellation in the midst of sending leaves half a command behind, so nothing may follow it."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        await trio.sleep(100)

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        with trio.move_on_after(1):
            await client.command("x", {"value": "x" * 10_000_000})
        with pytest.raises(QmpClosed, match="cut short"):
            await client.command("quit")
        await client.aclose()

    with_monitor(tmp_path, serve, test)


def test_flood_of_events_is_bounded(tmp_path: Path) -> None:
    """However many events nobody asks for, the newest few are kept and commands are answered."""

    async def serve(monitor: Monitor) -> None:
        await monitor.greet()
        command = await monitor.hear()
        for number in range(10 * qmp.MOST_EVENTS):
            await monitor.say({"event": "NOISE", "data": number})
        await monitor.say({"return": 1, "id": command["id"]})

    async def test(path: str) -> None:
        client = await QmpClient.connect(path)
        assert await client.command("x") == 1
        kept = []
        with suppress(QmpClosed):
            while True:
                kept.append((await client.next_event())["data"])
        assert kept == list(range(9 * qmp.MOST_EVENTS, 10 * qmp.MOST_EVENTS))
        await client.aclose()

    with_monitor(tmp_path, serve, test)
