"""The guest's consent to a move of its balloon: accept, clamp or refuse, and when a consent ends.

    INFLATE  older gen -> stale;  same gen -> duplicate, today's value;  else in this order:
             balloon unknown        refused   policy      nobody could say when the move is done
             woken from suspend     refused   suspended   until the coordinator has opened a session again
             soon after boot        refused   settling    services still start; early requests crash guests
             stalls just now        refused   pressure
             below the floor        clamped   floor       refused when the floor is not below the present size
             below what cannot move clamped   pressure    report.unmovable_kib: below it the OOM killer makes room
             else                   accepted
    DEFLATE  older gen -> stale;  same gen -> duplicate;  above RAM -> clamped;  else accepted

One gen names one command: an INFLATE under the gen of a DEFLATE is a duplicate with the present size, and the reverse.

A consent is live until its lease (`ttl`, in CLOCK_BOOTTIME: suspended time counts) runs out, a newer gen comes, a
DEMAND is sent, the session changes or the coordinator is silent for too long. A consent that has ended does not come
back with a resent command: the duplicate is answered with the present size.

Up to which size may the hypervisor take memory out of the balloon, without the guest having done it? That is the
*grant*: the size that a DEFLATE named; and where an INFLATE hurts, or ends before it has arrived, the size from which
it began, since the coordinator then returns its last step. A grant is over when the guest has that size, a lease after
the consent, with a newer consent and with the session.

Sizes here are bytes on the hypervisor's scale, because an accepted target is echoed to the byte.
"""

from __future__ import annotations

from ballonet_guest_agent.values import Value
from ballonet_protocol import AckStatus, AckWhy, Deflate, Inflate, MoveStatus

#: virtio-balloon moves in requests of at most 256 pages; a size within one of them is the size.
REACHED_WITHIN_BYTES = 1024 * 1024


class View(Value):
    """What the decision may look at. `present_bytes` is None when the guest's kernel counts no balloon."""

    ram_bytes: int
    present_bytes: int | None
    floor_bytes: int
    unmovable_bytes: int
    suspended: bool
    settling: bool
    pressed: bool


class Answer(Value):
    """The fields of a BALLOON_ACK."""

    gen: int
    status: int
    effective_bytes: int | None
    why: int


class Consent:
    """The newest command of the session and what became of it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A new session: no command heard, nothing agreed to."""
        self.gen = 0
        self.status: int | None = None
        self.live = False
        self.inflating = False
        self.floor_bytes = 0
        self.effective_bytes: int | None = None
        self._lease_end_s: float | None = None
        self._why = AckWhy.NONE
        self._before_bytes: int | None = None
        self._granted_bytes: int | None = None
        self._grant_end_s = 0.0

    @property
    def state(self) -> tuple[int, int] | None:
        """(gen, status) for REPORT; None before the first command."""
        return None if self.status is None else (self.gen, self.status)

    @property
    def moving(self) -> bool:
        """Is a live command still on its way?"""
        return self.live and self.status == MoveStatus.WORKING

    @property
    def shrinking(self) -> bool:
        """Is a live INFLATE still on its way?"""
        return self.moving and self.inflating

    def answer(self, command: Inflate | Deflate, view: View, boottime_s: float) -> Answer:
        """Decide on a command, and remember the decision."""
        if command.gen < self.gen:
            return Answer(self.gen, AckStatus.STALE, None, AckWhy.NONE)
        if command.gen == self.gen:
            return self._repeated(command, view, boottime_s)
        self.gen = command.gen
        self.inflating = isinstance(command, Inflate)
        self.floor_bytes = (isinstance(command, Inflate) and command.floor_bytes) or 0
        status, effective, self._why = self._decide(command, view)
        self.live = status != AckStatus.REFUSED
        self.status = MoveStatus.WORKING if self.live else MoveStatus.GAVE_UP
        self.effective_bytes = effective
        self._lease_end_s = None
        if self.live:
            self._before_bytes = view.present_bytes
            self._granted_bytes = None if self.inflating else effective
            self._begin_lease(command, boottime_s)
        return Answer(self.gen, status, effective, self._why)

    def _begin_lease(self, command: Inflate | Deflate, boottime_s: float) -> None:
        self._lease_end_s = boottime_s + command.ttl_ms / 1000
        # An INFLATE's grant begins when its consent ends, at the latest with the lease, and is open as long again.
        self._grant_end_s = self._lease_end_s + (command.ttl_ms / 1000 if self.inflating else 0.0)

    def _repeated(self, command: Inflate | Deflate, view: View, boottime_s: float) -> Answer:
        """Today's value: what was agreed to, no lower than what would be agreed to now."""
        present = view.ram_bytes if view.present_bytes is None else view.present_bytes
        if not self.live or self.effective_bytes is None or isinstance(command, Inflate) != self.inflating:
            return Answer(self.gen, AckStatus.DUPLICATE, present, self._why)
        self._begin_lease(command, boottime_s)
        effective, why = self.effective_bytes, self._why
        if self.inflating:
            status, today, today_why = self._judge(effective, view)
            effective, why = max(effective, today), today_why or why
            if status == AckStatus.CLAMPED:
                self.effective_bytes, self._why = effective, why
        return Answer(self.gen, AckStatus.DUPLICATE, effective, why)

    def _decide(self, command: Inflate | Deflate, view: View) -> tuple[AckStatus, int, AckWhy]:
        if isinstance(command, Inflate):
            return self._judge(command.target_bytes, view)
        if command.target_bytes > view.ram_bytes:
            return AckStatus.CLAMPED, view.ram_bytes, AckWhy.ABOVE_RAM
        return AckStatus.ACCEPTED, command.target_bytes, AckWhy.NONE

    def _judge(self, target_bytes: int, view: View) -> tuple[AckStatus, int, AckWhy]:
        """An INFLATE to `target_bytes`, with what the guest looks like now."""
        present = view.present_bytes
        if present is None:
            return AckStatus.REFUSED, view.ram_bytes, AckWhy.POLICY
        for objection, why in (
            (view.suspended, AckWhy.SUSPENDED),
            (view.settling, AckWhy.SETTLING),
            (view.pressed, AckWhy.PRESSURE),
        ):
            if objection:
                return AckStatus.REFUSED, present, why
        floor = max(view.floor_bytes, self.floor_bytes)
        limit, why = (
            (floor, AckWhy.FLOOR) if floor >= view.unmovable_bytes else (view.unmovable_bytes, AckWhy.PRESSURE)
        )
        if target_bytes >= limit:
            return AckStatus.ACCEPTED, target_bytes, AckWhy.NONE
        if limit >= present:
            return AckStatus.REFUSED, present, why
        return AckStatus.CLAMPED, limit, why

    def granted_bytes(self, boottime_s: float) -> int | None:
        """The size up to which a deflation is the hypervisor's; None while no grant is open."""
        return self._granted_bytes if boottime_s < self._grant_end_s else None

    def close_grant(self, present_bytes: int | None) -> None:
        """The grant was looked at with this present size: it is over when the guest has it."""
        if present_bytes is not None and self._granted_bytes is not None and present_bytes >= self._granted_bytes:
            self._granted_bytes = None

    def progress(self, present_bytes: int | None) -> bool:
        """Look at the present size. True when the move has reached its size just now."""
        if not self.live or self.status != MoveStatus.WORKING:
            return False
        if present_bytes is None or self.effective_bytes is None:
            return False
        if self.inflating:
            reached = present_bytes <= self.effective_bytes + REACHED_WITHIN_BYTES
        else:
            reached = present_bytes >= self.effective_bytes - REACHED_WITHIN_BYTES
        if reached:
            self.status = MoveStatus.REACHED
        return reached

    def stop(self) -> None:
        """The move hurts: the consent ends here."""
        self._granted_bytes = self._before_bytes
        self.live = False
        self.status = MoveStatus.STALLED
        self._lease_end_s = None

    def end(self) -> None:
        """The consent ends: silence, BYE, sleep, a DEMAND after the move was done. The lease runs on."""
        if self.shrinking:
            self._granted_bytes = self._before_bytes
        self.live = False

    def expire(self, boottime_s: float) -> bool:
        """True when the lease of an unfinished move ran out just now. A move that was done stays done."""
        if self._lease_end_s is None or boottime_s < self._lease_end_s:
            return False
        self.end()
        self._lease_end_s = None
        if self.status != MoveStatus.WORKING:
            return False
        self.status = MoveStatus.EXPIRED
        return True

    def lease_left_s(self, boottime_s: float) -> float | None:
        """Seconds until the lease runs out; None without one."""
        return None if self._lease_end_s is None else max(0.0, self._lease_end_s - boottime_s)
