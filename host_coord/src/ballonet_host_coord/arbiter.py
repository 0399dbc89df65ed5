"""Who should have what: one pure function from a Snapshot to a Decision.

The law, in the order in which memory is given away (`DESIGN.md`, section 4, has it in formulas and an example):

1. **Fixed.** What cannot be moved keeps what it is booked with: a boot that has not answered, paused, migrating; and
   the pages that the host's kernel put into a balloon again.
2. **Floors.** Everyone has max(minimum, own floor); a guest that may not be shrunk now has what it has.
3. **Demand**, shared by weight from the minimums up when there is not enough (`water.fill`), out of the budget without
   the headroom. What a guest already holds of its demand is not taken back only to fill the headroom.
4. **Starts.** A VM that waits for its first instruction takes from buffers and surplus, never from demand.
5. **Buffers**: spare memory over demand, worthwhile file cache, and what a falling guest still holds.
6. **Surplus** stays in the guests that have it, up to the slider's share, and what nobody holds is handed out by
   weight; the rest is the host's. It is given up as soon as a rank above lacks anything.

The slider sets what ranks as buffer and how much surplus guests keep (`slider.py`); a host that is itself short moves
it towards density and takes what it lacks from the pool (`host_state.py`).

A last pass keeps invariant I4: a guest that is short is not shrunk while another that can be shrunk still holds
more than it needs; its turn comes when the others have given.
"""

from __future__ import annotations

from dataclasses import dataclass

from ballonet_protocol.limits import FRESH_LEAST_S, FRESH_PERIODS, SETTLING_S

from .booking import READ_APART_KIB
from .decision import mib
from .host_state import backed_kib, effective_slider
from .model import (
    Decision,
    GuestDecision,
    GuestSnapshot,
    HostState,
    LinkState,
    Migration,
    Phase,
    ReportKind,
    Rule,
    RunState,
    Snapshot,
)
from .overdraft import overdrawn_cause
from .pace import TOLERANCE_KIB
from .rules import MIGRATING, rule_of, status_of
from .slider import Tuning, tuning
from .water import fill

BLIND_BUFFER_PERCENT = 25
"""A guest judged by balloon statistics keeps a quarter over its use (I3)."""

CUT_LEAST_KIB = 32768
CUT_LEAST_RATIO = 0.03
"""Less than this is taken from nobody's surplus while others can give it: many small commands for one need are
noise."""

FAIR_RATIO = 1 / 8
"""Of its fair share of the surplus a guest gets this much even where it must be taken from another's surplus: enough
for a next step of demand, and so little that it is moved once."""

SETTLING = "settling"
_RUNNING = RunState.RUNNING


@dataclass(slots=True)
class _Party:
    """One guest on the way through the ranks."""

    guest: GuestSnapshot
    fixed: bool
    shrinkable: bool
    given_kib: int
    floor_kib: int
    lower_kib: int
    demand_kib: int
    buffered_kib: int
    want_kib: int
    most_kib: int
    weight: int
    hold_reason: str
    settling: bool
    """It is held because it has booted a moment ago, and will give what it is given."""


def one_iteration(snapshot: Snapshot) -> Decision:
    """Decide for every guest of the snapshot. Reads no clock and keeps nothing."""
    host = snapshot.host
    tuned = tuning(effective_slider(host.slider, host.state))
    parties, movable = [], []
    overheads_kib = fixed_kib = refilled_kib = starts_kib = assigned_kib = 0
    for guest in snapshot.guests:
        party = _enter(guest, snapshot.now_s, tuned)
        parties.append(party)
        booking = guest.booking
        overheads_kib += booking.overhead_kib
        assigned_kib += booking.assigned_kib
        if party.fixed:
            fixed_kib += booking.assigned_kib
            if guest.waiting_to_start:
                starts_kib += max(0, guest.vm.claim_kib - guest.held_kib)
        else:
            movable.append(party)
            if party.shrinkable:
                refilled_kib += refilled_kib_of(party)
    booked_kib = overheads_kib + assigned_kib
    away_kib = overheads_kib + fixed_kib + refilled_kib + host.lacking_kib + host.reserved_kib
    # A critical host has no more than what is held already, whatever was promised: it lacks that, not the budget.
    there_kib = booked_kib if host.state is HostState.CRITICAL else host.budget_kib
    pool_kib = min(host.budget_kib, there_kib) - away_kib
    regular_kib = min(host.budget_kib - host.headroom_kib, there_kib) - away_kib

    held = _share_demand(movable, pool_kib, regular_kib)
    overdrawn_kib = max(0, booked_kib - host.budget_kib)
    if starts_kib or overdrawn_kib:
        # The last MiB of each guest are not worth a command; together they must not keep a machine waiting.
        starts_kib += TOLERANCE_KIB * len(movable)
    supply_kib = max(sum(held), min(regular_kib - starts_kib, backed_kib(snapshot) - away_kib))
    surplus_ratio = tuned.surplus_ratio if host.state is HostState.EASY else 0.0
    targets = _share_rest(movable, held, supply_kib, surplus_ratio)
    targets = _starved_first(movable, held, targets)

    free_kib = host.budget_kib - host.headroom_kib - booked_kib - host.reserved_kib
    decisions = []
    placed = iter(targets)
    for party in parties:
        if party.guest.waiting_to_start:
            room = f"{mib(party.guest.vm.claim_kib)} are free ({mib(max(0, free_kib))} now)"
            party.hold_reason += f": starts when {room}"
        decisions.append(_decide(party, None if party.fixed else next(placed), tuned))
    return Decision(
        now_s=snapshot.now_s,
        budget_kib=host.budget_kib,
        booked_kib=booked_kib,
        headroom_kib=host.headroom_kib,
        headroom_free_kib=_headroom_free_kib(snapshot, booked_kib),
        overdrawn_kib=overdrawn_kib,
        overdrawn_cause=overdrawn_cause(snapshot) if overdrawn_kib else "",
        guests=tuple(decisions),
    )


def enter(snapshot: Snapshot) -> list[_Party]:
    """The guests as they enter the ranks: bounds, demand, want and what holds them, for `explain`."""
    tuned = tuning(effective_slider(snapshot.host.slider, snapshot.host.state))
    return [_enter(guest, snapshot.now_s, tuned) for guest in snapshot.guests]


def fresh_for_s(guest: GuestSnapshot) -> float:
    """How old a report may be when a downward step relies on it."""
    period_s = guest.agent.report_ms / 1000 if guest.agent.link is LinkState.LIVE else 1.0
    fresh_s = FRESH_PERIODS * period_s
    return fresh_s if fresh_s > FRESH_LEAST_S else FRESH_LEAST_S


def _enter(guest: GuestSnapshot, now_s: float, tuned: Tuning) -> _Party:
    # Conditions instead of min and max: this is done for every guest of every decision, and they cost most of it.
    settings, demand, ram_kib = guest.settings, guest.demand, guest.vm.ram_kib
    given_kib = guest.given_kib
    fixed_reason = _fixed_reason(guest)
    hold_reason = fixed_reason or _hold_reason(guest, now_s)
    # A floor keeps what a guest has; it gives nothing, or a guest that lies about it would be given everything (I5).
    floor_kib = settings.minimum_kib
    own_floor_kib = _own_floor_kib(guest)
    if own_floor_kib > floor_kib and given_kib > floor_kib:
        floor_kib = own_floor_kib if own_floor_kib < given_kib else given_kib
    if floor_kib > ram_kib:
        floor_kib = ram_kib
    most_kib = settings.maximum_kib if settings.maximum_kib < ram_kib else ram_kib
    lower_kib = floor_kib
    if hold_reason and guest.booking.assigned_kib > floor_kib:
        lower_kib = guest.booking.assigned_kib
    if demand is None:
        demand_kib = buffered_kib = wanted_kib = given_kib
    else:
        demand_kib = demand.demand_kib
        buffered_kib = tuned.buffered_kib(demand_kib, demand.cache_kib, settings.buffer_percent)
        wanted_kib = demand.held_kib if demand.held_kib > buffered_kib else buffered_kib
        if demand_kib < floor_kib or wanted_kib > most_kib:
            demand_kib = min(max(demand_kib, floor_kib), most_kib)
            buffered_kib = min(max(buffered_kib, floor_kib), most_kib)
            wanted_kib = min(max(wanted_kib, buffered_kib), most_kib)
    if guest.released:
        buffered_kib = wanted_kib = ram_kib
    return _Party(
        guest,
        bool(fixed_reason),
        not hold_reason,
        given_kib,
        floor_kib,
        lower_kib,
        demand_kib,
        buffered_kib,
        wanted_kib,
        most_kib,
        settings.weight,
        hold_reason,
        hold_reason is not fixed_reason and hold_reason.startswith(SETTLING),
    )


def refilled_kib_of(party: _Party) -> int:
    """What resides above what the guest was given: its balloon holds it already, so no shrink frees it."""
    above_kib = party.guest.booking.assigned_kib - party.given_kib
    return above_kib if above_kib > READ_APART_KIB else 0


def _own_floor_kib(guest: GuestSnapshot) -> int:
    """What the guest, or caution on its behalf, sets as the least."""
    report = guest.report
    if report is None:
        return 0
    floor_kib = report.floor_kib or 0
    if guest.demand is not None and (report.kind is ReportKind.STATISTICS or guest.vm.deflate_on_oom is not True):
        if report.kind is ReportKind.STATISTICS:
            floor_kib = max(floor_kib, guest.demand.use_kib * (100 + BLIND_BUFFER_PERCENT) // 100)
        if guest.vm.deflate_on_oom is not True and guest.demand.committed_kib is not None:
            floor_kib = max(floor_kib, guest.demand.committed_kib)
    return floor_kib


def _fixed_reason(guest: GuestSnapshot) -> str:
    """Why this guest can be moved in neither direction; empty where it can."""
    state = guest.vm.run_state
    hands_off = guest.hands_off or guest.vm.hands_off
    if state is _RUNNING and not guest.booking.claimed and not guest.unseen and not hands_off:
        return ""
    if guest.unseen:
        return "not looked at yet: nobody is granted anything before"
    if state in (RunState.ABSENT, RunState.SHUTDOWN):
        return "not running"
    if state is RunState.PRELAUNCH:
        return "waits before its first instruction"
    if state is RunState.PAUSED:
        return "paused"
    if state is RunState.MIGRATING:
        return MIGRATING[guest.vm.migration]
    if state is RunState.UNREACHABLE and not guest.vm.ram_kib:
        return "its hypervisor has not answered yet: booked with its maximum"
    if state is RunState.UNREACHABLE:
        return "its hypervisor does not answer: booked as it was"
    if hands_off:
        return f"left alone: {hands_off}"
    if guest.booking.claimed and guest.vm.migration is Migration.ARRIVED:
        return "migrated here: its balloon driver has not answered yet, booked with its whole RAM"
    if guest.booking.claimed:
        return "booting: its balloon driver has not answered yet, booked with its whole RAM"
    return ""


def _hold_reason(guest: GuestSnapshot, now_s: float) -> str:
    """Why this guest may not be shrunk now (I3, deflate-on-oom, operator's word); empty where it may."""
    vm, report = guest.vm, guest.report
    if guest.released:
        return "released by the operator"
    if vm.deflate_on_oom is not True and not guest.settings.shrink_without_deflate_on_oom:
        return "deflate-on-oom is off: only grown"
    if now_s - vm.boot_began_s < SETTLING_S:
        began = "migrated here" if vm.migration is Migration.ARRIVED else "booted"
        return f"{SETTLING}: {began} {now_s - vm.boot_began_s:.0f} s ago, not shrunk before {SETTLING_S:.0f} s"
    if report is None:
        return "no report and no statistics: hands off"
    age_s = now_s - report.arrived_s
    if age_s > fresh_for_s(guest):
        return f"last report is {age_s:.0f} s old: held"
    if report.kind is ReportKind.AGENT:
        if guest.agent.link is not LinkState.LIVE:
            return "agent does not answer: held"
        if report.arrived_s < guest.agent.live_since_s:
            return "agent has begun a new session and not reported in it: held"
    if guest.stuck_since_s is not None and not guest.retried:
        return f"its balloon has not followed for {now_s - guest.stuck_since_s:.0f} s: counted as gone"
    return ""


def _share_demand(movable: list[_Party], pool_kib: int, regular_kib: int) -> list[int]:
    takers = [
        (party.guest.settings.minimum_kib, party.lower_kib, party.demand_kib, party.weight) for party in movable
    ]
    level = fill(regular_kib, takers)
    if sum(level) + len(level) < regular_kib:
        return level  # all demand is met: nothing of it is cut for the headroom
    # Scarce: the headroom ranks after demand. It pays for who is short at this moment, and what is held of a demand
    # already is not taken back to fill it; each has no more of it than its share by weight, or a liar had it all (I5).
    weights = sum(party.weight for party in movable)
    kept = [
        (
            party.guest.settings.minimum_kib,
            least,
            min(
                party.demand_kib if _is_urgent(party) else min(party.given_kib, party.demand_kib),
                least + max(0, pool_kib - regular_kib) * party.weight // weights,
            ),
            party.weight,
        )
        for party, least in zip(movable, level, strict=True)
    ]
    return fill(max(pool_kib, sum(level)), kept)


def _is_urgent(party: _Party) -> bool:
    demand = party.guest.demand
    return demand is not None and demand.urgent


def _share_rest(movable: list[_Party], held: list[int], supply_kib: int, surplus_ratio: float) -> list[int]:
    """Above demand: buffers; an eighth of a fair share of what is left; then everybody keeps what it has, first of what
    it wants, then of surplus; then what nobody has is handed out in the same order. So memory moves for a need, and
    stays where it is otherwise, and whoever comes last still gets something to grow into."""
    # Measured from demand: what a held guest was given as buffer is a bound for it, and no new beginning.
    targets = fill(
        supply_kib,
        [
            (min(p.demand_kib, p.buffered_kib), base, p.buffered_kib, p.weight * max(1, p.buffered_kib - p.demand_kib))
            for p, base in zip(movable, held, strict=True)
        ],
    )
    wants = [party.want_kib for party in movable]
    mosts = wants
    if surplus_ratio:
        mosts = [_most_kib(party, surplus_ratio) for party in movable]
        fair = _fill_alike(movable, targets, mosts, supply_kib)
        firsts = [least + int((most - least) * FAIR_RATIO) for least, most in zip(targets, fair, strict=True)]
        targets = _fill_alike(movable, targets, firsts, supply_kib)
    for uppers in (wants, mosts) if surplus_ratio else (wants,):
        kept = [min(party.given_kib, upper) for party, upper in zip(movable, uppers, strict=True)]
        filled = _fill_alike(movable, targets, kept, supply_kib)
        # Small parts are not worth a command each: those who give more give them, too.
        spared = [
            keep if 0 < keep - target < max(CUT_LEAST_KIB, keep * CUT_LEAST_RATIO) else least
            for least, keep, target in zip(targets, kept, filled, strict=True)
        ]
        targets = _fill_alike(movable, spared, kept, supply_kib) if sum(spared) <= supply_kib else filled
    for uppers in (wants, mosts) if surplus_ratio else (wants,):
        targets = _fill_alike(movable, targets, uppers, supply_kib)
    return targets


def _most_kib(party: _Party, surplus_ratio: float) -> int:
    """Up to where surplus is left to a guest. One that would not give it back keeps what it has and gets none."""
    want_kib = party.want_kib
    if not party.shrinkable and not party.settling:
        return max(want_kib, party.given_kib)
    return want_kib if party.most_kib <= want_kib else want_kib + int((party.most_kib - want_kib) * surplus_ratio)


def _fill_alike(movable: list[_Party], targets: list[int], uppers: list[int], supply_kib: int) -> list[int]:
    """One more rank on top of `targets`. Where it cannot be met, each gets the same part of what it lacks there, by
    weight: nobody's page cache vanishes while another's is whole, and many balloons give a little at once, which is
    fast. An upper bound that is reached already adds nothing."""
    spare_kib = supply_kib - sum(targets)
    if spare_kib <= len(targets):
        return targets
    rooms = [upper - least if upper > least else 0 for least, upper in zip(targets, uppers, strict=True)]
    lacking_kib = sum(rooms)
    if lacking_kib <= spare_kib:
        return [least + room for least, room in zip(targets, rooms, strict=True)]
    filled = list(targets)
    takers = [place for place, room in enumerate(rooms) if room]
    parts = fill(spare_kib, [(0, 0, rooms[place], movable[place].weight * rooms[place]) for place in takers])
    for place, part in zip(takers, parts, strict=True):
        filled[place] += part
    return filled


def _starved_first(movable: list[_Party], held: list[int], targets: list[int]) -> list[int]:
    """I4: hold a short guest at what it has while another still has more than it needs, and would give it."""
    if all(least >= party.demand_kib for party, least in zip(movable, held, strict=True)):
        return targets
    somebody_has_more = any(
        party.shrinkable
        and not party.guest.refuses
        and not party.guest.uncooperative
        and party.guest.vm.actual_kib > max(party.demand_kib, party.floor_kib) + TOLERANCE_KIB
        for party in movable
    )
    if not somebody_has_more:
        return targets
    return [
        max(target, min(party.given_kib, party.demand_kib)) if least < party.demand_kib else target
        for party, least, target in zip(movable, held, targets, strict=True)
    ]


def _decide(party: _Party, target_kib: int | None, tuned: Tuning) -> GuestDecision:
    guest, demand = party.guest, party.guest.demand
    present_kib = given_kib = party.given_kib
    if target_kib is None:
        target_kib = present_kib = guest.booking.assigned_kib
    elif not party.shrinkable:
        # Held means neither taken from nor given what only resides: more than it has is for what it wants.
        least_kib = given_kib if demand is None else max(given_kib, party.floor_kib)
        most_kib = party.most_kib if party.settling else party.want_kib
        target_kib = max(least_kib, min(target_kib, most_kib))
    if target_kib > present_kib:
        phase = Phase.ALLOCATING
    elif target_kib < present_kib and party.shrinkable:
        phase = Phase.FREEING
    else:
        phase = Phase.HOLD
    rule = rule_of(party, target_kib)
    held_by = party.hold_reason
    if held_by and not (
        rule in (Rule.FIXED, Rule.UNKNOWN) or target_kib >= given_kib > party.want_kib or guest.stuck_since_s
    ):
        held_by = ""
    return GuestDecision(
        guest.settings.name,
        target_kib,
        party.want_kib,
        party.floor_kib,
        phase,
        status_of(party),
        party.shrinkable,
        demand is not None and demand.urgent and present_kib < party.demand_kib,
        rule,
        demand.demand_kib if demand is not None else 0,
        demand.held_kib if demand is not None else 0,
        int(guest.settings.buffer_percent * tuned.buffer_ratio),
        party.weight,
        guest.vm.ram_kib if rule is Rule.RELEASED else party.most_kib,
        held_by,
    )


def _headroom_free_kib(snapshot: Snapshot, booked_kib: int) -> int:
    """The part of the headroom that is there: not booked, and shown by the host's own MemAvailable."""
    free_kib = snapshot.host.budget_kib - booked_kib
    if snapshot.host.facts is not None:
        free_kib = min(free_kib, snapshot.host.facts.available_kib)
    return max(0, min(snapshot.host.headroom_kib, free_kib))
