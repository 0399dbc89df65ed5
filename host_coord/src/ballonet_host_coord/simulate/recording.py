"""A recording as demand: what each guest used over time, for `ballonet simulate` to try other settings on. Pure.

Times are seconds from the first turn. They follow the coordinator's own clock, which has no jumps; where a turn is
not within `STEP_MOST_S` after the one before (the coordinator was started anew, or part of the recording is lost), the
wall's clock says how long that took. A course says nothing new between two reports: the last values hold, over gaps
too.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from ballonet_host_coord.model import GuestSnapshot, RunState, Snapshot

from .demand_trace import DemandTrace, Step, trace_of
from .guest import Guest

STEP_MOST_S = 10.0
"""A coordinator that runs takes a turn each second; a new one begins at a random time of its own clock."""
AGAIN = "#"
"""Between the name and the number of a guest that comes again: alpha, alpha#2."""
GONE = (RunState.ABSENT, RunState.SHUTDOWN, RunState.PRELAUNCH)


class Use(NamedTuple):
    """What a guest used from `t_s` on."""

    t_s: float
    used_kib: int
    """`Demand.use_kib`: on the hypervisor's scale, hot swap included."""
    cached_kib: int | None
    """Its page cache, None where its reports do not say."""


@dataclass(frozen=True, slots=True)
class RecordedGuest:
    """One guest's course."""

    name: str
    provisioned_kib: int
    """What it could have at most: its maximum, within its RAM."""
    minimum_kib: int
    weight: int
    buffer_percent: int
    overhead_kib: int
    """QEMU's own, as last booked."""
    uses: tuple[Use, ...]
    """By time, at least one; only where something changed."""
    present: tuple[tuple[float, float], ...]
    """When it was there: from its first report after it started to its end, by time, at least one."""


@dataclass(frozen=True, slots=True)
class RecordedHost:
    """What was recorded. Settings are those of the last turn."""

    budget_kib: int
    headroom_kib: int
    slider: int
    end_s: float
    guests: tuple[RecordedGuest, ...]
    """By first appearance. Guests that never reported are left out: nobody knows what they needed."""


@dataclass(slots=True)
class _Course:
    guest: GuestSnapshot
    uses: list[Use] = field(default_factory=list)
    present: list[tuple[float, float]] = field(default_factory=list)
    since_s: float | None = None
    ram_kib: int = 0

    def take(self, guest: GuestSnapshot, t_s: float) -> None:
        self.guest = guest
        self.ram_kib = guest.vm.ram_kib or self.ram_kib
        if guest.vm.run_state in GONE:
            self.end(t_s)
        elif guest.demand is not None and not guest.unseen:
            if self.since_s is None:
                self.since_s = t_s
            cached_kib = guest.report.file_kib if guest.report is not None else None
            use = Use(t_s, guest.demand.use_kib, cached_kib)
            if not self.uses or self.uses[-1][1:] != use[1:]:
                self.uses.append(use)

    def end(self, t_s: float) -> None:
        if self.since_s is not None and t_s > self.since_s:
            self.present.append((self.since_s, t_s))
        self.since_s = None

    def recorded(self) -> RecordedGuest:
        settings = self.guest.settings
        return RecordedGuest(
            name=settings.name,
            provisioned_kib=min(settings.maximum_kib, self.ram_kib),
            minimum_kib=settings.minimum_kib,
            weight=settings.weight,
            buffer_percent=settings.buffer_percent,
            overhead_kib=self.guest.booking.overhead_kib or settings.overhead_kib,
            uses=tuple(self.uses),
            present=tuple(self.present),
        )


def recorded_host(turns: Iterable[tuple[float, Snapshot]]) -> RecordedHost:
    """What the turns (seconds since 1970, snapshot) say, in their order. Raises ValueError where there are none."""
    courses: dict[str, _Course] = {}
    t_s = 0.0
    before: tuple[float, float] | None = None
    last: Snapshot | None = None
    for unix_s, last in turns:
        if before is not None:
            t_s += _passed_s(last.now_s - before[0], unix_s - before[1])
        before = (last.now_s, unix_s)
        names = set()
        for guest in last.guests:
            names.add(guest.name)
            courses.setdefault(guest.name, _Course(guest)).take(guest, t_s)
        for name, course in courses.items():
            if name not in names:
                course.end(t_s)
    if last is None:
        raise ValueError("the recording holds no turn")
    for course in courses.values():
        course.end(t_s)
    return RecordedHost(
        budget_kib=last.host.budget_kib,
        headroom_kib=last.host.headroom_kib,
        slider=last.host.slider,
        end_s=t_s,
        guests=tuple(course.recorded() for course in courses.values() if course.present),
    )


def simulated_guests(host: RecordedHost) -> list[Guest]:
    """The recorded guests with their own settings; each time that one was there is a machine of its own."""
    return [
        Guest(
            _trace_of(guest, name, from_s, to_s), weight=guest.weight, minimum_kib=guest.minimum_kib,
            buffer_percent=guest.buffer_percent,
        )
        for guest in host.guests
        for number, (from_s, to_s) in enumerate(guest.present, 1)
        for name in [guest.name if number == 1 else f"{guest.name}{AGAIN}{number}"]
    ]  # fmt: skip


def overhead_kib(host: RecordedHost) -> int:
    """The most that QEMU itself had booked for guests that were there at the same time."""
    changes = sorted(
        (t_s, change_kib)
        for guest in host.guests
        for from_s, to_s in guest.present
        for t_s, change_kib in ((from_s, guest.overhead_kib), (to_s, -guest.overhead_kib))
    )
    return max(accumulate((change_kib for _, change_kib in changes), initial=0))


def _trace_of(guest: RecordedGuest, name: str, from_s: float, to_s: float) -> DemandTrace:
    first = max(0, bisect_right(guest.uses, from_s, key=lambda use: use.t_s) - 1)
    after = bisect_left(guest.uses, to_s, key=lambda use: use.t_s)
    steps = (
        Step(max(from_s, use.t_s), use.used_kib, use.cached_kib, guest.provisioned_kib)
        for use in guest.uses[first:after]
    )
    return trace_of(name, steps, to_s)


def _passed_s(own_s: float, wall_s: float) -> float:
    return own_s if 0 <= own_s <= STEP_MOST_S else max(0.0, wall_s)
