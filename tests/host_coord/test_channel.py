"""What the channel's tasks make of a stream: its end is an end, however it shows, and never the service's."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from ballonet_host_coord.channel import PATIENCE_MOST_S, RETRY_FIRST_S, AgentReports
from ballonet_host_coord.model import LinkState, UsageReport, Wish
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.session import AgentSession
from ballonet_protocol import AGENT, Connection, Hello, MemoryReport, Report
from ballonet_protocol.limits import DEAD_S, HEARTBEAT_S, WRITE_STUCK_S
from ballonet_protocol.testing import make_hello_ack

from .builders import CountedRandomness


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
        self.opened: list[float] = []

    async def open_channel(self) -> Stream:
        self.opened.append(trio.current_time())
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
    session = Talkative(CountedRandomness())

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
            await AgentReports(vm, AgentSession(CountedRandomness()), TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(vm.streams) >= 2
    assert vm.streams[0].closed


class Mute(Stream):
    """Takes everything and never says a word, as a guest does that was paused while its host left."""

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await trio.sleep_forever()


class OnceAnswering(Mute):
    """Answers the first HELLO, and falls silent."""

    def __init__(self, error: Exception, ends_s: float) -> None:
        super().__init__(error, ends_s)
        self.agent = Connection(AGENT)
        self.said, self.wait = trio.open_memory_channel[bytes](1)
        self.hellos = 0

    async def send_all(self, data: bytes) -> None:
        self.agent.receive_data(data)
        while (message := self.agent.next_message()) is not None:
            if isinstance(message, Hello):
                self.hellos += 1
                if self.hellos == 1:
                    self.said.send_nowait(self.agent.send(make_hello_ack(message)))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.wait.receive()


def test_a_channel_on_which_nobody_answers_is_opened_again_and_again_less_often():
    """After 10 s, then each time twice as long, at most five minutes; each stream is closed before the next."""
    vm = Vm(PortError(""), 1000.0)
    vm.make = Mute

    async def main() -> None:
        with trio.move_on_after(3000):
            await AgentReports(vm, AgentSession(CountedRandomness()), TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    waits = [round(later - earlier) for earlier, later in itertools.pairwise(vm.opened)]
    assert waits[:5] == [times * DEAD_S + RETRY_FIRST_S for times in (1, 2, 4, 8, 16)]
    assert set(waits[5:]) == {PATIENCE_MOST_S + RETRY_FIRST_S}
    assert all(stream.closed for stream in vm.streams)


def test_an_agent_that_falls_silent_is_asked_on_its_stream_before_the_stream_is_given_up():
    """Ten seconds of silence bring a HELLO on the same stream, ten more a new stream."""
    vm = Vm(PortError(""), 1000.0)
    vm.make = OnceAnswering

    async def main() -> None:
        with trio.move_on_after(2 * DEAD_S + 5):
            await AgentReports(vm, AgentSession(CountedRandomness()), TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert [round(later - vm.opened[0]) for later in vm.opened] == [0, 2 * DEAD_S + 1]
    first = vm.streams[0]
    assert isinstance(first, OnceAnswering)
    assert first.hellos > 1


class Reporting(OnceAnswering):
    """Answers the first HELLO, and reports ten times a second from then on."""

    answered = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self.answered:
            self.answered = True
            return await self.wait.receive()
        await trio.sleep(0.1)
        memory = MemoryReport(total_bytes=4 << 20, free_bytes=0, available_bytes=0, committed_bytes=0)
        return self.agent.send(Report(boottime_ms=int(trio.current_time() * 1000) + 1, memory=memory))


def test_a_report_does_not_wake_the_writer():
    """Whoever only reports hears a PING now and then: the writer looks as often as it has a deadline."""
    vm = Vm(PortError(""), 1000.0)
    vm.make = Reporting
    looks = []

    class Watched(AgentSession):
        def tick(self, now_s: float) -> None:
            looks.append(now_s)
            super().tick(now_s)

    async def main() -> None:
        with trio.move_on_after(60):
            await AgentReports(vm, Watched(CountedRandomness()), TrioTime(), lambda: 1024).run(Nobody())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(vm.streams) == 1
    assert len(looks) <= 3 * 60 / HEARTBEAT_S
