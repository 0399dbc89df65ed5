"""A running plain guest (plain_image.py): its root shell, its agent's port going in and out, and a host to speak to.

The shell is on the demo's port, `in_guest/shell.sh` answers there.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from ballonet_host_coord.demo.machine import AGENT_PORT, Machine
from ballonet_protocol import COORDINATOR, Bye, Connection, Hello, HelloAck, Message, Ping, Pong

HELLO_EVERY_S = 2.0
PING_EVERY_S = 1.0

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said on both its outputs, and its exit code (124: not finished in time)."""

    code: int
    output: str


class Shell:
    """Root in the guest, one command at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # Nobody else's: an answer to an earlier client may still be in the port.
        self._id = secrets.randbits(48) << 8
        self._held = b""

    async def ask(self, command: str, timeout_s: float = 60.0) -> Answer:
        """Run it and say how it went. Waits as long as it takes."""
        self._id += 1
        ident = str(self._id)
        line = f"{ident} {timeout_s:g} {base64.b64encode(command.encode()).decode()}\n"
        await self._stream.send_all(line.encode())
        while True:
            words = (await self._line()).split(" ")
            if words[0] == ident:
                output = base64.b64decode(words[2]) if len(words) > 2 else b""
                return Answer(int(words[1]), output.decode(errors="replace").rstrip("\n"))

    async def run(self, command: str, timeout_s: float = 60.0) -> str:
        """Its output. AssertionError where it fails."""
        answer = await self.ask(command, timeout_s)
        assert answer.code == 0, f"in the guest: {command!r}: exit code {answer.code}: {answer.output}"
        return answer.output

    async def until(self, condition: str, timeout_s: float = 60.0) -> None:
        """Wait in the guest until a command succeeds. AssertionError where it does not in time."""
        await self.run(f"until {condition}; do sleep 0.1; done", timeout_s)

    async def there(self, within_s: float = 300.0) -> None:
        """Wait until the guest answers; while it boots, what is sent may be lost."""
        with trio.fail_after(within_s):
            while True:
                with trio.move_on_after(PING_EVERY_S):
                    await self.ask("true")
                    return

    async def _line(self) -> str:
        while b"\n" not in self._held:
            data = await self._stream.receive_some(65536)
            assert data, "QEMU closed the shell's port"
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line.decode(errors="replace").strip()


@asynccontextmanager
async def open_shell(machine: Machine) -> AsyncIterator[Shell]:
    """The guest's root shell, once it answers."""
    async with await trio.open_unix_socket(str(machine.demo_path)) as stream:
        shell = Shell(stream)
        try:
            await shell.there()
        except trio.TooSlowError:
            raise AssertionError(f"no answer from the guest; {machine.last_words()}") from None
        yield shell


async def plug(machine: Machine) -> None:
    """Put the agent's channel into the running guest, as `virsh attach-device` does."""
    address = {"type": "unix", "data": {"path": str(machine.agent_path)}}
    backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
    await machine.monitor.call("chardev-add", id="agent", backend=backend)
    await machine.monitor.call("device_add", driver="virtserialport", id="agent", chardev="agent", name=AGENT_PORT)


async def unplug(machine: Machine) -> None:
    """Take the agent's channel out of the running guest; returns when QEMU has let go of it."""
    await machine.monitor.call("device_del", id="agent")
    # The monitor's greeting is no answer either and comes first.
    while (await machine.monitor.next_event()).get("event") != "DEVICE_DELETED":
        pass
    await machine.monitor.call("chardev-remove", id="agent")


class Host:
    """What a coordinator does first: ask for a session, listen, and let itself be heard."""

    def __init__(self, stream: trio.SocketStream, ram_bytes: int) -> None:
        self._stream = stream
        self._ram_bytes = ram_bytes
        self._connection = Connection(COORDINATOR)
        self._in_session = False
        self._one_writer = trio.Lock()

    async def open_session(self) -> HelloAck:
        """A new session, however often it takes to ask."""
        while True:
            nonce = secrets.token_bytes(16)
            hello = Hello(major_range=(1, 1), minor=0, nonce=nonce, capabilities=("psi",), ram_bytes=self._ram_bytes)
            await self._send(self._connection.open_session(secrets.randbits(63) + 1, hello))
            with trio.move_on_after(HELLO_EVERY_S):
                return await self.next(HelloAck)

    async def next(self, kind: type[M]) -> M:
        """The next message of this kind; others are passed over."""
        while True:
            while (message := self._connection.next_message()) is not None:
                if isinstance(message, HelloAck | Bye):
                    self._in_session = isinstance(message, HelloAck)
                if isinstance(message, kind):
                    return message
            data = await self._stream.receive_some(4096)
            assert data, "QEMU closed the channel"
            self._connection.receive_data(bytes(data))

    async def is_answered(self, within_s: float) -> bool:
        """Does the agent answer a PING in time? It does so at once, however rarely it reports."""
        token = secrets.randbits(32)
        await self._send(self._connection.send(Ping(token=token)))
        with trio.move_on_after(within_s):
            while (await self.next(Pong)).token != token:
                pass
            return True
        return False

    async def keep_alive(self) -> None:
        """A host that says nothing is taken for a dead one. Its answers are passed over."""
        while True:
            await trio.sleep(PING_EVERY_S)
            if self._in_session:
                await self._send(self._connection.send(Ping(token=0)))

    async def _send(self, data: bytes) -> None:
        async with self._one_writer:
            await self._stream.send_all(data)


@asynccontextmanager
async def open_host(path: Path, ram_kib: int) -> AsyncIterator[Host]:
    """Connect to the agent's channel; leave it without a word."""
    async with await trio.open_unix_socket(str(path)) as stream, trio.open_nursery() as nursery:
        host = Host(stream, ram_kib * 1024)
        nursery.start_soon(host.keep_alive)
        yield host
        nursery.cancel_scope.cancel()
