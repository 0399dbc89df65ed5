"""Jobs: where demand comes from, budgets, order, processes."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest

from ballonet_host_coord.simulate import runs
from ballonet_host_coord.simulate.mixes import MIXES
from ballonet_host_coord.simulate.runs import Budget, Job, Source, courses_of, load, run, run_all, work, workers

FILE = Source(Path("folder/file.csv.gz"))


def test_outcomes_come_in_the_order_of_the_jobs(engine):
    """Each is told of as it ends, with how many have, and all are answered in the order that was asked for."""
    told = []
    jobs = [Job(FILE, name, Budget(times=times)) for times in (1.0, 2.0) for name in ("lazy", "oracle")]
    outcomes = run_all(jobs, 1, lambda outcome, done: told.append((outcome.job, done)))
    assert [outcome.job for outcome in outcomes] == jobs
    assert told == [(job, number) for number, job in enumerate(jobs, 1)]


def test_a_budget_is_a_size_or_a_multiple_of_the_oracle(engine):
    """`times` is of what the oracle needs for this demand; a size is itself."""
    multiple, size = (work(Job(FILE, "lazy", budget)) for budget in (Budget(times=1.5), Budget(kib=777)))
    assert multiple.budget_kib == round(1.5 * multiple.oracle_kib)
    assert size.budget_kib == 777


def test_a_run_says_how_long_it_took(engine):
    """The engine reads no clock, so `seconds` is filled in here."""
    figures = run("lazy", MIXES["servers"](2, 1, 600.0), 1 << 24, 50, 1)
    assert figures["seconds"] >= 0
    assert figures["unmet_ratio"] > 0


def test_machine_n_is_shifted_n_times(engine):
    """The correlated case of runs that were recorded one after the other: each starts earlier by as much again."""
    load(Source(Path("f"), shift_s=2400.0))
    assert engine.by_s == [0.0, -2400.0, -4800.0]


@pytest.mark.parametrize(("from_h", "to_h"), [(1.0, 2.0), (0.0, 5.0), (3.0, inf)])
def test_a_window_is_in_hours(engine, from_h, to_h):
    """What is asked for in hours is cut in seconds."""
    load(Source(Path("f"), from_h=from_h, to_h=to_h))
    assert engine.window_s == (from_h * 3600, to_h * 3600)


def test_a_part_without_machines_is_refused(engine):
    """Nothing to simulate is said, not simulated."""
    with pytest.raises(ValueError, match="no machine exists then"):
        load(Source(Path("f"), from_h=1000.0))


def test_so_many_machines_of_a_file(engine):
    """A count takes the first ones of a file."""
    assert [machine.name for machine in load(Source(Path("f"), vm_count=2))] == ["vm0", "vm1"]


def test_a_mix_is_made_as_long_as_it_is_looked_at():
    """Three hours of a mix are the first three of its day."""
    (short,) = courses_of(Source(mix="servers", vm_count=1, seed=3, to_h=3.0))
    assert short.end_s == 3 * 3600.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FILE, "folder/file.csv.gz"),
        (Source(Path("a/b"), "web*", vm_count=4), "a/b, web*, 4 VMs"),
        (Source(mix="servers", vm_count=9, together=True), "servers, 9 VMs, started together"),
        (Source(mix="servers", from_h=2, to_h=3.5, shift_s=60), "servers, hours 2 to 3.5, each 60 s earlier"),
        (Source(mix="servers", from_h=2), "servers, hours 2 to the end"),
    ],
)
def test_a_source_says_what_it_is(source, said):
    """In the table and the JSON it stands which demand it was."""
    assert str(source) == said


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


def test_demand_is_loaded_once_for_all_policies(engine, monkeypatch):
    """Policies on the same demand share it in a process."""
    loads = []
    monkeypatch.setattr(runs, "load", lambda source: loads.append(source) or engine.read(Path("f"), "*"))
    run_all([Job(FILE, name, Budget(times=1.0)) for name in ("lazy", "static", "oracle")], 1)
    assert loads == [FILE]
