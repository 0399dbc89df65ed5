"""The host's own state: entered at once, left slowly and one at a time, by what is available and by who waits."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.host_state import (
    CALM_S,
    CRITICAL_OVER_RATIO,
    PSI_OVER_S,
    TIGHT_SLIDER,
    HostWatch,
    backed_kib,
    effective_slider,
    watch_host,
)
from ballonet_host_coord.model import HostFacts, HostState, Residency

from .builders import make_guest, make_snapshot

TOTAL_KIB = 1_000_000
EASY, TIGHT, CRITICAL = HostState
ORDER = list(HostState)
HOLDS: dict[str, float] = {"easy": 50.0, "tight": 5.0, "critical": 1.0}
"""Percent available in which a state is found, from whatever state."""


def facts(percent: float, some_us: int | None = None, full_us: int | None = None, **changes: int) -> HostFacts:
    return HostFacts(TOTAL_KIB, int(TOTAL_KIB * percent / 100), some_us, full_us, **changes)


def states(*seen: tuple[float, float], begin: HostWatch | None = None) -> list[HostState]:
    """The states after each (second, percent available)."""
    return [watch.state for watch in watches(((at_s, facts(percent)) for at_s, percent in seen), begin)]


def watches(seen: Iterable[tuple[float, HostFacts]], begin: HostWatch | None = None) -> list[HostWatch]:
    found = []
    watch = begin or HostWatch()
    for at_s, what in seen:
        watch = watch_host(watch, what, at_s)
        found.append(watch)
    return found


def waiting(
    some_ratio: float, full_ratio: float, until_s: int, percent: float = 12
) -> list[tuple[float, HostFacts]]:
    """A host with so much available on which that share of each second is waited."""
    return [
        (float(second), facts(percent, int(some_ratio * second * 1e6), int(full_ratio * second * 1e6)))
        for second in range(until_s + 1)
    ]


# --- by what is available -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "state"),
    [(50, EASY), (6.01, EASY), (5.99, TIGHT), (2.01, TIGHT), (1.99, CRITICAL), (0, CRITICAL)],
)
def test_a_state_is_entered_at_once(percent: float, state: HostState) -> None:
    """Out of EASY the first look decides, into CRITICAL without a stop at TIGHT."""
    assert states((0.0, percent)) == [state]


def test_a_state_is_left_after_calm_above_its_higher_mark() -> None:
    """TIGHT begins below 6 % and ends after 10 s of 8 % and more."""
    assert states((0, 5), (1, 8.5), (1 + CALM_S - 0.1, 8.5)) == [TIGHT] * 3
    assert states((0, 5), (1, 8.5), (1 + CALM_S, 8.5)) == [TIGHT, TIGHT, EASY]
    assert set(states((0, 5), *((second, 7.9) for second in range(1, 100)))) == {TIGHT}


def test_a_lapse_begins_the_calm_anew() -> None:
    """One look below the mark, and the ten seconds count from the next one above it."""
    assert states((0, 5), (1, 9), (9, 7), (10, 9), (19.9, 9), (20, 9)) == [TIGHT] * 5 + [EASY]


def test_states_are_left_one_at_a_time() -> None:
    """A host that has recovered altogether is tight for another ten seconds before it is easy."""
    found = states((0, 1), *((second, 50) for second in range(1, 40)))
    assert [state for state, before in zip(found, [None, *found], strict=False) if state is not before] == [
        CRITICAL,
        TIGHT,
        EASY,
    ]
    assert found.count(TIGHT) >= CALM_S


def test_critical_is_left_above_four_percent_and_not_above_two() -> None:
    """ESX's marks: hard at 2 %, soft at 4 %."""
    assert set(states((0, 1), *((second, 3.9) for second in range(1, 60)))) == {CRITICAL}
    assert states((0, 1), *((second, 4.1) for second in range(1, 60)))[-1] is TIGHT


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 20)), min_size=1, max_size=60))
def test_no_course_of_the_host_makes_a_state_flap(course: list[tuple[float, float]]) -> None:
    """Whatever the host does, a state is never left for an easier one before `CALM_S`, nor by more than one."""
    at_s, seen = 0.0, []
    for apart_s, percent in course:
        at_s += apart_s
        seen.append((at_s, facts(percent)))
    found = watches(seen)
    changes = [(0.0, EASY)]
    for (now_s, _), watch in zip(seen, found, strict=True):
        if watch.state is not changes[-1][1]:
            changes.append((now_s, watch.state))
    for (before_s, before), (after_s, after) in pairwise(changes):
        if ORDER.index(after) < ORDER.index(before):
            assert after_s - before_s >= CALM_S
            assert ORDER.index(before) - ORDER.index(after) == 1


def test_a_host_that_swings_about_a_mark_stays_where_it_is() -> None:
    """Between 5.9 and 6.1 %, and 1.9 and 2.1 %: one change each in a minute."""
    for low, high, state in ((5.9, 6.1, TIGHT), (1.9, 2.1, CRITICAL)):
        found = states(*((second, low if second % 2 else high) for second in range(60)))
        assert set(found[1:]) == {state}


@pytest.mark.parametrize("state", HostState)
def test_a_state_that_is_in_force_is_kept_by_the_facts_that_hold_it(state: HostState) -> None:
    """The same facts for ever are the same state for ever, and `since_s` is when it began."""
    found = watches((float(second), facts(HOLDS[state])) for second in range(1, 50))
    assert {watch.state for watch in found} == {state}
    assert {watch.since_s for watch in found} == {0.0 if state is EASY else 1.0}


def test_a_critical_host_says_what_it_lacks_to_its_upper_mark() -> None:
    """What is taken from guests is what is missing to 4 %; nothing in any other state."""
    (critical,) = watches([(0.0, facts(1))])
    assert critical.lacking_kib == int(TOTAL_KIB * CRITICAL_OVER_RATIO) - TOTAL_KIB // 100
    (recovering,) = watches([(1.0, facts(10))], critical)
    assert (recovering.state, recovering.lacking_kib) == (CRITICAL, 0)
    assert watches([(0.0, facts(5))])[0].lacking_kib == 0


def test_why_is_said_while_the_host_is_short() -> None:
    """With numbers; it stays while the state lasts and is gone with it."""
    (tight,) = watches([(0.0, facts(5))])
    assert tight.why == "48 of 976 MiB available on the host"
    calm = watches([(1.0, facts(50)), (1.0 + CALM_S, facts(50))], tight)
    assert [watch.why for watch in calm] == [tight.why, ""]


# --- by our own cgroup ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_percent", "state"), [(50, EASY), (95, TIGHT), (99, CRITICAL), (150, CRITICAL)]
)
def test_a_cgroup_nearer_to_its_end_counts(used_percent: int, state: HostState) -> None:
    """A limit on our own cgroup that is nearly used up is a host that is nearly used up."""
    limit_kib = TOTAL_KIB // 2
    what = facts(50, cgroup_limit_kib=limit_kib, cgroup_used_kib=limit_kib * used_percent // 100)
    (watch,) = watches([(0.0, what)])
    assert watch.state is state
    if used_percent == 99:  # what is missing is the cgroup's, not the host's
        assert watch.lacking_kib == pytest.approx(limit_kib * 3 // 100, abs=1)


def test_a_roomy_cgroup_does_not_hide_the_hosts_own_end() -> None:
    """The scarcer of the two decides, whichever it is; a limit whose use is unknown does not count."""
    assert watches([(0.0, facts(1, cgroup_limit_kib=TOTAL_KIB // 2, cgroup_used_kib=0))])[0].state is CRITICAL
    assert watches([(0.0, facts(50, cgroup_limit_kib=TOTAL_KIB // 2))])[0].state is EASY


# --- by who waits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "some", "full", "state", "words"),
    [
        (12, 0.0, 0.0, EASY, ""),
        (12, 0.09, 0.04, EASY, ""),
        (12, 0.12, 0.0, TIGHT, "something on the host waits for memory 12%"),
        (12, 0.30, 0.06, TIGHT, "something on the host waits for memory 30%"),
        (5, 0.30, 0.06, CRITICAL, "everything on the host waits for memory 6%"),
        (50, 1.0, 1.0, EASY, ""),
    ],
)
def test_stalls_on_the_host_are_a_shortage(
    percent: float, some: float, full: float, state: HostState, words: str
) -> None:
    """Where little is available, waiting over ten seconds makes it worse; on a host with plenty, whoever waits does so
    inside a limit of its own."""
    watch = watches(waiting(some, full, until_s=11, percent=percent))[-1]
    assert watch.state is state
    assert watch.why.startswith(words)
    assert bool(watch.why) is bool(words)


def test_a_single_reclaim_is_no_shortage() -> None:
    """Half a second's wait at once is 5 % of ten seconds."""
    seen = [(float(second), facts(50, 500_000 if second else 0, 400_000 if second else 0)) for second in range(60)]
    assert {watch.state for watch in watches(seen)} == {EASY}


def test_stalls_are_judged_over_ten_seconds_and_not_before() -> None:
    """A burst of the first second does not decide until it has been set against the ten."""
    found = watches(waiting(1.0, 1.0, until_s=int(PSI_OVER_S), percent=5))
    assert [watch.state for watch in found] == [TIGHT] * int(PSI_OVER_S) + [CRITICAL]


@pytest.mark.parametrize("percent", [50, 5, 1])
def test_a_kernel_without_psi_is_judged_by_what_is_available(percent: int) -> None:
    """Missing PSI is unknown and neither calm nor a stall; a stall that was seen before it went missing is dropped."""
    stalled = watches(waiting(1.0, 0.0, until_s=10))[-1]
    assert stalled.state is TIGHT
    found = watches(((10.0 + second, facts(percent)) for second in range(1, 40)), stalled)
    assert found[-1].state is states((0.0, percent))[0]


def test_a_counter_that_runs_backwards_shows_no_stall() -> None:
    """After a restore from a checkpoint PSI begins anew."""
    seen = [(0.0, facts(50, 10**9, 10**9)), (10.0, facts(50, 0, 0)), (20.0, facts(50, 0, 0))]
    assert {watch.state for watch in watches(seen)} == {EASY}


# --- what follows ---------------------------------------------------------------------------------------


def test_what_guests_can_have_ends_where_the_host_would_be_tight() -> None:
    """What they reside in and what is available above 8 %, whatever is assigned, and whoever else is there."""
    assigned = make_guest("a", 900, residency=Residency(300, 40))
    unseen = make_guest("b", 500)
    snapshot = make_snapshot(assigned, unseen, budget_kib=7 * TOTAL_KIB, facts=facts(30))
    assert backed_kib(snapshot) == 340 + 500 + TOTAL_KIB * 22 // 100
    limit_kib = TOTAL_KIB // 10
    limited = facts(30, cgroup_limit_kib=limit_kib, cgroup_used_kib=limit_kib)
    assert backed_kib(make_snapshot(assigned, facts=limited)) == 340 - limit_kib * 8 // 100


def test_a_host_that_tells_nothing_has_its_budget() -> None:
    """Without facts there is nothing better to go by."""
    assert backed_kib(make_snapshot(make_guest(), budget_kib=77)) == 77


@given(st.integers(0, 100))
def test_a_short_host_moves_the_slider_towards_density_only(slider: int) -> None:
    """I10: EASY leaves it alone, TIGHT puts it to 80 at least, CRITICAL to the end."""
    assert effective_slider(slider, EASY) == slider
    assert effective_slider(slider, TIGHT) == max(slider, TIGHT_SLIDER)
    assert effective_slider(slider, CRITICAL) == 100
