"""What would change a guest's target: the same decision on changed snapshots. Pure.

Each case of the table changes one thing that an operator, the guest or time may change. It is told when the target
moves by at least `WORTH_TELLING_KIB`; nothing is estimated, each figure is what `one_iteration` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ballonet_protocol.limits import SETTLING_S

from .arbiter import one_iteration
from .model import GuestSnapshot, HostState, LinkState, ReportKind, RunState, Snapshot
from .slider import MOST_SLIDER

WORTH_TELLING_KIB = 1024
"""Sizes are told in MiB."""
MIB = 1024
MOST_WEIGHT = 10000


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is otherwise, and the target that the guest would have then."""

    what: str
    target_kib: int


Case = Callable[[Snapshot, GuestSnapshot], tuple[str, Snapshot] | None]
"""What is otherwise in words, and the snapshot with it; None where it is so already or cannot be."""


def what_if(snapshot: Snapshot, name: str) -> tuple[Change, ...]:
    """The changes that move this guest's target, those of the budget first."""
    guest = next(guest for guest in snapshot.guests if guest.name == name)
    present_kib = _target_kib(snapshot, name)
    changes = list(_budgets(snapshot, guest, present_kib))
    for case in CASES:
        if (changed := case(snapshot, guest)) is None:
            continue
        what, other = changed
        target_kib = _target_kib(other, name)
        if abs(target_kib - present_kib) >= WORTH_TELLING_KIB:
            changes.append(Change(what, target_kib))
    return tuple(changes)


def _target_kib(snapshot: Snapshot, name: str) -> int:
    return next(decided.target_kib for decided in one_iteration(snapshot).guests if decided.name == name)


def _with(snapshot: Snapshot, guest: GuestSnapshot) -> Snapshot:
    return replace(snapshot, guests=tuple(guest if old.name == guest.name else old for old in snapshot.guests))


# --- the budget -----------------------------------------------------------------------------------------


def _budgets(snapshot: Snapshot, guest: GuestSnapshot, present_kib: int) -> Iterator[Change]:
    """How much more budget meets the guest's demand, and its want, to the MiB."""
    want_kib = next(decided.want_kib for decided in one_iteration(snapshot).guests if decided.name == guest.name)
    demand_kib = min(guest.demand.demand_kib, want_kib) if guest.demand is not None else want_kib
    told_mib = 0
    for goal_kib, goal in ((demand_kib, "its demand is met"), (want_kib, "its want is met")):
        if present_kib >= goal_kib:
            continue
        more_mib = _more_budget_mib(snapshot, guest.name, goal_kib)
        if more_mib is not None and more_mib != told_mib:
            told_mib = more_mib
            other = _richer(snapshot, more_mib)
            yield Change(f"{more_mib} MiB more budget: {goal}", _target_kib(other, guest.name))


def _more_budget_mib(snapshot: Snapshot, name: str, goal_kib: int) -> int | None:
    """The least MiB of budget with which the target reaches `goal_kib`; None where no budget does."""
    enough_mib = (snapshot.booked_kib + sum(guest.vm.ram_kib for guest in snapshot.guests)) // MIB + 1
    enough_mib += snapshot.host.headroom_kib // MIB + 1
    if _target_kib(_richer(snapshot, enough_mib), name) < goal_kib:
        return None
    too_little_mib = 0
    while enough_mib - too_little_mib > 1:
        middle_mib = (enough_mib + too_little_mib) // 2
        if _target_kib(_richer(snapshot, middle_mib), name) >= goal_kib:
            enough_mib = middle_mib
        else:
            too_little_mib = middle_mib
    return enough_mib


def _richer(snapshot: Snapshot, more_mib: int) -> Snapshot:
    return replace(snapshot, host=replace(snapshot.host, budget_kib=snapshot.host.budget_kib + more_mib * MIB))


# --- one thing otherwise --------------------------------------------------------------------------------


def _no_headroom(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot]:
    return "no headroom", replace(snapshot, host=replace(snapshot.host, headroom_kib=0))


def _slider_at(slider: int, word: str) -> Case:
    """What this snapshot's needs would get there; the past that it holds has faded as fast as it did."""

    def case(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
        if snapshot.host.slider == slider:
            return None
        what = f"the slider at {slider} ({word}) instead of {snapshot.host.slider}"
        return what, replace(snapshot, host=replace(snapshot.host, slider=slider))

    return case


def _host_at_ease(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if snapshot.host.state is HostState.EASY:
        return None
    host = replace(snapshot.host, state=HostState.EASY, lacking_kib=0)
    return "the host itself had enough memory", replace(snapshot, host=host)


def _heavier(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot]:
    weight = min(MOST_WEIGHT, 2 * guest.settings.weight)
    settings = replace(guest.settings, weight=weight)
    return f"weight {weight} instead of {guest.settings.weight}", _with(snapshot, replace(guest, settings=settings))


def _no_shortage_elsewhere(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot]:
    """The others need no more than their minimums."""
    guests = []
    for other in snapshot.guests:
        if other.name != guest.name and other.demand is not None:
            least_kib = min(other.demand.demand_kib, other.settings.minimum_kib)
            demand = replace(other.demand, demand_kib=least_kib, held_kib=least_kib, cache_kib=0, urgent=False)
            other = replace(other, demand=demand)
        guests.append(other)
    return "the other guests need only their minimums", replace(snapshot, guests=tuple(guests))


def _no_starts(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    waiting = [other.name for other in snapshot.guests if other.waiting_to_start and other.name != guest.name]
    if not waiting:
        return None
    guests = tuple(replace(other, waiting_to_start=False) for other in snapshot.guests)
    return f"no room is kept for the start of {', '.join(waiting)}", replace(snapshot, guests=guests)


def _fresh_report(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    report = guest.report
    if report is None or (report.arrived_s == snapshot.now_s and guest.agent.link is LinkState.LIVE):
        return None
    agent = guest.agent
    if report.kind is ReportKind.AGENT:
        agent = replace(agent, link=LinkState.LIVE, live_since_s=min(agent.live_since_s, snapshot.now_s))
    fresh = replace(guest, report=replace(report, arrived_s=snapshot.now_s), agent=agent)
    return "a fresh report of the same use", _with(snapshot, fresh)


def _lower_minimum(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if guest.demand is None or guest.demand.demand_kib >= guest.settings.minimum_kib:
        return None
    least_kib = guest.demand.demand_kib
    settings = replace(guest.settings, minimum_kib=least_kib)
    what = f"a minimum of {least_kib // MIB} instead of {guest.settings.minimum_kib // MIB} MiB"
    return what, _with(snapshot, replace(guest, settings=settings))


def _higher_maximum(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if guest.settings.maximum_kib >= guest.vm.ram_kib:
        return None
    settings = replace(guest.settings, maximum_kib=guest.vm.ram_kib)
    what = f"a maximum of {guest.vm.ram_kib // MIB} instead of {guest.settings.maximum_kib // MIB} MiB"
    return what, _with(snapshot, replace(guest, settings=settings))


def _past_faded(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    demand = guest.demand
    if demand is None or demand.held_kib <= demand.demand_kib:
        return None
    faded = replace(guest, demand=replace(demand, held_kib=demand.demand_kib))
    return "what it still holds from before given back, in some minutes", _with(snapshot, faded)


def _no_floor_of_its_own(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if guest.report is None or not guest.report.floor_kib:
        return None
    free = replace(guest, report=replace(guest.report, floor_kib=None))
    return "its agent names no floor", _with(snapshot, free)


def _deflate_on_oom(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if guest.vm.deflate_on_oom is True:
        return None
    return "deflate-on-oom on", _with(snapshot, replace(guest, vm=replace(guest.vm, deflate_on_oom=True)))


def _settled(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    left_s = guest.vm.boot_began_s + SETTLING_S - snapshot.now_s
    if left_s <= 0 or guest.vm.run_state is not RunState.RUNNING:
        return None
    older = replace(guest, vm=replace(guest.vm, boot_began_s=snapshot.now_s - SETTLING_S))
    return f"settling over, in {left_s:.0f} s", _with(snapshot, older)


def _managed(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if not guest.released and not guest.hands_off:
        return None
    return "managed again (`ballonet resume`)", _with(snapshot, replace(guest, released=False, hands_off=""))


def _balloon_follows(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    if guest.stuck_since_s is None:
        return None
    return "its balloon follows", _with(snapshot, replace(guest, stuck_since_s=None))


def _runs(snapshot: Snapshot, guest: GuestSnapshot) -> tuple[str, Snapshot] | None:
    """Answered and running; a machine that has never said what it has cannot be imagined."""
    vm, booking = guest.vm, guest.booking
    if not vm.ram_kib or vm.run_state in (RunState.ABSENT, RunState.SHUTDOWN, RunState.PRELAUNCH):
        return None
    if vm.run_state is RunState.RUNNING and not booking.claimed:
        return None
    resident_kib = guest.residency.resident_kib if guest.residency is not None else 0
    given_kib = min(guest.given_kib, vm.ordinary_kib)
    assigned_kib = max(given_kib, resident_kib) if booking.claimed else booking.assigned_kib
    running = replace(
        guest,
        vm=replace(vm, run_state=RunState.RUNNING),
        booking=replace(booking, assigned_kib=assigned_kib, claimed=False),
    )
    what = "its balloon driver has answered" if vm.run_state is RunState.RUNNING else "it runs and answers"
    return what, _with(snapshot, running)


CASES: tuple[Case, ...] = (
    _no_headroom,
    _slider_at(0, "performance"),
    _slider_at(MOST_SLIDER, "density"),
    _host_at_ease,
    _heavier,
    _no_shortage_elsewhere,
    _no_starts,
    _fresh_report,
    _lower_minimum,
    _higher_maximum,
    _past_faded,
    _no_floor_of_its_own,
    _deflate_on_oom,
    _settled,
    _managed,
    _balloon_follows,
    _runs,
)
