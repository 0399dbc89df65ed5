"""The mover: what a grant may spend, who gets it first, and what it is not repeated for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ballonet_host_coord.model import (
    AgentFacts,
    AskInflate,
    Booking,
    HostFacts,
    RunState,
    SetTarget,
    TellDeflate,
)

from .builders import GIB, MIB, NOW_S, make_demand, make_guest, make_vm
from .steps import guest_at, settled, step


def test_a_grant_is_at_once_and_told_beside() -> None:
    """The balloon does not wait for the agent; an agent that is not there is not told."""
    short = guest_at(500, demand_kib=700 * MIB)
    told = step(settled(500), (short, 700))
    assert told == [SetTarget("a", 700 * MIB, "so decided"), TellDeflate("a", 1, 700 * MIB, "so decided")]
    assert step(settled(500), (replace(short, agent=AgentFacts()), 700)) == told[:1]


def test_memory_is_given_after_it_was_taken() -> None:
    """I1: the room is what the books show now, not what is hoped for."""
    rich, short = guest_at(900), make_guest("b", 300 * MIB, 600 * MIB)
    commands = step(settled(900, 300), (rich, 500), (short, 600), budget_kib=1300 * MIB)
    assert [order.target_kib for order in commands if isinstance(order, SetTarget)] == [400 * MIB]


def test_an_excess_is_not_made_larger() -> None:
    """I1: overdrawn, nobody is granted anything."""
    short = make_guest("a", 300 * MIB, 600 * MIB)
    assert step(settled(300), (short, 600), budget_kib=200 * MIB) == []


def test_a_grant_is_booked_from_the_moment_of_setting() -> None:
    """What is in flight cannot be given a second time."""
    ledger = settled(300, 300)
    first, second = make_guest("a", 300 * MIB, 600 * MIB), make_guest("b", 300 * MIB, 300 * MIB)
    step(ledger, (first, 600), (second, 300), budget_kib=900 * MIB)
    assert ledger.target_kib("a") == 600 * MIB
    first = replace(first, booking=Booking(600 * MIB, 0, False))
    second = replace(second, demand=make_demand(600 * MIB))
    assert step(ledger, (first, 600), (second, 600), now_s=NOW_S + 1, budget_kib=900 * MIB) == []


def test_a_release_ends_with_all_of_it() -> None:
    """What is missing at its end is too little for a donor to be asked for, and comes from the headroom."""
    nearly = replace(guest_at(1016, agent=AgentFacts()), released=True)
    host = {"budget_kib": 1020 * MIB, "headroom_kib": 64 * MIB, "facts": HostFacts(8 * GIB, 4 * GIB)}
    assert step(settled(1016), (nearly, 1024), **host) == []
    host["budget_kib"] = 1024 * MIB
    others = [(make_guest(name, 0, 0, vm=make_vm(actual_kib=0), booking=Booking(0, 0, False)), 0) for name in "bc"]
    assert step(settled(1016), (replace(nearly, released=False), 1024), *others, **host) == []
    assert step(settled(1016), (nearly, 1024), *others, **host) == [SetTarget("a", 1024 * MIB, "so decided")]


def test_a_release_that_lacks_more_waits_for_donors() -> None:
    """The headroom is for urgent asks: what donors can be asked for is theirs to give."""
    half = replace(guest_at(700, agent=AgentFacts()), released=True)
    host = {"budget_kib": 1024 * MIB, "headroom_kib": 324 * MIB, "facts": HostFacts(8 * GIB, 4 * GIB)}
    assert step(settled(700), (half, 1024), **host) == []


def test_a_small_excess_is_worth_a_command_while_a_release_lacks() -> None:
    """Spread over many guests it is what the released one waits for."""
    donor, released = guest_at(510), replace(make_guest("b", 500 * MIB, 100 * MIB), released=True)
    host = {"budget_kib": 1010 * MIB}
    assert step(settled(510, 500), (donor, 500), (replace(released, released=False), 600), **host) == []
    (ask,) = step(settled(510, 500), (donor, 500), (released, 600), **host)
    assert isinstance(ask, AskInflate)


@pytest.mark.parametrize("whose", ["operator's or another mover's", "its devices'"])
def test_who_is_left_alone_is_granted_nothing(whose: str) -> None:
    """Decided for it is what it is booked with, which may be more than its balloon leaves it."""
    guest = guest_at(500, demand_kib=400 * MIB)
    by_devices = replace(guest, vm=replace(guest.vm, hands_off="VFIO"))
    fixed = replace(guest, hands_off="paused") if whose[0] == "o" else by_devices
    assert step(settled(500), (fixed, 700)) == []
    assert step(settled(500), (guest, 700)) != []


def test_what_is_not_held_for_a_start_yet_is_there_for_the_short() -> None:
    """A reservation that waits keeps others from growing, and starves nobody (I4); one that is held is promised."""
    host = {"budget_kib": 700 * MIB, "headroom_kib": 64 * MIB, "facts": HostFacts(8 * GIB, 4 * GIB)}
    short = guest_at(500, agent=AgentFacts(), demand_kib=700 * MIB)
    for held_kib, plain_mib, urgent_mib in ((0, None, 700), (300 * MIB, None, None)):
        for changes, target_mib in (({}, plain_mib), ({"urgent": True}, urgent_mib)):
            orders = step(settled(500), (short, 700, changes), reserved_kib=300 * MIB, held_kib=held_kib, **host)
            assert orders == ([SetTarget("a", target_mib * MIB, "so decided")] if target_mib else [])


def test_memory_that_was_plugged_in_or_out_is_nobodys_order() -> None:
    """`actual` goes with the RAM: no other mover, and no size of ours any more."""
    ledger = settled(1024)
    for second in range(10):
        step(ledger, (guest_at(1024, NOW_S + second), 1024), now_s=NOW_S + second)
    for second in range(10, 20):
        smaller = guest_at(768, NOW_S + second)
        smaller = replace(smaller, vm=replace(smaller.vm, ram_kib=smaller.vm.ram_kib - 256 * MIB))
        step(ledger, (smaller, 768), now_s=NOW_S + second)
        assert ledger.set_by_another_kib("a") is None
    assert ledger.target_kib("a") is None


def test_the_headroom_pays_urgent_asks_alone() -> None:
    """And only as far as the host's own MemAvailable shows it."""
    host = {"budget_kib": 600 * MIB, "headroom_kib": 200 * MIB}
    short = guest_at(300, agent=AgentFacts(), demand_kib=900 * MIB)
    plain = step(settled(300), (short, 900), **host)
    assert plain == [SetTarget("a", 400 * MIB, "so decided")]
    for available_mib, target_mib in ((9000, 600), (150, 450), (0, 400)):
        facts = HostFacts(8 * GIB, available_mib * MIB)
        urgent = step(settled(300), (short, 900, {"urgent": True}), facts=facts, **host)
        assert urgent == [SetTarget("a", target_mib * MIB, "so decided")]


def test_the_furthest_below_its_demand_per_weight_comes_first() -> None:
    """I4: where the room does not do for both; an urgent ask comes before any."""
    light = make_guest("a", 300 * MIB, 600 * MIB, settings={"weight": 1000})
    heavy = make_guest("b", 300 * MIB, 700 * MIB, settings={"weight": 9000})
    host = {"budget_kib": 700 * MIB}
    first = step(settled(300, 300), (light, 600), (heavy, 700), **host)[0]
    assert first == SetTarget("a", 400 * MIB, "so decided")
    first = step(settled(300, 300), (light, 600), (heavy, 700, {"urgent": True}), **host)[0]
    assert first == SetTarget("b", 400 * MIB, "so decided")


@pytest.mark.parametrize(
    "changes",
    [{"vm": make_vm(run_state=RunState.PAUSED)}, {"booking": Booking(1024 * MIB, 0, claimed=True)}],
)
def test_who_cannot_be_moved_gets_nothing(changes) -> None:
    """Neither a booting guest nor one that does not run."""
    assert step(settled(300), (guest_at(300, demand_kib=700 * MIB, **changes), 700)) == []


def test_a_grant_under_way_is_not_repeated() -> None:
    """One command for one decision, until it changes."""
    ledger = settled(500)
    step(ledger, (guest_at(500, demand_kib=700 * MIB), 700))
    assert step(ledger, (guest_at(600, NOW_S + 1, demand_kib=700 * MIB), 700), now_s=NOW_S + 1) == []


def test_a_balloon_that_does_not_empty_is_not_granted_the_same_again() -> None:
    """It would only be booked and lack elsewhere; after half a minute it is tried once more."""
    ledger = settled(300)
    for second in range(8):
        step(ledger, (guest_at(300, NOW_S + second, demand_kib=700 * MIB), 700), now_s=NOW_S + second)
    assert ledger.target_kib("a") == 300 * MIB
    step(ledger, (guest_at(300, NOW_S + 40, demand_kib=700 * MIB), 700), now_s=NOW_S + 40)
    assert ledger.target_kib("a") == 700 * MIB


def test_nobody_is_granted_what_machines_that_are_not_listed_may_hold() -> None:
    """A plain guest has what is left beside them; before anybody has looked for them nothing, and nobody is shrunk for
    them."""
    short = make_guest("a", 300 * MIB, 600 * MIB)
    for unlisted_kib, granted_mib in ((0, 600), (800 * MIB, 500), (None, 0), (2 * GIB, 0)):
        commands = step(settled(300), (short, 600), budget_kib=1300 * MIB, unlisted_kib=unlisted_kib)
        granted = [order.target_kib for order in commands if isinstance(order, SetTarget)]
        assert granted == ([granted_mib * MIB] if granted_mib else [])
