"""reservations.py: what a start may take of whom, what is held when, and when it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.model import Booking, RunState, Survey, UnmanagedGuest
from ballonet_host_coord.reservations import (
    FIRST_FOR_S,
    LAST_MIB_AFTER_S,
    Reservation,
    Reservations,
    free_kib,
    most_free_kib,
    refusal,
    unlisted_kib,
)
from ballonet_host_coord.settings import OVERHEAD_KIB

from .builders import GIB, MIB, NOW_S, make_guest, make_snapshot, make_vm


def busy(name, **settings):
    """Needs all that it has."""
    return make_guest(name, actual_kib=768 * MIB, demand_kib=760 * MIB, settings=settings)


def wanting(size_kib, weight=5000, name="new", **more):
    return Reservation(name, size_kib, weight, NOW_S, 30.0, **more)


@pytest.mark.parametrize(("weight", "most_mib"), [(1, 16), (2500, 307), (5000, 512), (10000, 768)])
def test_weight_decides_how_much_may_be_taken(weight, most_mib):
    """Of guests that need all they have a start gets its weighted share above their minimums, and no MiB more (I5)."""
    snapshot = make_snapshot(busy("alpha", minimum_kib=0), busy("beta", minimum_kib=0), budget_kib=1536 * MIB)
    assert refusal(snapshot, wanting(most_mib * MIB, weight)) == ""
    assert "can be freed for weight" in refusal(snapshot, wanting((most_mib + 1) * MIB, weight))


def test_minimums_and_headroom_are_never_taken():
    """However heavy a start is: above the minimums it has its weighted share of the rest."""
    guests = [busy(name, minimum_kib=700 * MIB) for name in ("alpha", "beta")]
    snapshot = make_snapshot(*guests, budget_kib=1600 * MIB, headroom_kib=100 * MIB)
    assert refusal(snapshot, wanting(50 * MIB, 10000)) == ""
    said = refusal(snapshot, wanting(110 * MIB, 10000))
    assert said.startswith("110 MiB for new: at most 50 MiB can be freed for weight 10000; budget 1600 MiB, headroom")


def test_what_cannot_be_shrunk_is_not_counted():
    """A guest that nobody may shrink now gives nothing to a start."""
    held = replace(busy("alpha"), report=None, demand=None)
    snapshot = make_snapshot(held, budget_kib=1024 * MIB)
    assert refusal(snapshot, wanting(256 * MIB, 10000)) == ""
    assert refusal(snapshot, wanting(257 * MIB, 10000)) != ""


def test_a_guest_that_boots_counts_with_what_it_boots_with():
    """Its boot claim comes back when its driver has answered: who may wait is not refused for it. One that is left
    alone keeps its claim."""
    booting = make_guest(
        "alpha", report=None, demand=None, booking=Booking(1024 * MIB, 0, claimed=True),
        settings={"minimum_kib": 256 * MIB, "startup_kib": 300 * MIB},
    )  # fmt: skip
    snapshot = make_snapshot(booting, budget_kib=1024 * MIB)
    assert refusal(snapshot, wanting(724 * MIB)) == ""
    assert refusal(snapshot, wanting(725 * MIB, 1)) != ""
    paused = replace(booting, hands_off="paused by the operator")
    assert refusal(make_snapshot(paused, budget_kib=1024 * MIB), wanting(MIB, 10000)) != ""


def test_others_count_with_what_they_will_have():
    """A machine that boots with less than its size gives the rest back; each is held with all of it, one after the
    other."""
    reservations = Reservations()
    for name in ("one", "two", "three"):
        reservations.ask(wanting(800 * MIB, name=name, settled_kib=300 * MIB))
    assert reservations.settled_kib("three") == 600 * MIB
    assert reservations.settled_kib("four") == 900 * MIB
    assert reservations.reserved_kib == 2400 * MIB
    assert [item.name for item in reservations.step(make_snapshot(budget_kib=1500 * MIB))] == ["one"]


def test_held_when_the_books_have_it_free_and_in_order():
    """The first that was asked for is held first; a later one does not overtake it, though it is smaller."""
    reservations = Reservations()
    reservations.ask(wanting(800 * MIB, name="one"))
    reservations.ask(wanting(100 * MIB, name="two"))
    tight = make_snapshot(make_guest(settings={"minimum_kib": 128 * MIB}), budget_kib=1024 * MIB)
    assert reservations.step(tight) == []
    assert free_kib(tight) == 512 * MIB
    (one,) = reservations.step(make_snapshot(make_guest(), budget_kib=1400 * MIB))
    assert (one.name, one.held_since_s) == ("one", NOW_S)
    assert reservations.reserved_kib == 900 * MIB


def test_one_that_cannot_be_met_blocks_nobody():
    """More than there would be with every guest at its floor: later ones pass it and nobody is shrunk for it. It is
    taken up again when there is room for it."""
    reservations = Reservations()
    reservations.ask(wanting(100 * GIB, name="huge"))
    reservations.ask(wanting(100 * MIB, name="small"))
    guest = make_guest(settings={"minimum_kib": 256 * MIB})
    assert [item.name for item in reservations.step(make_snapshot(guest, budget_kib=1024 * MIB))] == ["small"]
    assert (reservations.reserved_kib, reservations.settled_kib("other")) == (100 * MIB, 100 * MIB)
    reservations.step(make_snapshot(guest, budget_kib=100 * GIB + 400 * MIB))
    assert reservations.reserved_kib == 100 * MIB
    reservations.step(make_snapshot(guest, budget_kib=100 * GIB + 500 * MIB))
    assert reservations.reserved_kib == 100 * GIB + 100 * MIB


def test_one_that_can_be_met_is_first_only_for_a_while():
    """It has later ones wait while it may hope that guests shrink, not for all its timeout; and nobody takes what is
    held."""
    reservations = Reservations()
    reservations.ask(wanting(700 * MIB, name="slow"))
    reservations.ask(wanting(500 * MIB, name="small"))
    guest = make_guest(actual_kib=512 * MIB, settings={"minimum_kib": 256 * MIB})
    reservations._all["slow"] = replace(reservations.get("slow"), timeout_s=600.0)
    reservations._all["small"] = replace(reservations.get("small"), timeout_s=600.0)
    tight = {"budget_kib": 1024 * MIB}
    assert reservations.step(make_snapshot(guest, **tight, now_s=NOW_S + FIRST_FOR_S - 1)) == []
    (held,) = reservations.step(make_snapshot(guest, **tight, now_s=NOW_S + FIRST_FOR_S))
    assert held.name == "small"
    reservations.ask(replace(wanting(100 * MIB, name="last"), timeout_s=600.0))
    assert reservations.step(make_snapshot(guest, **tight, now_s=NOW_S + FIRST_FOR_S + 1)) == []


def test_what_boots_is_not_in_the_way_for_ever():
    """A machine's boot claim comes back, so who is asked for beside it keeps its place."""
    booting = make_guest(
        "alpha", report=None, demand=None, booking=Booking(1024 * MIB, 0, claimed=True),
        settings={"minimum_kib": 256 * MIB, "startup_kib": 300 * MIB},
    )  # fmt: skip
    snapshot = make_snapshot(booting, budget_kib=1024 * MIB)
    assert most_free_kib(snapshot) == 724 * MIB
    stuck = replace(booting, vm=replace(booting.vm, run_state=RunState.PAUSED))
    assert most_free_kib(make_snapshot(stuck, budget_kib=1024 * MIB)) == 0
    # Nor one that is left alone, whose claim may never end; and what nobody has listed yet is not there either.
    left = replace(booting, hands_off="paused by the operator")
    assert most_free_kib(make_snapshot(left, budget_kib=1024 * MIB)) == 0
    assert most_free_kib(make_snapshot(booting, budget_kib=1024 * MIB, unlisted_kib=200 * MIB)) == 524 * MIB


def test_the_last_mib_come_from_the_headroom():
    """What guests keep because it is too little for a command, once they have been asked: else it would wait for all of
    its time. No more than that, and never more than the headroom has."""
    for short_kib, after_s, headroom_mib, held in (
        (780, LAST_MIB_AFTER_S, 16, 1), (780, LAST_MIB_AFTER_S - 1, 16, 0), (9 * MIB, LAST_MIB_AFTER_S, 16, 0),
        (3 * MIB, LAST_MIB_AFTER_S, 2, 0),
    ):  # fmt: skip
        reservations = Reservations()
        reservations.ask(wanting(256 * MIB))
        guests = [make_guest(name, actual_kib=512 * MIB) for name in ("alpha", "beta")]
        books = make_snapshot(*guests, headroom_kib=headroom_mib * MIB)
        budget_kib = books.booked_kib + headroom_mib * MIB + 256 * MIB - short_kib
        snapshot = make_snapshot(
            *guests, headroom_kib=headroom_mib * MIB, budget_kib=budget_kib, now_s=NOW_S + after_s
        )
        assert len(reservations.step(snapshot)) == held, (short_kib, after_s, headroom_mib)


def test_nothing_is_held_before_everybody_has_been_looked_at():
    """After a start of the coordinator the books know too little."""
    reservations = Reservations()
    reservations.ask(wanting(100 * MIB))
    assert reservations.step(make_snapshot(make_guest(unseen=True), budget_kib=4 * GIB)) == []
    assert [item.is_held for item in reservations.step(make_snapshot(make_guest(), budget_kib=4 * GIB))] == [True]


def test_nothing_is_held_of_what_machines_that_are_not_listed_may_hold():
    """Before anybody has looked for them nothing is, then what is left beside the whole RAM of each."""
    reservations = Reservations()
    reservations.ask(wanting(100 * MIB))
    for unlisted, held in ((None, 0), (4 * GIB, 0), (3 * GIB, 1)):
        assert len(reservations.step(make_snapshot(budget_kib=4 * GIB, unlisted_kib=unlisted))) == held


def test_what_machines_that_are_not_listed_may_hold():
    """Each all its RAM and QEMU's own, or what it holds already; a budget that has gone without that pays the rest."""
    small, large = UnmanagedGuest(1, "a", 300 * MIB, GIB), UnmanagedGuest(2, "b", 3 * GIB, GIB)
    survey = Survey(NOW_S, (), (small, large))
    assert unlisted_kib(None, counted=False) is None
    assert unlisted_kib(survey, counted=False) == GIB + OVERHEAD_KIB + 3 * GIB
    assert unlisted_kib(survey, counted=True) == GIB + OVERHEAD_KIB - 300 * MIB


@pytest.mark.parametrize(("held_since_s", "ends_s"), [(None, NOW_S + 30), (NOW_S, NOW_S + 60)])
def test_it_ends(held_since_s, ends_s):
    """Pending for its timeout, held for its time, and not a moment longer."""
    room_kib = 4 * GIB if held_since_s is not None else MIB
    reservations = Reservations([wanting(100 * MIB, hold_s=60.0, held_since_s=held_since_s)])
    assert reservations.step(make_snapshot(budget_kib=room_kib, now_s=ends_s - 1)) == []
    assert len(reservations.step(make_snapshot(budget_kib=room_kib, now_s=ends_s))) == 1
    assert reservations.reserved_kib == 0


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.PAUSED, RunState.MIGRATING, RunState.UNREACHABLE])
def test_it_ends_when_the_machine_is_there(state):
    """From then on the machine is booked itself, and twice would be wrong."""
    reservations = Reservations([wanting(100 * MIB, name="web", held_since_s=NOW_S)])
    absent = make_guest("web", vm=make_vm(run_state=RunState.ABSENT), booking=Booking(0, 0, claimed=False))
    assert reservations.step(make_snapshot(absent)) == []
    there = make_guest("web", vm=make_vm(run_state=state))
    assert [item.name for item in reservations.step(make_snapshot(there))] == ["web"]


@given(
    sizes_mib=st.lists(st.integers(1, 900), max_size=6),
    demands_mib=st.lists(st.integers(100, 1000), max_size=4),
    weight=st.integers(1, 10000),
)
def test_what_is_held_never_exceeds_the_room(sizes_mib, demands_mib, weight):
    """However many ask: what is held fits beside guests and headroom (I1)."""
    guests = [make_guest(f"g{n}", demand_kib=mib * MIB) for n, mib in enumerate(demands_mib)]
    snapshot = make_snapshot(*guests, budget_kib=3 * GIB, headroom_kib=64 * MIB)
    reservations = Reservations()
    for number, mib in enumerate(sizes_mib):
        known = replace(snapshot, host=replace(snapshot.host, reserved_kib=reservations.reserved_kib))
        if not refusal(known, wanting(mib * MIB, weight)):
            reservations.ask(wanting(mib * MIB, weight, name=f"new{number}"))
    reservations.step(snapshot)
    assert sum(item.size_kib for item in reservations if item.is_held) <= max(0, free_kib(snapshot))


def test_asking_again_keeps_what_is_held():
    """Who asks twice (a hook that runs again) has its room all the time; more than before is made room for anew."""
    reservations = Reservations([wanting(500 * MIB, held_since_s=NOW_S - 50)])
    reservations.ask(wanting(400 * MIB))
    assert (reservations.reserved_kib, reservations.held_kib) == (400 * MIB, 400 * MIB)
    assert reservations.get("new").held_since_s == NOW_S
    reservations.ask(wanting(600 * MIB))
    assert (reservations.reserved_kib, reservations.held_kib) == (600 * MIB, 0)


def test_it_stands_while_its_machine_waits_before_its_first_instruction():
    """Such a machine is booked with next to nothing: until its claim is, its room is the reservation's, and its own."""
    reservations = Reservations([wanting(500 * MIB, name="web", held_since_s=NOW_S)])
    waits = make_guest("web", vm=make_vm(run_state=RunState.PRELAUNCH), booking=Booking(20 * MIB, 0, claimed=False))
    assert reservations.step(make_snapshot(waits)) == []
    entered = reservations.entered(make_snapshot(waits, make_guest("db")))
    assert [guest.held_kib for guest in entered.guests] == [500 * MIB, 0]
    assert (entered.host.reserved_kib, entered.host.held_kib) == (500 * MIB, 500 * MIB)
    started = replace(waits, booking=Booking(1024 * MIB, 0, claimed=True))
    assert len(reservations.step(make_snapshot(started))) == 1


@pytest.mark.parametrize("state", ["boots", "has booted a moment ago"])
def test_a_start_is_not_refused_for_who_is_still_booting(state):
    """After a reboot of the host guests start together: each will give what it is given soon enough."""
    other = make_guest("db", actual_kib=1024 * MIB, demand_kib=300 * MIB, settings={"startup_kib": 512 * MIB})
    if state == "boots":
        other = replace(other, booking=Booking(1024 * MIB, 0, claimed=True), demand=None, report=None)
    else:
        other = replace(other, vm=replace(other.vm, boot_began_s=NOW_S - 5))
    snapshot = make_snapshot(other, budget_kib=1200 * MIB)
    assert refusal(snapshot, wanting(600 * MIB)) == ""
    paused = replace(other, vm=replace(other.vm, run_state=RunState.PAUSED))
    assert refusal(make_snapshot(paused, budget_kib=1200 * MIB), wanting(600 * MIB)) != ""
