"""Jobs: budgets, order, processes, and what is run only once."""

from __future__ import annotations

import pytest

from ballonet_host_coord.simulate import sources
from ballonet_host_coord.simulate.policies.registry import POLICIES
from ballonet_host_coord.simulate.runs import Budget, Job, distinct, run_all, score, work, workers
from ballonet_host_coord.simulate.sources import Source, courses_of, load

SMALL = Source(mix="servers", vm_count=3, seed=1, to_h=0.5)


def test_outcomes_come_in_the_order_of_the_jobs(engine):
    """Each is told of as it ends, with how many have, and all are answered in the order that was asked for."""
    told = []
    jobs = [Job(SMALL, name, Budget(times=times)) for times in (1.0, 2.0) for name in ("lazy", "oracle")]
    outcomes = run_all(jobs, 1, lambda outcome, done: told.append((outcome.job, done)))
    assert [outcome.job for outcome in outcomes] == jobs
    assert told == [(job, number) for number, job in enumerate(jobs, 1)]


def test_a_budget_is_a_size_or_a_multiple_of_the_oracle(engine):
    """`times` is of what the oracle needs for this demand; a size is itself."""
    multiple, size = (work(Job(SMALL, "lazy", budget)) for budget in (Budget(times=1.5), Budget(kib=777)))
    assert multiple.budget_kib == round(1.5 * multiple.oracle_kib)
    assert size.budget_kib == 777


def test_what_has_no_slider_is_run_once_for_all_of_it(engine):
    """A peer's outcome at one place stands for every other; ours is run at each."""
    jobs = [Job(SMALL, name, Budget(times=1.0), slider) for slider in (0, 50, 100) for name in ("ballonet", "lazy")]
    outcomes = run_all(jobs, 1)
    assert [outcome.job for outcome in outcomes] == jobs
    assert len(engine.scored) == len(distinct(jobs)) == 4
    assert outcomes[1].figures == outcomes[5].figures
    assert outcomes[0].figures != outcomes[4].figures


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_can_be_run(policy):
    """The engine runs each of them; what it scored says how long that took, as the engine reads no clock."""
    house = load(SMALL)
    figures, points = score(policy, house.guests, house.oracle_kib, points_every_s=300.0)
    assert figures["seconds"] > 0
    assert 0 <= figures["unmet_ratio"] <= 1
    assert policy != "oracle" or figures["unmet_ratio"] == 0
    assert [point.t_s for point in points] == [300.0 * number for number in range(7)]


def test_a_fresh_process_makes_the_same_demand():
    """A worker knows nothing but the job, and has the same machines from it."""
    source = Source(mix="desktops-storm", vm_count=2, seed=5, to_h=1.0)
    with workers(2) as pool:
        assert pool is not None
        assert pool.submit(courses_of, source).result(timeout=60) == courses_of(source)


def test_one_process_is_this_one():
    """A single worker is no process of its own."""
    with workers(1) as pool:
        assert pool is None


def test_demand_is_loaded_once_for_all_policies(engine):
    """Policies on the same demand share it in a process."""
    sources.load.cache_clear()
    run_all([Job(SMALL, name, Budget(times=1.0)) for name in ("lazy", "static", "oracle")], 1)
    assert sources.load.cache_info().misses == 1
