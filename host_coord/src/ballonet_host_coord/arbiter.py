"""Who should have what: one pure function from a Snapshot to a Decision.

The law, in the order in which memory is given away (`DESIGN.md`, section 4, has it in formulas and an example):

1. **Fixed.** What cannot be moved keeps what it is booked with: a boot that has not answered, paused, migrating; and
   the pages that the host's kernel put into a balloon again.
2. **Floors.** Everyone has max(minimum, own floor); a guest that may not be shrunk now has what it has.
3. **Demand**, shared by weight from the minimums up when there is not enough (`water.fill`), out of the budget without
   the headroom. What a guest already holds of its demand is not taken back only to fill the headroom.
4. **Starts.** A VM that waits for its first instruction takes from buffers and surplus, never from demand.
5. **Buffers**: spare memory over demand, worthwhile file cache, and what a falling guest still holds.
6. **Surplus** stays with the host.

A last pass keeps invariant I4: a guest that is short is not shrunk while another that can be shrunk still holds
more than it needs; its turn comes when the others have given.
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet_protocol.limits import FRESH_LEAST_S, FRESH_PERIODS, SETTLING_S

from .booking import READ_APART_KIB
from .demand import want_kib
from .model import (
    Decision,
    GuestDecision,
    GuestSnapshot,
    LinkState,
    Phase,
    ReportKind,
    RunState,
    Snapshot,
    Status,
)
from .water import Taker, fill

BLIND_BUFFER_PERCENT = 25
"""A guest judged by balloon statistics keeps a quarter over its use (I3)."""

TOLERANCE_KIB = 4096
"""A device's rounding and a report's age: no shortage, no excess, and status words do not flicker for it."""


@dataclass(frozen=True, slots=True)
class _Party:
    """One guest on the way through the ranks."""

    guest: GuestSnapshot
    fixed: bool
    shrinkable: bool
    floor_kib: int
    lower_kib: int
    demand_kib: int
    want_kib: int
    hold_reason: str


def one_iteration(snapshot: Snapshot) -> Decision:
    """Decide for every guest of the snapshot. Reads no clock and keeps nothing."""
    parties = [_enter(guest, snapshot.now_s) for guest in snapshot.guests]
    movable = [party for party in parties if not party.fixed]
    overheads_kib = sum(party.guest.booking.overhead_kib for party in parties)
    fixed_kib = sum(party.guest.booking.assigned_kib for party in parties if party.fixed)
    refilled_kib = sum(_refilled_kib(party.guest) for party in movable if party.shrinkable)
    pool_kib = snapshot.host.budget_kib - overheads_kib - fixed_kib - refilled_kib
    regular_kib = pool_kib - snapshot.host.headroom_kib

    held = _share_demand(movable, pool_kib, regular_kib)
    starts_kib = sum(party.guest.vm.ram_kib for party in parties if party.guest.waiting_to_start)
    booked_kib = snapshot.booked_kib
    overdrawn_kib = max(0, booked_kib - snapshot.host.budget_kib)
    if starts_kib or overdrawn_kib:
        # The last MiB of each guest are not worth a command; together they must not keep a machine waiting.
        starts_kib += TOLERANCE_KIB * len(movable)
    spare_kib = max(0, regular_kib - starts_kib - sum(held))
    targets = fill(
        sum(held) + spare_kib,
        [
            Taker(base, base, max(base, party.want_kib), party.guest.settings.weight)
            for party, base in zip(movable, held, strict=True)
        ],
    )
    targets = _starved_first(movable, held, targets)

    by_name = {party.guest.name: target for party, target in zip(movable, targets, strict=True)}
    decisions = tuple(_decide(party, by_name.get(party.guest.name), snapshot) for party in parties)
    return Decision(
        now_s=snapshot.now_s,
        budget_kib=snapshot.host.budget_kib,
        booked_kib=booked_kib,
        headroom_kib=snapshot.host.headroom_kib,
        headroom_free_kib=_headroom_free_kib(snapshot),
        overdrawn_kib=overdrawn_kib,
        overdrawn_cause=_overdrawn_cause(snapshot) if overdrawn_kib else "",
        guests=decisions,
    )


def enter(snapshot: Snapshot) -> list[_Party]:
    """The guests as they enter the ranks: bounds, demand, want and what holds them, for `explain`."""
    return [_enter(guest, snapshot.now_s) for guest in snapshot.guests]


def fresh_for_s(guest: GuestSnapshot) -> float:
    """How old a report may be when a downward step relies on it."""
    period_s = guest.agent.report_ms / 1000 if guest.agent.link is LinkState.LIVE else 1.0
    return max(FRESH_LEAST_S, FRESH_PERIODS * period_s)


def _enter(guest: GuestSnapshot, now_s: float) -> _Party:
    settings, vm, booking = guest.settings, guest.vm, guest.booking
    present_kib = booking.assigned_kib
    fixed_reason = _fixed_reason(guest)
    # A floor keeps what a guest has; it gives nothing, or a guest that lies about it would be given everything (I5).
    floor_kib = min(max(settings.minimum_kib, min(_own_floor_kib(guest), guest.given_kib)), vm.ram_kib)
    most_kib = min(settings.maximum_kib, vm.ram_kib)
    hold_reason = fixed_reason or _hold_reason(guest, now_s)
    shrinkable = not hold_reason
    lower_kib = floor_kib if shrinkable else max(present_kib, floor_kib)
    if guest.demand is None:
        demand_kib = wanted_kib = guest.given_kib
    else:
        demand_kib = min(max(guest.demand.demand_kib, floor_kib), most_kib)
        wanted_kib = min(max(want_kib(guest.demand, settings), floor_kib), most_kib)
    if guest.released:
        wanted_kib = vm.ram_kib
    return _Party(
        guest=guest,
        fixed=bool(fixed_reason),
        shrinkable=shrinkable,
        floor_kib=floor_kib,
        lower_kib=lower_kib,
        demand_kib=demand_kib,
        want_kib=wanted_kib,
        hold_reason=hold_reason,
    )


def _refilled_kib(guest: GuestSnapshot) -> int:
    """What resides above what the guest was given: its balloon holds it already, so no shrink frees it."""
    above_kib = guest.booking.assigned_kib - guest.given_kib
    return above_kib if above_kib > READ_APART_KIB else 0


def _own_floor_kib(guest: GuestSnapshot) -> int:
    """What the guest, or caution on its behalf, sets as the least."""
    report = guest.report
    floor_kib = 0
    if report is None:
        return floor_kib
    if report.floor_kib is not None:
        floor_kib = report.floor_kib
    if guest.demand is not None:
        if report.kind is ReportKind.STATISTICS:
            floor_kib = max(floor_kib, guest.demand.use_kib * (100 + BLIND_BUFFER_PERCENT) // 100)
        if guest.vm.deflate_on_oom is not True and guest.demand.committed_kib is not None:
            floor_kib = max(floor_kib, guest.demand.committed_kib)
    return floor_kib


def _fixed_reason(guest: GuestSnapshot) -> str:
    """Why this guest can be moved in neither direction; empty where it can."""
    state = guest.vm.run_state
    if guest.unseen:
        return "not looked at yet: nobody is granted anything before"
    if state in (RunState.ABSENT, RunState.SHUTDOWN):
        return "not running"
    if state is RunState.PRELAUNCH:
        return "waits before its first instruction"
    if state is RunState.PAUSED:
        return "paused"
    if state is RunState.MIGRATING:
        return "migrating"
    if state is RunState.UNREACHABLE and not guest.vm.ram_kib:
        return "its hypervisor has not answered yet: booked with its maximum"
    if state is RunState.UNREACHABLE:
        return "its hypervisor does not answer: booked as it was"
    if guest.booking.claimed:
        return "booting: its balloon driver has not answered yet, booked with its whole RAM"
    return ""


def _hold_reason(guest: GuestSnapshot, now_s: float) -> str:
    """Why this guest may not be shrunk now (I3, deflate-on-oom, operator's word); empty where it may."""
    if guest.released:
        return "released by the operator"
    if guest.vm.deflate_on_oom is not True and not guest.settings.shrink_without_deflate_on_oom:
        return "deflate-on-oom is off: only grown"
    if now_s - guest.vm.boot_began_s < SETTLING_S:
        return f"settling: booted {now_s - guest.vm.boot_began_s:.0f} s ago, not shrunk before {SETTLING_S:.0f} s"
    if guest.report is None:
        return "no report and no statistics: hands off"
    age_s = now_s - guest.report.arrived_s
    if age_s > fresh_for_s(guest):
        return f"last report is {age_s:.0f} s old: held"
    if guest.report.kind is ReportKind.AGENT:
        if guest.agent.link is not LinkState.LIVE:
            return "agent does not answer: held"
        if guest.report.arrived_s < guest.agent.live_since_s:
            return "agent has begun a new session and not reported in it: held"
    if guest.stuck_since_s is not None and not guest.retried:
        return f"its balloon has not followed for {now_s - guest.stuck_since_s:.0f} s: counted as gone"
    return ""


def _share_demand(movable: list[_Party], pool_kib: int, regular_kib: int) -> list[int]:
    takers = [
        Taker(party.guest.settings.minimum_kib, party.lower_kib, party.demand_kib, party.guest.settings.weight)
        for party in movable
    ]
    level = fill(regular_kib, takers)
    # Scarce: what is held of a demand already is not taken back to fill the headroom, only what is above the level
    # of the whole pool.
    kept = [
        Taker(
            party.guest.settings.minimum_kib,
            least,
            max(least, min(party.guest.given_kib, party.demand_kib)),
            party.guest.settings.weight,
        )
        for party, least in zip(movable, level, strict=True)
    ]
    return fill(max(pool_kib, sum(level)), kept)


def _starved_first(movable: list[_Party], held: list[int], targets: list[int]) -> list[int]:
    """I4: hold a short guest at what it has while another still has more than it needs, and would give it."""
    somebody_has_more = any(
        party.shrinkable
        and not party.guest.refuses
        and party.guest.vm.actual_kib > max(party.demand_kib, party.floor_kib) + TOLERANCE_KIB
        for party in movable
    )
    if not somebody_has_more:
        return targets
    return [
        max(target, min(party.guest.given_kib, party.demand_kib)) if least < party.demand_kib else target
        for party, least, target in zip(movable, held, targets, strict=True)
    ]


def _decide(party: _Party, target_kib: int | None, snapshot: Snapshot) -> GuestDecision:
    guest = party.guest
    present_kib = guest.given_kib
    if target_kib is None:
        target_kib = present_kib = guest.booking.assigned_kib
    elif not party.shrinkable:
        # Held means neither taken from nor given what only resides: more than it has is for what it wants.
        least_kib = guest.given_kib if guest.demand is None else max(guest.given_kib, party.floor_kib)
        target_kib = max(least_kib, min(target_kib, party.want_kib))
    if target_kib > present_kib:
        phase = Phase.ALLOCATING
    elif target_kib < present_kib and party.shrinkable:
        phase = Phase.FREEING
    else:
        phase = Phase.HOLD
    return GuestDecision(
        name=guest.name,
        target_kib=target_kib,
        want_kib=party.want_kib,
        floor_kib=party.floor_kib,
        phase=phase,
        status=_status(party),
        shrinkable=party.shrinkable,
        urgent=guest.demand is not None and guest.demand.urgent and present_kib < party.demand_kib,
        why=_why(party, target_kib, snapshot),
    )


def _status(party: _Party) -> Status:
    guest = party.guest
    if guest.vm.run_state in (RunState.ABSENT, RunState.SHUTDOWN) or guest.demand is None:
        return Status.ABSENT
    has_kib = guest.given_kib + TOLERANCE_KIB
    if has_kib < guest.demand.demand_kib:
        return Status.WARNING
    buffered_kib = guest.demand.demand_kib * (100 + guest.settings.buffer_percent) // 100
    return Status.OK if has_kib >= min(buffered_kib, guest.settings.maximum_kib) else Status.LOW


def _why(party: _Party, target_kib: int, snapshot: Snapshot) -> str:
    guest = party.guest
    if party.fixed:
        reason = party.hold_reason
        if guest.waiting_to_start:
            free_kib = snapshot.host.budget_kib - snapshot.host.headroom_kib - snapshot.booked_kib
            reason += f": starts when {_mib(guest.vm.ram_kib)} are free ({_mib(max(0, free_kib))} now)"
        return reason
    if guest.released:
        return f"released by the operator: everything back, up to {_mib(guest.vm.ram_kib)}"
    if guest.demand is None:
        return party.hold_reason or "no report yet: held"
    demand = f"demand {_mib(guest.demand.demand_kib)}"
    if target_kib < min(guest.demand.demand_kib, party.demand_kib):
        text = f"short: {demand}, its share by weight {guest.settings.weight} is {_mib(target_kib)}"
    elif guest.demand.demand_kib > party.demand_kib:
        text = f"{demand} is more than its maximum {_mib(party.demand_kib)}"
    elif target_kib < party.want_kib:
        text = f"{demand} met, of its want {_mib(party.want_kib)} there is {_mib(target_kib)}"
    elif party.want_kib <= party.floor_kib:
        text = f"{demand} is below its floor {_mib(party.floor_kib)}"
    elif guest.demand.held_kib >= party.want_kib:
        text = f"{demand}, falling: still holds {_mib(guest.demand.held_kib)}"
    else:
        text = f"{demand} + buffer {guest.settings.buffer_percent} % = {_mib(party.want_kib)}"
    if party.hold_reason and (target_kib >= guest.given_kib > party.want_kib or guest.stuck_since_s):
        text += f"; {party.hold_reason}"
    return text


def _headroom_free_kib(snapshot: Snapshot) -> int:
    """The part of the headroom that is there: not booked, and shown by the host's own MemAvailable."""
    free_kib = snapshot.host.budget_kib - snapshot.booked_kib
    if snapshot.host.facts is not None:
        free_kib = min(free_kib, snapshot.host.facts.available_kib)
    return max(0, min(snapshot.host.headroom_kib, free_kib))


def _overdrawn_cause(snapshot: Snapshot) -> str:
    """The acts that were not ours and that explain an excess, the largest first."""
    causes: list[tuple[int, str]] = []
    for guest in snapshot.guests:
        if guest.forced:
            causes.append((guest.booking.assigned_kib, f"{guest.name} was released beyond the budget by the operator"))
            continue
        over_kib = guest.booking.assigned_kib - (guest.hypervisor_target_kib or guest.settings.startup_kib)
        if over_kib <= TOLERANCE_KIB:
            continue
        if not guest.vm.ram_kib:
            causes.append((over_kib, f"{guest.name} does not answer and is booked with its maximum"))
        elif guest.booking.claimed:
            causes.append((over_kib, f"{guest.name} has booted and its balloon has not answered yet"))
        elif guest.residency is not None and guest.residency.resident_kib >= guest.booking.assigned_kib:
            causes.append((over_kib, f"{guest.name} resides above its balloon's size"))
        elif guest.hypervisor_target_kib is not None:
            causes.append((over_kib, f"{guest.name} took {_mib(over_kib)} back or has not given it yet"))
        else:
            causes.append((over_kib, f"{guest.name} was found at {_mib(guest.booking.assigned_kib)}"))
    causes.sort(reverse=True)
    return "; ".join(text for _, text in causes) or "the budget is smaller than what the guests hold"


def _mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"
