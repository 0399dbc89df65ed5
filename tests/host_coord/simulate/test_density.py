"""The search for how many machines fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.simulate.density import LIMIT_RATIO, density, fixed_count


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 500))
def test_the_edge_is_found_wherever_it_lies(edge, fixed, most):
    """For a limit kept exactly up to some count, that count is the answer, or the most that there are."""
    found = density(lambda count: 0.0 if count <= edge else 1.0, fixed, most)
    assert found.vm_count == min(edge, most)


@given(st.integers(1, 400), st.integers(1, 400))
def test_few_counts_are_tried(edge, fixed):
    """Doubling and bisection try a number of counts that grows with the logarithm, and none twice."""
    asked: list[int] = []

    def unmet_ratio(count: int) -> float:
        asked.append(count)
        return 0.0 if count <= edge else 1.0

    density(unmet_ratio, fixed, 400)
    assert len(asked) == len(set(asked)) <= 20


@given(st.lists(st.booleans(), min_size=60, max_size=60))
def test_the_answer_keeps_the_limit_and_the_next_does_not(fits):
    """Also where unmet demand is not monotone, the answer was tried and kept, and one more was tried and did not."""
    found = density(lambda count: 0.0 if fits[count - 1] else 1.0, 20, 60)
    assert found.vm_count == 0 or found.tried[found.vm_count] <= LIMIT_RATIO
    assert found.vm_count == 60 or found.tried[found.vm_count + 1] > LIMIT_RATIO


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 20))
def test_a_near_beginning_and_less_exactness_save_runs(edge, begin, within):
    """The answer keeps the limit and is less than `within` below the edge; from the edge itself it takes few runs."""
    found = density(lambda count: float(count > edge), 100, 400, begin=begin, step=2, within=within)
    assert edge - within < found.vm_count <= edge
    near = density(lambda count: float(count > edge), 100, 400, begin=edge, step=2, within=within)
    assert len(near.tried) <= 3


def test_the_limit_itself_is_kept():
    """At most 0.01 % means that 0.01 % fits."""
    assert density(lambda count: LIMIT_RATIO, 3, 7).vm_count == 7


def test_the_ratio_is_of_fixed_sizes():
    """Density is quoted as machines per machine of fixed size; without any, there is nothing to divide by."""
    assert density(lambda count: float(count > 9), 6, 100).ratio == 1.5
    assert density(lambda count: float(count > 9), 0, 100).ratio == 0.0


@pytest.mark.parametrize(("host_kib", "count"), [(0, 0), (9, 0), (10, 1), (29, 1), (30, 2), (1000, 3)])
def test_fixed_sizes_are_the_machines_own_peaks(host_kib, count):
    """They are placed from the first on, each with its own peak, until one does not fit."""
    assert fixed_count([10, 20, 30], host_kib) == count
