"""Who should have what: ranks, floors, reasons to hold, and the words that operators read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.arbiter import fresh_for_s, one_iteration
from ballonet_host_coord.host_state import effective_slider
from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    GuestDecision,
    HostFacts,
    HostState,
    LinkState,
    Migration,
    Phase,
    ReportKind,
    Residency,
    Rule,
    RunState,
    Status,
)
from ballonet_protocol.limits import SETTLING_S

from .builders import GIB, MIB, NOW_S, make_demand, make_guest, make_report, make_snapshot, make_vm

IDLE = {"demand_kib": 100 * MIB}


def decide(*guests, **host) -> list[GuestDecision]:
    return list(one_iteration(make_snapshot(*guests, **host)).guests)


def targets_of(*guests, **host) -> list[int]:
    """In whole MiB: ranks round down by some KiB."""
    return [round(decided.target_kib / MIB) for decided in decide(*guests, **host)]


def target_of(guest, **host) -> int:
    return decide(guest, **host)[0].target_kib


# --- ranks ----------------------------------------------------------------------------------------------


def test_with_enough_for_all_everyone_gets_demand_and_buffer() -> None:
    """Surplus stays with the host; nobody gets more than its want or its maximum."""
    small, large = make_guest("a", demand_kib=400 * MIB), make_guest("b", demand_kib=1000 * MIB)
    assert [decided.target_kib for decided in decide(small, large)] == [480 * MIB, 1024 * MIB]


@pytest.mark.parametrize(("demands_mib", "targets_mib"), [((1200, 400), (1024, 480)), ((900, 900), (768, 768))])
def test_the_worked_example_of_the_design(demands_mib, targets_mib) -> None:
    """DESIGN.md, section 4: budget 1824 MiB, headroom 64, overhead 112 for each of two equal guests."""
    guests = [
        replace(guest, booking=replace(guest.booking, overhead_kib=112 * MIB))
        for guest in (make_guest(name, 512 * MIB, mib * MIB) for name, mib in zip("ab", demands_mib, strict=True))
    ]
    decided = decide(*guests, budget_kib=1824 * MIB, headroom_kib=64 * MIB)
    assert [guest.target_kib for guest in decided] == [mib * MIB for mib in targets_mib]


def test_nobody_goes_below_its_minimum() -> None:
    """A guest that needs nothing keeps its minimum."""
    assert target_of(make_guest(demand_kib=0)) == 256 * MIB


def test_demands_come_before_buffers() -> None:
    """Where there is enough for demand alone, no buffer is paid."""
    guests = [make_guest("a", demand_kib=500 * MIB), make_guest("b", demand_kib=400 * MIB)]
    targets = [decided.target_kib for decided in decide(*guests, budget_kib=900 * MIB)]
    assert targets == [500 * MIB, 400 * MIB]


def test_scarce_memory_is_divided_by_weight_above_the_minimums() -> None:
    """Three times the weight is three times the share over the minimum."""
    light = make_guest("a", 256 * MIB, 1000 * MIB, settings={"weight": 1000})
    heavy = make_guest("b", 256 * MIB, 1000 * MIB, settings={"weight": 3000})
    targets = [decided.target_kib for decided in decide(light, heavy, budget_kib=(512 + 400) * MIB)]
    assert targets == [356 * MIB, 556 * MIB]


def test_the_headroom_is_not_divided() -> None:
    """It is kept free for urgent asks."""
    guest = make_guest(actual_kib=256 * MIB, demand_kib=1000 * MIB)
    assert target_of(guest, budget_kib=800 * MIB, headroom_kib=100 * MIB) == 700 * MIB


def test_what_is_held_of_a_demand_is_not_taken_to_fill_the_headroom() -> None:
    """A burst that the headroom paid for stays while it is needed."""
    guest = make_guest(actual_kib=780 * MIB, demand_kib=780 * MIB)
    assert target_of(guest, budget_kib=800 * MIB, headroom_kib=100 * MIB) == 780 * MIB


def test_overheads_and_what_cannot_move_are_paid_first() -> None:
    """QEMU's own memory and a booting guest's claim leave that much less for the others."""
    guest = make_guest("a", 256 * MIB, 1000 * MIB, booking=Booking(256 * MIB, 64 * MIB, False))
    boots = make_guest("b", demand_kib=None, booking=Booking(1024 * MIB, 36 * MIB, True))
    decided = decide(guest, boots, budget_kib=(1024 + 36 + 64 + 500) * MIB)
    assert [one.target_kib for one in decided] == [500 * MIB, 1024 * MIB]


def test_a_machine_that_waits_to_start_takes_buffers_and_no_demand() -> None:
    """Room for a start is made from what others have over demand, and 4 MiB more of each for what does not arrive."""
    vm = make_vm(run_state=RunState.PRELAUNCH)
    waits = make_guest("b", 0, None, vm=vm, booking=Booking(0, 0, False), waiting_to_start=True)
    guest = make_guest("a", 900 * MIB, 700 * MIB)
    assert target_of(guest, budget_kib=1800 * MIB) == 840 * MIB
    assert decide(guest, waits, budget_kib=1800 * MIB)[0].target_kib == 772 * MIB
    assert decide(guest, waits, budget_kib=1700 * MIB)[0].target_kib == 700 * MIB


def test_what_a_falling_guest_still_holds_goes_to_the_short() -> None:
    """The past is worth keeping only while nobody lacks it."""
    falling = make_guest("a", 800 * MIB, demand=make_demand(300 * MIB, held_kib=800 * MIB))
    assert target_of(falling) == 800 * MIB
    short = make_guest("b", 500 * MIB, 900 * MIB)
    shared = [decided.target_kib for decided in decide(falling, short, budget_kib=1300 * MIB)]
    # Demands 300 and 900 leave 100 for buffers of 60 and 124 (its maximum): the same part of each.
    assert [kib // MIB for kib in shared] == [332, 967]
    assert shared == [300 * MIB + 100 * MIB * 60 // 184, 900 * MIB + 100 * MIB * 124 // 184]


def test_a_short_guest_is_not_shrunk_while_another_has_more_than_it_needs() -> None:
    """I4: who holds what it needs and more than its share gives when the idle one has given."""
    holds = make_guest("a", 600 * MIB, 600 * MIB, settings={"weight": 1})
    starves = make_guest("b", 700 * MIB, 1000 * MIB, settings={"weight": 10000})
    idle = make_guest("c", 400 * MIB, 100 * MIB)
    assert decide(holds, starves, idle, budget_kib=1700 * MIB)[0].target_kib == 600 * MIB
    gave = make_guest("c", 256 * MIB, 100 * MIB)
    assert decide(holds, starves, gave, budget_kib=1556 * MIB)[0].target_kib < 400 * MIB


def test_nobody_waits_for_the_memory_of_one_that_refuses() -> None:
    """I4 protects the short from paying for the idle, not the starving from getting their share."""
    holds = make_guest("a", 600 * MIB, 600 * MIB, settings={"weight": 1})
    starves = make_guest("b", 700 * MIB, 1000 * MIB, settings={"weight": 10000})
    refuses = make_guest("c", 400 * MIB, 100 * MIB, refuses=True)
    assert decide(holds, starves, refuses, budget_kib=1700 * MIB)[0].target_kib == 444 * MIB


# --- above demand ---------------------------------------------------------------------------------------

KEEPS = {"slider": 25}
"""Buffers as set, and all that is left stays in guests."""


def test_buffers_that_do_not_fit_are_met_by_the_same_part() -> None:
    """Nobody's spare memory vanishes while another's is whole: each lacks the same part, and by weight."""
    small, large = make_guest("a", 300 * MIB, 300 * MIB), make_guest("b", 600 * MIB, 600 * MIB)
    assert targets_of(small, large, budget_kib=990 * MIB) == [330, 660]
    heavy = make_guest("b", 600 * MIB, 600 * MIB, settings={"weight": 2500})
    assert targets_of(small, heavy, budget_kib=(900 + 60) * MIB) == [330, 630]


def test_worthwhile_cache_ranks_with_the_buffer() -> None:
    """Where it is more than the buffer it stands in for it; it is paid before surplus and after demand."""
    cached = make_guest("a", 400 * MIB, demand=make_demand(400 * MIB, cache_kib=300 * MIB))
    assert targets_of(cached) == [700]
    other = make_guest("b", 500 * MIB, 500 * MIB)
    assert targets_of(cached, other, budget_kib=1100 * MIB) == [550, 550]
    assert targets_of(cached, other, budget_kib=900 * MIB) == [400, 500]


def test_who_has_surplus_keeps_it_while_nobody_needs_it() -> None:
    """Towards performance an idle guest's memory stays where it is; from the middle on the host has it back."""
    rich, poor = make_guest("a", 900 * MIB, 300 * MIB), make_guest("b", 500 * MIB, 300 * MIB)
    assert targets_of(rich, poor, budget_kib=1400 * MIB, **KEEPS) == [900, 500]
    assert targets_of(rich, poor, budget_kib=1400 * MIB) == [360, 360]


def test_whoever_comes_last_is_given_an_eighth_of_its_fair_share_at_least() -> None:
    """Surplus that another keeps is given up that far, so that there is something to grow into."""
    rich, poor = make_guest("a", 1024 * MIB, 300 * MIB), make_guest("b", 376 * MIB, 300 * MIB)
    # 680 are over the buffers, half of them is each one's fair share.
    given = targets_of(rich, poor, budget_kib=1400 * MIB, **KEEPS)
    assert given == [1400 - (360 + 680 // 2 // 8), 360 + 680 // 2 // 8]
    assert targets_of(rich, poor, budget_kib=1600 * MIB, **KEEPS) == [1024, 576]


def test_what_nobody_has_is_handed_out() -> None:
    """First to those that lack part of what they held before, then as surplus, up to the maximum."""
    falling = make_guest("a", 400 * MIB, demand=make_demand(300 * MIB, held_kib=700 * MIB))
    other = make_guest("b", 400 * MIB, 300 * MIB)
    # 400 each are kept, 300 fill up what the one wants, and 100 go by what is missing to the maximum: 324 and 624.
    assert targets_of(falling, other, budget_kib=1200 * MIB, **KEEPS) == [734, 466]
    assert targets_of(falling, other, **KEEPS) == [1024, 1024]


def test_between_the_points_a_part_of_the_surplus_is_kept() -> None:
    """At 40 two fifths of the 664 MiB between its want and its maximum."""
    assert targets_of(make_guest("a", 900 * MIB, 300 * MIB), slider=40) == [626]


@pytest.mark.parametrize("state", [HostState.TIGHT, HostState.CRITICAL])
def test_a_short_host_leaves_nobody_surplus(state) -> None:
    """The slider stands at 80 or 100 then, wherever the operator has put it: less buffer, and no more than that."""
    guest = make_guest("a", 900 * MIB, 300 * MIB)
    assert targets_of(guest, **KEEPS) == [1024]
    assert targets_of(guest, **KEEPS, state=state) == targets_of(guest, slider=effective_slider(25, state))


def test_what_a_critical_host_lacks_is_taken_from_what_guests_hold() -> None:
    """However much was promised: a budget that is too large is one of the ways to get there."""
    guests = [make_guest(name, 800 * MIB, 800 * MIB) for name in "ab"]
    critical = {"state": HostState.CRITICAL, "budget_kib": 16 * GIB}
    assert targets_of(*guests, **critical, lacking_kib=200 * MIB) == [700, 700]
    assert targets_of(*guests, **critical, lacking_kib=9 * GIB) == [256, 256]
    assert targets_of(*guests, **critical, headroom_kib=64 * MIB) == [800, 800]


def test_no_more_is_handed_out_than_the_host_has() -> None:
    """Above demand, a host is not brought to its end for the sake of a budget that is larger than what it has."""
    rich, idle = make_guest("a", 500 * MIB, 500 * MIB), make_guest("b", 500 * MIB, 100 * MIB)
    plenty, little = HostFacts(10 * GIB, 5 * GIB), HostFacts(10 * GIB, GIB)
    assert targets_of(rich, idle, **KEEPS, facts=plenty) == [1024, 1024]
    assert sum(targets_of(rich, idle, **KEEPS, facts=little)) == 1000 + 1024 - 819
    none = HostFacts(10 * GIB, 700 * MIB)
    assert targets_of(rich, idle, **KEEPS, facts=none, state=HostState.TIGHT)[0] >= 500


def test_a_critical_host_gives_to_one_only_what_another_gives() -> None:
    """It has no more than what is held, so nothing is granted out of the budget."""
    short, idle = make_guest("a", 500 * MIB, 900 * MIB), make_guest("b", 500 * MIB, 100 * MIB)
    assert targets_of(short, idle, state=HostState.CRITICAL) == [744, 256]


# --- floors and holds -----------------------------------------------------------------------------------


def test_a_reported_floor_is_kept_and_gives_nothing() -> None:
    """I2: not below it while the guest has it; a guest below its own floor is not lifted for saying so."""
    report = make_report(floor_kib=450 * MIB)
    assert target_of(make_guest(report=report, **IDLE)) == 450 * MIB
    assert target_of(make_guest(actual_kib=300 * MIB, report=report, **IDLE)) == 300 * MIB


def test_a_guest_judged_by_statistics_keeps_a_quarter_over_its_use() -> None:
    """I3: without an agent nobody objects, so more is left."""
    report = make_report(kind=ReportKind.STATISTICS)
    guest = make_guest(demand_kib=400 * MIB, report=report, agent=AgentFacts(), settings={"buffer_percent": 0})
    assert target_of(guest) == 500 * MIB


def test_without_deflate_on_oom_a_guest_is_only_grown() -> None:
    """Unless the operator allows it, and then never below what is committed."""
    vm = make_vm(deflate_on_oom=False)
    demand = make_demand(100 * MIB, committed_kib=400 * MIB)
    assert target_of(make_guest(vm=vm, **IDLE)) == 512 * MIB
    assert target_of(make_guest(vm=vm, demand_kib=600 * MIB)) == 720 * MIB
    allowed = {"shrink_without_deflate_on_oom": True}
    assert target_of(make_guest(vm=vm, demand=demand, settings=allowed)) == 400 * MIB


HOLDS = {
    "settling": {"vm": make_vm(boot_began_s=NOW_S - SETTLING_S + 0.1)},
    "no report": {"report": None},
    "old": {"report": make_report(NOW_S - 3.1)},
    "does not answer": {"agent": AgentFacts(LinkState.UNRESPONSIVE)},
    "agent does not": {"agent": AgentFacts(LinkState.OPENING)},
    "not reported in it": {"agent": AgentFacts(LinkState.LIVE, live_since_s=NOW_S + 0.1)},
    "not followed": {"stuck_since_s": NOW_S - 7},
    "deflate-on-oom": {"vm": make_vm(deflate_on_oom=None)},
    "paused": {"vm": make_vm(run_state=RunState.PAUSED)},
    "migrating": {"vm": make_vm(run_state=RunState.MIGRATING)},
    "is being migrated away": {"vm": make_vm(run_state=RunState.MIGRATING, migration=Migration.OUTGOING)},
    "was migrated away": {"vm": make_vm(run_state=RunState.MIGRATING, migration=Migration.LEFT)},
    "settling: migrated here": {"vm": make_vm(migration=Migration.ARRIVED, boot_began_s=NOW_S - 1)},
    "migrated here: its": {"vm": make_vm(migration=Migration.ARRIVED), "booking": Booking(512 * MIB, 0, claimed=True)},
    "does not answer: booked": {"vm": make_vm(run_state=RunState.UNREACHABLE)},
    "booting": {"booking": Booking(512 * MIB, 0, claimed=True)},
    "left alone: it uses hugepages": {"vm": make_vm(hands_off="it uses hugepages")},
}


@pytest.mark.parametrize("why", HOLDS)
def test_who_may_not_be_shrunk_is_held_and_says_why(why: str) -> None:
    """I3, I7: an idle guest keeps what it has while there is a reason, and the reason is told."""
    decided = decide(make_guest(**IDLE, **HOLDS[why]))[0]
    assert (decided.target_kib, decided.shrinkable, decided.phase) == (512 * MIB, False, Phase.HOLD)
    assert why in decided.why


def test_who_is_left_alone_is_given_nothing_either() -> None:
    """A guest whose memory may not be moved stays as it is, short or not."""
    vm = make_vm(hands_off="its memory is locked")
    decided = decide(make_guest(vm=vm, demand=make_demand(900 * MIB, urgent=True)))[0]
    assert (decided.target_kib, decided.shrinkable) == (512 * MIB, False)
    assert target_of(make_guest(demand=make_demand(900 * MIB, urgent=True))) > 512 * MIB


def test_the_same_guest_without_a_reason_is_shrunk() -> None:
    """What the table above holds is held by its reason alone."""
    decided = decide(make_guest(**IDLE))[0]
    assert (decided.target_kib, decided.shrinkable, decided.phase) == (256 * MIB, True, Phase.FREEING)


def test_a_stuck_guest_that_is_tried_again_counts_as_one_that_may_move() -> None:
    """Without that it would never be tried."""
    assert decide(make_guest(**IDLE, stuck_since_s=NOW_S - 40, retried=True))[0].shrinkable


def test_a_report_is_fresh_for_three_of_its_periods() -> None:
    """At least 3 s; the period of a session counts while it is live."""
    guest = make_guest()
    assert fresh_for_s(guest) == 3.0
    assert fresh_for_s(replace(guest, agent=AgentFacts(LinkState.LIVE, report_ms=4000))) == 12.0
    assert fresh_for_s(replace(guest, agent=AgentFacts(LinkState.OPENING, report_ms=4000))) == 3.0


def test_a_held_guest_is_not_given_what_it_only_resides() -> None:
    """Pages that the host's kernel took back are booked and are no reason to hand out the balloon."""
    values = {"booking": Booking(1024 * MIB, 0, False), "residency": Residency(1024 * MIB, 0)}
    held = make_guest(actual_kib=400 * MIB, agent=AgentFacts(LinkState.UNRESPONSIVE), **values, **IDLE)
    assert target_of(held) == 400 * MIB
    unknown = make_guest(actual_kib=400 * MIB, report=None, demand_kib=None, **values)
    assert target_of(unknown) == 400 * MIB


def test_a_grant_under_way_stays_while_its_guest_is_held() -> None:
    """Holding takes nothing back that was promised."""
    agent = AgentFacts(LinkState.UNRESPONSIVE)
    assert target_of(make_guest(hypervisor_target_kib=700 * MIB, agent=agent, **IDLE)) == 700 * MIB


def test_a_released_guest_is_headed_for_all_its_ram() -> None:
    """Above its maximum too: it is the operator's word; as far as there is room."""
    guest = make_guest(released=True, settings={"maximum_kib": 700 * MIB}, **IDLE)
    assert target_of(guest) == 1024 * MIB
    assert target_of(guest, budget_kib=900 * MIB, headroom_kib=100 * MIB) == 800 * MIB


def test_what_only_resides_is_no_memory_to_use() -> None:
    """Its status, its urgency and what it keeps of its demand go by the size that the guest may use."""
    refilled = {"residency": Residency(GIB, 0), "booking": Booking(GIB, 0, False)}
    guest = make_guest("a", 500 * MIB, demand=make_demand(900 * MIB, urgent=True), **refilled)
    rich = make_guest("b", 800 * MIB, 790 * MIB)
    decided = decide(guest, rich, budget_kib=1700 * MIB, headroom_kib=64 * MIB)[0]
    assert (decided.status, decided.urgent, decided.phase) == (Status.WARNING, True, Phase.ALLOCATING)


def test_nobody_waits_for_memory_that_only_resides() -> None:
    """I4: a refilled balloon is no excess that its guest could give."""
    holds = make_guest("a", 600 * MIB, 600 * MIB, settings={"weight": 1})
    starves = make_guest("b", 700 * MIB, 1000 * MIB, settings={"weight": 10000})
    gave = make_guest("c", 256 * MIB, 100 * MIB, residency=Residency(GIB, 0), booking=Booking(GIB, 0, False))
    assert decide(holds, starves, gave, budget_kib=1556 * MIB)[0].target_kib < 400 * MIB


def test_what_only_resides_is_nothing_to_share() -> None:
    """No shrink frees the pages of a refilled balloon: the others share what there is without them."""
    rich, poor = make_guest("a", 1000 * MIB, 1000 * MIB), make_guest("b", 300 * MIB, 1000 * MIB)
    gave = make_guest("c", 256 * MIB, 100 * MIB, residency=Residency(GIB, 0), booking=Booking(GIB, 0, False))
    targets = [decided.target_kib for decided in decide(rich, poor, gave, budget_kib=(1600 + 768) * MIB)]
    assert targets == [672 * MIB, 672 * MIB, 256 * MIB]


# --- what is said ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demand_mib", "status"), [(100, Status.OK), (426, Status.OK), (460, Status.LOW), (520, Status.WARNING)]
)
def test_the_three_words(demand_mib, status) -> None:
    """OK: demand and buffer met; Low: the buffer is not; Warning: demand is not."""
    assert decide(make_guest(demand_kib=demand_mib * MIB))[0].status is status


def test_who_is_kept_above_its_maximum_is_told_its_floor() -> None:
    """That nobody else needs the memory is not why: it may not be taken further down now."""
    report = make_report(kind=ReportKind.STATISTICS)
    guest = make_guest(
        actual_kib=600 * MIB, demand_kib=440 * MIB, report=report, agent=AgentFacts(),
        settings={"maximum_kib": 500 * MIB},
    )  # fmt: skip
    (decided,) = decide(guest, slider=0)
    assert (decided.target_kib, decided.rule) == (550 * MIB, Rule.FLOOR)


def test_an_absent_guest_has_no_status() -> None:
    """What does not run is neither well nor short."""
    vm = make_vm(run_state=RunState.ABSENT)
    decided = decide(make_guest(vm=vm, demand_kib=None, booking=Booking(0, 0, False)))[0]
    assert (decided.status, decided.why) == (Status.ABSENT, "not running")


@pytest.mark.parametrize("urgent", [True, False])
def test_urgent_is_who_is_short_and_says_so(urgent) -> None:
    """An urgent demand that is met already is none."""
    assert decide(make_guest(demand=make_demand(900 * MIB, urgent=urgent)))[0].urgent is urgent
    assert not decide(make_guest(demand=make_demand(400 * MIB, urgent=urgent)))[0].urgent


def test_an_overdraft_is_told_with_amount_and_cause() -> None:
    """By whose act the guests hold more than the budget, the largest first."""
    took = make_guest("a", actual_kib=900 * MIB, hypervisor_target_kib=500 * MIB)
    boots = make_guest("b", demand_kib=None, booking=Booking(1024 * MIB, 0, True))
    decision = one_iteration(make_snapshot(took, boots, budget_kib=1800 * MIB))
    assert decision.overdrawn_kib == 124 * MIB
    first, second = decision.overdrawn_cause.split("; ")
    assert first.startswith("b has booted")
    assert second.startswith("a took 400 MiB back")
    assert one_iteration(make_snapshot(took, boots)).overdrawn_cause == ""


def test_headroom_counts_as_there_only_while_the_host_shows_it() -> None:
    """Free in the books and gone in MemAvailable is gone."""
    guest = make_guest(actual_kib=512 * MIB)
    for available_mib, free_mib in ((4000, 100), (30, 30)):
        facts = HostFacts(8 * GIB, available_mib * MIB)
        snapshot = make_snapshot(guest, budget_kib=GIB, headroom_kib=100 * MIB, facts=facts)
        assert one_iteration(snapshot).headroom_free_kib == free_mib * MIB


@given(
    st.lists(
        st.tuples(
            st.integers(100, 1100), st.none() | st.integers(0, 1100), st.sampled_from(RunState), st.booleans()
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 4000),
    st.integers(0, 500),
)
def test_every_guest_gets_an_answer_within_its_bounds(those, budget_mib, headroom_mib) -> None:
    """I2: one decision each, in order; none lifts a guest above its maximum or sends it below its floor."""
    guests = [
        make_guest(
            str(index),
            min(actual, 1024) * MIB,
            None if demand is None else demand * MIB,
            vm=make_vm(actual_kib=min(actual, 1024) * MIB, run_state=state, deflate_on_oom=deflates),
        )
        for index, (actual, demand, state, deflates) in enumerate(those)
    ]
    decided = decide(*guests, budget_kib=budget_mib * MIB, headroom_kib=headroom_mib * MIB)
    assert [one.name for one in decided] == [guest.name for guest in guests]
    for one, guest in zip(decided, guests, strict=True):
        assert one.target_kib <= max(1024 * MIB, guest.vm.actual_kib)
        if one.target_kib < guest.vm.actual_kib:
            assert one.shrinkable
            assert one.target_kib >= one.floor_kib >= 256 * MIB
        assert one.why
