"""loop.py: real descriptors, no sleeping: each turn waits for what the test has already caused."""

from __future__ import annotations

import os
import select
import socket
import time
from pathlib import Path

import pytest

from ballonet_guest_agent.loop import EXIT_STUCK, LOOK_AGAIN_S, LOOK_FOR_HOST_S, read_clocks
from ballonet_guest_agent.port import AWAY
from ballonet_guest_agent.unixport import UnixPort
from ballonet_protocol import (
    COORDINATOR,
    Connection,
    Demand,
    ErrorMessage,
    Hello,
    HelloAck,
    HelloReq,
    Ping,
    Report,
    SetPolicy,
)
from ballonet_protocol.limits import QUEUE_BYTES

from .rig import Rig, ScriptedPort, take

# ---- the port


def test_port_is_searched_with_patience(rig: Rig) -> None:
    """A missing name is said once, with a hint, and looked for less and less often, at most each five seconds."""
    rig.port.open_error = OSError(2, "No such file")
    tries = []
    for second in range(24):
        tries += [second] * (rig.port.tried - len(tries))
        rig.loop.turn(0)
        rig.clock.seconds += 1.0
    assert [later - earlier for earlier, later in zip(tries, tries[1:])][:5] == [1, 2, 4, 5, 5]
    assert rig.said == ["port scripted: No such file; ask the test"]
    rig.port.open_error = None
    rig.clock.seconds += 5.0
    rig.loop.turn(0)
    assert rig.port.opened == 1


def test_host_away_is_not_the_end(rig: Rig) -> None:
    """A port without host stays open and nothing is written; when the host comes the agent speaks."""
    rig.port.reads = [AWAY]
    rig.loop.turn(0)
    assert (rig.port.closed, rig.port.written) == (0, b"")
    rig.port.nudge()
    rig.loop.turn(0)
    assert [type(message) for message in rig.heard()] == [HelloReq]
    rig.port.reads = [AWAY]
    rig.port.nudge()
    rig.loop.turn(0)
    assert rig.port.closed == 0
    assert not rig.agent.session.live


def test_lost_edge(rig: Rig) -> None:
    """A host that comes without any edge is noticed by the timer, within fifteen seconds and not at every turn."""
    rig.port.reads = [AWAY, AWAY]  # the second answers the edge of the registration
    rig.loop.turn(0)
    rig.loop.turn(0)
    assert 5.0 < rig.loop._wait_s(rig.clock()) <= LOOK_FOR_HOST_S
    rig.clock.seconds += LOOK_FOR_HOST_S - 0.1
    rig.loop.turn(0)
    assert rig.heard() == []
    rig.clock.seconds += 0.1
    rig.loop.turn(0)
    assert [type(message) for message in rig.heard()] == [HelloReq]


def test_lost_hang_up(served: Rig) -> None:
    """A host that leaves without any edge is noticed by the timer within five seconds."""
    served.port.reads = [AWAY]
    served.clock.seconds += LOOK_AGAIN_S - 0.1
    served.loop.turn(0)
    assert served.agent.session.live
    served.clock.seconds += 0.1
    served.loop.turn(0)
    assert not served.agent.session.live


def test_watchdog_rides_with_other_wake_ups(rig: Rig, monkeypatch) -> None:
    """A minute without a host takes four wake-ups, and the service manager hears of life in each of them."""
    told: list[str] = []
    monkeypatch.setattr("ballonet_guest_agent.loop.notify", told.append)
    rig.loop._watchdog_s = 15.0  # WatchdogSec=30
    rig.port.reads = [AWAY] * 9
    rig.loop.turn(0)
    told.clear()
    wakes, end_s = 0, rig.clock.seconds + 60.0
    while rig.clock.seconds < end_s:
        rig.clock.seconds += rig.loop._wait_s(rig.clock())
        rig.loop.turn(0)
        wakes += 1
    assert wakes <= 5
    assert told == ["WATCHDOG=1"] * wakes


def test_unplugged(served: Rig) -> None:
    """ENODEV closes the port; a second later its name is looked for again and the agent asks for a session."""
    served.port.reads = [OSError(19, "No such device")]
    served.port.nudge()
    served.loop.turn(0)
    assert (served.port.opened, served.port.closed) == (1, 1)
    served.clock.seconds += 1.0
    served.loop.turn(0)
    assert served.port.opened == 2
    assert HelloReq in [type(message) for message in served.heard()]
    assert any("lost: No such device" in text for text in served.said)


def test_unplugged_while_writing(served: Rig) -> None:
    """The same when a write finds out."""
    served.port.write_error = OSError(6, "No such device or address")
    served.triggers.fire("some")
    served.loop.turn(5)
    assert served.port.closed == 1


def test_lost_in_the_last_read_of_a_turn(served: Rig) -> None:
    """A port that is lost by the answer to the sixteenth read leaves nothing to go on with: the loop waits again."""
    served.port.reads = [b"\0"] * 15 + [served.host.send(Ping(token=1))]
    served.port.write_error = OSError(19, "No such device")
    served.port.open_error = OSError(2, "No such file")
    served.port.nudge()
    served.loop.turn(0)
    assert served.port.closed == 1
    assert served.loop._wait_s(served.clock()) == 1.0
    served.clock.seconds += 1.0
    served.loop.turn(0)
    assert served.loop._wait_s(served.clock()) > 0.0


def test_nothing_old_for_the_next_host(served: Rig) -> None:
    """What waited to be written when the host left is not written to the next one."""
    served.port.room = 0
    served.triggers.fire("some")
    served.loop.turn(5)
    served.port.reads = [AWAY]
    served.port.nudge()
    served.loop.turn(0)
    served.port.room, served.port.reads = 1 << 20, [None]
    served.clock.seconds += 1.0
    served.port.nudge()
    served.loop.turn(0)
    assert [type(message) for message in served.heard()] == [HelloReq]


def test_short_writes(served: Rig) -> None:
    """Frames go out whole and in order however few bytes each write takes."""
    served.port.room = 0
    served.port.reads = [served.host.send(Ping(token=token)) for token in range(3)]
    served.port.nudge()
    served.loop.turn(0)
    for _ in range(300):
        served.port.room = 1
        served.loop.turn(0)
    assert [message.token for message in served.heard()] == [0, 1, 2]


def test_queue_is_bounded(served: Rig) -> None:
    """A host that never reads: the queue ends at 32 KiB, whole frames are dropped and it is said once."""
    served.port.room = 0
    for step in range(40):
        served.port.reads = [served.host.send(Ping(token=step))]
        served.port.nudge()
        served.loop.turn(0)
        served.clock.seconds += 0.01
    frame = b"\0" + b"x" * 1022 + b"\0"
    for _ in range(100):
        served.loop._enqueue(frame)
    assert served.loop._queued_bytes <= QUEUE_BYTES
    assert sum("dropping frames" in text for text in served.said) == 1


def test_stuck_port_is_reopened_then_given_up(served: Rig) -> None:
    """Five seconds without a byte taken: closed, open again after one; the second time the process ends with a code."""
    served.port.room = 0
    served.triggers.fire("some")
    served.loop.turn(5)
    served.clock.seconds += 5.0
    served.loop.turn(0)
    assert served.port.closed == 1
    assert served.loop.exit_code is None
    served.clock.seconds += 1.0
    served.loop.turn(0)
    assert served.port.opened == 2
    served.clock.seconds += 5.0
    served.loop.turn(0)
    assert served.loop.exit_code == EXIT_STUCK


def test_stuck_again_after_it_went_well_is_no_reason_to_leave(served: Rig) -> None:
    """Only twice in a row counts: a byte taken in between begins anew."""
    for _ in range(3):
        served.port.room = 0
        served.triggers.fire("some")
        served.loop.turn(5)
        served.clock.seconds += 5.0
        served.loop.turn(0)
        served.clock.seconds += 1.0
        served.port.room, served.port.reads = 1 << 20, [served.host.send(Ping(token=1))]
        served.loop.turn(0)
    assert served.loop.exit_code is None
    assert served.port.closed == 3


def test_flood_does_not_keep_pressure_waiting(served: Rig) -> None:
    """A port that always has more is left after 64 KiB, and goes on in the next turn without waiting."""
    served.port.reads = [b"\0" * 4096] * 40
    served.port.nudge()
    served.loop.turn(0)
    assert len(served.port.reads) == 24
    assert served.loop._wait_s(served.clock()) == 0.0
    served.loop.turn()
    served.loop.turn()
    assert served.port.reads == []


# ---- pressure


@pytest.mark.parametrize(("kinds", "severity"), [(["some"], 2), (["full"], 3), (["some", "full"], 3)])
def test_pressure_becomes_a_demand_in_the_same_turn(served: Rig, kinds: list[str], severity: int) -> None:
    """One turn, one pass over /proc, and the DEMAND is the first thing written; both kinds at once make one."""
    samples = served.procfs.samples
    for kind in kinds:
        served.triggers.fire(kind)
    served.loop.turn(5)
    first, *rest = served.heard()
    assert isinstance(first, Demand)
    assert first.severity == severity
    assert not any(isinstance(message, Demand) for message in rest)
    assert served.procfs.samples == samples + 1


def test_demand_before_the_lines_about_it(served: Rig, make_guest) -> None:
    """A DEMAND that stops a move is written first, and the operator hears of it then."""
    from ballonet_protocol import Inflate

    served.clock.seconds += 3.0
    served.port.reads = [served.host.send(Inflate(gen=1, target_bytes=600 << 20, ttl_ms=30_000))]
    served.port.nudge()
    served.loop.turn(0)
    served.heard()
    written_when_said: list[int] = []
    served.loop._say_line = lambda _level, _text: written_when_said.append(len(served.port.written))
    before = len(served.port.written)
    served.triggers.fire("full")
    served.loop.turn(5)
    assert written_when_said
    assert all(written > before for written in written_when_said)


def test_lines_are_bounded(served: Rig) -> None:
    """A coordinator that causes a line with each frame gets twenty, then one a second with the number left out."""
    served.said.clear()
    frames = [served.host.send(ErrorMessage(re=1, code=2, text="x", fatal=False)) for _ in range(300)]
    for frame in frames:
        served.loop._perform(served.agent.received(frame, served.clock()))
        served.clock.seconds += 0.01
    assert 20 <= len(served.said) <= 27
    assert any("lines were left out" in text for text in served.said)


def test_trigger_that_the_kernel_took_away(served: Rig) -> None:
    """EPOLLERR on a trigger is no stall: the counter takes over, and the loop does not go round for it."""
    ours = next(iter(served.triggers.fds))
    served.loop._take_pressure([(ours, select.EPOLLERR | select.EPOLLPRI)])
    assert any("each 250 ms" in text for text in served.said)
    assert not served.agent.watch.has_psi_trigger
    assert served.triggers.fds == {}
    assert not any(isinstance(message, Demand) for message in served.heard())


def test_lost_triggers_are_said(served: Rig) -> None:
    """When triggers cannot be armed again the agent reads the counter instead, and the log says so."""
    served.triggers.reason = "Invalid argument"
    served.port.reads = [served.host.send(SetPolicy(gen=1, psi_some_permyriad=900))]
    served.port.nudge()
    served.loop.turn(0)
    assert served.triggers.armed == [(45_000, 10_000)]
    assert any("each 250 ms" in text for text in served.said)
    assert not served.agent.watch.has_psi_trigger


# ---- real sockets


def test_over_a_real_socket(make_guest, tmp_path: Path) -> None:
    """A coordinator connects, opens a session, leaves, and the next one is served."""
    path = str(tmp_path / "agent.sock")
    rig = Rig(make_guest(), UnixPort(path))
    try:
        rig.loop.turn(0)
        for session in (1, 2):
            host = Connection(COORDINATOR)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                rig.clock.seconds += 2.0
                rig.loop.turn(5)
                hello = Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=())
                client.sendall(host.open_session(session, hello))
                rig.loop.turn(5)
                host.receive_data(client.recv(65536))
                assert [type(message) for message in take(host)] == [HelloReq, HelloAck, Report]
            rig.loop.turn(5)
            assert not rig.agent.session.live
    finally:
        rig.release()


class FifoPort(ScriptedPort):
    """A named pipe whose writer has left: nothing to read and a hang-up that stays, as a virtio port without host."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        os.mkfifo(path)
        self.path = path
        self.fd = -1

    def open(self) -> None:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        os.close(os.open(self.path, os.O_WRONLY))

    def fileno(self) -> int:
        return self.fd

    def read(self) -> bytes | None:
        try:
            return os.read(self.fd, 4096)
        except BlockingIOError:
            return None

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def test_standing_hang_up_does_not_spin(make_guest, tmp_path: Path) -> None:
    """A port whose host is away wakes the loop for its edges and then no more: the wait lasts as long as it may."""
    rig = Rig(make_guest(), FifoPort(tmp_path / "port"))
    rig.loop._now = read_clocks
    try:
        for _ in range(3):
            rig.loop.turn(0)
        begun, worked = time.monotonic(), time.process_time()
        for _ in range(4):
            rig.loop.turn(0.05)
        assert time.monotonic() - begun >= 0.19
        assert time.process_time() - worked < 0.05
    finally:
        rig.release()
