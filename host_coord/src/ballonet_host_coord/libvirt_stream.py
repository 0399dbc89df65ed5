"""The agent's channel through libvirt (`virDomainOpenChannel`), where QEMU's socket cannot be reached by its path.

It works without file permissions and from another machine, and is exclusive: libvirtd refuses a second one. Its price
is a copy of each byte through libvirtd. The stream does not block; libvirt's thread reads into a small buffer and
leaves the rest where it is until that is taken.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import trio

from .libvirt_link import LibvirtLink
from .ports import PortError

BUFFER_BYTES = 65536
WOULD_BLOCK = -2
SEND_AGAIN_S = 0.05


class LibvirtStream:
    """A `ports.ByteStream`."""

    def __init__(self, link: LibvirtLink, stream: Any) -> None:
        self._link = link
        self._lib = link.lib
        self._stream = stream
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._ended = False
        self._paused = False
        self._readable = trio.Event()

    async def start(self) -> None:
        lib = self._lib
        interest = lib.VIR_STREAM_EVENT_READABLE | lib.VIR_STREAM_EVENT_HANGUP | lib.VIR_STREAM_EVENT_ERROR
        await self._link.call("channel", self._stream.eventAddCallback, interest, self._on_event, None)

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
                    await self._link.call("channel", self._listen)
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
            sent = await self._link.call("channel", self._stream.send, bytes(left))
            if sent == WOULD_BLOCK:
                await trio.sleep(SEND_AGAIN_S)
            else:
                left = left[sent:]

    async def aclose(self) -> None:
        with self._lock:
            ended, self._ended = self._ended, True
        self._wake()
        with suppress(PortError):
            await self._link.call("channel", self._abort, ended, timeout_s=1.0)

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

    def _listen(self) -> None:
        lib = self._lib
        self._stream.eventUpdateCallback(
            lib.VIR_STREAM_EVENT_READABLE | lib.VIR_STREAM_EVENT_HANGUP | lib.VIR_STREAM_EVENT_ERROR
        )

    def _unlisten(self) -> None:
        with suppress(self._lib.libvirtError):
            self._stream.eventRemoveCallback()

    def _abort(self, ended: bool) -> None:
        if not ended:
            self._unlisten()
        with suppress(self._lib.libvirtError):
            self._stream.abort()


async def open_stream(link: LibvirtLink, what: str, domain: Any, port: str) -> LibvirtStream:
    """Open the port. Raises PortError where it is not there, or somebody has it open already."""
    stream = await link.call(what, link.connection.newStream, link.lib.VIR_STREAM_NONBLOCK)
    await link.call(what, domain.openChannel, port, stream, 0)
    channel = LibvirtStream(link, stream)
    try:
        await channel.start()
    except BaseException:
        with trio.CancelScope(shield=True):
            await channel.aclose()
        raise
    return channel
