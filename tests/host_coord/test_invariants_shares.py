"""The invariants of who gets what, on single decisions and at every place of the slider: I4, I5, I6, I10.

`test_invariants.py` plays guests over time; here hypothesis looks for one snapshot that breaks a promise.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    GuestDecision,
    GuestSnapshot,
    HostState,
    LinkState,
    ReportKind,
    Rule,
    RunState,
    Snapshot,
)

from .builders import GIB, MIB, NOW_S, make_demand, make_guest, make_report, make_settings, make_snapshot, make_vm
from .watch import slider_is_monotone
from .world import RAM_KIB, Character, World

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
MIBS = st.integers(0, 1100)
WEIGHTS = st.sampled_from([1, 500, 5000, 10000])
SLIDERS = [0, 25, 50, 80, 100]
NEEDS = st.lists(st.tuples(MIBS, WEIGHTS, st.integers(256, 1024)), min_size=2, max_size=5)
"""Of each guest: demand, weight, present size, in MiB."""
ROUNDING_KIB = 1
"""The common level is a float, and is found along another way when one bound differs."""
ROUNDED_KIB = 64
"""What the ranks round down is handed out by a later decision: far less than is worth a command."""


# --- any guest that can be imagined ---------------------------------------------------------------------


@st.composite
def odd_guests(draw: st.DrawFn, name: str) -> GuestSnapshot:
    """In any state, held for any reason, released, unreported, with any demand, past and cache."""
    minimum_mib = draw(st.sampled_from([128, 256, 384]))
    ram_kib = draw(st.sampled_from([1024, 1024, 2048, 0])) * MIB
    actual_kib = min(ram_kib, draw(MIBS) * MIB)
    above_kib = draw(st.sampled_from([0, 0, 8, 300])) * MIB
    demand_kib = min(draw(MIBS) * MIB, ram_kib)
    demand = make_demand(
        demand_kib,
        held_kib=min(ram_kib, demand_kib + draw(st.sampled_from([0, 50, 700])) * MIB),
        committed_kib=draw(st.none() | MIBS.map(lambda mib: mib * MIB)),
        cache_kib=draw(st.sampled_from([0, 0, 90, 600])) * MIB,
        urgent=draw(st.booleans()),
    )
    report = make_report(
        NOW_S - draw(st.sampled_from([0, 0, 0, 60])),
        kind=draw(st.sampled_from([ReportKind.AGENT, ReportKind.AGENT, ReportKind.STATISTICS])),
        floor_kib=draw(st.sampled_from([None, None, 300 * MIB, 4 * GIB])),
    )
    return GuestSnapshot(
        settings=make_settings(
            name,
            minimum_kib=minimum_mib * MIB,
            maximum_kib=draw(st.integers(minimum_mib, 1024)) * MIB,
            weight=draw(WEIGHTS),
            buffer_percent=draw(st.sampled_from([0, 7, 20, 300])),
            shrink_without_deflate_on_oom=draw(st.booleans()),
        ),
        vm=make_vm(
            run_state=draw(st.sampled_from([RunState.RUNNING] * 4 + list(RunState))),
            ram_kib=ram_kib,
            actual_kib=actual_kib,
            boot_began_s=draw(st.sampled_from([0.0, 0.0, NOW_S - 10])),
            deflate_on_oom=draw(st.sampled_from([True, True, None, False])),
        ),
        booking=Booking(actual_kib + above_kib, draw(st.sampled_from([0, 96])) * MIB, draw(st.booleans())),
        hypervisor_target_kib=draw(st.none() | MIBS.map(lambda mib: mib * MIB)),
        agent=AgentFacts(draw(st.sampled_from([LinkState.LIVE, LinkState.LIVE, LinkState.UNRESPONSIVE]))),
        report=draw(st.sampled_from([report, report, None])),
        demand=draw(st.sampled_from([demand, demand, demand, None])),
        released=draw(st.sampled_from([False, False, True])),
        stuck_since_s=draw(st.sampled_from([None, None, NOW_S - 9])),
        retried=draw(st.booleans()),
        uncooperative=draw(st.booleans()),
        refuses=draw(st.booleans()),
        waiting_to_start=draw(st.booleans()),
        unseen=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def odd_snapshots(draw: st.DrawFn) -> Snapshot:
    guests = [draw(odd_guests(name)) for name in NAMES[: draw(st.integers(1, 4))]]
    return make_snapshot(
        *guests,
        budget_kib=draw(st.integers(0, 5000)) * MIB,
        headroom_kib=draw(st.sampled_from([0, 64, 300])) * MIB,
        slider=draw(st.integers(0, 100)),
        state=draw(st.sampled_from(HostState)),
        lacking_kib=draw(st.sampled_from([0, 0, 200])) * MIB,
    )


def at(snapshot: Snapshot, **host: object) -> list[GuestDecision]:
    return list(one_iteration(replace(snapshot, host=replace(snapshot.host, **host))).guests)  # type: ignore[arg-type]


@given(odd_snapshots())
@settings(max_examples=150)
def test_wants_never_rise_towards_density(snapshot: Snapshot) -> None:
    """I10: whatever the guests are, the sum of wants falls or stays with the slider and with the host's state."""
    slider_is_monotone(snapshot)


@given(odd_snapshots(), st.integers(0, 100), st.integers(0, 100))
def test_no_guest_wants_more_towards_density(snapshot: Snapshot, one: int, other: int) -> None:
    """I10, for each guest and each place of the slider: no one pays for another's lower want."""
    performance, density = at(snapshot, slider=min(one, other)), at(snapshot, slider=max(one, other))
    for wide, narrow in zip(performance, density, strict=True):
        assert narrow.want_kib <= wide.want_kib


@given(odd_snapshots())
def test_surplus_never_costs(snapshot: Snapshot) -> None:
    """At 0 and 25 every guest has of its demand what it has at 50 and at 100, where no surplus is kept."""
    plain = {"state": HostState.EASY, "lacking_kib": 0}
    found = {slider: at(snapshot, slider=slider, **plain) for slider in (0, 25, 50, 100)}
    for guest, *decided in zip(snapshot.guests, *found.values(), strict=True):
        if guest.demand is not None and not guest.released:
            of_demand = {min(one.target_kib, max(guest.demand.demand_kib, one.floor_kib)) for one in decided}
            assert len(of_demand) == 1


@given(odd_snapshots(), st.integers(0, 600), WEIGHTS)
def test_surplus_is_given_up_before_anybody_is_short(snapshot: Snapshot, spare_mib: int, weight: int) -> None:
    """I4: while one guest's demand is cut, none that can be shrunk is left more than it needs, buffer included."""
    starves = make_guest("zeta", 128 * MIB, 1024 * MIB, settings={"minimum_kib": 128 * MIB, "weight": weight})
    snapshot = replace(snapshot, guests=(*snapshot.guests, starves))
    budget_kib = snapshot.booked_kib + snapshot.host.headroom_kib + spare_mib * MIB
    snapshot = replace(snapshot, host=replace(snapshot.host, budget_kib=budget_kib))
    decided = one_iteration(snapshot).guests
    if decided[-1].rule is not Rule.SHORT:
        assert decided[-1].target_kib == 1024 * MIB
        return
    for guest, one in zip(snapshot.guests, decided, strict=True):
        if one.shrinkable and guest.demand is not None and not guest.released:
            needs_kib = max(min(guest.demand.demand_kib, guest.settings.maximum_kib), one.floor_kib)
            assert one.target_kib <= needs_kib


@given(odd_snapshots())
def test_surplus_is_handed_out_within_the_budget(snapshot: Snapshot) -> None:
    """No surplus comes from the headroom, from a machine that waits to start, or from memory that is not there."""
    decision = one_iteration(snapshot)
    spent_kib, above_kib = 0, 0
    for guest, one in zip(snapshot.guests, decision.guests, strict=True):
        fixed = one.rule is Rule.FIXED
        refilled_kib = max(0, guest.booking.assigned_kib - guest.given_kib) if one.shrinkable else 0
        spent_kib += guest.booking.overhead_kib + (guest.booking.assigned_kib if fixed else one.target_kib)
        spent_kib += refilled_kib if refilled_kib > 16 * MIB else 0
        spent_kib += guest.vm.ram_kib if fixed and guest.waiting_to_start else 0
        above_kib += max(0, one.target_kib - one.want_kib) if one.rule is Rule.SURPLUS else 0
    if above_kib:
        assert spent_kib <= snapshot.host.budget_kib - snapshot.host.headroom_kib


# --- guests that may all be shrunk ----------------------------------------------------------------------


def shared(needs: list[tuple[int, int, int]], budget_mib: int, headroom_mib: int, slider: int = 50) -> list[int]:
    """Targets of guests that may all be shrunk."""
    guests = [
        make_guest(
            name, actual_mib * MIB, demand_mib * MIB, settings={"weight": weight, "buffer_percent": 0}
        )
        for name, (demand_mib, weight, actual_mib) in zip(NAMES, needs, strict=False)
    ]
    snapshot = make_snapshot(
        *guests, budget_kib=budget_mib * MIB, headroom_kib=headroom_mib * MIB, slider=slider
    )
    return [decided.target_kib for decided in one_iteration(snapshot).guests]


@pytest.mark.parametrize("slider", [0, 25, 50])
@given(NEEDS, MIBS, st.integers(0, 4), st.integers(0, 3000), st.integers(0, 300))
def test_a_lie_takes_nothing_that_another_is_entitled_to(slider, needs, lie_mib, place, more_mib, headroom_mib):
    """I5: whatever one guest says, each other one is to have at least its demand or its entitlement, if less."""
    liar = place % len(needs)
    needs[liar] = (lie_mib, *needs[liar][1:])
    budget_mib = 256 * len(needs) + headroom_mib + more_mib
    targets = shared(needs, budget_mib, headroom_mib, slider)
    weights = sum(weight for _, weight, _ in needs)
    for index, (demand_mib, weight, _) in enumerate(needs):
        entitled_mib = 256 + more_mib * weight / weights
        if index != liar:
            assert targets[index] >= min(max(demand_mib, 256), 1024, entitled_mib) * MIB - 1


@pytest.mark.parametrize("slider", [0, 25, 50])
@given(NEEDS, st.integers(0, 4), st.integers(0, 3000), st.integers(0, 300))
def test_a_liar_gains_no_more_than_its_entitlement_from_those_in_need(slider, needs, place, more_mib, headroom_mib):
    """I5: where nobody has enough, asking for everything yields the entitlement and no more."""
    liar = place % len(needs)
    needs = [(1024, weight, 256) for _, weight, _ in needs]
    targets = shared(needs, 256 * len(needs) + headroom_mib + more_mib, headroom_mib, slider)
    assume(all(target < 1024 * MIB for target in targets))
    share = needs[liar][1] / sum(weight for _, weight, _ in needs)
    assert targets[liar] <= (256 + more_mib * share) * MIB + len(needs)  # KiB, of rounding


@given(NEEDS, st.integers(0, 3000))
def test_a_reported_floor_gives_nothing(needs, more_mib):
    """I5: a guest that claims a floor of all its RAM keeps what it has and is not given a byte for it."""
    budget_mib = 256 * len(needs) + more_mib
    guests = [
        make_guest(name, actual_mib * MIB, demand_mib * MIB, settings={"weight": weight, "buffer_percent": 0})
        for name, (demand_mib, weight, actual_mib) in zip(NAMES, needs, strict=False)
    ]
    liar = replace(guests[0], report=make_report(floor_kib=RAM_KIB))
    decision = one_iteration(make_snapshot(liar, *guests[1:], budget_kib=budget_mib * MIB))
    honest_kib = max(shared(needs, budget_mib, 0)[0], liar.vm.actual_kib)
    assert decision.guests[0].target_kib <= honest_kib + ROUNDING_KIB


# --- a fixed point --------------------------------------------------------------------------------------


def arrived(guest: GuestSnapshot, decided: GuestDecision) -> GuestSnapshot:
    """The same guest with the same needs, once its balloon is where it was sent."""
    size_kib = decided.target_kib
    return replace(
        guest,
        vm=replace(guest.vm, actual_kib=size_kib),
        booking=replace(guest.booking, assigned_kib=size_kib),
        hypervisor_target_kib=size_kib,
    )


@pytest.mark.parametrize("slider", SLIDERS)
@given(NEEDS, st.integers(0, 4000), st.integers(0, 300), st.lists(MIBS, min_size=5, max_size=5))
def test_targets_reach_a_fixed_point_within_three_decisions(slider, needs, more_mib, headroom_mib, caches_mib):
    """I6: with constant needs and balloons that follow, the fourth decision is the third, and the tenth as well."""
    guests = [
        make_guest(
            name,
            actual_mib * MIB,
            demand=make_demand(demand_mib * MIB, cache_kib=cache_mib * MIB),
            settings={"weight": weight},
        )
        for name, (demand_mib, weight, actual_mib), cache_mib in zip(NAMES, needs, caches_mib, strict=False)
    ]
    budget_mib = 256 * len(needs) + headroom_mib + more_mib
    snapshot = make_snapshot(
        *guests, budget_kib=budget_mib * MIB, headroom_kib=headroom_mib * MIB, slider=slider
    )
    decisions = []
    for _ in range(10):
        decided = one_iteration(snapshot).guests
        decisions.append([one.target_kib for one in decided])
        guests = [arrived(guest, one) for guest, one in zip(snapshot.guests, decided, strict=True)]
        snapshot = replace(snapshot, guests=tuple(guests))
    for later in decisions[3:]:
        for third_kib, target_kib in zip(decisions[2], later, strict=True):
            assert abs(target_kib - third_kib) <= ROUNDED_KIB


@pytest.mark.parametrize("slider", SLIDERS)
@given(
    st.lists(st.tuples(st.integers(96, 1000), WEIGHTS), min_size=2, max_size=4),
    st.integers(0, 2000),
    st.sampled_from([0, 100]),
)
@settings(max_examples=12)
def test_constant_guests_are_left_in_peace(slider, needs, more_mib, headroom_mib):
    """I6: once demand is constant and balloons have arrived, no decision and no command follows."""
    chosen = [make_settings(name, weight=weight) for name, (_, weight) in zip(NAMES, needs, strict=False)]
    characters = [Character(helps_itself=False) for _ in chosen]
    budget_kib = (1024 + 320 * len(needs) + more_mib + headroom_mib) * MIB
    world = World(budget_kib, characters, headroom_mib * MIB, chosen, slider)
    world.boot_all()
    for guest, (use_mib, _) in zip(world.guests, needs, strict=True):
        guest.use_kib = use_mib * MIB
    world.turns(150, 5.0)  # the past has faded from demand by then, or what is left of it fades too slowly to be seen
    world.watch.quiet = True
    decisions = set()
    for _ in range(10):
        world.turn()
        assert world.decision is not None
        decisions.add(tuple(guest.target_kib for guest in world.decision.guests))
    assert len(decisions) == 1
