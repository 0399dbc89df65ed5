"""An agent in a few lines, with faults by name: the guest is four numbers, and its balloon never moves."""

from __future__ import annotations

from ballonet_protocol import (
    AGENT,
    AckStatus,
    AckWhy,
    BalloonAck,
    BalloonStatus,
    Deflate,
    Demand,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    MemoryReport,
    Message,
    MoveStatus,
    PolicyAck,
    PolicyStatus,
    PsiReport,
    Report,
    SetPolicy,
)
from ballonet_protocol._state import State

from .bad_peer import NEVER_S, BadPeer

MIB = 1 << 20
TOTAL = 960 * MIB
BALLOON = 256 * MIB
FLOOR = 300 * MIB


class BadAgent(BadPeer):
    """As good as SPEC.md wants an agent, but for its faults. `age_s`: since the guest's boot."""

    role = AGENT

    def __init__(self, *faults: str, age_s: float = 3600.0) -> None:
        super().__init__(*faults)
        self._boot_s = 1000.0 - age_s
        self._hello_values: tuple[int, bytes] | None = None
        self._req_due_s = NEVER_S
        self._req_pause_s = 1.0
        self._unheard = 0
        self._capabilities: frozenset[str] = frozenset()
        self._ram = TOTAL
        self._period_s = 1.0
        self._dead_s = 10.0
        self._report_s = -NEVER_S
        self._stall_s = -NEVER_S
        self._astray = False
        self._after_bye = False
        self._begin()
        self.gen = self.last_gen = 0

    def _begin(self) -> None:
        self.last_gen, self.gen, self._policy_gen, self._policy_floor = getattr(self, "gen", 0), 0, 0, 0
        self._status: int | None = None
        self._eff: int | None = None
        self._floor = 0
        self._lease_s = NEVER_S
        self._ttl_s = 0.0

    @property
    def _present(self) -> int:
        return self._ram - BALLOON

    def _bt(self) -> int:
        return int((self.now_s - self._boot_s) * 1000)

    def _pong_bt(self) -> int | None:
        return self._bt()

    def hurt(self) -> None:
        """The guest stalls."""
        if self._lease_s == NEVER_S or self._status != MoveStatus.WORKING:
            return
        gen = None if self.has("blames nobody") else self.gen
        for _ in range(6 if self.has("demands without end") else 1):
            self.send(Demand(boottime_ms=self._bt(), want_bytes=self._ram, why=1, severity=2, gen=gen))
        if not self.has("keeps consent while it hurts"):
            self._status, self._lease_s, self._eff = MoveStatus.STALLED, NEVER_S, None
            self.send(self._moved())

    def _moved(self) -> BalloonStatus:
        return BalloonStatus(
            gen=self.gen, status=self._status or 0, current_bytes=self._present, boottime_ms=self._bt()
        )

    # --- time ----------------------------------------------------------------------------------------------------

    def connected(self, now_s: float) -> None:
        super().connected(now_s)
        self._after_bye = False
        if self.has("session ends with the line"):
            self.session, self.state = 0, State.IDLE
        if self.session == 0:
            self._ask(1.0)

    def _ask(self, pause_s: float) -> None:
        self._req_pause_s, self._req_due_s = pause_s, self.now_s

    def _quiet(self) -> bool:
        if self.has("reports to nobody"):
            return False
        deaf = self._unheard >= 32 and not self.has("counts no unheard frames")
        return deaf or self.now_s >= self.heard_s + self._dead_s - 0.0001

    def due_s(self) -> float:
        due_s = min(super().due_s(), self._lease_s, NEVER_S if self.has("never asks") else self._req_due_s)
        if self.session and not self._quiet():
            due_s = min(due_s, self._report_s + self._period_s)
        return due_s

    def tick(self, now_s: float) -> None:
        super().tick(now_s)
        if now_s >= self._req_due_s and not self.has("never asks"):
            self.send(HelloReq(why=0, implementation="bad"))
            self._req_due_s = now_s + (0.3 if self.has("asks in haste") else self._req_pause_s)
            self._req_pause_s = min(15.0, self._req_pause_s * 1.5)
        if now_s >= self._lease_s:
            self._lease_s = NEVER_S
            if self._status == MoveStatus.WORKING and not self.has("forgets leases"):
                self._status, self._eff = MoveStatus.EXPIRED, None
                self.send(self._moved())
        if self.session and not self._quiet() and now_s >= self._report_s + self._period_s:
            self._report()

    def send(self, message: Message, **more: object) -> None:
        if isinstance(message, BalloonStatus) and self.has("says no status"):
            return
        self._unheard += 1
        super().send(message, **more)

    def _report(self) -> None:
        self._report_s = self.now_s
        free = 300 * MIB
        memory = MemoryReport(
            total_bytes=TOTAL * (2 if self.has("another total") else 1),
            free_bytes=free,
            available_bytes=free,
            committed_bytes=free,
            balloon_bytes=BALLOON - self._astray * 64 * MIB,
        )
        psi = PsiReport(some_us=1) if "psi" in self._capabilities and not self.has("no psi") else None
        named = self._status is not None or self.has("gen of the session before")
        gen = (self.gen or self.last_gen) if named else None
        bt = 5 if self.has("its clock stands still") else self._bt()
        self.send(Report(boottime_ms=bt, memory=memory, psi=psi, gen=gen, status=self._status))
        if self.has("events for all"):
            self.send(Event(event="resume", boottime_ms=self._bt()))

    # --- messages ------------------------------------------------------------------------------------------------

    def foreign(self) -> None:
        if self.session == 0 and not self.has("asks after bye"):
            return
        if self.now_s >= self.foreign_s + 1.0 or self.has("asks for each stranger"):
            self.foreign_s = self.now_s
            if not self.has("never asks"):
                self.send(HelloReq(why=1, implementation="bad"))

    def _closed(self) -> None:
        super()._closed()
        self._after_bye = True
        self._begin()
        if self.session == 0:
            self._req_pause_s, self._req_due_s = 1.0, self.now_s + 1.0

    def _hear(self, message: Message, session: int) -> None:
        self._unheard = 0
        super()._hear(message, session)

    def hear(self, message: Message, session: int) -> None:
        if isinstance(message, Hello):
            self._welcome(message, session)
        elif isinstance(message, SetPolicy):
            self._policy(message)
        elif isinstance(message, (Inflate, Deflate)):
            self._command(message)

    def _welcome(self, hello: Hello, session: int) -> None:
        self._astray = False
        deaf, self._after_bye = self._after_bye and self.has("deaf after bye"), False
        if deaf:
            return
        again = self._hello_values == (session, hello.nonce)
        if session != self.session or self.has("counts anew"):
            self.sent_seq = int(self.has("begins at two"))
            self.heard_seq = 0
        self.heard_seq = max(self.heard_seq, hello.seq)
        self.session, self.state = session, State.HELLO_RECEIVED
        if again and self.has("answers a hello once"):
            self.state = State.ACTIVE
            return
        self._hello_values = (session, hello.nonce)
        low, high = hello.major_range
        if not low <= 1 <= high and not self.has("any major"):
            fatal = not self.has("no major is no drama")
            self.send(ErrorMessage(re=hello.seq, code=4, fatal=fatal))
            self.leave()
            return
        if hello.minor > 0 and self.has("minor 0 alone"):
            return
        if not again:
            self._begin()
        limits = hello.limits
        self._period_s = min(60.0, max(0.25, ((limits and limits.report_ms) or 1000) / 1000))
        if self.has("its own period"):
            self._period_s = 1.0
        if self.has("reports in haste"):
            self._period_s = 0.1
        self._dead_s = ((limits and limits.dead_ms) or 10_000) / 1000
        self._ram = max(TOTAL, hello.ram_bytes or 0)
        self._req_due_s = NEVER_S
        caps = tuple(hello.capabilities) if self.has("can everything") else ("psi", "refault")
        self._capabilities = frozenset(caps) & frozenset(hello.capabilities)
        self.send(
            HelloAck(
                re=hello.seq + self.has("wrong re"),
                nonce=hello.nonce,
                major=high if self.has("highest major") else 1,
                minor=0,
                capabilities=caps,
                implementation="bad",
                implementation_version="1",
                boot_id=bytes(16),
                boottime_ms=self._bt(),
                page_bytes=4096,
                total_bytes=TOTAL,
                floor_bytes=FLOOR,
                limits=Limits(),
                gen=0 if self.has("forgets its gen") else self.last_gen,
                status=1,
            )
        )
        self.state = State.ACTIVE
        self._report()

    def _policy(self, policy: SetPolicy) -> None:
        status = PolicyStatus.APPLIED
        newest = self.gen if self.has("one gen for all") else self._policy_gen
        if policy.gen == newest:
            status = PolicyStatus.APPLIED if self.has("policy twice") else PolicyStatus.DUPLICATE
        elif policy.gen < newest:
            status = PolicyStatus.STALE
        else:
            self._policy_gen = policy.gen
            if policy.report_ms is not None and not self.has("its own period"):
                self._period_s = policy.report_ms / 1000
            elif self.has("absent is default"):
                self._period_s, self._policy_floor = 1.0, 0
            if policy.floor_bytes is not None:
                self._policy_floor = policy.floor_bytes
        if status != PolicyStatus.STALE or not self.has("silent to stale policy"):
            self.send(PolicyAck(re=policy.seq, gen=max(newest, policy.gen), status=status))

    def _floor_in_force(self, command: Inflate) -> int:
        if self.has("no floor"):
            return 0
        own = FLOOR
        if self.has("host lowers the floor") and command.floor_bytes is not None:
            own = 0
        policy = 0 if self.has("no floor by policy") else self._policy_floor
        asked = 0 if self.has("no floor by inflate") else command.floor_bytes or 0
        return max(own, policy, asked)

    def _command(self, command: Inflate | Deflate) -> None:
        why, eff = AckWhy.NONE, command.target_bytes
        if command.gen < self.gen and not self.has("takes stale commands"):
            eff = self._present if self.has("stale with eff") else None  # type: ignore[assignment]
            self._acknowledge(command, AckStatus.STALE, eff, why, self.gen)
            return
        if command.gen == self.gen and not self.has("nothing is a duplicate"):
            if self._lease_s != NEVER_S and not self.has("leases end once"):
                self._lease_s = self.now_s + self._ttl_s
            eff = command.target_bytes if self.has("duplicate with a new eff") else self._eff
            self._acknowledge(command, AckStatus.DUPLICATE, self._present if eff is None else eff, why)
            return
        if self.gen and command.gen > self.gen + 1 and self.has("gens have no gaps"):
            self._acknowledge(command, AckStatus.STALE, None, why, self.gen)
            return
        self.gen = command.gen
        if isinstance(command, Inflate) and eff > self._present:
            self._astray = self.has("goes the wrong way")
        status = AckStatus.ACCEPTED
        if isinstance(command, Deflate):
            if self.has("young guests take nothing") and self._bt() < 30_000:
                status, eff = AckStatus.REFUSED, self._present
            elif eff > self._ram and not self.has("grants without end"):
                status, eff, why = AckStatus.CLAMPED, self._ram, AckWhy.ABOVE_RAM
        elif self._bt() < 30_000 and not self.has("never settles"):
            status, eff, why = AckStatus.REFUSED, self._present, AckWhy.SETTLING
            if self.has("refuses with the target"):
                eff = command.target_bytes
        elif eff < self._floor_in_force(command):
            status, eff, why = AckStatus.CLAMPED, self._floor_in_force(command), AckWhy.FLOOR
        elif self.has("rounds eff"):
            eff = eff // MIB * MIB
        self._eff = None if status == AckStatus.REFUSED else eff
        self._ttl_s = command.ttl_ms / 1000
        self._lease_s = self.now_s + self._ttl_s if self._eff is not None else NEVER_S
        inflating = isinstance(command, Inflate)
        reached = self._present <= eff if inflating else self._present >= eff
        self._status = MoveStatus.GAVE_UP if self._eff is None else MoveStatus(int(reached))
        self._acknowledge(command, status, eff, why)
        if reached and not self.has("arrives unseen"):
            self.send(self._moved())
        if self._eff is not None and inflating and not self.has("no report on request"):
            self._report()

    def _acknowledge(
        self, command: Message, status: AckStatus, eff: int | None, why: AckWhy, gen: int | None = None
    ) -> None:
        re = command.seq
        for _ in range(2 if self.has("answers twice") else 1):
            self.send(BalloonAck(re=re, gen=gen or self.gen, status=status, effective_bytes=eff, why=why))
