"""The agent's real loop and the coordinator's real session at the two ends of a fake port, on one virtual clock."""

from __future__ import annotations

import contextlib
from collections.abc import Container

from tests.guest_agent.conftest import Guest
from tests.guest_agent.test_loop import Rig
from tests.guest_agent.vport import FakePort
from tests.host_coord.builders import MIB, CountedRandomness

from ballonet_guest_agent.actions import Instant
from ballonet_guest_agent.port import WRITE_BYTES
from ballonet_host_coord.model import LinkState, UsageReport, Wish
from ballonet_host_coord.session import AgentSession
from ballonet_protocol import BalloonAck, Inflate, Message, Report
from ballonet_protocol._framing import FrameReader, encode_frame
from ballonet_protocol.testing import FakeHost, FakeVport, VirtualTime

RAM_KIB = 1024 * MIB


class ShortPort(FakePort):
    """A port whose every write takes a few bytes at most; and it counts how often it was to be opened."""

    def __init__(self, vport: FakeVport, most: int = WRITE_BYTES) -> None:
        super().__init__(vport)
        self.most = most
        self.writes_left = 1 << 30
        """After so many it takes nothing."""
        self.tried = 0

    def open(self) -> None:
        self.tried += 1
        super().open()

    def write(self, data: bytes) -> int:
        if not self.writes_left:
            return 0
        self.writes_left -= 1
        return super().write(data[: self.most])


class Coordinator:
    """The coordinator's session as a client of the port. `lost` names the messages that never reach it."""

    def __init__(self, bench: Bench) -> None:
        self.session = AgentSession(CountedRandomness())
        self.session._random.sessions = bench.sessions_begun  # type: ignore[attr-defined]
        bench.sessions_begun += 1000
        self.lost: Container[type[Message]] = ()
        self.deaf = False
        """Speaks and never reads."""
        self.reports: list[UsageReport] = []
        self.wishes: list[Wish] = []
        self.inflates_sent = self.refusals_lost = 0
        self._bench = bench
        self._host: FakeHost | None = None
        self._unsent = b""
        self._reader = FrameReader()

    @property
    def live(self) -> bool:
        return self.session.facts().link is LinkState.LIVE

    def come(self) -> None:
        self._host = self._bench.vport.connect()
        self._unsent = b""
        self._reader = FrameReader()
        self.session.attached(RAM_KIB, self._bench.now_s)
        self._bench.coordinators.append(self)

    def leave(self) -> None:
        assert self._host is not None
        self._host.close()
        self._bench.coordinators.remove(self)
        self.session.detached("left")

    def write(self, data: bytes) -> None:
        """Bytes of the test's own, around the session."""
        assert self._host is not None
        self._host.send(data)

    def talk(self) -> bool:
        """Both ways, as much as there is; whether there was anything."""
        assert self._host is not None
        said = self.session.take_output()
        self.inflates_sent += self._count_inflates(said)
        self._unsent += said
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self._host.send(self._unsent) :]
        heard = b"" if self.deaf else self._host.recv_all()
        if heard:
            self.session.received(self._without_lost(heard) if self.lost else heard, self._bench.now_s)
            self.reports, self.session.reports = self.reports + self.session.reports, []
            self.wishes, self.session.wishes = self.wishes + self.session.wishes, []
        return bool(said or heard)

    def _without_lost(self, heard: bytes) -> bytes:
        self._reader.feed(heard)
        left = b""
        codes = {message.TYPE_CODE for message in self.lost}  # type: ignore[attr-defined]
        while (frame := self._reader.next_frame()) is not None:
            if frame[1] not in codes:
                left += encode_frame(*frame[1:])
        return left

    @staticmethod
    def _count_inflates(said: bytes) -> int:
        reader = FrameReader()
        reader.feed(said)
        return sum(frame[1] == Inflate.TYPE_CODE for frame in iter(reader.next_frame, None))


class Bench:
    """One guest, its port, its agent, and whoever comes to the port's other end."""

    def __init__(self, socket_bytes: int | None = None, settings: object = None) -> None:
        self.vport = FakeVport() if socket_bytes is None else FakeVport(socket_bytes)
        self.time = VirtualTime()
        self.guest = Guest()
        self.coordinators: list[Coordinator] = []
        self.sessions_begun = 0
        self.alive = False
        self._settings = settings
        self._rigs: list[Rig] = []

    @property
    def now_s(self) -> float:
        return self.time.monotonic_s

    @property
    def instant(self) -> Instant:
        return Instant(self.time.monotonic_s, self.time.boottime_s)

    @property
    def rig(self) -> Rig:
        return self._rigs[-1]

    def start_agent(self, port: ShortPort | None = None) -> None:
        """A new process: it remembers nothing."""
        rig = Rig(self.guest, port or ShortPort(self.vport))
        rig.loop._now = lambda: self.instant
        if self._settings is not None:
            rig.agent.settings = self._settings
        self._rigs.append(rig)
        self.alive = True
        self.rig.loop.turn(0)

    def kill_agent(self) -> None:
        """kill -9: nothing is said, the kernel closes the port."""
        self.alive = False
        self.rig.port.close()

    def come(self) -> Coordinator:
        """A coordinator that was never here connects."""
        coordinator = Coordinator(self)
        coordinator.come()
        self.talk()
        return coordinator

    def serve(self) -> Coordinator:
        """The same, and its session stands."""
        coordinator = self.come()
        self.run(2.0)
        assert coordinator.live
        assert coordinator.reports
        return coordinator

    def talk(self) -> None:
        """Let no time pass, and everybody say what there is to say."""
        for _ in range(50):
            if self.alive and self.rig.loop.exit_code is None:
                self.rig.loop.turn(0)
            if not any([coordinator.talk() for coordinator in self.coordinators]):  # noqa: C419 - all of them talk
                return
        raise AssertionError("they never end")

    def run(self, seconds: float) -> None:
        """Let time pass in steps of a tenth of a second, or shorter where somebody has a deadline."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            due_s = [coordinator.session.deadline_s() - self.now_s for coordinator in self.coordinators]
            self.time.advance(min(end_s - self.now_s, max(0.001, min(due_s, default=0.1)), 0.1))
            for coordinator in self.coordinators:
                coordinator.session.tick(self.now_s)
            self.talk()

    def until_live(self, coordinator: Coordinator, within_s: float) -> float:
        """Until the session stands and a report has come in it; the seconds that it took."""
        began_s, reports = self.now_s, len(coordinator.reports)
        while not (coordinator.live and len(coordinator.reports) > reports):
            assert self.now_s - began_s < within_s, f"no session and report within {within_s} s"
            self.run(0.1)
        return self.now_s - began_s

    def release(self) -> None:
        for rig in self._rigs:
            rig.release()
        self.vport.release()


REPORTS: tuple[type[Message], ...] = (Report,)
ANSWERS: tuple[type[Message], ...] = (BalloonAck,)
