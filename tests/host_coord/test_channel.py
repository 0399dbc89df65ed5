"""What the channel's tasks make of a stream: its end is an end, however it shows, and never the service's."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ballonet_host_coord.channel import AgentReports
from ballonet_host_coord.model import LinkState, UsageReport, Wish
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.session import AgentSession
from ballonet_protocol.limits import WRITE_STUCK_S


class Randomness:
    def session_id(self) -> int:
        return 7

    def nonce(self) -> bytes:
        return bytes(16)

    def jitter(self) -> float:
        return 1.0


class TrioTime:
    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class Nobody:
    def reported(self, report: UsageReport) -> None: ...

    def wished(self, wish: Wish) -> None: ...


class Stream:
    """A stream whose every write raises `error`; reading it ends after `ends_s`."""

    def __init__(self, error: Exception, ends_s: float) -> None:
        self.error = error
        self.ends_s = ends_s
        self.closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(self.ends_s)
        return b""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise self.error

    async def aclose(self) -> None:
        self.closed = True


class Vm:
    """Opens one stream after another."""

    def __init__(self, error: Exception, ends_s: float) -> None:
        self.error = error
        self.ends_s = ends_s
        self.streams: list[Stream] = []
        self.make: type[Stream] = Stream

    async def open_channel(self) -> Stream:
        self.streams.append(self.make(self.error, self.ends_s))
        return self.streams[-1]


class Talkative(AgentSession):
    """A session that believes itself live, so that it says goodbye."""

    def goodbye(self, now_s: float) -> None:
        self._link = LinkState.LIVE
        self._out += b"goodbye"


GONE = [PortError("the channel is closed"), trio.BrokenResourceError(), trio.ClosedResourceError()]


@pytest.mark.parametrize("error", GONE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("ends_s", [0.0, 1000.0], ids=["reader sees it first", "writer sees it first"])
def test_a_stream_that_ends_is_opened_again(error, ends_s):
    """A peer that died while we write or say goodbye costs its stream and nothing else."""
    vm = Vm(error, ends_s)
    session = Talkative(Randomness())

    async def main() -> None:
        with trio.move_on_after(30):
            await AgentReports(vm, session, TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(vm.streams) > 5
    assert all(stream.closed for stream in vm.streams)
    assert session.facts().link is not LinkState.LIVE


class Clogged(Stream):
    """Nobody ever takes what is written."""

    async def send_all(self, data: bytes) -> None:
        await trio.sleep_forever()


def test_a_write_that_nobody_takes_ends_its_stream():
    """A guest that never reads holds the channel for a bounded time; then it is opened anew."""
    vm = Vm(PortError(""), 1000.0)
    vm.make = Clogged

    async def main() -> None:
        with trio.move_on_after(WRITE_STUCK_S * 2 + 10):
            await AgentReports(vm, AgentSession(Randomness()), TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(vm.streams) >= 2
    assert vm.streams[0].closed
