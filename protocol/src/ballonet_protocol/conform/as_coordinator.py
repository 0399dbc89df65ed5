"""The kit as the coordinator of an agent: opens sessions, asks and grants, and knows what the guest has."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Callable

from ballonet_protocol import (
    AGENT,
    MAX_WIRE_BYTES,
    AckStatus,
    AckWhy,
    BalloonAck,
    BalloonStatus,
    Deflate,
    ErrorMessage,
    Hello,
    HelloAck,
    Inflate,
    PolicyAck,
    Report,
    SetPolicy,
)
from ballonet_protocol._messages import CAPABILITIES
from ballonet_protocol.limits import LEASE_LEAST_MS, LEASE_MS, SETTLING_S

from .table import BALLOON, EVENTS, HURT, LINE, PSI, SETTLED, STATUS, YOUNG, Failed, Skipped, check
from .talk import PATIENCE_S, LineEnded, Talk
from .wire import Frame

if TYPE_CHECKING:
    from .lines import Line

MIB = 1 << 20
#: A size this little below the present one is no demand on any guest, and more than the device's own rounding.
LITTLE = 32 * MIB
#: What can differ between a REPORT and a BALLOON_ACK of one moment: the device moves 256 pages at a time.
ROUNDING = 4 * MIB


class AgentTalk(Talk):
    """A conversation with an agent."""

    peer = AGENT

    def __init__(
        self,
        line: Line,
        say: Callable[[str], None] = lambda _text: None,
        hurt: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(line, say)
        self.hurt = hurt
        self.is_open = False
        self.gen = 0
        self.ram_bytes: int | None = None
        self.total_bytes = 0
        self.floor_bytes = 0
        self.balloon_bytes: int | None = None
        self.capabilities: frozenset[str] = frozenset()
        self.can: frozenset[str] = frozenset()
        self.boot_s = 0.0
        self._status: bool | None = None
        self._most_bytes = MAX_WIRE_BYTES

    # --- sessions ----------------------------------------------------------------------------------------------------

    def values(self, **changes: object) -> dict[str, object]:
        """The keys of an ordinary HELLO; None leaves one out."""
        limits = {"frame": MAX_WIRE_BYTES, "inflight": 8, "hb_ms": 2000, "dead_ms": 10_000, "rep_ms": 1000}
        own = changes.pop("lim", {})
        assert isinstance(own, dict)
        values: dict[str, object] = {
            "maj": [1, 1],
            "min": 0,
            "nonce": secrets.token_bytes(16),
            "caps": list(CAPABILITIES[:3]),
            "ram": self.ram_bytes,
            "lim": {**limits, **own},
            **changes,
        }
        return {key: value for key, value in values.items() if value is not None}

    def hello(self, values: dict[str, object], flags: int | None = None) -> bytes:
        """The HELLO of a new session, which is ours from now on."""
        self.session = secrets.randbelow(2**64 - 1) + 1
        self.seq = self.gen = 0
        self.is_open = False
        return self.frame(Hello, values, flags=flags)

    def open(self, flags: int | None = None, **changes: object) -> Frame:
        """Open a session. The HELLO_ACK."""
        values = self.values(**changes)
        self.take()
        self.write(self.hello(values, flags))
        return self.welcomed(values)

    def welcomed(self, values: dict[str, object]) -> Frame:
        """The HELLO_ACK to a HELLO with these keys."""
        frame = self.find(
            HelloAck,
            "a HELLO_ACK with the HELLO's nonce in its session",
            where=lambda ack: isinstance(ack, HelloAck) and ack.nonce == values["nonce"],
        )
        ack = frame.message
        assert isinstance(ack, HelloAck)
        check(frame.session == self.session, f"HELLO_ACK in session {self.session:016x}", frame, frame)
        offered = values["caps"]
        limits = values.get("lim")
        assert isinstance(offered, list)
        self.capabilities = frozenset(offered) & frozenset(ack.capabilities)
        most = limits.get("frame", MAX_WIRE_BYTES) if isinstance(limits, dict) else MAX_WIRE_BYTES
        self.seen.opened(self.session, self.capabilities, most)
        self.floor_bytes, self.total_bytes = ack.floor_bytes, ack.total_bytes
        self._most_bytes = ack.limits.frame_bytes or MAX_WIRE_BYTES
        self.boot_s = self.now_s() - ack.boottime_ms / 1000
        self.is_open = True
        return frame

    def fresh(self) -> None:
        """A new session."""
        self.open()

    def active(self) -> None:
        """The session that is open, or a new one."""
        if not self.is_open:
            self.open()

    def leave(self, why: int = 0) -> None:
        """BYE."""
        super().leave(why)
        self.is_open = False

    def reopen_line(self) -> None:
        """The agent may hold its session; we do not rely on it."""
        super().reopen_line()
        self.is_open = False

    def max_frame_bytes(self) -> int:
        """What the agent's `lim` says."""
        return self._most_bytes

    # --- the guest ---------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        """Learn what the cases need to know: sizes, balloon, age. Raises Failed when there is no agent in it."""
        self.case_ends_s = self.now_s() + 15.0
        while True:  # an agent may take a moment to start, and a HELLO sent to nobody is lost
            try:
                self.open()
                break
            except LineEnded:
                raise
            except Failed:
                if self.now_s() + PATIENCE_S >= self.case_ends_s:
                    raise
        self.ram_bytes = -(-self.total_bytes // (64 * MIB)) * 64 * MIB
        self.open()
        self.can = self.capabilities
        self.learn(self.report())

    def learn(self, report: Report) -> None:
        """Take the balloon's size from a REPORT."""
        self.balloon_bytes = report.memory.balloon_bytes

    def report(self, within_s: float = 1.0 + PATIENCE_S) -> Report:
        """The next REPORT of the running session."""
        session = self.session
        while True:
            frame = self.find(Report, "a REPORT", within_s=within_s)
            if frame.session == session:
                assert isinstance(frame.message, Report)
                return frame.message

    def lacks(self, needs: tuple[str, ...]) -> str:
        """Which of these this guest does not have; empty when it has all. Waits for a guest that is only young."""
        age_s = self.now_s() - self.boot_s
        has = {
            YOUNG: age_s < SETTLING_S - 5,
            SETTLED: True,
            BALLOON: self.balloon_bytes is not None,
            LINE: self.line.can_reconnect,
            HURT: self.hurt is not None,
            EVENTS: "events" in self.can,
            PSI: "psi" in self.can,
        }
        if SETTLED in needs:
            self._let_settle()
        for need in needs:
            there = self._sends_status() if need == STATUS else has[need]
            if not there:
                return need
        return ""

    def _let_settle(self) -> None:
        settled_s = self.boot_s + SETTLING_S + 1
        if self.now_s() < settled_s:
            self.say_aloud(f"waiting {settled_s - self.now_s():.0f} s until the guest has settled")
        while self.now_s() < settled_s:
            self.wait_until(min(self.now_s() + 2.0, settled_s))
            self.fence()

    def _sends_status(self) -> bool:
        """Whether a BALLOON_STATUS comes for a move that is over at once, or for one whose lease ends."""
        if self._status is None:
            self.open()
            self.ask(self.deflate(self.present_bytes()))
            self.ask(self.inflate(self.present_bytes()))
            frames = self.fence()
            if not any(isinstance(frame.message, BalloonStatus) for frame in frames):
                self.ask(self.inflate(self.little(), ttl_ms=LEASE_LEAST_MS))
                frames = self.listen(LEASE_LEAST_MS / 1000 + PATIENCE_S)
            self._status = any(isinstance(frame.message, BalloonStatus) for frame in frames)
        return self._status

    def present_bytes(self) -> int:
        """The size that the guest has, as it says."""
        assert self.ram_bytes is not None
        return self.ram_bytes - (self.balloon_bytes or 0)

    # --- commands ----------------------------------------------------------------------------------------------------

    def inflate(self, target: int, gen: int | None = None, ttl_ms: int = LEASE_MS, floor: int | None = None) -> Inflate:
        """An INFLATE with the next gen."""
        self.gen = self.gen + 1 if gen is None else gen
        return Inflate(gen=self.gen, target_bytes=target, ttl_ms=ttl_ms, floor_bytes=floor)

    def deflate(self, target: int, gen: int | None = None, ttl_ms: int = LEASE_MS) -> Deflate:
        """A DEFLATE with the next gen."""
        self.gen = self.gen + 1 if gen is None else gen
        return Deflate(gen=self.gen, target_bytes=target, ttl_ms=ttl_ms)

    def ask(self, command: Inflate | Deflate) -> tuple[BalloonAck, Frame]:
        """Send a command; the BALLOON_ACK to it, and its frame."""
        seq = self.say(command)
        name = command.TYPE_NAME
        frame = self.find(
            BalloonAck,
            f"a BALLOON_ACK with re {seq} to the {name}",
            where=lambda ack: isinstance(ack, BalloonAck) and ack.re == seq,
        )
        assert isinstance(frame.message, BalloonAck)
        return frame.message, frame

    def agreed(self, command: Inflate | Deflate, expected: str = "") -> BalloonAck:
        """Send a command that the guest has no reason to refuse; its acceptance. Skipped when it has one after all."""
        ack, frame = self.ask(command)
        if ack.status == AckStatus.REFUSED and ack.why in (AckWhy.PRESSURE, AckWhy.SUSPENDED, AckWhy.POLICY):
            raise Skipped(f"the agent refuses (why {AckWhy(ack.why).name.lower()})")
        check(ack.status == AckStatus.ACCEPTED, expected or "the command to be accepted", frame, frame)
        return ack

    def little(self) -> int:
        """A target just below the present size, and above the floor."""
        target = self.present_bytes() - LITTLE
        if target <= self.floor_bytes:
            raise Skipped("the guest is at its floor: nothing can be asked of it")
        return target

    def set_policy(self, **values: object) -> tuple[PolicyAck, Frame]:
        """Send a SET_POLICY; its answer."""
        self.write(self.frame(SetPolicy, values))
        seq = self.seq
        frame = self.find(
            PolicyAck,
            f"a POLICY_ACK with re {seq}",
            where=lambda ack: isinstance(ack, PolicyAck) and ack.re == seq,
        )
        assert isinstance(frame.message, PolicyAck)
        return frame.message, frame

    def run_ahead(self) -> Frame:
        """REPORTs take the agent's numbers ahead of ours."""
        self.set_policy(gen=1, rep_ms=250)
        end_s = self.now_s() + 4 * PATIENCE_S
        while self.seen.last_seq.get(self.session, 0) < self.seq + 2 and self.now_s() < end_s:
            self.pump(end_s)
        return self.pong(self.ping(), "a PONG")

    def converse(self) -> None:
        """A bit of everything, for the rules that watch."""
        super().converse()
        if self.balloon_bytes is not None:
            self.ask(self.inflate(self.present_bytes()))
        self.ask(self.deflate(self.present_bytes()))
        self.set_policy(gen=1, rep_ms=250)
        self.report()
        self.calm()
        self.write(self.frame(Hello, {"maj": [1, 1]}, session=self.session ^ 1, seq=1))
        self.find(ErrorMessage, "an ERROR to a HELLO without nonce")
        self.leave()
        self.listen(1.5)
