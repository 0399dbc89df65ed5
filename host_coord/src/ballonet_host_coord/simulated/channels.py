"""How a simulated machine's channel is carried: a real Unix socket, or memory where time is virtual."""

from __future__ import annotations

from pathlib import Path

import trio
import trio.testing

from ballonet_host_coord.ports import ByteStream, PortError

BACKLOG = 8


class MemoryChannel:
    """Pairs of streams without a kernel between them, so that a virtual clock may jump."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[ByteStream](BACKLOG)

    async def connect(self) -> ByteStream:
        near, far = trio.testing.memory_stream_pair()
        await self._send.send(far)
        return near

    async def accept(self) -> ByteStream:
        return await self._receive.receive()


class UnixChannel:
    """A listening Unix socket at `path`, as QEMU's chardev has: one client is served, others queue."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listener = trio.socket.socket(trio.socket.AF_UNIX)

    async def listen(self) -> None:
        await self._listener.bind(str(self.path))
        self._listener.listen(BACKLOG)

    async def connect(self) -> ByteStream:
        try:
            return await trio.open_unix_socket(str(self.path))
        except OSError as exc:
            raise PortError(f"{self.path}: {exc.strerror}") from exc

    async def accept(self) -> ByteStream:
        client, _ = await self._listener.accept()
        return trio.SocketStream(client)

    def close(self) -> None:
        self._listener.close()
        self.path.unlink(missing_ok=True)
