"""The engine's invariants on drawn houses, its agreement with brute force, and numbers worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings

from ballonet_host_coord.simulate.demand_trace import Step, oracle_kib, trace_of
from ballonet_host_coord.simulate.engine import PolicyError, run
from ballonet_host_coord.simulate.guest import Guest, Mood
from ballonet_host_coord.simulate.policies.simple import POLICIES, Follower, Oracle

from .houses import GIB, GIVE, RECLAIM, Script, brute, guest, houses, trace

DAY_S = 86400.0


def test_a_minimum_that_somebody_set_is_the_floor():
    """It counts in place of the table's, below it and above it, and never beyond what is provisioned."""
    for minimum_kib, floor_kib in ((None, 744 << 10), (GIB // 8, GIB // 8), (5 * GIB, 5 * GIB), (9 * GIB, 8 * GIB)):
        traces = trace("a", (0.0, 0), (50.0, 6 * GIB), provisioned_kib=8 * GIB)
        policy, seen = Script({1.0: {}}), []
        policy.turn = lambda now_s, vms, seen=seen: seen.append((vms[0].minimum_kib, vms[0].demand_kib)) or {}
        run([Guest(traces, minimum_kib=minimum_kib)], policy, 16 * GIB)
        assert seen == [(floor_kib, floor_kib)]
        minimums_kib = {} if minimum_kib is None else {"a": minimum_kib}
        assert oracle_kib([traces], minimums_kib) == max(6 * GIB, floor_kib)


def vm_days(guests):
    return sum(one.trace.end_s - one.trace.start_s for one in guests) / DAY_S


def lasting(guests, what_kib):
    """KiB*s of something that steps say, over the lives of all."""
    return sum(
        (end_s - step.t_s) * what_kib(step)
        for one in guests
        for step, end_s in zip(
            one.trace.steps, [*(after.t_s for after in one.trace.steps[1:]), one.trace.end_s], strict=True
        )
    )


@given(houses())
def test_the_budget_is_never_exceeded_and_speeds_are_kept(house):
    """Whatever a policy asks for, the sum stays within the budget, and each size moves towards its target alone, at no
    more than its speed."""
    guests, turns, budget_kib, buffer_ratio = house
    every = {count / 8: turns.get(count / 8, {}) for count in range(1, 64)}
    policy, points = Script(every, buffer_ratio), []
    run(guests, policy, budget_kib, points=points, points_every_s=1 / 8)
    for t_s, sizes in policy.seen:
        assert sum(kib for kib, _ in sizes.values()) <= budget_kib + 1, t_s
    assert all(point.assigned_kib <= budget_kib + 1 for point in points)
    for (_, before), (t_s, after) in pairwise(policy.seen):
        targets = {name: target_kib for name, (_, target_kib) in after.items()}
        for name in before.keys() & after.keys():
            rise_kib = after[name][0] - before[name][0]
            assert -RECLAIM / 8 - 1 <= rise_kib <= GIVE / 8 + 1, t_s
            assert rise_kib * (targets[name] - before[name][0]) >= -1, t_s


@given(houses())
def test_no_memory_is_made_or_lost(house):
    """What the host counts as held is the sum of what machines have, at any time."""
    guests, turns, budget_kib, buffer_ratio = house
    every = {count / 8: turns.get(count / 8, {}) for count in range(1, 64)}
    policy, points = Script(every, buffer_ratio), []
    run(guests, policy, budget_kib, points=points, points_every_s=1 / 8)
    held = {point.t_s: point.assigned_kib for point in points}
    for t_s, sizes in policy.seen:
        assert held[t_s] == pytest.approx(sum(kib for kib, _ in sizes.values()), abs=1)


@hypothesis_settings(max_examples=40)
@given(houses())
def test_events_agree_with_brute_force(house):
    """The exact integrals are those of a run in small steps of time, within what its steps can tell."""
    guests, turns, budget_kib, buffer_ratio = house
    score = run(guests, Script(turns, buffer_ratio), budget_kib)
    unmet, deficit, short_s, moved, held = brute(*house)
    days = vm_days(guests)
    demand = lasting(guests, lambda step: step.demand_kib)
    # A step of time misplaces a change of speed by itself at the most; some twenty of them, for 8 s.
    slack = GIVE / 256 * 20
    assert score.unmet_ratio * demand == pytest.approx(unmet, abs=slack)
    assert score.shortage_vm_seconds == pytest.approx(short_s, abs=0.2)
    assert score.moved_gib_per_vm_day * days * GIB == pytest.approx(moved, abs=slack)
    assert score.held_mean_kib * max(one.trace.end_s for one in guests) == pytest.approx(held, abs=slack)
    if score.cache_deficit_ratio is not None:
        cached = lasting(guests, lambda step: min(step.cached_kib, 8 * GIB // 5))
        assert score.cache_deficit_ratio * cached == pytest.approx(deficit, abs=slack)


@given(houses())
def test_the_oracle_meets_all_demand(house):
    """With the peak of the sum and instant moves nobody is ever short."""
    guests, *_ = house
    score = run(guests, Oracle(), oracle_kib(one.trace for one in guests))
    assert (score.unmet_ratio, score.shortage_vm_seconds, score.episodes_per_vm_day) == (0, 0, 0)
    assert score.deepest_shortage_kib == 0


@pytest.mark.parametrize("name", POLICIES)
def test_constant_demand_is_always_met(name):
    """Where nothing changes and the budget holds it, nobody is short and nothing is commanded after the first turn."""
    guests = [guest("a", (0.0, 3 * GIB)), guest("b", (0.0, 5 * GIB))]
    score = run(guests, POLICIES[name](), 16 * GIB)
    assert score.unmet_ratio == score.shortage_vm_seconds == score.deepest_shortage_kib == 0
    assert score.commands_per_vm_day * vm_days(guests) <= 2


def test_a_step_of_demand_by_hand():
    """2 to 6 GiB at 10 s: a follower sees it at 11 s, has 2.4 GiB then and gives 2.1 GiB/s."""
    guests = [guest("a", (0.0, 2 * GIB), (10.0, 6 * GIB), end_s=20.0)]
    score = run(guests, Follower(), 16 * GIB)
    lacked, rise_s = 3.6, 3.6 / 2.1
    assert score.unmet_ratio == pytest.approx((lacked + lacked * rise_s / 2) / 80)
    assert score.shortage_vm_seconds == pytest.approx(1 + rise_s)
    assert score.episodes_per_vm_day == pytest.approx(1 / vm_days(guests))
    assert score.deepest_shortage_kib == pytest.approx(3.6 * GIB, abs=1)
    assert score.moved_gib_per_vm_day * vm_days(guests) == pytest.approx(4.8, abs=1e-5)
    assert score.commands_per_vm_day == pytest.approx(1 / vm_days(guests))
    assert score.cache_deficit_ratio is None
    held = 2.4 * 11 + (2.4 + 7.2) / 2 * 4.8 / 2.1 + 7.2 * (9 - 4.8 / 2.1)
    assert score.held_mean_kib == pytest.approx(held / 20 * GIB, rel=1e-6)


def test_a_shortage_of_two_seconds_is_no_episode():
    """Episodes last longer than 2 s: 2.1 GiB above what it has is met in exactly 1 s and 1 s of delay."""
    score = run([guest("a", (0.0, 5 * GIB), (10.0, int(8.1 * GIB)))], Follower(), 16 * GIB)
    assert score.shortage_vm_seconds == pytest.approx(2, abs=1e-5)
    assert score.episodes_per_vm_day == 0


def test_below_its_demand_a_machine_shrinks_slowly():
    """5 GiB with a demand of 4.14 GiB: one second down to the demand, then 0.1 GiB/s, which is a shortage."""
    demand_kib = int(4.14 * GIB)
    policy = Script({1.0: {"a": 3 * GIB}, 2.0: {}, 4.0: {}}, buffer_ratio=5 / 4.14 - 1)
    score = run([guest("a", (0.0, demand_kib), end_s=4.5)], policy, 16 * GIB)
    at = {t_s: sizes["a"][0] / GIB for t_s, sizes in policy.seen}
    assert at == pytest.approx({1.0: 5.0, 2.0: 4.14, 4.0: 3.94}, abs=1e-5)
    assert score.deepest_shortage_kib == pytest.approx(0.25 * GIB, abs=10)
    assert score.shortage_vm_seconds == pytest.approx(2.5, abs=1e-4)


def test_with_an_empty_pool_givers_share_what_is_reclaimed():
    """One gives back 0.86 GiB/s, and the two below their targets get half of it each."""
    guests = [guest(name, (0.0, 2 * GIB), end_s=20.0) for name in "ab"]
    guests.append(guest("c", (0.0, 8 * GIB), (0.5, 2 * GIB), end_s=20.0))
    policy = Script({1.0: {"a": 4 * GIB, "b": 4 * GIB, "c": 4 * GIB}, 3.0: {}, 19.0: {}})
    run(guests, policy, 12 * GIB)
    at = {t_s: [kib / GIB for kib, _ in sizes.values()] for t_s, sizes in policy.seen}
    assert at[3.0] == pytest.approx([2.86, 2.86, 6.28])
    assert at[19.0] == pytest.approx([4, 4, 4])


def test_cache_deficit_by_hand():
    """20 % of 16 GiB is worked with; 2.4 GiB for 2 GiB of use leave 0.4 of the 3.2."""
    score = run([guest("a", (0.0, 2 * GIB, 8 * GIB))], Follower(), 16 * GIB)
    assert score.cache_deficit_ratio == pytest.approx(2.8 / 3.2, rel=1e-5)


def test_first_sizes_are_scaled_alike_and_a_later_machine_gets_what_is_free():
    """Two that need 12 GiB of 9 get three quarters each; a third one gets nothing until one ends."""
    guests = [guest("a", (0.0, 4 * GIB), end_s=5.0), guest("b", (0.0, 8 * GIB)), guest("c", (2.0, 4 * GIB))]
    policy = Script({3.0: {"c": 4 * GIB}, 4.0: {}, 9.0: {}})
    run(guests, policy, 9 * GIB)
    assert policy.first == {"a": 3 * GIB, "b": 6 * GIB}
    at = [{name: kib for name, (kib, _) in sizes.items()} for _, sizes in policy.seen]
    assert (at[0]["c"], at[1]["c"]) == (0, 0)
    assert at[2] == pytest.approx({"b": 6 * GIB, "c": 3 * GIB})


def test_what_is_above_a_smaller_maximum_is_free_at_once():
    """A machine that is resized from 16 to 4 GiB has 4, has a smaller floor, and no balloon moved that."""
    steps = [Step(0.0, 8 * GIB, None, 16 * GIB), Step(5.0, 8 * GIB, None, 4 * GIB)]
    policy = Script({6.0: {}})
    score = run([Guest(trace_of("a", steps, 10.0))], policy, 16 * GIB)
    assert policy.seen == [(6.0, {"a": (4 * GIB, 4 * GIB)})]
    assert score.moved_gib_per_vm_day == score.unmet_ratio == 0


def test_moods_hold_a_balloon_a_report_and_a_hidden_floor():
    """A stuck one stays where it is, a silent one shows what it showed, and nothing shrinks below its hidden floor."""

    class Watching(Script):
        def turn(self, now_s, vms):
            self.shown = {vm.name: (vm.shows_kib, vm.silent) for vm in vms}
            return super().turn(now_s, vms)

    used = ((0.0, 8 * GIB), (2.0, 4 * GIB))
    guests = [
        Guest(trace("stuck", *used), (Mood(1.0, follows=False), Mood(20.0))),
        Guest(trace("silent", *used), (Mood(1.0, silent=True),)),
        Guest(trace("floor", *used), least_kib=7 * GIB),
        Guest(trace("liar", *used), (Mood(0.0, shows_ratio=1.5),)),
    ]
    every = {one.trace.name: 4 * GIB for one in guests}
    policy = Watching({3.0: every, 19.0: {}, 30.0: {}})
    run(guests, policy, 64 * GIB)
    at = [{name: kib / GIB for name, (kib, _) in sizes.items()} for _, sizes in policy.seen]
    assert at[1] == pytest.approx({"stuck": 8, "silent": 4, "floor": 7, "liar": 4})
    assert at[2]["stuck"] == pytest.approx(4)
    assert policy.shown["silent"] == (8 * GIB, True)
    assert policy.shown["liar"] == (6 * GIB, False)


def test_a_turn_that_was_due_comes_before_a_step_at_the_same_time():
    """A periodic policy does not see a step at the time of its own turn: the worst case."""

    class Noting(Script):
        def turn(self, now_s, vms):
            self.shown = [*getattr(self, "shown", []), vms[0].shows_kib // GIB]
            return super().turn(now_s, vms)

    policy = Noting({5.0: {}, 6.0: {}})
    run([guest("a", (0.0, 2 * GIB), (5.0, 3 * GIB))], policy, 16 * GIB)
    assert policy.shown == [2, 3]


@pytest.mark.parametrize("name", POLICIES)
def test_a_house_may_be_empty_for_a_while(name):
    """A turn that was due when nobody was there comes with the next machine, and no later one is lost."""
    guests = [guest("a", (0.0, 2 * GIB), end_s=5.0), guest("b", (50.0, 2 * GIB), (60.0, 8 * GIB), end_s=90.0)]
    score = run(guests, POLICIES[name](), 16 * GIB)
    assert score.shortage_vm_seconds < 4


def test_a_policy_that_names_nobody_or_the_past_is_told():
    """A target for a machine that does not exist and a next turn that is not later are errors."""

    class Lost(Script):
        def turn(self, now_s, vms):
            return {"nobody": GIB}

    class Late(Script):
        def next_turn_s(self, now_s, changed):
            return 1.0

    for policy, says in ((Lost({1.0: {}}), "nobody"), (Late({1.0: {}}), "allowed are later times")):
        with pytest.raises(PolicyError, match=says):
            run([guest("a", (0.0, GIB))], policy, GIB)


def test_progress_rises_to_the_end():
    """The callback gets rising parts of the time, the last one all of it."""
    parts = []
    run([guest("a", *((float(t_s), (2 + t_s % 2) * GIB) for t_s in range(100)))], Follower(), GIB * 16, parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
