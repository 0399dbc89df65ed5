"""A balloon at rest: what others do to it is seen, said and booked, and no stop leaves a guest below its floor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import OOM_WHY, SOON, Booking, Residency, RunState, SetTarget, TellDeflate, Wish
from ballonet_host_coord.move import (
    FORGIVEN_S,
    RETRY_MOST_S,
    RETRY_S,
    STUCK_S,
    UNCOOPERATIVE_S,
    Move,
)

from .builders import GIB, MIB, NOW_S, make_demand, make_guest, make_settings, make_vm
from .steps import consent_to, guest_at, settled, step, stepping, waiting
from .world import Character, World


def targets(commands) -> list[float]:
    return [order.target_kib / MIB for order in commands if isinstance(order, SetTarget)]


# --- another mover --------------------------------------------------------------------------------------


def test_a_guest_that_was_lowered_by_whom_is_not_certain_is_granted_anew() -> None:
    """Its target is what it has now, so that what it lacks is seen and given: not in the same turn, but in the next."""
    ledger = settled(900)
    ledger.target_failed("a")
    step(ledger, (guest_at(900), 900), now_s=NOW_S - 50)
    lowered = guest_at(500, demand_kib=800 * MIB)
    assert step(ledger, (lowered, 900)) == []
    assert (ledger.lowered_kib("a"), ledger.target_kib("a")) == (400 * MIB, 500 * MIB)
    (grant, _) = step(ledger, (replace(lowered, hypervisor_target_kib=500 * MIB), 900), now_s=NOW_S + 1)
    assert targets([grant]) == [900]
    assert ledger.lowered_kib("a") == 0


def test_a_guest_at_its_maximum_that_is_lowered_does_not_starve() -> None:
    """Ten minutes of virsh setmem against a busy guest end with what it needs, and nobody calls it OK meanwhile."""
    world = World(4 * GIB, [Character(helps_itself=False)])
    guest = world["alpha"]
    guest.run_state, guest.boot_began_s = RunState.RUNNING, world.now_s - 100
    guest.target_kib = guest.size_kib = guest.resident_kib = 700 * MIB
    guest.use_kib = 980 * MIB
    world.turns(20)
    assert guest.size_kib == GIB
    world.lower("alpha", 400 * MIB)
    world.turn()
    assert world.decision is not None
    world.turns(20)
    assert guest.size_kib == GIB


def test_a_balloon_that_swings_back_after_a_stop_is_nobody_elses_act() -> None:
    """The size that was read is old by the time it is set; only what moves after the balloon rested counts."""
    ledger = stepping()
    wish = Wish(900 * MIB, 1, 2, arrived_s=NOW_S + 2)
    step(ledger, (guest_at(850, NOW_S + 2, wish=wish), 500), now_s=NOW_S + 2)
    step(ledger, (guest_at(830, NOW_S + 2.2), 500), now_s=NOW_S + 2.2)
    assert (ledger.lowered_kib("a"), ledger.target_kib("a")) == (0, 850 * MIB)
    step(ledger, (guest_at(850, NOW_S + 2.5), 850), now_s=NOW_S + 2.5)
    later_s = NOW_S + 2 + STUCK_S
    step(ledger, (guest_at(830, later_s), 850), now_s=later_s)
    assert ledger.lowered_kib("a") == 20 * MIB


# --- stops ----------------------------------------------------------------------------------------------


def stuck(size_mib: int, goal_mib: int, **host) -> tuple[Ledger, list]:
    """A grant whose balloon does not follow, at its end."""
    ledger = settled(size_mib)
    guest = guest_at(size_mib, demand_kib=goal_mib * MIB, settings={"minimum_kib": 512 * MIB})
    floor = {"floor_kib": 512 * MIB}
    step(ledger, (guest, goal_mib, floor), **host)
    booked = replace(guest, booking=Booking(goal_mib * MIB, 0, False), hypervisor_target_kib=goal_mib * MIB)
    step(ledger, (booked, goal_mib, floor), now_s=NOW_S + 1, **host)
    return ledger, step(ledger, (booked, goal_mib, floor), now_s=NOW_S + 1 + STUCK_S, **host)


def test_a_stop_leaves_no_target_below_the_floor() -> None:
    """I2: what was promised up to the floor stays in force, and is neither repeated nor given up."""
    ledger, commands = stuck(300, 600)
    assert targets(commands) == [512]
    there = guest_at(300, NOW_S + 9, hypervisor_target_kib=512 * MIB, booking=Booking(512 * MIB, 0, False))
    assert step(ledger, (there, 512, {"floor_kib": 512 * MIB}), now_s=NOW_S + 9) == []
    assert ledger.target_kib("a") == 512 * MIB


def test_a_stop_above_the_floor_is_where_the_balloon_stands() -> None:
    """Nothing more is promised to a balloon that does not follow."""
    assert targets(stuck(550, 700)[1]) == [550]


def test_a_floor_without_room_is_not_promised() -> None:
    """I1 before I2: a guest that took memory back below its floor gets the rest when there is room."""
    taken = guest_at(320, settings={"minimum_kib": 512 * MIB})
    choice = (taken, 512, {"floor_kib": 512 * MIB})
    assert targets(step(settled(300), choice, budget_kib=320 * MIB)) == [320]
    assert targets(step(settled(300), choice, budget_kib=400 * MIB)) == [400]


def test_a_returned_step_is_told_to_the_agent() -> None:
    """A target above its size that nobody announced would look like memory that the guest took by itself."""
    wish = Wish(950 * MIB, 1, 2, arrived_s=NOW_S + 2, gen=1)
    order, told = step(stepping(), (guest_at(850, NOW_S + 2, wish=wish), 500), now_s=NOW_S + 2)
    assert (told, order.target_kib) == (TellDeflate("a", 2, 900 * MIB, order.why), 900 * MIB)
    silent = stuck(300, 600)[1]
    assert [type(order) for order in silent] == [SetTarget, TellDeflate]


def test_a_returned_step_is_not_given_a_second_time_in_its_turn() -> None:
    """I1: the room that it takes is gone for whoever is granted beside it, and for a start."""
    hurt = guest_at(850, NOW_S + 2, wish=Wish(950 * MIB, 1, 2, arrived_s=NOW_S + 2, gen=1))
    ledger = stepping()
    for name in "bc":
        ledger.began_boot(name, 1, 300 * MIB, adopted=True)
    short = make_guest("b", 300 * MIB, 400 * MIB)
    commands = step(ledger, (hurt, 500), (short, 400), now_s=NOW_S + 2, budget_kib=(850 + 300 + 70) * MIB)
    assert targets(commands) == [900, 320]


# --- wishes ---------------------------------------------------------------------------------------------


def test_whoever_goes_on_asking_is_not_waited_for() -> None:
    """A fresh wish for more than the goal ends the asking, and others take their turn (I4)."""
    ledger = settled(900)
    wish = Wish(950 * MIB, 1, 2, arrived_s=NOW_S)
    assert step(ledger, (guest_at(900, wish=wish), 500)) == []
    assert ledger.refuses("a")


def test_a_demand_ends_a_shrink_whatever_the_agent_consented_to() -> None:
    """The guest's need is newer than its consent; the target becomes the size reached."""
    wish = Wish(900 * MIB, 1, 2, arrived_s=NOW_S + 2)
    commands = step(stepping(), (guest_at(850, NOW_S + 2, consent_to(500), wish=wish), 500), now_s=NOW_S + 2)
    assert targets(commands) == [850]


@pytest.mark.parametrize(("read_s", "stopped_mib"), [(NOW_S + 1, []), (NOW_S + 2, [850])])
def test_a_word_of_a_move_stops_nothing_before_its_size_is_known(read_s: float, stopped_mib: list[int]) -> None:
    """A target of ours, set then, would overwrite another mover's."""
    guest = guest_at(850, NOW_S + 2, consent_to(500), wish=Wish(900 * MIB, OOM_WHY, SOON, arrived_s=NOW_S + 2))
    guest = replace(guest, vm=replace(guest.vm, read_s=read_s))
    assert targets(step(stepping(), (guest, 500), now_s=NOW_S + 2)) == stopped_mib


@pytest.mark.parametrize("gen", [0, 999])
def test_who_blames_what_we_never_ordered_has_asked_for_nothing(gen: int) -> None:
    """A DEMAND that names no move of ours stops none, and holds none off."""
    wish = Wish(950 * MIB, 1, 2, arrived_s=NOW_S + 2, gen=gen)
    consent = consent_to(500)
    assert step(stepping(), (guest_at(850, NOW_S + 2, consent, wish=wish), 500), now_s=NOW_S + 2) == []
    ledger = settled(900)
    assert step(ledger, (guest_at(900, NOW_S, wish=replace(wish, arrived_s=NOW_S)), 500)) != []
    assert not ledger.refuses("a")


@pytest.mark.parametrize("gen", [None, 999])
def test_a_liar_does_not_stop_what_others_share(gen: int | None) -> None:
    """I4: gamma asks for all its RAM each second and gives nothing; beta is not kept waiting for what alpha gives."""
    settings = [make_settings(name, buffer_percent=0) for name in ("alpha", "beta", "gamma")]
    world = World(2096 * MIB, [Character(helps_itself=False) for _ in settings], settings=settings)
    for guest, size_mib in zip(world.guests, (1000, 300, 700), strict=True):
        guest.run_state, guest.boot_began_s = RunState.RUNNING, world.now_s - 100
        guest.target_kib = guest.size_kib = guest.resident_kib = size_mib * MIB
    world["alpha"].use_kib = world["beta"].use_kib = 1000 * MIB
    world["gamma"].use_kib = 200 * MIB
    for _ in range(200):
        world.records["gamma"].wished(Wish(GIB, 1, 2, arrived_s=world.now_s + 0.001, gen=gen))
        world.turn()
    assert world["beta"].size_kib > 400 * MIB


# --- small moves ----------------------------------------------------------------------------------------


def test_small_moves_end_an_overdraft_let_a_machine_start_and_fill_the_headroom() -> None:
    """I6 is for moves that help nobody: 3 % of a large guest may be all that is missing."""
    rich = guest_at(900)
    assert step(settled(900), (rich, 880), budget_kib=900 * MIB) == []
    assert step(settled(900), (rich, 880), budget_kib=890 * MIB) != []
    assert step(settled(900), (rich, 880), budget_kib=900 * MIB, headroom_kib=64 * MIB) != []
    assert step(settled(900), (rich, 880), budget_kib=1000 * MIB, headroom_kib=64 * MIB) == []
    pair = (rich, 880), (waiting("b"), 0)
    assert step(settled(900), *pair, budget_kib=1915 * MIB) != []
    assert [type(order).__name__ for order in step(settled(900), *pair, budget_kib=2000 * MIB)] == []


def test_the_last_chunks_do_not_keep_a_machine_waiting() -> None:
    """10 MiB short, and every guest within a command's worth of its goal: the machine starts all the same."""
    settings = [make_settings("alpha"), make_settings("beta"), make_settings("gamma", startup_kib=256 * MIB)]
    world = World((700 + 700 + 1024 - 10 + 96) * MIB, [Character() for _ in settings], settings=settings)
    for name in ("alpha", "beta"):
        guest = world[name]
        guest.run_state, guest.boot_began_s = RunState.RUNNING, world.now_s - 100
        guest.target_kib = guest.size_kib = guest.resident_kib = 700 * MIB
        guest.use_kib = 600 * MIB
    world.turns(60)
    assert world["gamma"].run_state is RunState.RUNNING


# --- memory that only resides ---------------------------------------------------------------------------


def test_what_only_resides_pays_no_grant() -> None:
    """I1: a refilled balloon's pages are other pages than those that a grant would give."""
    refilled = guest_at(
        300,
        demand_kib=600 * MIB,
        residency=Residency(600 * MIB, 0),
        booking=Booking(600 * MIB, 0, False),
        demand=make_demand(600 * MIB, urgent=True),
        vm=make_vm(actual_kib=300 * MIB),
    )
    assert step(settled(300), (refilled, 600, {"urgent": True}), budget_kib=600 * MIB) == []
    commands = step(settled(300), (refilled, 600, {"urgent": True}), budget_kib=700 * MIB)
    assert targets(commands) == [400]


# --- a balloon that does not follow ---------------------------------------------------------------------


def test_a_balloon_that_stands_still_for_long_is_flagged() -> None:
    """After 20 s, and no longer than it stands still."""
    move = Move(boot=1, stuck_since_s=NOW_S)
    assert not move.is_uncooperative(NOW_S + UNCOOPERATIVE_S - 1)
    assert move.is_uncooperative(NOW_S + UNCOOPERATIVE_S)
    move.stuck_since_s = None
    assert not move.is_uncooperative(NOW_S + UNCOOPERATIVE_S)


def test_a_balloon_that_moves_now_and_then_is_flagged_all_the_same() -> None:
    """Three standstills within ten minutes flag it, though each was over soon; ten quiet minutes forgive them."""
    move = Move(boot=1)
    for count in range(3):
        move.stood_still(NOW_S + 40 * count)
    last_s = NOW_S + 80
    assert move.is_uncooperative(last_s)
    assert not move.is_uncooperative(last_s + FORGIVEN_S)
    move.stood_still(last_s + 3 * FORGIVEN_S)
    assert move.standstills == 1


def test_a_balloon_that_stands_still_is_left_alone_for_longer_each_time() -> None:
    """Half a minute, a minute, two, and so on up to five."""
    move = Move(boot=1)
    waits = []
    for _ in range(6):
        move.stood_still(NOW_S)
        waits.append(move.leave_until_s - NOW_S)
    assert waits == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S, RETRY_MOST_S, RETRY_MOST_S]


def test_nobody_waits_for_a_flagged_balloon() -> None:
    """I4: a short guest above its share gives to one below, though a balloon that does not follow holds more."""
    world = World(1700 * MIB, [Character(helps_itself=False) for _ in range(2)])
    for guest, size_mib in zip(world.guests, (900, 500), strict=True):
        guest.run_state, guest.boot_began_s = RunState.RUNNING, world.now_s - 100
        guest.target_kib = guest.size_kib = guest.resident_kib = size_mib * MIB
    world["alpha"].character.stuck = True
    world["beta"].use_kib = 1000 * MIB
    world.turns(60)
    assert world.snapshot is not None
    assert [known.uncooperative for known in world.snapshot.guests] == [True, False]
    assert world["beta"].size_kib >= 500 * MIB
