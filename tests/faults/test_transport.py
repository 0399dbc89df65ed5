"""What a port does to a conversation: the agent's real loop over the fake virtio port, and on a pty for the UART."""

from __future__ import annotations

import errno
import itertools
import os
import select
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from tests.guest_agent.conftest import Guest
from tests.guest_agent.test_loop import Rig
from tests.host_coord.builders import CountedRandomness

from ballonet_guest_agent.actions import Write
from ballonet_guest_agent.loop import LOOK_FOR_HOST_S, SEARCH_LONGEST_S
from ballonet_guest_agent.uart import UartPort
from ballonet_host_coord.session import AgentSession
from ballonet_protocol import Ping
from ballonet_protocol.limits import DEAD_S, HELLO_JITTER_RATIO, HELLO_LONGEST_S, QUEUE_BYTES, UNANSWERED_MOST

from .bench import RAM_KIB, Bench, ShortPort

RING_SLOTS = 128


class Waits:
    """Stands before the loop's epoll and says whether its last wait was ended by an event."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self.woken = False

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        events = self._epoll.poll(timeout)
        self.woken = bool(events)
        return events

    def __getattr__(self, name: str) -> object:
        return getattr(self._epoll, name)


def wake_ups(bench: Bench, seconds: float) -> int:
    """Turn the loop when it asks for it or an event wakes it, and at no other time; how often that was."""
    loop = bench.rig.loop
    if not isinstance(loop._epoll, Waits):
        loop._epoll = Waits(loop._epoll)
    waits, end_s, count = loop._epoll, bench.now_s + seconds, 0
    while True:
        wait_s = 0.0 if waits.woken else loop._wait_s(bench.instant)
        if bench.now_s + wait_s >= end_s:
            bench.time.advance(end_s - bench.now_s)
            return count
        bench.time.advance(wait_s)
        loop.turn(0)
        count += 1
        assert count < 1000, "the loop spins"


# --- hosts that come and go


@pytest.mark.fault(25)
def test_sixty_seconds_without_a_host(bench: Bench) -> None:
    """With no host at the start a minute costs a handful of wake-ups, under 0.1 % of a processor, and no memory."""
    began_s = time.process_time()
    woken = wake_ups(bench, 60.0)
    spent_s = time.process_time() - began_s
    tracemalloc.start()
    try:
        wake_ups(bench, 1200.0)
        before = tracemalloc.get_traced_memory()[0]
        wake_ups(bench, 3600.0)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 1 <= woken <= 60 / LOOK_FOR_HOST_S + 1
    assert spent_s < 0.001 * 60
    assert grown < 4096
    assert bench.rig.procfs.samples == 0


@pytest.mark.fault(26)
def test_twenty_quick_reconnects(bench: Bench) -> None:
    """Twenty coordinators within one turn, each gone in the middle of its HELLO: the next one is served at once."""
    bench.serve().leave()
    for _ in range(20):
        host = bench.vport.connect()
        session = AgentSession(CountedRandomness())
        session.attached(RAM_KIB, bench.now_s)
        host.send(session.take_output()[:11])
        host.close()
    last = bench.come()
    assert bench.until_live(last, 2.0) <= 2.0
    bench.run(10.0)
    assert last.live
    assert len(last.reports) >= 10


@pytest.mark.fault(19)
def test_second_host_waits_behind_the_first(bench: Bench) -> None:
    """A second host's HELLO waits unseen and disturbs nobody; when the first dies inside a frame it is heard."""
    first = bench.serve()
    second = bench.come()
    bench.run(5.0)
    assert first.live
    assert not second.live
    first.write(b"\0\x09stale by")
    first.leave()
    assert bench.until_live(second, 5.0) <= 5.0


@pytest.mark.fault(27)
def test_host_dies_with_unread_data(make_bench: Callable[..., Bench]) -> None:
    """What a dead host did not read is no concern of the next one: it hears its own session and nothing else."""
    bench = make_bench(socket_bytes=4096)
    dead = bench.serve()
    dead.deaf = True
    while not bench.vport._throttled:
        bench.rig.triggers.fire("full")
        bench.run(0.3)
    dead.leave()
    following = bench.come()
    assert bench.until_live(following, 3.0) <= 3.0
    connection = following.session._connection
    assert (connection.stale_frames, connection.drops.crc) == (0, 0)


@pytest.mark.fault(27, 38)
def test_host_dies_inside_a_frame(make_bench: Callable[..., Bench]) -> None:
    """The next host's first bytes are the rest of a frame for another: it loses that frame alone."""
    bench = make_bench(agent=False)
    port = ShortPort(bench.vport)
    bench.start_agent(port)
    first = bench.serve()
    port.most, port.writes_left = 9, 1
    bench.rig.triggers.fire("full")
    bench.rig.loop.turn(0)
    assert bench.rig.loop._queued_bytes > 0
    first.leave()
    port.writes_left = 1 << 30
    second = bench.come()
    assert bench.until_live(second, 3.0) <= 3.0
    assert second.session._connection.drops.crc == 1


# --- hosts that do not read


@pytest.mark.fault(28)
@pytest.mark.parametrize("socket_bytes", [4096, 212_992])
def test_ring_is_never_full(make_bench: Callable[..., Bench], socket_bytes: int) -> None:
    """A host that never reads: the agent falls silent after 32 frames, queue bounded, ring far from full."""
    bench = make_bench(socket_bytes=socket_bytes)
    bench.serve()
    (host,) = bench.coordinators
    bench.coordinators.clear()  # the process hangs: the socket stays
    most_slots = most_bytes = 0
    for _ in range(600):
        bench.guest.used_kib ^= 1 << 17
        bench.rig.triggers.fire("full")
        bench.run(0.2)
        most_slots = max(most_slots, len(bench.vport._output))
        most_bytes = max(most_bytes, bench.rig.loop._queued_bytes)
    asked = 120 / (HELLO_LONGEST_S * (1 - HELLO_JITTER_RATIO))
    assert most_slots <= UNANSWERED_MOST + asked < RING_SLOTS / 2
    assert most_bytes <= QUEUE_BYTES
    bench.coordinators.append(host)  # and goes on
    assert bench.until_live(host, 20.0) <= 20.0


@pytest.mark.fault(28)
def test_queue_is_bounded(bench: Bench) -> None:
    """Whatever the agent has to say to a port that takes nothing: 32 KiB wait, whole frames, and arrive in order."""
    host = bench.serve()
    bench.rig.port.writes_left = 0
    connection = bench.rig.agent.session.connection
    bench.rig.loop._perform([Write(connection.send(Ping(token=token))) for token in range(3000)])
    assert QUEUE_BYTES - 100 < bench.rig.loop._queued_bytes <= QUEUE_BYTES
    bench.rig.port.writes_left = 1 << 30
    bench.talk()
    drops = host.session._connection.drops
    assert (drops.crc, drops.gap) == (0, 0)
    assert bench.rig.loop._queued_bytes == 0


# --- agents that die, guests that are reset, machines that are paused


@pytest.mark.fault(29)
def test_agent_killed_inside_a_frame(make_bench: Callable[..., Bench]) -> None:
    """The half frame of a killed agent costs the host that frame; the stale input costs the new agent nothing."""
    bench = make_bench()
    host = bench.serve()
    report = bench.rig.agent.session.connection.send(Ping(token=1))
    bench.vport.write(bench.rig.port.fileno(), report[: len(report) // 2])
    bench.kill_agent()
    bench.run(5.0)  # PINGs into the socket: the next agent's first input
    host.write(b"\0\x07half")
    bench.start_agent()
    assert bench.until_live(host, 3.0) <= 3.0
    assert host.session._connection.drops.crc == 1
    assert bench.rig.agent.session.connection.stale_frames >= 1


@pytest.mark.fault(30)
def test_guest_reset_under_a_connected_host(bench: Bench) -> None:
    """A host that nobody told of a reset is asked for a session by the new boot's agent and opens one at once."""
    host = bench.serve()
    bench.alive = False
    bench.vport.reset()
    bench.rig.port._fd = -1
    bench.run(4.0)
    assert host.live
    bench.start_agent()
    assert bench.until_live(host, 3.0) <= 3.0
    assert bench.rig.agent.session.connection.session == host.session.facts().session


@pytest.mark.fault(31)
@pytest.mark.parametrize("away_s", [0.0, 30.0])
def test_black_hole_after_a_pause(bench: Bench, away_s: float) -> None:
    """A host that left a paused VM leaves a hole; one that hears nothing, notices and comes again is served in 10 s."""
    first = bench.serve()
    bench.vport.pause()
    first.leave()
    bench.vport.resume()
    bench.run(away_s)
    mute = bench.come()
    bench.run(DEAD_S)
    mute.leave()  # it has noticed
    again = bench.come()
    assert bench.until_live(again, 10.0) <= 10.0


@pytest.mark.fault(31)
def test_agent_is_silent_in_a_black_hole(bench: Bench) -> None:
    """What is written into the hole succeeds, so silence alone tells: a guest writes no more after ten seconds."""
    first = bench.serve()
    bench.vport.pause()
    first.leave()
    bench.vport.resume()
    bench.run(DEAD_S + 0.5)
    assert not bench.rig.agent.session.live
    before = len(bench.vport._output)
    bench.run(60.0)
    assert len(bench.vport._output) - before <= 5


# --- ports that are not there, or hardly


@pytest.mark.fault(37)
@pytest.mark.parametrize("obstacle", ["EBUSY", "missing"])
def test_port_that_cannot_be_opened(make_bench: Callable[..., Bench], obstacle: str) -> None:
    """A port that another holds, or that is not there at boot, is said once, tried with patience and then served."""
    bench = make_bench(agent=False)
    other = -1
    if obstacle == "EBUSY":
        other = bench.vport.open()
    else:
        bench.vport.unplug()
    bench.start_agent()
    bench.rig.port.tried = 0  # type: ignore[attr-defined]
    wake_ups(bench, 60.0)
    assert 60 / SEARCH_LONGEST_S <= bench.rig.port.tried <= 60 / SEARCH_LONGEST_S + 4  # type: ignore[attr-defined]
    (said,) = bench.rig.said
    assert os.strerror(errno.EBUSY if obstacle == "EBUSY" else errno.ENOENT) in said
    if obstacle == "EBUSY":
        bench.vport.close(other)
    else:
        bench.vport.plug()
    host = bench.come()
    assert bench.until_live(host, SEARCH_LONGEST_S + 2) <= SEARCH_LONGEST_S + 2


@pytest.mark.fault(38)
@pytest.mark.parametrize("most", [1, 7, 64])
def test_writes_that_take_little_or_nothing(make_bench: Callable[..., Bench], most: int) -> None:
    """Short writes among writes of 0 bytes, ENOMEM and EINTR: every frame arrives, whole, once and in order."""
    bench = make_bench(agent=False)
    bench.start_agent(ShortPort(bench.vport, most))
    host = bench.come()
    for code in itertools.islice(itertools.cycle([errno.ENOMEM, 0, errno.EINTR]), 60):
        bench.vport.fail_writes(code)
        bench.run(0.1)
    bench.run(2.0)
    connection = host.session._connection
    assert host.live
    assert len(host.reports) >= 6
    assert (connection.drops.crc, connection.drops.gap, connection.repeated_frames) == (0, 0, 0)
    assert bench.rig.port.opened == 1


# --- a serial line


class Line:
    """The agent's loop on a pty, and the coordinator's session at its other end."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.bench = Bench()
        self.rig = Rig(Guest(), UartPort(os.ttyname(self.slave)))
        self.rig.loop._now = lambda: self.bench.instant
        self.session = AgentSession(CountedRandomness())
        self.session.attached(RAM_KIB, self.bench.now_s)
        self.drop_every = 0
        self._passed = 0

    def cut(self, data: bytes) -> bytes:
        """What the line leaves of `data`."""
        places = range(self._passed, self._passed + len(data))
        self._passed += len(data)
        if not self.drop_every:
            return data
        return bytes(byte for place, byte in zip(places, data, strict=True) if place % self.drop_every)

    def read(self, quiet_s: float = 0.0) -> bytes:
        """What has come, until nothing comes for so long: the kernel hands it on a moment later."""
        data = b""
        while select.select([self.master], [], [], quiet_s)[0]:
            data += os.read(self.master, 65536)
        return data

    def fill(self) -> None:
        """Write until nothing goes in any more; the kernel hands on what was written a moment later."""
        for size, refused in ((4096, 0), (64, 0), (1, 0)):
            while refused < 3:
                refused = 0 if self.rig.port.write(bytes(size)) else refused + 1
                select.select([], [self.rig.port.fileno()], [], 0.01)

    def run(self, seconds: float, *, host: bool = True) -> None:
        for _ in range(int(seconds * 10)):
            self.bench.time.advance(0.1)
            self.rig.loop.turn(0)
            if host:
                self.session.tick(self.bench.now_s)
                self.session.received(self.cut(self.read()), self.bench.now_s)
                os.write(self.master, self.cut(self.session.take_output()))
        self.rig.loop.turn(0)

    def until(self, condition: Callable[[], bool]) -> None:
        """Virtual time outruns the kernel, which has its own: so much of it is allowed."""
        for _ in range(600):
            if condition():
                return
            self.run(0.5)
        raise AssertionError("not within five minutes")

    @property
    def live(self) -> bool:
        return self.session.facts().session != 0 and self.rig.agent.session.live


@pytest.fixture
def line() -> Iterator[Line]:
    pytest.importorskip("serial", reason="pip install 'ballonet-guest-agent[uart]'")
    line = Line()
    line.until(lambda: line.live)
    yield line
    line.rig.release()
    os.close(line.master)
    os.close(line.slave)


@pytest.mark.fault(39)
def test_line_that_drops_bytes(line: Line) -> None:
    """A line that loses bytes costs frames, never the step: once it is whole again everything arrives."""
    connection = line.session._connection
    line.drop_every = 61
    line.until(lambda: (connection.drops.crc or 0) > 10)
    line.drop_every = 0
    line.run(3.0)  # what was under way
    line.until(lambda: line.live)
    line.session.reports.clear()
    crc = connection.drops.crc
    line.until(lambda: len(line.session.reports) >= 10)
    assert connection.drops.crc == crc


@pytest.mark.fault(39)
def test_line_without_hang_up(line: Line) -> None:
    """No sign tells that the host is gone: silence does, after ten seconds; the port is never closed for it."""
    line.run(DEAD_S + 1, host=False)
    assert not line.rig.agent.session.live
    line.read(0.05)
    line.run(60.0, host=False)
    assert line.read(0.05).count(b"\0\0") <= 5
    line.session.attached(RAM_KIB, line.bench.now_s)
    line.until(lambda: line.live)
    assert sum("is open" in text for text in line.rig.said) == 1


@pytest.mark.fault(39)
def test_line_whose_writer_would_block(line: Line) -> None:
    """A line that takes nothing blocks nobody: the frame waits in the queue and leaves, whole, when there is room."""
    line.fill()
    began_s = time.monotonic()
    line.rig.triggers.fire("full")
    line.rig.loop.turn(0)
    assert time.monotonic() - began_s < 5.0
    assert 0 < line.rig.loop._queued_bytes <= QUEUE_BYTES
    while line.rig.loop._queued_bytes:
        line.session.received(line.read(0.05), line.bench.now_s)
        line.rig.loop.turn(0)
    line.session.received(line.read(0.05), line.bench.now_s)
    assert len(line.session.wishes) == 1
    assert line.session._connection.drops.crc == 0
