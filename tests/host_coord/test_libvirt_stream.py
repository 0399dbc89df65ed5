"""The channel through libvirt: what the guest says arrives whole, a flood waits, and an end is an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord.libvirt_link import LibvirtLink
from ballonet_host_coord.libvirt_stream import BUFFER_BYTES, LibvirtStream, open_stream
from ballonet_host_coord.ports import PortError

from .fake_libvirt import FakeConnection, FakeLibvirt, InlineThreads, libvirtError


class FakeStream:
    """libvirt's stream in its non-blocking way, with an event loop that calls for as long as there is interest."""

    def __init__(self) -> None:
        self.arrived = b""
        self.ended = self.broken = False
        self.room = 10**9
        self.sent = b""
        self.interest = 0
        self.callback: Callable[..., None] | None = None
        self.aborted = False

    def eventAddCallback(self, interest: int, callback: Callable[..., None], opaque: None) -> None:
        self.interest, self.callback = interest, callback
        self.turn()

    def eventUpdateCallback(self, interest: int) -> None:
        self.interest = interest

    def eventRemoveCallback(self) -> None:
        self.callback = None

    def recv(self, most: int) -> Any:
        if self.broken:
            raise libvirtError("stream had I/O failure", 38)
        if not self.arrived and not self.ended:
            return -2
        data, self.arrived = self.arrived[:most], self.arrived[most:]
        return data

    def send(self, data: bytes) -> int:
        if self.room <= 0:
            return -2
        taken = data[: self.room]
        self.sent += taken
        self.room -= len(taken)
        return len(taken)

    def abort(self) -> None:
        self.aborted = True

    def turn(self) -> None:
        """libvirt's loop looks at the stream. A callback that stays after the end would be called for ever."""
        for _ in range(100):
            if self.callback is None or not self.interest or not (self.arrived or self.ended or self.broken):
                return
            self.callback(self, self.interest, None)
        raise AssertionError("the callback spins")


def run(test: Callable[[FakeStream, LibvirtStream], Awaitable[None]]) -> None:
    async def main() -> None:
        fake, stream = FakeLibvirt(), FakeStream()
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads(), event_loop=lambda lib: None)
        await link.connect()
        domain = fake.domain("web")
        FakeConnection.newStream = lambda connection, flags: stream  # type: ignore[attr-defined]
        domain.openChannel = lambda port, stream, flags: 0  # type: ignore[attr-defined]
        with trio.fail_after(60):
            await test(stream, await open_stream(link, "web: channel", domain.uuid, "org.ballonet.agent.0"))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def test_what_arrives_is_received() -> None:
    """Bytes come in order, before and while somebody waits, and no more at once than asked for."""

    async def test(fake: FakeStream, stream: LibvirtStream) -> None:
        fake.arrived = b"one"
        fake.turn()
        assert await stream.receive_some(2) == b"on"
        assert await stream.receive_some() == b"e"
        async with trio.open_nursery() as nursery:

            async def later() -> None:
                await trio.sleep(1)
                fake.arrived = b"two"
                fake.turn()

            nursery.start_soon(later)
            assert await stream.receive_some(4096) == b"two"

    run(test)


def test_a_flood_waits_where_it_is() -> None:
    """A guest that never stops writing fills one buffer; the rest comes when that has been taken."""

    async def test(fake: FakeStream, stream: LibvirtStream) -> None:
        flood = bytes(range(256)) * (BUFFER_BYTES // 64)
        fake.arrived = flood
        fake.turn()
        assert len(flood) - len(fake.arrived) <= BUFFER_BYTES + 4096
        received = b""
        while len(received) < len(flood):
            received += await stream.receive_some(1000)
            fake.turn()
        assert received == flood

    run(test)


@pytest.mark.parametrize("how", ["ended", "broken"])
def test_an_end_is_told_after_what_came_before_it(how: str) -> None:
    """Closed or broken, the stream gives what it has and then b''; libvirt's loop is not kept busy."""

    async def test(fake: FakeStream, stream: LibvirtStream) -> None:
        fake.arrived = b"last"
        fake.turn()
        setattr(fake, how, True)
        fake.turn()
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""
        with pytest.raises(PortError, match="closed"):
            await stream.send_all(b"x")

    run(test)


def test_sending_waits_for_room() -> None:
    """Everything is sent, as libvirt takes it."""

    async def test(fake: FakeStream, stream: LibvirtStream) -> None:
        fake.room = 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"hello")
            await trio.sleep(1)
            assert fake.sent == b"hel"
            fake.room = 100
        assert fake.sent == b"hello"

    run(test)


def test_closing_ends_a_waiting_reader() -> None:
    """The stream is aborted, its callback gone, and whoever reads is told the end."""

    async def test(fake: FakeStream, stream: LibvirtStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await trio.sleep(1)
            await stream.aclose()
        assert fake.aborted
        assert fake.callback is None

    run(test)
