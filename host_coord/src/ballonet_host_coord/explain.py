"""Why a guest has what it has: a Snapshot in, one Explanation per guest out. Pure.

The target is the one that `one_iteration` gives for the snapshot, which is the one that was decided. The rule is found
from where that target lies between the bounds with which the guest enters the ranks (`arbiter.py`), and, where two
ranks could be meant, by leaving one out and deciding again. `what_if.py` has what would change it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from .arbiter import TOLERANCE_KIB, enter, one_iteration
from .model import Decision, GuestDecision, GuestSnapshot, Phase, Snapshot
from .snapshot import decision_to_json
from .what_if import Change, what_if

MOST_GUESTS_WHAT_IF = 64
"""Each asks some fifty decisions of all guests: a second for these. Whoever has more names one."""


class Rule(StrEnum):
    """The rank that set a target: `arbiter.py`'s docstring, in its order."""

    FIXED = "fixed"
    FLOOR = "floor"
    DEMAND = "demand"
    STARTS = "starts"
    BUFFER = "buffer"
    HEADROOM = "headroom"
    SURPLUS = "surplus"


MEANING: dict[Rule, str] = {
    Rule.FIXED: "it can be moved in neither direction and keeps what it is booked with",
    Rule.FLOOR: "it is not taken below this now",
    Rule.DEMAND: "there is not enough: demand is shared by weight, from the minimums up",
    Rule.STARTS: "its demand is met; what is above it is kept for a machine that waits to start",
    Rule.BUFFER: "its demand is met; there is not enough for every buffer, so they share what is left",
    Rule.HEADROOM: "its demand is met; what is above it refills the headroom first",
    Rule.SURPLUS: "its want is met; the rest stays with the host",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was known of the guest. Sizes in KiB, None for unknown."""

    report: str | None
    """Its source."""
    report_age_s: float | None
    actual_kib: int
    resident_kib: int | None
    target_in_force_kib: int | None
    assigned_kib: int
    overhead_kib: int
    claimed: bool
    use_kib: int | None
    committed_kib: int | None
    cache_kib: int | None
    """The part of the file cache that ranks with the buffer."""
    demand_kib: int | None
    held_kib: int | None
    wish_kib: int | None
    """The size that the guest last asked for by itself, and how long ago."""
    wish_age_s: float | None
    psi_some_ratio: float | None
    psi_full_ratio: float | None
    minimum_kib: int
    maximum_kib: int
    weight: int
    buffer_percent: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds memory that the guest lacks."""

    name: str
    booked_kib: int
    above_demand_kib: int
    """Of it: more than it needs."""
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One guest's target, and why."""

    name: str
    status: str
    given_kib: int
    target_kib: int
    demand_kib: int
    """As it enters the ranks: within floor and maximum."""
    want_kib: int
    floor_kib: int
    rule: Rule
    held: str
    """Why it may not be shrunk now; empty where it may."""
    why: str
    inputs: Inputs
    holders: tuple[Holder, ...]
    """For a guest whose want is not met: the others, who holds most above its demand first."""
    changes: tuple[Change, ...] | None
    """What would change the target; None where it was not asked."""


@dataclass(frozen=True, slots=True)
class HostExplanation:
    """What there was to give, KiB: budget = overheads + fixed + headroom + what the ranks shared out."""

    now_s: float
    budget_kib: int
    booked_kib: int
    headroom_kib: int
    headroom_free_kib: int
    overheads_kib: int
    fixed_kib: int
    shared_kib: int
    demands_kib: int
    """Of the guests that can be moved."""
    wants_kib: int
    starts_kib: int
    overdrawn_kib: int
    overdrawn_cause: str
    observe: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """The host and the guests asked for."""

    host: HostExplanation
    guests: tuple[Explanation, ...]
    differs: str
    """How this ballonet's decision differs from the one that was recorded with the snapshot; empty for the same."""


def explain(snapshot: Snapshot, name: str | None = None, recorded_decision: Any = None) -> Explained:
    """Explain one guest or all. `recorded_decision`: as JSON, to be checked. Raises LookupError for an unknown name."""
    known = [guest.name for guest in snapshot.guests]
    if name is not None and name not in known:
        raise LookupError(f"no guest {name!r}; known: {', '.join(known) or 'none'}")
    decision = one_iteration(snapshot)
    deep = name is not None or len(known) <= MOST_GUESTS_WHAT_IF
    return Explained(
        host=_host(snapshot, decision),
        guests=tuple(
            _guest(snapshot, guest, party, decided, deep)
            for guest, party, decided in zip(snapshot.guests, enter(snapshot), decision.guests, strict=True)
            if name in (None, guest.name)
        ),
        differs=_differs(decision, recorded_decision) if recorded_decision is not None else "",
    )


def _guest(
    snapshot: Snapshot, guest: GuestSnapshot, party: Any, decided: GuestDecision, deep: bool
) -> Explanation:
    unmet = decided.target_kib < decided.want_kib - TOLERANCE_KIB
    return Explanation(
        name=guest.name,
        status=decided.status.value,
        given_kib=guest.given_kib,
        target_kib=decided.target_kib,
        demand_kib=party.demand_kib,
        want_kib=decided.want_kib,
        floor_kib=decided.floor_kib,
        rule=_rule(snapshot, guest, party, decided),
        held=party.hold_reason,
        why=decided.why,
        inputs=_inputs(guest, snapshot.now_s),
        holders=_holders(snapshot, guest.name) if unmet else (),
        changes=what_if(snapshot, guest.name) if deep else None,
    )


def _rule(snapshot: Snapshot, guest: GuestSnapshot, party: Any, decided: GuestDecision) -> Rule:
    target_kib = decided.target_kib
    if party.fixed:
        return Rule.FIXED
    if target_kib >= party.want_kib:
        held = not party.shrinkable and target_kib > party.want_kib
        floored = guest.demand is None or (party.want_kib <= party.floor_kib and guest.demand.demand_kib < target_kib)
        return Rule.FLOOR if held or floored else Rule.SURPLUS
    if target_kib < party.demand_kib:
        return Rule.DEMAND
    for rule, without in ((Rule.STARTS, _without_starts), (Rule.HEADROOM, _without_headroom)):
        (other,) = [other for other in one_iteration(without(snapshot)).guests if other.name == guest.name]
        if other.target_kib > target_kib + TOLERANCE_KIB:
            return rule
    return Rule.BUFFER


def _without_starts(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, guests=tuple(replace(guest, waiting_to_start=False) for guest in snapshot.guests))


def _without_headroom(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, host=replace(snapshot.host, headroom_kib=0))


def _inputs(guest: GuestSnapshot, now_s: float) -> Inputs:
    demand, report, wish = guest.demand, guest.report, guest.wish
    return Inputs(
        report=report.kind.value if report else None,
        report_age_s=round(now_s - report.arrived_s, 3) if report else None,
        actual_kib=guest.vm.actual_kib,
        resident_kib=guest.residency.resident_kib if guest.residency else None,
        target_in_force_kib=guest.hypervisor_target_kib,
        assigned_kib=guest.booking.assigned_kib,
        overhead_kib=guest.booking.overhead_kib,
        claimed=guest.booking.claimed,
        use_kib=demand.use_kib if demand else None,
        committed_kib=demand.committed_kib if demand else None,
        cache_kib=demand.cache_kib if demand else None,
        demand_kib=demand.demand_kib if demand else None,
        held_kib=demand.held_kib if demand else None,
        wish_kib=wish.want_kib if wish else None,
        wish_age_s=round(now_s - wish.arrived_s, 3) if wish else None,
        psi_some_ratio=demand.psi_some_ratio if demand else None,
        psi_full_ratio=demand.psi_full_ratio if demand else None,
        minimum_kib=guest.settings.minimum_kib,
        maximum_kib=guest.settings.maximum_kib,
        weight=guest.settings.weight,
        buffer_percent=guest.settings.buffer_percent,
    )


def _holders(snapshot: Snapshot, name: str) -> tuple[Holder, ...]:
    holders = []
    decided = {guest.name: guest for guest in one_iteration(snapshot).guests}
    for party in enter(snapshot):
        guest = party.guest
        if guest.name == name or not guest.booking.booked_kib:
            continue
        above_kib = max(0, guest.booking.assigned_kib - party.demand_kib) if guest.demand is not None else 0
        if party.hold_reason:
            why = party.hold_reason
        elif guest.refuses:
            why = "it refused to give more"
        elif decided[guest.name].phase is Phase.FREEING:
            why = f"it is being shrunk to {decided[guest.name].target_kib // 1024} MiB"
        else:
            why = "it needs it" if above_kib <= TOLERANCE_KIB else "its share of what is left above demand"
        holders.append(Holder(guest.name, guest.booking.booked_kib, above_kib, why))
    return tuple(sorted(holders, key=lambda holder: (-holder.above_demand_kib, -holder.booked_kib, holder.name)))


def _host(snapshot: Snapshot, decision: Decision) -> HostExplanation:
    parties = enter(snapshot)
    overheads_kib = sum(party.guest.booking.overhead_kib for party in parties)
    fixed_kib = sum(party.guest.booking.assigned_kib for party in parties if party.fixed)
    return HostExplanation(
        now_s=snapshot.now_s,
        budget_kib=decision.budget_kib,
        booked_kib=decision.booked_kib,
        headroom_kib=decision.headroom_kib,
        headroom_free_kib=decision.headroom_free_kib,
        overheads_kib=overheads_kib,
        fixed_kib=fixed_kib,
        shared_kib=decision.budget_kib - overheads_kib - fixed_kib - decision.headroom_kib,
        demands_kib=sum(party.demand_kib for party in parties if not party.fixed),
        wants_kib=sum(party.want_kib for party in parties if not party.fixed),
        starts_kib=sum(party.guest.vm.ram_kib for party in parties if party.guest.waiting_to_start),
        overdrawn_kib=decision.overdrawn_kib,
        overdrawn_cause=decision.overdrawn_cause,
        observe=snapshot.observe,
    )


def _differs(decision: Decision, recorded: Any) -> str:
    now = decision_to_json(decision)
    if now == recorded:
        return ""
    try:
        then = {guest["name"]: guest["target_kib"] for guest in recorded["guests"]}
        targets = [
            f"{guest['name']} {guest['target_kib'] // 1024} instead of {then[guest['name']] // 1024} MiB"
            for guest in now["guests"]
            if guest["target_kib"] != then[guest["name"]]
        ]
    except (KeyError, TypeError):
        return "what was recorded is no decision that this ballonet knows"
    return f"another ballonet decided then; this one would give {', '.join(targets) or 'the same sizes'}"
