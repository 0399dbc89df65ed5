"""The verdicts of the policy's benchmark, which nobody would recompute by hand."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def goals(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmarks are scripts beside each other and no package."""
    monkeypatch.syspath_prepend(BENCH)
    before = set(sys.modules)
    yield importlib.import_module("goals")
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def figures(unmet, episodes=0.0, moved=1.0, commands=1.0, cache=0.1):
    return {
        "unmet_ratio": unmet, "episodes_per_vm_day": episodes, "moved_gib_per_vm_day": moved,
        "commands_per_vm_day": commands, "cache_deficit_ratio": cache,
    }  # fmt: skip


def a_set(ours, follower=3e-5, give_all=6e-5, lazy=2e-5, mom=1.0):
    values = {"ballonet": ours, "follower": follower, "give-all": give_all, "lazy": lazy, "mom-vdsm": mom, "oracle": 0}
    return {name: figures(unmet) for name, unmet in values.items()}


def met(those) -> list[bool | None]:
    return [goal.met for goal in those]


@pytest.mark.parametrize(
    ("ours", "verdicts"), [(1.99e-5, [True, True]), (2.1e-5, [False, False]), (0.0, [True, True])]
)
def test_ours_is_measured_against_the_better_of_the_plain_ones(goals, ours, verdicts):
    """At most two thirds of the better one, and never above lazy."""
    assert met(goals.of_set("x", a_set(ours), builds=False)) == verdicts


def test_on_builds_the_slow_peers_lack_a_hundred_times_more(goals):
    """The least of them counts; and the cache is not starved more than by the follower."""
    assert met(goals.of_set("x", a_set(1e-5, mom=1e-3), builds=True)) == [True, True, True, True]
    assert met(goals.of_set("x", a_set(1e-5, mom=0.9e-3), builds=True)) == [True, True, False, True]


@pytest.mark.parametrize(
    ("ours", "peer", "beaten"),
    [(0, 0, True), (1e-9, 0, False), (0, 1e-9, True), (1e-5, 1e-5, False), (1e-5, 2e-5, True)],
)
def test_on_the_frontier_a_tie_counts_only_at_nothing(goals, ours, peer, beaten):
    """Never more than a peer, and strictly less wherever that peer has any; the oracle does not count."""
    those = {"ballonet": figures(ours, ours), "lazy": figures(peer, peer), "oracle": figures(0)}
    assert met(goals.of_frontier({1.05: those})) == [beaten, beaten]


def test_episodes_on_the_frontier_have_a_line_for_each_peer(goals):
    """It says at which budgets the peer is not beaten, and by how much."""
    at = {
        times: {"ballonet": figures(0, 0.5), "lazy": figures(1, lazy), "static": figures(1, 2.0), "oracle": figures(0)}
        for times, lazy in ((1.05, 0.4), (2.0, 0.6))
    }
    lazy, static = goals.of_frontier(at)[2:]
    assert (lazy.reached, lazy.met, lazy.note) == (1, False, "1.05x 0.5 to 0.4")
    assert (static.reached, static.met) == (0, True)


def test_thrift_is_measured_at_the_limits_that_are_met(goals):
    """A peer that moves little and meets no limit is no measure, nor is the oracle; what nobody else meets says so."""
    those = {
        "ballonet": figures(5e-5, moved=3.0), "lazy": figures(5e-4, moved=2.5), "give-all": figures(9e-4, moved=1.0),
        "static": figures(0.2, moved=0.0), "oracle": figures(0.0, moved=0.1),
    }  # fmt: skip
    moved, commands, *rest = goals.of_thrift("x", those)
    assert (moved.reached, moved.met, moved.note) == (3.0, False, "3; give-all 1")
    assert commands.met is True
    assert met(rest) == [None, None]
    assert met(goals.of_thrift("x", {**those, "ballonet": figures(0.1)})) == [None]


def test_a_decision_has_a_time_and_a_growth(goals):
    """Five milliseconds for 1000 guests, and n log n from 100 to 10000 with a third for noise."""
    ms = {"ballonet": {100: 0.4, 1000: 4.9, 10_000: 100.0}, "qmemman": {100: 0.1, 1000: 1.0, 10_000: 10.0}}
    assert met(goals.of_decisions(ms)) == [True, True]
    assert met(goals.of_decisions({**ms, "ballonet": {100: 0.4, 1000: 5.1, 10_000: 110.0}})) == [False, False]


def test_density_has_its_goal_and_the_storm_none(goals):
    """Desktops and servers have a verdict; the storm's number stands beside."""
    assert goals.of_density("desktops-staggered", 145, 100, 1.45, {}).met is True
    assert goals.of_density("servers", 149, 100, 1.49, {}).met is False
    assert goals.of_density("desktops-storm", 105, 100, 1.05, {"follower": 1.0}).met is None


def test_a_missing_number_is_no_success(goals):
    """The table counts what was missed and what could not be measured."""
    table = goals.table([goals.missing("a", "<= 1", "no data"), goals.Goal("b", "<= 1", 2.0, False)])
    assert "2 numbers: 1 missed, 1 without a verdict" in table
    assert "no data" in table


def test_sharing_is_compared_with_another_way_to_the_answer(goals):
    """Bisection of the level and the project's own sharing agree but for whole KiB."""
    policy = importlib.import_module("policy")
    assert policy.worst_share(50) < 1e-4
