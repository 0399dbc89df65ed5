from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.simulate.policies.hyperv import Guest, HyperV, share

from .stepping import GIB, Stepping, make_vm


def make_guest(name: str, size: int, need: int, weight: int = 5000) -> Guest:
    return Guest(name, weight, size, need, need * 12 // 10)


def shared(pool: int, *guests: Guest) -> list[int]:
    share(pool, guests)
    return [guest.size_kib for guest in guests]


def test_demand_of_all_comes_before_the_buffer_of_any() -> None:
    """A scarce pool fills demands first."""
    assert shared(200, make_guest("a", 900, 1000), make_guest("b", 900, 1000)) == [1000, 1000]


def test_shortest_first_at_equal_weight() -> None:
    """Of two guests of one weight the one with the higher commit pressure is lifted first."""
    assert shared(100, make_guest("a", 950, 1000), make_guest("b", 800, 1000)) == [950, 900]


def test_heavier_first() -> None:
    """Weight comes before commit pressure, and the lightest pays first."""
    assert shared(100, make_guest("a", 900, 1000, weight=9000), make_guest("b", 500, 1000)) == [1000, 500]
    light, heavy = make_guest("l", 2000, 1000, weight=1), make_guest("h", 2000, 1000)
    assert shared(0, make_guest("a", 900, 1000), light, heavy) == [1200, 1700, 2000]


def test_buffer_is_given_up_for_demand_only() -> None:
    """What a guest holds between demand and buffer pays for another's demand, never for its buffer."""
    assert shared(0, make_guest("a", 900, 1000), make_guest("b", 1200, 1000)) == [1000, 1100]
    assert shared(0, make_guest("a", 1000, 1000), make_guest("b", 1200, 1000)) == [1000, 1200]


def test_nobody_is_robbed_of_its_demand() -> None:
    """However heavy the taker, another's demand stays."""
    assert shared(0, make_guest("a", 500, 1000, weight=10_000), make_guest("b", 1000, 1000, weight=1)) == [500, 1000]


@given(
    pool=st.integers(0, 3000),
    facts=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 2000), st.integers(1, 3)), max_size=8),
)
def test_nothing_is_promised_twice(pool: int, facts: list[tuple[int, int, int]]) -> None:
    """Sizes grow by the pool at most, and no guest falls below the smaller of its size and its demand."""
    guests = [make_guest(str(index), size, need, weight) for index, (size, need, weight) in enumerate(facts)]
    share(pool, guests)
    assert sum(guest.size_kib for guest in guests) <= pool + sum(size for size, _, _ in facts)
    for guest, (size, need, _) in zip(guests, facts, strict=True):
        assert guest.size_kib >= min(size, need)


def test_hungry_guest_is_served_within_a_second_or_two() -> None:
    """A guest that outgrows its size gets demand plus buffer at the next turn."""
    hungry, idle = make_vm("hungry", 2.4, 2), make_vm("idle", 8, 2)
    stepping = Stepping(HyperV(), 10.4, [hungry, idle])
    stepping.run(99.5)
    stepping.change((hungry, 6))
    stepping.run(100)
    assert hungry.assigned_kib == pytest.approx(7.2 * GIB, rel=0.001)
    assert idle.assigned_kib == pytest.approx(3.2 * GIB, rel=0.001)


def test_surplus_stays_until_needed() -> None:
    """A guest whose demand falls keeps its memory while nobody is short."""
    stepping = Stepping(HyperV(), 20, [make_vm("a", 8, 1), make_vm("b", 4, 3)])
    stepping.run(600)
    assert stepping.log == []


def test_balloon_that_answers_in_part_counts_at_its_size() -> None:
    """A donor that does not follow is not counted as given: the next in line pays."""
    hungry, stuck, idle = make_vm("hungry", 2, 4), make_vm("stuck", 8, 1), make_vm("idle", 6, 2)
    stuck.follows = False
    stepping = Stepping(HyperV(), 16, [hungry, stuck, idle], capped=True)
    stepping.run(10)
    assert hungry.assigned_kib == pytest.approx(4.8 * GIB, rel=0.001)
    assert idle.assigned_kib == pytest.approx(3.2 * GIB, rel=0.001)


def test_silent_guest_is_left_alone() -> None:
    """Without reports it is neither lifted nor shrunk."""
    hungry, lost = make_vm("hungry", 2, 6), make_vm("lost", 8, 1)
    lost.silent = True
    stepping = Stepping(HyperV(), 10, [hungry, lost])
    stepping.run(20)
    assert all("lost" not in told for _, told in stepping.log)
