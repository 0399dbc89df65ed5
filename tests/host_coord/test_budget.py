"""The budget is what the host has less everybody else's, stands still while nothing happens, and says its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.budget import (
    FALL_AFTER_S,
    MARGIN_LEAST_KIB,
    RISE_AFTER_S,
    STEP_KIB,
    UNMANAGED_PARTS,
    BudgetWatch,
    budget_parts,
    in_words,
    watch_budget,
)
from ballonet_host_coord.model import Account, HostFacts, HostSettings, Survey, UnmanagedGuest

from .builders import GIB, MIB

TOTAL_KIB = 16 * GIB
FACTS = HostFacts(TOTAL_KIB, 1)


def survey(others_kib: int, read_s: float = 0.0, huge_kib: int = 0, *more: Account, **changes) -> Survey:
    return Survey(read_s, (Account("MemTotal", TOTAL_KIB, huge_kib, others_kib), *more), **changes)


def budget_of(watch: BudgetWatch, **settings) -> int:
    return budget_parts(HostSettings(**settings), FACTS, watch).budget_kib


@pytest.mark.parametrize(
    ("settings", "limit_mib", "huge_mib", "budget_mib"),
    [
        ({"budget_kib": 700 * MIB}, 100, 0, 700),
        ({}, None, 0, 3072),
        ({}, 2048, 0, 1024),
        ({}, 8192, 0, 3072),
        ({}, 512, 0, 0),
        ({}, None, 2048, 1024),
        ({}, 2048, 1024, 1024),
    ],
)
def test_before_a_survey_it_is_what_there_is_less_huge_pages_and_the_reserve(settings, limit_mib, huge_mib, budget_mib):
    """As set; else the host's memory less its huge pages, or our cgroup's limit where that leaves less."""
    limit_kib = None if limit_mib is None else limit_mib * MIB
    facts = HostFacts(4096 * MIB, 1, cgroup_limit_kib=limit_kib, hugetlb_kib=huge_mib * MIB)
    assert budget_parts(HostSettings(**settings), facts).budget_kib == budget_mib * MIB


def test_the_parts_add_up_in_words():
    """What an operator reads is the sum, with the guests that are not ours by name."""
    unmanaged = (UnmanagedGuest(9, "stranger", 800 * MIB),)
    watch = watch_budget(BudgetWatch(), survey(1500 * MIB, 0.0, 2 * GIB, unmanaged=unmanaged))
    parts = budget_parts(HostSettings(), FACTS, watch)
    # 1500 and a margin of 128, 100 on top for the stranger: 27 steps of 64.
    assert in_words(parts) == (
        "budget 12608 = MemTotal 16384 - hugepages 2048 - reserve 1024 - others 704 "
        "(with guests that are not ours: stranger 800) (MiB)"
    )
    assert parts.budget_kib == 12608 * MIB


def test_a_budget_that_was_set_stays_and_is_checked():
    """The settings' word holds; where the host has less, the lack is said with its parts."""
    watch = watch_budget(BudgetWatch(), survey(3 * GIB))
    enough = budget_parts(HostSettings(budget_kib=12 * GIB), FACTS, watch)
    assert (enough.budget_kib, enough.not_there_kib, in_words(enough)) == (12 * GIB, 0, "")
    lacking = budget_parts(HostSettings(budget_kib=14 * GIB), FACTS, watch)
    assert lacking.budget_kib == 14 * GIB
    assert lacking.not_there_kib == 14 * GIB - (TOTAL_KIB - 3264 * MIB)
    assert in_words(lacking).startswith("budget 14336 is set, and 1216 of it are not there: MemTotal 16384 - others")


def test_the_reserve_pays_for_others_first():
    """Host processes within the reserve cost no guest anything; what is beyond it comes off, with the margin."""
    small = watch_budget(BudgetWatch(), survey(800 * MIB))
    assert budget_of(small) == 15 * GIB
    large = watch_budget(BudgetWatch(), survey(3 * GIB))
    assert budget_of(large) == TOTAL_KIB - 3 * GIB - 192 * MIB


def test_an_unmanaged_guest_costs_more_than_it_holds():
    """It may touch more at any moment: an eighth on top of what it holds, and of the margin for all."""
    stranger = UnmanagedGuest(9, "stranger", 4 * GIB)
    watch = watch_budget(BudgetWatch(), survey(4 * GIB, unmanaged=(stranger,)))
    assert TOTAL_KIB - budget_of(watch) >= 4 * GIB + 4 * GIB // UNMANAGED_PARTS + MARGIN_LEAST_KIB


@pytest.mark.parametrize(
    ("parent_others_mib", "of"),
    [(0, "the limit of /inner"), (7000, "the limit of /outer"), (3000, "the limit of /inner")],
)
def test_of_all_limits_above_us_the_one_that_leaves_least_counts(parent_others_mib, of):
    """A wide limit whose other tenants use it up is tighter than a narrow one."""
    inner = Account("the limit of /inner", 4 * GIB)
    outer = Account("the limit of /outer", 8 * GIB, 0, parent_others_mib * MIB)
    watch = watch_budget(BudgetWatch(), survey(0, 0.0, 0, inner, outer))
    parts = budget_parts(HostSettings(), FACTS, watch)
    assert parts.of == of
    alone = [watch_budget(BudgetWatch(), Survey(0.0, (account,))) for account in (inner, outer)]
    assert parts.budget_kib == min(budget_of(one) for one in alone)


def test_guests_whose_process_is_unknown_count_once():
    """They are booked already, so they are taken out of the others."""
    watch = watch_budget(BudgetWatch(), survey(3 * GIB), unplaced_kib=2 * GIB)
    assert budget_of(watch) == budget_of(watch_budget(BudgetWatch(), survey(GIB)))


# --- standing still -------------------------------------------------------------------------------------


@given(
    others_kib=st.integers(0, 8 * GIB),
    noise=st.lists(st.integers(-MARGIN_LEAST_KIB // 2 + 1, MARGIN_LEAST_KIB // 2 - 1), min_size=1, max_size=60),
)
def test_noise_within_half_the_margin_moves_nothing(others_kib, noise):
    """I6: processes that come and go do not move the budget, however long."""
    watch = watch_budget(BudgetWatch(), survey(others_kib))
    budget_kib = budget_of(watch)
    for number, off_kib in enumerate(noise):
        watch = watch_budget(watch, survey(max(0, others_kib + off_kib), 5.0 * number))
        assert budget_of(watch) == budget_kib


def test_a_short_spike_moves_nothing_and_a_long_one_does():
    """What a guest touches between two readings, or a compiler for seconds, is no reason to shrink guests."""
    watch = calm = watch_budget(BudgetWatch(), survey(2 * GIB))
    watch = watch_budget(watch, survey(4 * GIB, 5.0))
    watch = watch_budget(watch, survey(2 * GIB, 10.0))
    watch = watch_budget(watch, survey(4 * GIB, 15.0))
    watch = watch_budget(watch, survey(4 * GIB, 15.0 + RISE_AFTER_S - 1))
    assert budget_of(watch) == budget_of(calm)
    watch = watch_budget(watch, survey(5 * GIB, 15.0 + RISE_AFTER_S))
    # The least of the spike: what was there all the time.
    assert budget_of(watch) == budget_of(watch_budget(BudgetWatch(), survey(4 * GIB)))


def test_what_is_given_back_counts_after_a_minute():
    """Down slowly: who gave memory back for a moment takes it again."""
    watch = before = watch_budget(BudgetWatch(), survey(4 * GIB))
    for at_s in range(5, int(FALL_AFTER_S) + 5, 5):
        watch = watch_budget(watch, survey(2 * GIB + at_s, float(at_s)))
        assert budget_of(watch) == budget_of(before)
    watch = watch_budget(watch, survey(2 * GIB, FALL_AFTER_S + 5))
    assert budget_of(watch) == budget_of(watch_budget(BudgetWatch(), survey(2 * GIB + 60)))


def test_a_guest_that_becomes_ours_is_taken_out_at_once():
    """From then on it is booked; that it ends, too, changes nothing at once."""
    watch = watch_budget(BudgetWatch(), survey(6 * GIB))
    watch = watch_budget(watch, survey(2 * GIB, 1.0, managed=frozenset({9})))
    ours_kib = budget_of(watch)
    assert ours_kib == budget_of(watch_budget(BudgetWatch(), survey(2 * GIB)))
    assert budget_of(watch_budget(watch, survey(6 * GIB, 2.0))) == ours_kib


@given(
    st.lists(st.tuples(st.integers(0, 20 * GIB), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(0, 4 * GIB),
    st.none() | st.integers(1, 32 * GIB),
)
def test_whatever_happens_it_is_whole_steps_and_never_more_than_there_is(seen, reserve_kib, set_kib):
    """A budget that nobody set is at most the host less the reserve; one that somebody set is what he said."""
    settings = HostSettings(budget_kib=set_kib, reserve_kib=reserve_kib)
    watch, now_s = BudgetWatch(), 0.0
    for others_kib, passed_s in seen:
        now_s += passed_s
        watch = watch_budget(watch, survey(others_kib, now_s, GIB))
        parts = budget_parts(settings, FACTS, watch)
        assert parts.others_kib % STEP_KIB == 0
        assert parts.budget_kib == (set_kib if set_kib is not None else max(0, parts.budget_kib))
        there_kib = TOTAL_KIB - GIB - max(reserve_kib, parts.others_kib)
        assert replace(parts, set_kib=None).budget_kib == max(0, there_kib)


@given(st.integers(0, 12 * GIB))
def test_constant_others_reach_a_fixed_point(others_kib):
    """Two turns of `FALL_AFTER_S` after the last change nothing moves any more."""
    watch = watch_budget(BudgetWatch(), survey(6 * GIB))
    for number in range(1, 30):
        watch = watch_budget(watch, survey(others_kib, 5.0 * number))
    settled_kib = budget_of(watch)
    for number in range(30, 60):
        watch = watch_budget(watch, survey(others_kib, 5.0 * number))
        assert budget_of(watch) == settled_kib
    counted_kib = budget_parts(HostSettings(), FACTS, watch).others_kib
    assert counted_kib >= others_kib
