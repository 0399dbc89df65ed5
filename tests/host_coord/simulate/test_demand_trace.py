"""Demand is max(used, floor) by the rule's table, steps hold until the next, and the oracle is the peak of sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.simulate.demand_trace import (
    Sample,
    Step,
    floor_kib,
    from_samples,
    oracle_kib,
    shifted,
    together,
    trace_of,
    window,
)

from .houses import GIB, houses, trace

MIB = 1024


@pytest.mark.parametrize(
    ("provisioned_mib", "floor_mib"),
    [(0, 0), (8, 8), (64, 40), (127, 71.5), (128, 72), (511, 167.75), (512, 168), (2047, 359.875), (2048, 360),
     (8191, 743.9375), (8192, 744), (16384, 1000)],
)  # fmt: skip
def test_floors_are_those_of_the_table(provisioned_mib, floor_mib):
    """Each row's ends, and a machine smaller than its row's base."""
    assert floor_kib(provisioned_mib * MIB) == floor_mib * MIB


@given(st.integers(0, 1 << 30), st.integers(-GIB, 1 << 31))
def test_demand_is_between_floor_and_provisioned(provisioned_kib, used_kib):
    """Whatever was recorded."""
    (step,) = trace_of("a", [Step(0.0, used_kib, None, provisioned_kib)], 1.0).steps
    assert floor_kib(provisioned_kib) <= step.demand_kib <= provisioned_kib
    assert 0 <= step.used_kib <= provisioned_kib


def test_samples_become_steps():
    """Missing values hold, a missing size is the largest recorded, equal samples are one, the end is one period on."""
    samples = [
        Sample(0.0, 2 * GIB, None, 7),
        Sample(10.0, None, 4 * GIB),
        Sample(20.0, 2 * GIB, 8 * GIB, None),
        Sample(30.0, 9 * GIB, 8 * GIB, 7),
        Sample(90.0, -5, 4 * GIB, 8),
    ]
    made = from_samples("a", samples)
    assert made.steps == (
        Step(0.0, 2 * GIB, 7, 8 * GIB),
        Step(30.0, 8 * GIB, 7, 8 * GIB),
        Step(90.0, 0, 8, 4 * GIB),
    )
    assert (made.start_s, made.end_s, made.provisioned_kib) == (0.0, 100.0, 8 * GIB)


def test_samples_without_use_are_no_trace():
    """Where nothing says what was used there is no demand; where no size is recorded the largest use is one."""
    assert from_samples("a", [Sample(0.0, None, GIB)]) is None
    assert from_samples("a", [Sample(0.0, 3, None), Sample(1.0, 5, None)]).provisioned_kib == 5


def test_a_window_begins_with_what_held_and_ends_what_goes_on():
    """The cut is a run of its own, from 0; who does not exist in it is left out."""
    whole = trace("a", (0.0, 2 * GIB), (10.0, 3 * GIB), (20.0, 4 * GIB), end_s=30.0)
    late = trace("b", (25.0, 2 * GIB), end_s=30.0)
    (cut,) = window([whole, late], 5.0, 20.0)
    assert [(step.t_s, step.used_kib) for step in cut.steps] == [(0.0, 2 * GIB), (5.0, 3 * GIB)]
    assert cut.end_s == 15.0


def test_machines_can_be_started_together():
    """Shifting moves all of a trace; together, all start at 0 and are as long as before."""
    one = shifted(trace("a", (0.0, GIB), (5.0, 2 * GIB), end_s=9.0), 2.5)
    assert ([step.t_s for step in one.steps], one.end_s) == ([2.5, 7.5], 11.5)
    (back,) = together([one])
    assert ([step.t_s for step in back.steps], back.end_s) == ([0.0, 5.0], 9.0)


def test_the_oracle_counts_what_is_there_at_one_time():
    """Who ends makes room at the same moment for who comes."""
    first = trace("a", (0.0, 4 * GIB), (5.0, 2 * GIB), end_s=10.0)
    second = trace("b", (5.0, 3 * GIB), (6.0, 1 * GIB), end_s=10.0)
    third = trace("c", (10.0, 4 * GIB), end_s=12.0)
    assert oracle_kib([first, second, third]) == 5 * GIB
    assert oracle_kib([]) == 0


@given(houses())
def test_the_oracle_is_the_largest_sum_at_any_step(house):
    """Looked up at each step's time, the sum of what holds then is never more, and once as much."""
    traces = [one.trace for one in house[0]]
    times_s = {step.t_s for one in traces for step in one.steps}

    def sum_at(t_s):
        return sum(
            [step.demand_kib for step in one.steps if step.t_s <= t_s][-1]
            for one in traces
            if one.start_s <= t_s < one.end_s
        )

    assert oracle_kib(traces) == max(map(sum_at, times_s))
