"""A coordinator in a few lines, with faults by name: it wants half of the guest's memory, and moves it in steps."""

from __future__ import annotations

import hashlib

from ballonet_protocol import (
    COORDINATOR,
    BalloonAck,
    Bye,
    Demand,
    ErrorMessage,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    Message,
    Ping,
    Report,
)
from ballonet_protocol._state import State

from .bad_peer import NEVER_S, BadPeer

MIB = 1 << 20
RAM = 1024 * MIB
STEP = RAM // 8


class BadCoordinator(BadPeer):
    """As good as SPEC.md wants a coordinator, but for its faults. `size` is the hypervisor's target."""

    role = COORDINATOR

    def __init__(self, *faults: str) -> None:
        super().__init__(*faults)
        self.size = RAM
        self._opened = 0
        self._nonce = bytes(16)
        self._hello_due_s = NEVER_S
        self._hello_pause_s = 1.0
        self._hello_s = -NEVER_S
        self._gen = 9
        self._asked: Inflate | None = None
        self._seqs: list[int] = []
        self._tries = 0
        self._asked_s = NEVER_S
        self._leave_alone_s = -NEVER_S
        self._eff: int | None = None
        self._moving = 0
        self._stepped_s = -NEVER_S
        self._bt = -1

    # --- sessions ------------------------------------------------------------------------------------------------

    def connected(self, now_s: float) -> None:
        super().connected(now_s)
        self.session, self.state = 0, State.IDLE
        self._forget()
        self._hello_pause_s = 1.0
        if self.has("waits before it opens"):
            self._hello_due_s = now_s + 3.0
        else:
            self._open()

    def _open(self) -> None:
        self._opened += 1
        draw = hashlib.sha256(self._opened.to_bytes(4, "big")).digest()
        number = int.from_bytes(draw[:8], "big") | 1
        self._nonce = bytes(16) if self.has("one nonce for all") else draw[8:24]
        if self.has("counts its sessions"):
            number = self._opened
        if not (self.has("repeats in its session") and self.state is State.HELLO_SENT):
            self.session = number
            self.sent_seq = int(self.has("begins at two"))
            self.heard_seq = 0
        self.state = State.HELLO_SENT
        self._forget()
        self._hello_s = self.now_s
        self._hello_due_s = self.now_s + self._hello_pause_s
        self._hello_pause_s = min(15.0, self._hello_pause_s * 1.5)
        if self.has("repeats in haste"):
            self._hello_due_s, self._hello_pause_s = self.now_s + 0.3, 0.3
        limits = Limits(frame_bytes=4096, report_ms=1000, dead_ms=10_000)
        self.send(
            Hello(major_range=(1, 1), minor=0, nonce=self._nonce, capabilities=("psi",), ram_bytes=RAM, limits=limits)
        )
        if self.has("commands before the answer"):
            self.send(Inflate(gen=1, target_bytes=RAM // 2, ttl_ms=30_000))

    def _forget(self) -> None:
        self._gen = 9
        self._asked, self._asked_s, self._bt = None, NEVER_S, -1
        self._stop()

    def _stop(self) -> None:
        self._eff = None

    def foreign(self) -> None:
        if self.has("deaf to strangers"):
            return
        patient = self.state is not State.HELLO_SENT or self.has("impatient")
        after_bye = self.session == 0 and not self.has("opens after bye")
        if not patient or after_bye:
            return
        if self.now_s >= self._hello_s + 1.0 or self.has("impatient") or self.has("opens for each stranger"):
            self._open()

    def _closed(self) -> None:
        going_on = self._eff, self._moving
        super()._closed()
        self._forget()
        if self.has("moves on after bye"):
            self._eff, self._moving = going_on
        self._hello_pause_s, self._hello_due_s = 1.0, self.now_s + 1.0

    # --- time ----------------------------------------------------------------------------------------------------

    def due_s(self) -> float:
        due = [super().due_s(), self._asked_s + 1.0]
        if self.state is not State.ACTIVE:
            due.append(self._hello_due_s)
        else:
            due.append(NEVER_S if self.has("no heartbeat") else self.spoke_s + 2.0)
            due.append(NEVER_S if self.has("endless trust") else self.heard_s + 10.0)
        if self._eff is not None and self._carefree():
            due.append(self._stepped_s + 0.5)
        return min(due)

    def _carefree(self) -> bool:
        return self.has("steps without reports") or (self.state is State.CLOSED and self.has("moves on after bye"))

    def tick(self, now_s: float) -> None:
        super().tick(now_s)
        if self.state is not State.ACTIVE:
            if now_s >= self._hello_due_s:
                self._open()
        elif now_s >= self.heard_s + 10.0 and not self.has("endless trust"):
            self._hello_pause_s = 1.0
            self._open()
        elif now_s >= self.spoke_s + 2.0 and not self.has("no heartbeat"):
            self.send(Ping(token=7))
        if now_s >= self._asked_s + 1.0 and self._asked is not None:
            self._ask_again()
        if self._eff is not None and self._carefree() and now_s >= self._stepped_s + 0.5:
            self._step()

    def _pong_bt(self) -> int | None:
        return 1 if self.has("tells the guest's time") else None

    # --- messages ------------------------------------------------------------------------------------------------

    def hear(self, message: Message, session: int) -> None:
        if isinstance(message, HelloReq):
            if self.now_s >= self._hello_s + 1.0 and not self.has("deaf to requests"):
                self._hello_pause_s = 1.0
                self._open()
        elif isinstance(message, HelloAck):
            self._welcomed(message)
        elif isinstance(message, Report):
            self._reported(message)
        elif isinstance(message, BalloonAck):
            self._answered(message)
        elif isinstance(message, Demand):
            self._objected(message)

    def _welcomed(self, ack: HelloAck) -> None:
        wrong_nonce = ack.nonce != self._nonce and not self.has("any nonce")
        if wrong_nonce or (ack.re != 1 + self.has("begins at two") and not self.has("any re")):
            return
        if ack.minor and self.has("minor 0 alone"):
            return
        if len(ack.capabilities) > 30 and self.has("few capabilities"):
            return
        if ack.major != 1 and not self.has("any major"):
            self.send(ErrorMessage(re=ack.seq, code=4, fatal=True))
            if self.has("no bye to another major"):
                self.session, self.state = 0, State.CLOSED
            self.leave()
            self._hello_due_s = self.now_s + 15.0
            return
        self.state = State.ACTIVE

    def _reported(self, report: Report) -> None:
        if report.boottime_ms <= self._bt and not self.has("any report is fresh"):
            return
        self._bt = report.boottime_ms
        if self._eff is not None:
            self._step()
        elif self._asked is None and self.size > RAM // 2 and self.now_s >= self._leave_alone_s:
            self._gen += 1
            target = 2 * RAM if self.has("asks for more than there is") else RAM // 2
            self._asked = Inflate(gen=self._gen, target_bytes=target, ttl_ms=30_000)
            self._tries, self._seqs = 0, []
            self._ask_again()

    def _ask_again(self) -> None:
        assert self._asked is not None
        most = {"asks once": 1, "asks for ever": 99}.get(next(iter(self.faults), ""), 3)
        if self._tries == most:
            self._asked, self._asked_s = None, NEVER_S
            self._leave_alone_s = self.now_s + 10.0
            return
        if self._tries and self.has("a new gen for each try"):
            self._gen += 1
            self._asked = self._asked.replace(gen=self._gen)
        if self._tries and self.has("gens fall"):
            self._asked = self._asked.replace(gen=self._gen - 1)
        self._tries += 1
        self._asked_s = self.now_s
        self.send(self._asked)
        self._seqs.append(self.sent_seq)
        if self.has("moves before the answer"):
            self.size = min(self.size, RAM - STEP)

    def _answered(self, ack: BalloonAck) -> None:
        if self._asked is None or ack.re not in self._seqs or ack.effective_bytes is None:
            return
        target = self._asked.target_bytes
        if not self.has("asks after the answer"):
            self._asked, self._asked_s = None, NEVER_S
        self._eff = max(target, ack.effective_bytes)
        if self.has("goes for its target"):
            self._eff = target
        if ack.status == 4 and self.has("moves though refused"):
            self._eff = target
        if ack.status == 0 and self.has("goes by the status"):
            self._eff = target
        self._moving = ack.gen
        self._leave_alone_s = self.now_s + 5.0
        self._stepped_s = self.now_s

    def _step(self) -> None:
        assert self._eff is not None
        self._stepped_s = self.now_s
        self.size = max(min(self.size, self._eff), self.size - STEP // 4)

    def _objected(self, demand: Demand) -> None:
        if self.has("moves on though it hurts"):
            return
        self._stop()
        self._leave_alone_s = self.now_s + 10.0
        if demand.gen == self._moving and not self.has("gives nothing back"):
            self.size = min(RAM, self.size + STEP // 4)

    def leave(self) -> None:
        super().leave()
        self._forget()
        self._hello_due_s = self.now_s + 15.0

    def send(self, message: Message, **more: object) -> None:
        if isinstance(message, Bye) and self.has("no bye to another major") and self.state is State.HELLO_SENT:
            return
        super().send(message, **more)
