"""The kit as the agent of a coordinator: answers HELLOs, reports a guest that needs little, consents or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable

from ballonet_protocol import (
    COORDINATOR,
    MAX_WIRE_BYTES,
    AckStatus,
    BalloonAck,
    Demand,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    MemoryReport,
    MoveStatus,
    Ping,
    Report,
)
from ballonet_protocol.limits import ACK_WITHIN_S, HEARTBEAT_S, REPORT_LEAST_MS, TRIES

from .table import LINE, ROOM, SIZE, Failed, Skipped, check
from .talk import MARGIN_S, PATIENCE_S, Talk
from .wire import Frame

if TYPE_CHECKING:
    from .lines import Line

MIB = 1 << 20
#: A coordinator connects again after a pause of its own.
COMES_BACK_S = 15.0
#: In this time a coordinator that wants memory asks a guest that needs little: its back-off may run.
WANTS_WITHIN_S = 15.0
#: A coordinator may ask for memory in the midst of anything; then it takes so long until it has nothing to say.
QUIET_WITHIN_S = TRIES * ACK_WITHIN_S + HEARTBEAT_S + PATIENCE_S
REPORT_EVERY_S = REPORT_LEAST_MS / 1000
#: The guest that the kit plays has been up for ten minutes.
UPTIME_S = 600.0


class CoordinatorTalk(Talk):
    """A conversation with a coordinator."""

    peer = COORDINATOR

    def __init__(
        self,
        line: Line,
        say: Callable[[str], None] = lambda _text: None,
        size: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(line, say)
        self._size = size
        self.is_open = False
        self.heard: Frame | None = None
        self.ram_bytes = 1024 * MIB
        self._boot_s = self.now_s() - UPTIME_S
        self._boottime_ms = 0
        self._most_bytes = MAX_WIRE_BYTES

    # --- sessions ----------------------------------------------------------------------------------------------------

    def meet(self) -> None:
        """Wait for the first coordinator."""
        self.case_ends_s = self.now_s() + COMES_BACK_S
        if self.line.can_reconnect:
            self.reopen_line()
        self.hear_hello()
        self.answer()

    def lacks(self, needs: tuple[str, ...]) -> str:
        """Which of these is not there; empty when all are."""
        size = 0 if self._size is None else self._size()
        has = {LINE: self.line.can_reconnect, SIZE: self._size is not None, ROOM: size > self.ram_bytes // 2}
        return next((need for need in needs if not has.get(need, False)), "")

    def hear_hello(self, within_s: float = COMES_BACK_S, expected: str = "a HELLO") -> Hello:
        """The next HELLO; its session is ours."""
        self.heard = self.find(Hello, expected, within_s=within_s)
        hello = self.heard.message
        assert isinstance(hello, Hello)
        self.session, self.seq = self.heard.session, 0
        self.ram_bytes = hello.ram_bytes or self.ram_bytes
        self._most_bytes = (hello.limits and hello.limits.frame_bytes) or MAX_WIRE_BYTES
        self.is_open = False
        return hello

    def ack(self, **changes: object) -> HelloAck:
        """The HELLO_ACK to the HELLO that was heard last."""
        assert self.heard is not None
        hello = self.heard.message
        assert isinstance(hello, Hello)
        ack = HelloAck(
            re=self.heard.seq,
            nonce=hello.nonce,
            major=1,
            minor=0,
            capabilities=("psi", "refault"),
            implementation="ballonet-conform",
            implementation_version="1",
            boot_id=b"conformance kit.",
            boottime_ms=self.boottime_ms(),
            page_bytes=4096,
            total_bytes=self.ram_bytes - 40 * MIB,
            floor_bytes=64 * MIB,
            limits=Limits(frame_bytes=MAX_WIRE_BYTES, inflight=8, report_ms=int(REPORT_EVERY_S * 1000)),
            gen=0,
            status=MoveStatus.REACHED,
        )
        return ack.replace(**changes)

    def answer(self, **changes: object) -> None:
        """Answer the HELLO that was heard last."""
        ack = self.ack(**changes)
        self.seen.opened(self.session, None, ack.limits.frame_bytes or MAX_WIRE_BYTES)
        self.say(ack)
        self.is_open = True

    def fresh(self) -> None:
        """A new line where there can be one, and a new session."""
        self.greeted()
        self.answer()

    def greeted(self) -> Hello:
        """A new line and the HELLO on it, unanswered. Where the line is for good, BYE makes room for a new session."""
        self.is_open = False
        if self.line.can_reconnect:
            self.reopen_line()
        else:
            self.leave()
        return self.hear_hello(expected="a HELLO on the new line")

    def active(self) -> None:
        """The session that is open, or a new one."""
        newer = [frame for frame in self.came if isinstance(frame.message, Hello) and frame.session != self.session]
        if not self.is_open or newer or self.seen.session != self.session:
            self.fresh()

    def leave(self, why: int = 0) -> None:
        """BYE."""
        super().leave(why)
        self.is_open = False

    def max_frame_bytes(self) -> int:
        """What the coordinator's `lim` says."""
        return self._most_bytes

    def run_ahead(self) -> Frame:
        """We keep silent until the coordinator's heartbeat comes."""
        try:
            return self.find(Ping, "a PING of the coordinator's own", within_s=QUIET_WITHIN_S)
        except Failed as error:
            raise Skipped("no PING of its own came, so there is nothing to echo") from error

    def request_session(self, seq: int, why: int = 3) -> None:
        """A HELLO_REQ."""
        self.write(self.frame(HelloReq, {"why": why, "impl": "ballonet-conform"}, seq=seq, session=0))

    # --- the guest ---------------------------------------------------------------------------------------------------

    def boottime_ms(self) -> int:
        """The guest's clock; it never stands still."""
        self._boottime_ms = max(self._boottime_ms + 1, int((self.now_s() - self._boot_s) * 1000))
        return self._boottime_ms

    def size_bytes(self) -> int:
        """The size that the hypervisor gives the guest."""
        if self._size is None:
            raise Skipped(f"needs {SIZE}")
        return self._size()

    def report(self, boottime_ms: int | None = None) -> None:
        """A REPORT of a guest that needs a quarter of its memory."""
        size = self.ram_bytes if self._size is None else self._size()
        used = self.ram_bytes // 8
        total = self.ram_bytes - 40 * MIB
        available = max(0, size - 40 * MIB - used)
        memory = MemoryReport(
            total_bytes=total,
            free_bytes=available,
            available_bytes=available,
            committed_bytes=used,
            anon_bytes=used,
            balloon_bytes=None if self._size is None else self.ram_bytes - size,
        )
        bt = self.boottime_ms() if boottime_ms is None else boottime_ms
        self.say(Report(boottime_ms=bt, memory=memory, floor_bytes=64 * MIB))

    def repeat_report(self) -> None:
        """A REPORT whose `bt` is that of the last one."""
        self.report(self._boottime_ms)

    def live(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Report for so long, or until something is so. Whether it was."""
        end_s = self.now_s() + seconds
        while self.now_s() < end_s:
            if until():
                return True
            self.report()
            self.wait_until(min(end_s, self.now_s() + REPORT_EVERY_S))
        return until()

    def wanted(self) -> tuple[Inflate, Frame]:
        """Report until the coordinator asks for memory; its INFLATE. Skipped when it does not."""

        def asked() -> bool:
            return any(isinstance(frame.message, Inflate) for frame in self.inbox)

        if not self.live(WANTS_WITHIN_S, asked):
            raise Skipped(f"the coordinator asked a guest that needs little for nothing in {WANTS_WITHIN_S:.0f} s")
        frame = self.find(Inflate, "an INFLATE")
        assert isinstance(frame.message, Inflate)
        return frame.message, frame

    def consent(self, inflate: Inflate, seq: int, status: AckStatus, effective: int, why: int = 0) -> None:
        """Answer an INFLATE."""
        self.say(BalloonAck(re=seq, gen=inflate.gen, status=status, effective_bytes=effective, why=why))

    def demand(self, want: int, gen: int | None = None) -> None:
        """A DEMAND."""
        self.say(Demand(boottime_ms=self.boottime_ms(), want_bytes=want, why=1, severity=2, gen=gen))

    def lowest(self, seconds: float, report: bool = True) -> int:
        """The smallest size that the hypervisor gives the guest in this time."""
        lowest = self.size_bytes()
        end_s = self.now_s() + seconds
        while self.now_s() < end_s:
            if report:
                self.report()
            self.wait_until(min(end_s, self.now_s() + REPORT_EVERY_S / 2))
            lowest = min(lowest, self.size_bytes())
        return lowest

    def moving(self) -> tuple[Inflate, int]:
        """A move that the agent has consented to and that has begun: the INFLATE, and the size before."""
        inflate, frame = self.wanted()
        before = self.size_bytes()
        self.consent(inflate, frame.seq, AckStatus.ACCEPTED, inflate.target_bytes)
        if not self.live(PATIENCE_S * 2, lambda: self.size_bytes() < before):
            raise Skipped("the coordinator has moved nothing after the consent")
        return inflate, before

    def held(self, floor: int, seconds: float, what: str, *, report: bool = True) -> None:
        """The size does not fall below `floor`, after what may have been under way."""
        self.wait_until(self.now_s() + MARGIN_S)
        lowest = self.lowest(seconds, report)
        check(lowest >= floor, f"{what}: no size below {floor}", f"{lowest}")
