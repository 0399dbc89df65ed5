"""Each safeguard of the invariants, switched off: the scenario that it guards is then caught by `Watch`.

With everything in place the same scenario passes, so what is caught is the missing safeguard and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest

from ballonet_host_coord import arbiter, guests, ledger, pace
from ballonet_host_coord.booking import book
from ballonet_host_coord.demand import demand_at
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import HostSnapshot, HostState, LinkState, RunState, Snapshot
from ballonet_host_coord.move import Move
from ballonet_host_coord.slider import tuning

from . import world as world_module
from .builders import GIB, MIB, make_settings
from .watch import Violation, slider_is_monotone
from .world import HOST_KIB, Character, World

PLENTY_KIB = 16 * GIB


def alone(**character) -> World:
    """alpha alone, found running for long with its whole GiB and nothing to do: it will be shrunk to 256 MiB."""
    world = World(PLENTY_KIB, [Character(**character)])
    adopt(world)
    return world


def adopt(world: World, **sizes_mib: int) -> None:
    for guest in world.guests:
        guest.run_state = RunState.RUNNING
        guest.boot_began_s = world.now_s - 100
        guest.target_kib = guest.size_kib = guest.resident_kib = sizes_mib.get(guest.name, 1024) * MIB


def run_until(world: World, reached: Callable[[], bool], passed_s: float = 0.25) -> None:
    for _ in range(400):
        if reached():
            return
        world.turn(passed_s)
    pytest.fail("the scenario did not come to its point")


def is_squeezed(world: World, name: str = "alpha") -> Callable[[], bool]:
    """A step of ours is under way."""
    return lambda: world[name].target_kib < world[name].size_kib


# --- scenarios ------------------------------------------------------------------------------------------


def reports_stop_during_a_shrink() -> None:
    world = alone()
    world["alpha"].use_kib = 400 * MIB
    run_until(world, is_squeezed(world))
    world["alpha"].character.silent = True
    world.turns(10, 0.25)


def a_long_step_ends_after_the_last_report() -> None:
    world = alone(slow=True)
    world["alpha"].use_kib = 600 * MIB
    run_until(world, is_squeezed(world))
    run_until(world, lambda: world["alpha"].size_kib - world["alpha"].target_kib < 80 * MIB)
    world["alpha"].character.silent = True
    world.turns(20, 0.5)


def a_guest_boots_and_is_idle() -> None:
    world = World(PLENTY_KIB, [Character()], settings=[make_settings(startup_kib=GIB)])
    world.boot_all()


def a_squeezed_guest_is_reset() -> None:
    world = alone()
    run_until(world, lambda: world["alpha"].size_kib < 400 * MIB)
    world.reset("alpha")
    world.turns(20)


def a_starved_guest_meets_an_idle_one() -> None:
    """alpha needs all of what is more than its share; gamma has more than it needs, so gamma gives first."""
    weights = {"alpha": 1, "beta": 10000, "gamma": 5000}
    settings = [make_settings(name, weight=weight, buffer_percent=0) for name, weight in weights.items()]
    world = World(1700 * MIB + 96 * MIB, [Character(helps_itself=False) for _ in settings], settings=settings)
    adopt(world, alpha=600, beta=700, gamma=400)
    world["alpha"].use_kib = 590 * MIB
    world["beta"].use_kib = 1000 * MIB
    world.turns(60)
    assert world["beta"].target_kib > 900 * MIB


def consent_runs_out() -> None:
    world = alone(slow=True)
    world["alpha"].use_kib = 300 * MIB
    world.turns(240, 0.25)


def a_guest_reports_a_floor() -> None:
    world = alone(floor_kib=500 * MIB)
    world.turns(60)


def the_agent_leaves_during_a_step() -> None:
    world = alone(slow=True)
    run_until(world, is_squeezed(world))
    world["alpha"].character.silent = True
    world["alpha"].agent.lose(LinkState.OPENING)
    world.turns(8, 0.25)


def the_agent_leaves_before_a_shrink() -> None:
    world = alone(has_statistics=False)
    world["alpha"].use_kib = 900 * MIB
    world.turns(3)
    world["alpha"].use_kib = 100 * MIB
    world.turn()
    world["alpha"].character.silent = True
    world["alpha"].agent.lose(LinkState.OPENING)
    world.turns(200)


def the_session_is_older_than_its_report() -> None:
    world = alone()
    run_until(world, is_squeezed(world))
    world.turn(0.25)
    world["alpha"].character.silent = True
    world["alpha"].agent.live_since_s = world.now_s + 0.1
    world.turns(8, 0.25)


def deflate_on_oom_is_off() -> None:
    alone(deflate_on_oom=False).turns(30)


def an_idle_guest_is_released() -> None:
    world = World(1500 * MIB + 64 * MIB, [Character(), Character(helps_itself=False)])
    adopt(world, alpha=900, beta=600)
    world.records["alpha"].released = True
    world["beta"].use_kib = 1000 * MIB
    world.turns(30)


def a_guest_needs_what_another_still_has() -> None:
    world = World(1400 * MIB + 64 * MIB, [Character(slow=True), Character(helps_itself=False)])
    adopt(world, alpha=900, beta=500)
    world["beta"].use_kib = 800 * MIB
    world.turns(40)


def two_guests_need_what_is_there_for_one() -> None:
    """beta's balloon does not empty, so what it was granted is neither used nor free."""
    world = World(1400 * MIB + 96 * MIB, [Character(helps_itself=False) for _ in range(3)])
    adopt(world, alpha=300, beta=300, gamma=300)
    world["alpha"].character.stuck = True
    world["alpha"].use_kib = 900 * MIB
    run_until(world, lambda: world["alpha"].target_kib > 600 * MIB)
    world["alpha"].use_kib = 100 * MIB
    world["beta"].use_kib = world["gamma"].use_kib = 700 * MIB
    world.turns(20)


def the_host_refills_a_balloon() -> None:
    world = alone()
    run_until(world, lambda: world["alpha"].size_kib < 600 * MIB)
    world["alpha"].character.refilled = True
    world.turns(20)


def a_monitor_hangs() -> None:
    world = alone()
    world["alpha"].use_kib = 900 * MIB
    world.turns(5)
    world["alpha"].reachable = False
    world.turns(5)
    world.reconnect("alpha")
    world.turns(5)


def two_guests_wait_for_room() -> None:
    World(1100 * MIB + 64 * MIB, [Character(), Character()]).turns(30)


def a_liar_asks_for_everything() -> None:
    """beta needs 600 MiB of 1200 and alpha, of the same weight, asks for its whole RAM each second."""
    world = World(1200 * MIB + 64 * MIB, [Character(helps_itself=False), Character(helps_itself=False)])
    adopt(world, alpha=600, beta=600)
    world["beta"].use_kib = 600 * MIB
    for _ in range(20):
        world.turn()
        world.demand("alpha", GIB)
    assert world["beta"].size_kib >= 595 * MIB


def wobble(world: World, name: str, use_mib: int, by_mib: int, times: int) -> None:
    for number in range(times):
        world[name].use_kib = (use_mib + by_mib * (number % 2)) * MIB
        world.turn()


def a_guests_use_wobbles() -> None:
    """By 8 MiB, which is less than anything worth a command."""
    world = World(PLENTY_KIB, [Character(helps_itself=False)])
    adopt(world, alpha=600)
    wobble(world, "alpha", 400, 8, 120)
    world.watch.quiet = True
    wobble(world, "alpha", 400, 8, 30)


def two_guests_keep_surplus_while_one_wobbles() -> None:
    """At 25 all memory is in guests; the need of one goes up and down within what it has."""
    world = World(1400 * MIB + 64 * MIB, [Character(helps_itself=False) for _ in range(2)], slider=25)
    adopt(world, alpha=700, beta=700)
    wobble(world, "alpha", 200, 150, 40)
    world.watch.quiet = True
    wobble(world, "alpha", 200, 150, 30)


def a_squeezed_guest_blames_the_move() -> None:
    """It is heard when it says so again, a second after the step was returned, and not before."""
    world = alone(slow=True)
    run_until(world, is_squeezed(world))
    world.turns(3)
    before_kib = world["alpha"].size_kib
    world.demand("alpha", 1000 * MIB, blames=True)
    world.turn(0.25)
    assert world["alpha"].target_kib > before_kib
    world.turn()
    world.demand("alpha", 1000 * MIB)
    world.turn(0.25)
    assert world.snapshot is not None
    (alpha,) = world.snapshot.guests
    assert alpha.demand is not None
    assert alpha.demand.demand_kib >= 1000 * MIB


def the_slider_is_moved() -> None:
    """One busy guest, one idle: who wants how much at each place of the slider."""
    world = World(1400 * MIB + 64 * MIB, [Character(helps_itself=False), Character()], slider=25)
    adopt(world, alpha=700, beta=700)
    world["alpha"].use_kib = 500 * MIB
    world.turns(5)
    assert world.snapshot is not None
    slider_is_monotone(world.snapshot)


def fill_host(world: World, left_percent: int) -> None:
    """Processes that nobody manages leave that much of the host."""
    assert world.snapshot is not None
    assert world.snapshot.host.facts is not None
    world.others_kib += world.snapshot.host.facts.available_kib - HOST_KIB * left_percent // 100


def others_fill_the_host() -> None:
    """The budget is more than the host has left, and guests need nearly all that they have."""
    world = World(PLENTY_KIB, [Character(helps_itself=False), Character(helps_itself=False)], slider=25)
    adopt(world)
    world["alpha"].use_kib = world["beta"].use_kib = 980 * MIB
    world.turns(5)
    fill_host(world, 1)
    world.turns(60)
    assert max(world["alpha"].size_kib, world["beta"].size_kib) < 980 * MIB


def surplus_becomes_cache_on_a_host_that_has_less() -> None:
    """Three idle guests on a host with less than its budget: whatever they are given is used as page cache at once."""
    world = World(PLENTY_KIB, [Character(helps_itself=False) for _ in range(3)], slider=25)
    adopt(world)
    world.turns(5)
    fill_host(world, 1)

    def live(seconds: int) -> None:
        for _ in range(seconds):
            world.turn()
            for guest in world.guests:
                guest.resident_kib = max(guest.resident_kib, guest.size_kib)

    live(60)
    world.watch.quiet = True
    live(60)


# --- switches -------------------------------------------------------------------------------------------

Switch = Callable[[pytest.MonkeyPatch], None]


def holding_no_longer_for(reason: str) -> Switch:
    """The arbiter no longer holds a guest for reasons that contain these words."""

    def switch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = arbiter._hold_reason

        def hold_reason(guest, now_s):
            found = original(guest, now_s)
            return "" if reason in found else found

        monkeypatch.setattr(arbiter, "_hold_reason", hold_reason)

    return switch


def replacing(module, name: str, value) -> Switch:
    return lambda monkeypatch: monkeypatch.setattr(module, name, value)


def both(first: Switch, second: Switch) -> Switch:
    def switch(monkeypatch: pytest.MonkeyPatch) -> None:
        first(monkeypatch)
        second(monkeypatch)

    return switch


def booking_without(**missing) -> Switch:
    """The books no longer know of residency, or of targets in flight."""

    def forgetful(settings, vm, residency, target_in_flight_kib, answered, started=False):
        values = {"residency": residency, "target_in_flight_kib": target_in_flight_kib, **missing}
        return book(settings, vm, answered=answered, started=started, **values)

    return replacing(guests, "book", forgetful)


def forgetting_consent_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ledger._follow

    def follow(self, guest, move, *rest):
        move.consented = False
        return original(self, guest, move, *rest)

    monkeypatch.setattr(Ledger, "_follow", follow)


def starting_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Ledger._start
    monkeypatch.setattr(Ledger, "_start", lambda self, snapshot, room_kib: original(self, snapshot, inf))


def by_what_is_asked_for(supply_kib: int, takers: list[tuple[int, int, int, int]]) -> list[int]:
    """In place of a common level per weight."""
    lowers = [lower_kib for _, lower_kib, _, _ in takers]
    asked = [max(0, upper_kib - lower_kib) for _, lower_kib, upper_kib, _ in takers]
    part = min(1.0, max(0, supply_kib - sum(lowers)) / max(1, sum(asked)))
    return [lower + int(more * part) for lower, more in zip(lowers, asked, strict=True)]


def counting_blame(estimate, wish, *rest):
    """A wish is a wish, whatever it names."""
    return demand_at(estimate, replace(wish, gen=None) if wish is not None else None, *rest)


@staticmethod
def stopping_without_return(guest, move, least_kib, room_kib, now_s):
    return Ledger._stop(guest, move, least_kib, now_s, "stopped")


def always_at(slider: int, state: HostState) -> int:
    """The slider jumps to where a short host wants it, also back from density."""
    return {HostState.EASY: slider, HostState.TIGHT: 80, HostState.CRITICAL: 100}[state]


def lacking_nothing(*values) -> HostSnapshot:
    return replace(HostSnapshot(*values), lacking_kib=0)


fresh_for_ever = both(
    replacing(arbiter, "fresh_for_s", lambda guest: inf), replacing(ledger, "fresh_for_s", lambda guest: inf)
)

CASES = {
    "a report after each step": (
        reports_stop_during_a_shrink, replacing(ledger, "_reported_since", lambda *_: True), "I3",
    ),
    "a fresh report": (a_long_step_ends_after_the_last_report, fresh_for_ever, "I3"),
    "settling after boot": (a_guest_boots_and_is_idle, replacing(arbiter, "SETTLING_S", 0.0), "I3"),
    "boot claims": (a_squeezed_guest_is_reset, replacing(guests, "boot_answered", lambda *_: True), "I1"),
    "starved first": (
        a_starved_guest_meets_an_idle_one, replacing(arbiter, "_starved_first", lambda _, __, targets: targets), "I4",
    ),
    "consent ends": (
        consent_runs_out, replacing(Move, "may_rely_on", lambda self, consent, now_s: consent is not None), "I3",
    ),
    "the guest's floor": (a_guest_reports_a_floor, replacing(arbiter, "_own_floor_kib", lambda _: 0), "I2"),
    "a step needs consent to its end": (the_agent_leaves_during_a_step, forgetting_consent_under_way, "I3"),
    "a live agent": (the_agent_leaves_before_a_shrink, holding_no_longer_for("agent does not answer"), "I3"),
    "this session's report": (
        the_session_is_older_than_its_report, holding_no_longer_for("not reported in it"), "I3",
    ),
    "deflate-on-oom": (deflate_on_oom_is_off, holding_no_longer_for("deflate-on-oom"), "I3"),
    "the operator's release": (an_idle_guest_is_released, holding_no_longer_for("released"), "I7"),
    "take before giving": (
        a_guest_needs_what_another_still_has, replacing(Snapshot, "booked_kib", property(lambda _: 0)), "I1",
    ),
    "targets in flight are booked": (
        two_guests_need_what_is_there_for_one, booking_without(target_in_flight_kib=None), "I1",
    ),
    "residency is booked": (the_host_refills_a_balloon, booking_without(residency=None), "I8"),
    "a machine that goes on is adopted": (
        a_monitor_hangs, replacing(guests.GuestRecord, "_goes_on", lambda *_: False), "I3",
    ),
    "shares by weight": (a_liar_asks_for_everything, replacing(arbiter, "fill", by_what_is_asked_for), "I5"),
    "small moves": (a_guests_use_wobbles, both(
        replacing(ledger, "worthwhile_kib", lambda _: 0), replacing(pace, "worthwhile_kib", lambda _: 0)), "I6",
    ),
    "surplus stays where it is": (
        two_guests_keep_surplus_while_one_wobbles, replacing(arbiter, "FAIR_RATIO", 1.0), "I6",
    ),
    "a blamed step is returned": (
        a_squeezed_guest_blames_the_move, replacing(Ledger, "_return_step", stopping_without_return), "I9",
    ),
    "blame is no demand": (a_squeezed_guest_blames_the_move, replacing(guests, "demand_at", counting_blame), "I9"),
    "the slider's curve is monotone": (
        the_slider_is_moved, replacing(arbiter, "tuning", lambda slider: tuning(100 - slider)), "I10",
    ),
    "a short host moves the slider one way": (
        the_slider_is_moved, replacing(arbiter, "effective_slider", always_at), "I10",
    ),
    "the host is watched": (
        others_fill_the_host, replacing(world_module, "watch_host", lambda before, *_: before), "host",
    ),
    "what a critical host lacks": (
        others_fill_the_host, replacing(world_module, "HostSnapshot", lacking_nothing), "host",
    ),
    "surplus is backed by the host": (
        surplus_becomes_cache_on_a_host_that_has_less,
        replacing(arbiter, "backed_kib", lambda snapshot: snapshot.host.budget_kib), "I6",
    ),
    "a start fits": (two_guests_wait_for_room, starting_without_room, "I1"),
}  # fmt: skip


@pytest.mark.parametrize("safeguard", CASES)
def test_a_missing_safeguard_is_caught(safeguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario passes with the safeguard in place and violates its invariant without it."""
    scenario, switch_off, invariant = CASES[safeguard]
    scenario()
    switch_off(monkeypatch)
    with pytest.raises(Violation, match=f"^{invariant}:"):
        scenario()
