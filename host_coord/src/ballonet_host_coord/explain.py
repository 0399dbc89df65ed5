"""Why a guest has what it has: a Snapshot in, one Explanation per guest out. Pure.

The target and its rule are those that `one_iteration` gives for the snapshot, which are those that were decided. Where
a rule has more than one cause, the cause is found by leaving one out and deciding again. `what_if.py` has what would
change the target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from . import refilled
from .arbiter import enter, one_iteration
from .budget import in_words
from .host_state import effective_slider
from .model import BudgetParts, Decision, GuestDecision, GuestSnapshot, HostState, Phase, Rule, Snapshot
from .pace import TOLERANCE_KIB
from .snapshot import decision_to_json
from .what_if import Change, what_if

MOST_GUESTS_WHAT_IF = 64
"""Each asks some fifty decisions of all guests: a second for these. Whoever has more names one."""


class Limit(StrEnum):
    """What the rule that settled a target does not say by itself."""

    NONE = ""
    HELD = "held"
    STARTS = "starts"
    HEADROOM = "headroom"
    BUFFERS = "buffers"


MEANING: dict[Rule, str] = {
    Rule.FIXED: "it can be moved in neither direction and keeps what it is booked with",
    Rule.RELEASED: "the operator gave it everything back, as far as there is room",
    Rule.UNKNOWN: "nothing is known of its use, so what it has is left to it",
    Rule.SHORT: "there is not enough: demand is shared by weight, from the minimums up",
    Rule.MAXIMUM: "it needs more than it may have",
    Rule.PARTLY: "its demand is met, and its want only in part",
    Rule.FLOOR: "it needs less than the least that it may have",
    Rule.FALLING: "it still holds some of what it needed before, until somebody else needs it",
    Rule.BUFFER: "its want is met; the rest stays with the host, or with guests that have it already",
    Rule.SURPLUS: "its want is met and so is everybody's; it keeps more, as page cache, until somebody needs it",
}

LIMITS: dict[Limit, str] = {
    Limit.NONE: "",
    Limit.HELD: "it may not be shrunk now and keeps what it has",
    Limit.STARTS: "what is above its demand is kept for a machine that waits to start",
    Limit.HEADROOM: "what is above its demand refills the headroom first",
    Limit.BUFFERS: "there is not enough for every buffer, so each gets the same part of what it lacks",
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
    above: str
    """That it resides above its balloon's size for long, and what it may be; empty where it does not."""
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
    """As its settings say; `Explanation` has it as the slider scales it."""


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
    limit: Limit
    buffer_percent: int
    """As the slider has scaled it."""
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
    """What there was to give, KiB: budget = overheads + fixed + headroom + not there + what the ranks shared out."""

    now_s: float
    budget_kib: int
    booked_kib: int
    headroom_kib: int
    headroom_free_kib: int
    overheads_kib: int
    fixed_kib: int
    not_there_kib: int
    """Promised and not there: what a critical host does not have of the budget."""
    shared_kib: int
    demands_kib: int
    """Of the guests that can be moved."""
    wants_kib: int
    starts_kib: int
    overdrawn_kib: int
    overdrawn_cause: str
    slider: int
    effective_slider: int
    """Where it stands when the host is short."""
    state: HostState
    state_why: str
    observe: bool
    budget_why: str
    """The sum that it is, or what of it is not there."""
    budget_parts: BudgetParts | None


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
        rule=decided.rule,
        limit=_limit(snapshot, party, decided),
        buffer_percent=decided.buffer_percent,
        held=party.hold_reason,
        why=decided.why,
        inputs=_inputs(guest, snapshot),
        holders=_holders(snapshot, guest.name) if unmet else (),
        changes=what_if(snapshot, guest.name) if deep else None,
    )


def _limit(snapshot: Snapshot, party: Any, decided: GuestDecision) -> Limit:
    if decided.rule in (Rule.FIXED, Rule.RELEASED, Rule.UNKNOWN):
        return Limit.NONE
    if not party.shrinkable and decided.target_kib > party.want_kib:
        return Limit.HELD
    if decided.rule is not Rule.PARTLY:
        return Limit.NONE
    for limit, without in ((Limit.STARTS, _without_starts), (Limit.HEADROOM, _without_headroom)):
        (other,) = [other for other in one_iteration(without(snapshot)).guests if other.name == decided.name]
        if other.target_kib > decided.target_kib + TOLERANCE_KIB:
            return limit
    return Limit.BUFFERS


def _without_starts(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, guests=tuple(replace(guest, waiting_to_start=False) for guest in snapshot.guests))


def _without_headroom(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, host=replace(snapshot.host, headroom_kib=0))


def _inputs(guest: GuestSnapshot, snapshot: Snapshot) -> Inputs:
    now_s = snapshot.now_s
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
        above=refilled.in_words(guest, snapshot.host.refills, now_s),
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
    host, parties = snapshot.host, enter(snapshot)
    overheads_kib = sum(party.guest.booking.overhead_kib for party in parties)
    fixed_kib = sum(party.guest.booking.assigned_kib for party in parties if party.fixed)
    promised_kib = decision.budget_kib - decision.headroom_kib
    not_there_kib = host.lacking_kib
    if host.state is HostState.CRITICAL:
        not_there_kib += max(0, promised_kib - decision.booked_kib)
    return HostExplanation(
        now_s=snapshot.now_s,
        budget_kib=decision.budget_kib,
        booked_kib=decision.booked_kib,
        headroom_kib=decision.headroom_kib,
        headroom_free_kib=decision.headroom_free_kib,
        overheads_kib=overheads_kib,
        fixed_kib=fixed_kib,
        not_there_kib=not_there_kib,
        shared_kib=promised_kib - overheads_kib - fixed_kib - not_there_kib,
        demands_kib=sum(party.demand_kib for party in parties if not party.fixed),
        wants_kib=sum(party.want_kib for party in parties if not party.fixed),
        starts_kib=sum(party.guest.vm.claim_kib for party in parties if party.guest.waiting_to_start),
        overdrawn_kib=decision.overdrawn_kib,
        overdrawn_cause=decision.overdrawn_cause,
        slider=host.slider,
        effective_slider=effective_slider(host.slider, host.state),
        state=host.state,
        state_why=host.state_why,
        observe=snapshot.observe,
        budget_why=in_words(host.budget_parts) if host.budget_parts else "",
        budget_parts=host.budget_parts,
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
