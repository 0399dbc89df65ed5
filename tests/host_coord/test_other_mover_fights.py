"""A mover that comes again before the balloon has settled is known by what it does time and again; nobody else is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ballonet_host_coord.model import OOM_WHY, SOON, Wish
from ballonet_host_coord.other_mover import DEPARTURES, Act, OtherMover

from .builders import MIB, NOW_S
from .steps import FREE_MIB, RESTS_AT_MIB, heard


def fight(
    times: int, apart_s: int = 12, up: bool = True, lost: bool = False, stalls_each: int | None = 0, used_mib: int = 0
) -> int:
    """We set 500 MiB, the balloon arrives and is led away at once, by 300 MiB; how often until it is given way to,
    0 for never. Each time the guest reclaims so often and uses so much."""
    mover, now_s = OtherMover(), NOW_S
    away_mib = RESTS_AT_MIB + (300 if up else -300)
    for second in range(-20, 0):
        mover.look(heard(away_mib, now_s + second), away_mib * MIB, now_s + second)
    for time in range(1, times + 1):
        now_s = NOW_S + time * apart_s
        mover.doubt() if lost else mover.begun()
        for second, size_mib in enumerate((RESTS_AT_MIB,) * 3 + (away_mib,) * 4):
            free_mib = FREE_MIB + max(0, size_mib - RESTS_AT_MIB - used_mib)
            stalls = None if stalls_each is None else 3 + stalls_each * (time - (second < 3))
            guest = heard(size_mib, now_s + second, free_mib=free_mib, stalls=stalls)
            target_mib = RESTS_AT_MIB if second <= 3 else away_mib
            if mover.look(guest, target_mib * MIB, now_s + second) is Act.ANOTHERS:
                return time
            if second == 3 and not lost:
                mover.begun()  # as ever, its size becomes its target
    return 0


@pytest.mark.parametrize("up", [True, False])
def test_a_mover_that_comes_again_before_the_balloon_settles_is_given_way_to(up: bool) -> None:
    """At the third departure within a minute, and never for two, or where they are rare."""
    assert fight(2, up=up) == 0
    assert fight(9, up=up) == DEPARTURES
    assert fight(9, up=up, apart_s=31) == 0


@pytest.mark.parametrize("own", [{"stalls_each": 1}, {"stalls_each": None}, {"used_mib": 200}])
def test_a_guest_that_takes_memory_back_again_and_again_is_no_other_mover(own: dict[str, Any]) -> None:
    """What may be its own act is no departure, in a shrink of ours least of all."""
    assert fight(9, **own) == 0


@pytest.mark.parametrize("up", [True, False])
def test_what_leaves_a_target_that_was_lost_is_no_departure(up: bool) -> None:
    """Another one of ours may be in force."""
    assert fight(9, up=up, lost=True) == 0


def test_a_balloon_that_swings_beyond_where_it_was_stopped_has_not_departed() -> None:
    """The size that was read when it was stopped is old by the time it is set."""
    mover = OtherMover()
    for time in range(9):
        now_s = NOW_S + 4 * time
        mover.begun()
        for later_s, size_mib in ((0.2, 500), (0.5, 460), (0.9, 440), (1.4, 470), (2, 500)):
            assert mover.look(heard(size_mib, now_s + later_s), 500 * MIB, now_s + later_s) is Act.OURS


@pytest.mark.parametrize("late", ["read", "ordered"])
def test_what_comes_late_is_no_departure(late: str) -> None:
    """A size that was read long ago, and what the balloon does before our target is taken: libvirt may be busy."""
    mover = OtherMover()
    for time in range(9):
        now_s = NOW_S + 15 * time
        mover.begun()
        for later_s, size_mib in ((0.2, 500), (0.7, 470), (1.4, 440), (1.9, 410), (2.4, 400), (4, 500), (12, 500)):
            at_s = now_s + later_s
            guest = heard(size_mib, at_s)
            if late == "read" and later_s < 3:
                guest = replace(guest, vm=replace(guest.vm, read_s=at_s - 1.5))
            elif later_s < 3:
                guest = replace(guest, on_its_way=True)
            assert mover.look(guest, 500 * MIB, at_s) is Act.OURS


def test_a_balloon_that_comes_back_by_itself_has_not_departed() -> None:
    """Its target is still ours."""
    mover = OtherMover()
    for time in range(9):
        mover.begun()
        for second, size_mib in enumerate((500, 500, 800, 800, 500)):
            now_s = NOW_S + 5 * time + second
            assert mover.look(heard(size_mib, now_s), 500 * MIB, now_s) is Act.OURS


@pytest.mark.parametrize(("stalls", "given_way"), [(3, True), (4, False)])
def test_the_agents_word_counts_where_its_move_was_over_before_it_was_read(stalls: int, given_way: bool) -> None:
    """A shrink of ours that another mover undoes within a moment: the guest says so, and is not in need."""
    mover, acts = OtherMover(), []
    for second in range(-20, 0):
        mover.look(heard(1000, NOW_S + second), 1000 * MIB, NOW_S + second)
    for time in range(4):
        now_s = NOW_S + 12 * time
        mover.begun()
        wish = Wish(1000 * MIB, OOM_WHY, SOON, arrived_s=now_s + 0.4)
        for second in range(1, 12):
            target_mib = 900 if second == 1 else 1000
            guest = heard(1000, now_s + second, wish=wish, stalls=3 if time == 0 else stalls + time * (stalls - 3))
            acts.append(mover.look(guest, target_mib * MIB, now_s + second))
            if second == 1:
                mover.begun()
    assert (Act.ANOTHERS in acts) is given_way
