"""The agent's channel through libvirt (`virDomainOpenChannel`), where QEMU's socket cannot be reached by its path.

It works without file permissions and from another machine, and is exclusive: libvirtd refuses a second one. Its price
is a copy of each byte through libvirtd. The stream does not block; libvirt's thread reads into a small buffer and
leaves the rest where it is until that is taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from .libvirt_callers import CALL_TIMEOUT_S, Caller, limit
from .libvirt_link import LibvirtLink
from .ports import PortError

BUFFER_BYTES = 65536
WOULD_BLOCK = -2
SEND_AGAIN_S = 0.05


class LibvirtStream:
    """A `ports.ByteStream`."""

    def __init__(self, link: LibvirtLink) -> None:
        self._callers = link.callers
        self._lib = link.lib
        # Its own: what comes on it comes by itself, and no call may wait there meanwhile.
        self._caller = Caller(link.lib, link.uri)
        self._stream: Any = None
        self._one_at_a_time = trio.Lock()
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._ended = False
        self._paused = False
        self._readable = trio.Event()

    async def start(self, what: str, uuid: str, port: str) -> None:
        def open_port(caller: Caller) -> None:
            stream = caller.connection.newStream(self._lib.VIR_STREAM_NONBLOCK)
            caller.domain(uuid).openChannel(port, stream, 0)
            self._stream = stream
            stream.eventAddCallback(self._interest(), self._on_event, None)

        await self._call(what, open_port)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            readable = self._readable
            with self._lock:
                data = bytes(self._buffer[:max_bytes])
                del self._buffer[: len(data)]
                ended, paused = self._ended, self._paused
                self._paused = False
            if paused and not ended:
                with suppress(PortError):
                    await self._call("channel", lambda _: self._stream.eventUpdateCallback(self._interest()))
            if data or ended:
                return data
            await readable.wait()
            if self._readable is readable:
                self._readable = trio.Event()

    async def send_all(self, data: bytes) -> None:
        left = memoryview(bytes(data))
        while left:
            if self._ended:
                raise PortError("the channel is closed")
            sent = await self._call("channel", partial(self._send, bytes(left)))
            if sent == WOULD_BLOCK:
                await trio.sleep(SEND_AGAIN_S)
            else:
                left = left[sent:]

    async def aclose(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, True
        self._wake()
        with suppress(PortError):
            await self._call("channel", lambda caller: self._abort(caller, ended), timeout_s=1.0)

    # --- inside ------------------------------------------------------------------------------------------

    def _on_event(self, stream: Any, _events: int, _opaque: Any) -> None:
        """In libvirt's thread. The callback must go when the stream has ended, or it is called without a pause."""
        with self._lock:
            if self._ended:
                self._unlisten()
                return
            try:
                while len(self._buffer) < BUFFER_BYTES:
                    data = stream.recv(4096)
                    if data == WOULD_BLOCK:
                        break
                    if not data:
                        self._ended = True
                        break
                    self._buffer += data
                else:
                    self._paused = True
                    stream.eventUpdateCallback(0)
            except self._lib.libvirtError:
                self._ended = True
            if self._ended:
                self._unlisten()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._readable.set()

    def _interest(self) -> int:
        lib = self._lib
        return int(lib.VIR_STREAM_EVENT_READABLE | lib.VIR_STREAM_EVENT_HANGUP | lib.VIR_STREAM_EVENT_ERROR)

    async def _call(self, what: str, function: Callable[[Caller], Any], timeout_s: float = CALL_TIMEOUT_S) -> Any:
        with limit(what, timeout_s):
            async with self._one_at_a_time:
                if self._caller.left:
                    raise PortError(f"{what}: libvirt has not answered")
                return await self._callers.run(self._caller, what, function)

    def _unlisten(self) -> None:
        with suppress(self._lib.libvirtError):
            self._stream.eventRemoveCallback()

    def _send(self, data: bytes, _caller: Caller) -> int:
        return int(self._stream.send(data))

    def _abort(self, caller: Caller, ended: bool) -> None:
        if self._stream is not None:
            if not ended:
                self._unlisten()
            with suppress(self._lib.libvirtError):
                self._stream.abort()
        caller.close()


async def open_stream(link: LibvirtLink, what: str, uuid: str, port: str) -> LibvirtStream:
    """Open the port. Raises PortError where it is not there, or somebody has it open already."""
    channel = LibvirtStream(link)
    try:
        await channel.start(what, uuid, port)
    except BaseException:
        with trio.CancelScope(shield=True):
            await channel.aclose()
        raise
    return channel
