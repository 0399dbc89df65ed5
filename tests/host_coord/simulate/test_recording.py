"""Recordings as demand: courses, presence and time, from turns as they come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.host_coord.builders import (
    GIB,
    MIB,
    NOW_S,
    make_demand,
    make_guest,
    make_report,
    make_snapshot,
    make_vm,
)
from tests.host_coord.world import LEAST_KIB, OVERHEAD_KIB, Character, World

from ballonet_host_coord.model import Booking, RunState, Snapshot
from ballonet_host_coord.simulate.recording import RecordedHost, Use, overhead_kib, recorded_host, simulated_guests

WALL_S = 1.7e9


def guest_using(name: str, use_mib: int, cached_mib: int | None = None):
    report = make_report(file_kib=None if cached_mib is None else cached_mib * MIB)
    booking = Booking(512 * MIB, OVERHEAD_KIB, claimed=False)
    return make_guest(name, demand=make_demand(use_mib * MIB), report=report, booking=booking)


def absent(name: str):
    return make_guest(name, 0, None, vm=make_vm(run_state=RunState.ABSENT, ram_kib=0, actual_kib=0), report=None)


def host_of(*turns: tuple[float, float, list]) -> RecordedHost:
    """Of turns (seconds of the coordinator, of the wall, guests)."""
    return recorded_host(
        (WALL_S + wall_s, make_snapshot(*guests, now_s=NOW_S + own_s, headroom_kib=64 * MIB))
        for own_s, wall_s, guests in turns
    )


def test_world_becomes_courses() -> None:
    """What the machines of a world did comes back: when they began, what they used when, under which settings."""
    world = World(4 * GIB, [Character(), Character(has_agent=False)], headroom_kib=64 * MIB)
    turns: list[tuple[float, Snapshot]] = []

    def run(count: int) -> None:
        for _ in range(count):
            world.turn()
            assert world.snapshot is not None
            turns.append((WALL_S + world.now_s, world.snapshot))

    run(60)
    world["alpha"].use_kib = 600 * MIB
    run(30)
    world.die("alpha")
    run(20)
    world.power_on("alpha")
    run(60)
    host = recorded_host(turns)
    alpha, beta = host.guests
    assert (host.budget_kib, host.headroom_kib, host.end_s) == (4 * GIB, 64 * MIB, 169.0)
    assert (alpha.name, alpha.provisioned_kib, alpha.minimum_kib) == ("alpha", GIB, 256 * MIB)
    assert (alpha.weight, alpha.buffer_percent, alpha.overhead_kib) == (5000, 20, OVERHEAD_KIB)
    assert max(use.used_kib for use in alpha.uses) == 600 * MIB
    assert alpha.uses[0].used_kib == LEAST_KIB
    assert len(alpha.present) == 2
    assert alpha.present[0][1] == 90.0
    assert alpha.present[1][0] >= 110.0
    assert alpha.present[1][1] == beta.present[0][1] == 169.0
    assert all(before.t_s < after.t_s for before, after in zip(alpha.uses, alpha.uses[1:], strict=False))


def test_only_changes_are_kept_and_hold() -> None:
    """A course has a point where use or cache changed, and none between."""
    steady, grown = [guest_using("alpha", 300, 50)], [guest_using("alpha", 300, 70)]
    (alpha,) = host_of((0, 0, steady), (1, 1, steady), (2, 2, grown), (3, 3, grown)).guests
    assert alpha.uses == (Use(0.0, 300 * MIB, 50 * MIB), Use(2.0, 300 * MIB, 70 * MIB))
    assert alpha.present == ((0.0, 3.0),)


def test_unknown_cache_is_no_zero() -> None:
    """Where reports do not tell the cache it stays unknown."""
    (alpha,) = host_of((0, 0, [guest_using("alpha", 300)]), (1, 1, [guest_using("alpha", 300)])).guests
    assert alpha.uses[0].cached_kib is None


def test_guests_come_and_go() -> None:
    """A guest is there from its first report to its end; one that leaves the settings ends, too."""
    alpha, beta = guest_using("alpha", 300), guest_using("beta", 200)
    host = host_of(
        (0, 0, [absent("alpha")]), (1, 1, [alpha]), (2, 2, [alpha, beta]), (3, 3, [alpha]), (4, 4, [absent("alpha")]),
        (5, 5, [alpha]), (6, 6, [alpha]),
    )  # fmt: skip
    assert {guest.name: guest.present for guest in host.guests} == {
        "alpha": ((1.0, 4.0), (5.0, 6.0)),
        "beta": ((2.0, 3.0),),
    }


def test_guest_that_never_reported_is_left_out() -> None:
    """Whose need nobody knows is no guest to simulate."""
    host = host_of((0, 0, [absent("alpha"), guest_using("beta", 1)]), (1, 1, [absent("alpha"), guest_using("beta", 1)]))
    assert [guest.name for guest in host.guests] == ["beta"]


def test_gap_holds_the_last_value_for_as_long_as_it_was() -> None:
    """A new coordinator's clock begins anywhere: then the wall says how long it was away, and time never goes back."""
    low, high = [guest_using("alpha", 300)], [guest_using("alpha", 500)]
    (alpha,) = host_of((0, 0, low), (1, 1, low), (-900, 601, high), (-899, 602, high), (5e6, 600, low)).guests
    assert [(use.t_s, use.used_kib // MIB) for use in alpha.uses] == [(0.0, 300), (601.0, 500), (602.0, 300)]


def test_wall_that_is_set_changes_nothing() -> None:
    """While the coordinator runs, its own clock counts."""
    steady = [guest_using("alpha", 300)]
    assert host_of((0, 0, steady), (1, 3601, steady), (2, 2, steady)).end_s == 2.0


def test_settings_are_the_last_ones() -> None:
    """What the operator changed meanwhile is what holds at the end; a maximum is no more than the RAM."""
    before = guest_using("alpha", 300)
    after = replace(before, settings=replace(before.settings, weight=7, maximum_kib=2 * GIB))
    (alpha,) = host_of((0, 0, [before]), (1, 1, [after])).guests
    assert (alpha.weight, alpha.provisioned_kib) == (7, GIB)


def test_no_turns_are_an_error() -> None:
    """An empty recording is said to be one."""
    with pytest.raises(ValueError, match="no turn"):
        recorded_host([])


def test_each_stay_is_a_machine_of_its_own() -> None:
    """A guest that comes again has a new name, begins with what held then, and overheads add up only while together."""
    alpha, beta, more = guest_using("alpha", 300), guest_using("beta", 200), guest_using("alpha", 400)
    host = host_of(
        (0, 0, [alpha]), (1, 1, [alpha, beta]), (2, 2, [absent("alpha"), beta]), (3, 3, [alpha]), (4, 4, [more]),
        (5, 5, [more]),
    )  # fmt: skip
    machines = simulated_guests(host)
    assert [(guest.trace.name, guest.trace.start_s, guest.trace.end_s) for guest in machines] == [
        ("alpha", 0.0, 2.0), ("alpha#2", 3.0, 5.0), ("beta", 1.0, 3.0),
    ]  # fmt: skip
    assert [(step.t_s, step.used_kib // MIB) for step in machines[1].trace.steps] == [(3.0, 300), (4.0, 400)]
    assert overhead_kib(host) == 2 * OVERHEAD_KIB
    assert overhead_kib(replace(host, guests=host.guests[:1])) == OVERHEAD_KIB
