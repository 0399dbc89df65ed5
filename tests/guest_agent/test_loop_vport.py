"""loop.py on the fake virtio port: the agent's real loop and a real epoll, against a port with a real one's faults."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ballonet_guest_agent.actions import Instant
from ballonet_guest_agent.loop import EXIT_STUCK, LOOK_AGAIN_S
from ballonet_protocol import COORDINATOR, Connection, Demand, Hello, HelloAck, HelloReq, Message, Report
from ballonet_protocol.testing import FakeHost, FakeVport, VirtualTime

from .test_loop import Rig, take
from .vport import FakePort


class Stage:
    """A loop on a fake port, the guest's clocks and the host's end."""

    def __init__(self, make_guest) -> None:
        self.vport = FakeVport()
        self.time = VirtualTime()
        self.port = FakePort(self.vport)
        self.rig = Rig(make_guest(), self.port)
        self.loop = self.rig.loop
        self.sessions = 0
        self.host = Connection(COORDINATOR)
        self.loop._now = lambda: Instant(self.time.monotonic_s, self.time.boottime_s)

    def hello(self) -> bytes:
        """The HELLO of a new host that opens a session of its own."""
        self.sessions += 1
        self.host = Connection(COORDINATOR)
        hello = Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=("psi",), ram_bytes=1 << 30)
        return self.host.open_session(self.sessions, hello)

    def turn(self, seconds: float = 0.0) -> None:
        self.time.advance(seconds)
        self.loop.turn(0)

    def serve(self) -> tuple[FakeHost, list[Message]]:
        """A host comes and opens a session; what it hears."""
        host = self.vport.connect()
        host.send(self.hello())
        self.turn()
        return host, self.heard(host)

    def heard(self, host: FakeHost) -> list[Message]:
        self.host.receive_data(host.recv_all())
        return take(self.host)


@pytest.fixture
def stage(make_guest) -> Iterator[Stage]:
    """With the port open and no host."""
    stage = Stage(make_guest)
    stage.turn()
    yield stage
    stage.rig.release()
    stage.vport.release()


OPENING = [HelloReq, HelloAck, Report]


def kinds(messages: list[Message]) -> list[type[Message]]:
    return [type(message) for message in messages]


def test_one_edge_is_enough(stage: Stage) -> None:
    """A host that comes is answered in the turn that its edge wakes; one that leaves ends the session in the next."""
    host, heard = stage.serve()
    assert kinds(heard) == OPENING
    host.close()
    stage.turn()
    assert not stage.rig.agent.session.live
    assert stage.port.opened == 1


@pytest.mark.fault(26)
def test_twenty_quick_hosts(stage: Stage) -> None:
    """Hosts that came and went between two turns are passed over: the last one's HELLO is heard."""
    for _ in range(20):
        host = stage.vport.connect()
        host.send(stage.hello()[:9])
        host.close()
    last, heard = stage.serve()
    stage.turn()  # twenty buffers are more than one turn reads
    heard += stage.heard(last)
    assert kinds(heard)[-2:] == [HelloAck, Report]


@pytest.mark.fault(29)
def test_stale_input_after_a_restart(stage: Stage) -> None:
    """Half a frame that a host wrote while no agent was there does not keep the next HELLO from being heard."""
    stage.port.close()
    host = stage.vport.connect()
    host.send(stage.hello()[5:])
    restarted = FakePort(stage.vport)
    restarted.open()
    stage.loop._port = restarted
    stage.loop._watch_port()
    host.send(stage.hello())
    stage.turn()
    assert HelloAck in kinds(stage.heard(host))


def test_hang_up_lost_in_a_suspension(stage: Stage) -> None:
    """A host that leaves while the guest sleeps raises no edge and is missed within five seconds."""
    host, _ = stage.serve()
    stage.turn()
    stage.vport.suspend()
    host.close()
    stage.vport.wake()
    stage.time.sleep(3600.0)
    stage.turn(LOOK_AGAIN_S)
    assert not stage.rig.agent.session.live
    assert kinds(stage.serve()[1])[-2:] == [HelloAck, Report]


@pytest.mark.fault(36)
def test_unplugged_and_plugged_in_again(stage: Stage) -> None:
    """A port that goes is closed and searched; when it comes back the same host gets a new session."""
    host, _ = stage.serve()
    stage.vport.unplug()
    stage.turn()
    assert stage.port.fileno() == -1
    stage.turn(1.0)
    stage.vport.plug()
    stage.turn(5.0)
    host.send(stage.hello())
    stage.turn()
    assert kinds(stage.heard(host))[-2:] == [HelloAck, Report]


def test_a_ring_that_suspension_broke(stage: Stage) -> None:
    """A port that takes nothing for ever is opened once more, and then only a new process helps: the loop ends."""
    host, _ = stage.serve()
    while stage.port.write(bytes(4096)):
        pass
    stage.vport.suspend()
    stage.vport.wake()
    stage.rig.triggers.fire("some")
    stage.loop.turn(5)
    assert host.recv_all()
    for _ in range(20):
        stage.turn(1.0)
        if stage.loop.exit_code is not None:
            break
    assert (stage.port.opened, stage.loop.exit_code) == (2, EXIT_STUCK)


@pytest.mark.fault(38)
def test_no_memory_for_a_write(stage: Stage) -> None:
    """A DEMAND that the kernel had no memory for leaves as soon as it has, whole and once."""
    host, _ = stage.serve()
    stage.vport.fail_writes(errno.ENOMEM, 0, errno.EINTR)
    stage.rig.triggers.fire("full")
    for _ in range(5):
        stage.loop.turn(0)
    assert sum(isinstance(message, Demand) for message in stage.heard(host)) == 1


@pytest.mark.fault(28)
def test_a_host_that_never_reads(stage: Stage) -> None:
    """The agent falls silent after few frames: not even without the socket's room would its ring be half full."""
    host, _ = stage.serve()
    for _ in range(120):
        stage.turn(1.0)
    assert 10 <= len(stage.heard(host)) <= 64


@pytest.mark.fault(31)
def test_black_hole_after_a_pause(stage: Stage) -> None:
    """A host that left a paused VM is missed by its silence; the one after the mute next host gets a session."""
    host, _ = stage.serve()
    stage.vport.pause()
    host.close()
    stage.vport.resume()
    for _ in range(11):
        stage.turn(1.0)
    mute, heard = stage.serve()
    assert heard == []
    mute.close()
    stage.turn()
    assert kinds(stage.serve()[1])[-2:] == [HelloAck, Report]
