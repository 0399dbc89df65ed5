"""A client for QEMU's machine protocol (QMP) on one Unix socket: commands with their replies, and events.

There is no background reader. Whoever waits, for a reply or for an event, reads the socket on behalf of all: the
first to wait *pumps* and hands each line to the one it belongs to, the others are woken after every read, and when
the pumping task has what it wants, or is cancelled, another takes over. So the client needs no nursery, a command
in one task and the wait for events in another do not disturb each other, and nothing outlives its user.

What QEMU sends is kept in its order: an event that QEMU sent before a reply has been handed out (`on_event`) before
that reply is returned.

A connection ends once and for all: by QEMU, by a line that is no QMP, by a cancellation in the midst of sending
(half a command cannot be taken back), or by `aclose`. From then on every call raises QmpClosed with that first reason,
and nothing is sent any more. A reply that does not come in time ends only the command: whoever would connect anew
to a QEMU that stood still for a while would miss the events of the meantime. QEMU may still carry the command out.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import trio

GREETING_TIMEOUT_S = 3.0
"""QEMU greets at once; a monitor that has a client already never does, so this is how long we find that out."""
COMMAND_TIMEOUT_S = 5.0
"""A command takes about 1 ms; QEMU's main loop may stand still for a second or two behind a slow disk."""
TOGETHER_MOST = 8
"""Commands in one write. QEMU reads on while fewer than this many wait to be carried out (monitor/qmp.c)."""
MOST_LINE_BYTES = 1 << 20
"""The longest reply that we ask for, a qom-list of all devices, has some ten KiB."""
MOST_EVENTS = 256
"""Events are wake-ups, the state is read again anyway. QEMU sends each kind that repeats at most once a second."""
READ_BYTES = 65536


class QmpError(Exception):
    """QEMU understood the connection and refused the command: `error_class` and `description` are its words."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"{command}: {description} ({error_class})")
        self.command = command
        self.error_class = error_class
        self.description = description


class QmpClosed(Exception):
    """The connection is over; the text says why it ended or could not be had. What caused it is chained."""

    peer_pid = 0
    """Who let us in and did not serve us; 0 where unknown, or where the connection was whole once."""


class QmpAbsent(QmpClosed):
    """Nobody listens: there is no socket, or no process behind it."""


class QmpTimeout(Exception):
    """QEMU did not answer a command in time. The connection is whole; the command may yet be carried out."""


class QmpClient:
    """A connection that has been greeted. `peer` is who listens: process id (0 where unknown) and user id."""

    def __init__(self, stream: trio.SocketStream, on_event: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.peer = peer_credentials(stream.socket)
        self._stream = stream
        self._on_event = on_event
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer in which no line end is known to be
        self._send_lock = trio.Lock()
        self._pumping = False
        self._waiters = trio.lowlevel.ParkingLot()
        self._last_id = 0
        self._replies: dict[int, dict[str, Any] | None] = {}  # id -> its reply, None while it is awaited
        self._greeted = False
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)
        self._ended: str | None = None
        self._cause: BaseException | None = None

    @classmethod
    async def connect(
        cls,
        path: str,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        greeting_timeout_s: float = GREETING_TIMEOUT_S,
    ) -> Self:
        """Connect, wait for the greeting and leave negotiation mode. Raises QmpClosed."""
        try:
            with trio.fail_after(greeting_timeout_s):
                stream = await trio.open_unix_socket(path)
        except FileNotFoundError as error:
            raise QmpAbsent(f"{path}: no such socket; is the VM started?") from error
        except ConnectionRefusedError as error:
            raise QmpAbsent(f"{path}: {refused(path, 'the VM has ended')}") from error
        except PermissionError as error:
            raise QmpClosed(f"{path}: {denied(path)}") from error
        except OSError as error:
            raise QmpClosed(f"{path}: {error.strerror or error}") from error
        except trio.TooSlowError as error:
            raise QmpClosed(f"{path}: nobody lets us in; QEMU hangs") from error
        client = cls(stream, on_event)
        try:
            with trio.move_on_after(greeting_timeout_s):
                await client._pump_until(lambda: client._greeted)
            if not client._greeted:
                # A monitor has one client. The next one is let in and left waiting.
                raise QmpClosed(f"{path}: no greeting from QEMU; another client holds this monitor, or QEMU hangs")
            await client.command("qmp_capabilities")
        except (QmpError, QmpTimeout) as error:
            await client.aclose()
            closed = QmpClosed(f"{path}: {error}")
            closed.peer_pid = client.peer[0]
            raise closed from error
        except QmpClosed as error:
            await client.aclose()
            closed = error if path in str(error) else QmpClosed(f"{path}: {error}")
            closed.peer_pid = client.peer[0]
            raise closed from error.__cause__
        except BaseException:
            await client.aclose()
            raise
        return client

    @property
    def closed(self) -> bool:
        return self._ended is not None

    async def command(
        self, name: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> Any:
        """QEMU's `return` value. Raises QmpError where QEMU refuses, QmpTimeout, QmpClosed."""
        (answer,) = await self.commands((name, arguments), timeout_s=timeout_s)
        if isinstance(answer, QmpError):
            raise answer
        return answer

    async def commands(
        self, *wanted: tuple[str, dict[str, Any] | None], timeout_s: float = COMMAND_TIMEOUT_S
    ) -> list[Any]:
        """Some commands in one write, which QEMU carries out in their order: for each its `return` value, or the
        QmpError with which it was refused. Raises QmpTimeout, QmpClosed.

        `wanted` has no more than `TOGETHER_MOST`.
        """
        assert len(wanted) <= TOGETHER_MOST
        self._check_open()
        idents, lines = [], b""
        for name, arguments in wanted:
            self._last_id += 1
            idents.append(self._last_id)
            request: dict[str, Any] = {"execute": name, "id": self._last_id}
            if arguments:
                request["arguments"] = arguments
            lines += json.dumps(request).encode() + b"\n"
            self._replies[self._last_id] = None
        try:
            with trio.move_on_after(timeout_s):
                await self._send(lines)
                await self._pump_until(lambda: self._replies[idents[-1]] is not None)
            replies = [self._replies[ident] for ident in idents]
        finally:
            for ident in idents:
                del self._replies[ident]
        answers: list[Any] = []
        for (name, _), reply in zip(wanted, replies, strict=True):
            if reply is None:
                self._check_open()
                raise QmpTimeout(f"QEMU did not answer {name} within {timeout_s:g} s")
            error = reply.get("error")
            error = error if isinstance(error, dict) else {}
            refused = QmpError(name, str(error.get("class", "no class")), str(error.get("desc", "no description")))
            answers.append(reply.get("return", refused))
        return answers

    async def next_event(self) -> dict[str, Any]:
        """Wait for an event, oldest first. Raises QmpClosed when there are no more to come."""
        if not self._events:
            await self._pump_until(lambda: bool(self._events))
        return self._events.popleft()

    async def aclose(self) -> None:
        self._end("closed by us")
        await self._stream.aclose()

    # --- the pump ---------------------------------------------------------------------------------------

    async def _send(self, line: bytes) -> None:
        async with self._send_lock:
            self._check_open()
            sent = False
            try:
                await self._stream.send_all(line)
                sent = True
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end("QEMU closed the connection", error)
                self._check_open()
            finally:
                if not sent:
                    self._end("a command was cut short")

    async def _pump_until(self, done: Callable[[], bool]) -> None:
        """Read, or wait for who reads, until `done`. Raises QmpClosed."""
        while not done():
            self._check_open()
            if self._pumping:
                await self._waiters.park()
                continue
            self._pumping = True
            try:
                data = await self._stream.receive_some(READ_BYTES)
                self._feed(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end("QEMU closed the connection", error)
            finally:
                self._pumping = False
                self._waiters.unpark_all()

    def _feed(self, data: bytes | bytearray) -> None:
        if not data:
            self._end("QEMU closed the connection")
            return
        self._buffer += data
        while self._ended is None:
            end = self._buffer.find(b"\n", self._searched)
            if (len(self._buffer) if end < 0 else end) > MOST_LINE_BYTES:
                self._end(f"QEMU sent a line of more than {MOST_LINE_BYTES} bytes")
                return
            if end < 0:
                self._searched = len(self._buffer)
                return
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            self._end("QEMU's end of the connection does not speak QMP", error)
            return
        if not isinstance(message, dict):
            self._end("QEMU's end of the connection does not speak QMP")
        elif isinstance(message.get("event"), str):
            self._events.append(message)
            if self._on_event is not None:
                self._on_event(message)
        elif "QMP" in message:
            self._greeted = True
        else:
            ident = message.get("id")
            # The reply to a command that nobody waits for any more is dropped here.
            if type(ident) is int and ident in self._replies:
                self._replies[ident] = message

    def _end(self, reason: str, cause: BaseException | None = None) -> None:
        if self._ended is None:
            self._ended = reason
            self._cause = cause
            # A pump that still waits for bytes is woken by the closed socket, the others by the lot.
            self._stream.socket.close()
            self._waiters.unpark_all()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise QmpClosed(self._ended) from self._cause


def refused(path: str, ended: str) -> str:
    """Why the kernel refused a connection: it calls anything that is no socket so, too."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return "is no socket; is it the path that QEMU was given?"
    return f"a stale socket, nobody listens there; {ended}"


def denied(path: str) -> str:
    """Whose the socket is that this process may not use."""
    try:
        return f"permission denied; the socket belongs to user {os.stat(path).st_uid}"
    except OSError:
        return "permission denied; a folder above it may not be entered"


def peer_credentials(sock: trio.socket.SocketType) -> tuple[int, int]:
    """Process id and user id of the peer of a connected Unix socket: of who listened, when it began to listen."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid
