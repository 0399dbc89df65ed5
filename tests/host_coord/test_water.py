"""Weighted max-min sharing: nobody below its lower bound, nobody above its upper, the supply used and not exceeded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.water import Taker, fill

SIZES = st.integers(0, 10**7)


@st.composite
def takers(draw):
    lower, rise, base = draw(SIZES), draw(SIZES), draw(SIZES)
    return Taker(base, lower, lower + rise, draw(st.integers(1, 10000)))


TAKERS = st.lists(takers(), max_size=6)


@given(SIZES, TAKERS)
def test_bounds_hold(supply_kib, those):
    """Each holds at least its lower and at most its upper bound, whatever the supply."""
    for held, taker in zip(fill(supply_kib, those), those, strict=True):
        assert taker.lower_kib <= held <= taker.upper_kib


@given(SIZES, TAKERS)
def test_the_supply_is_used_and_not_exceeded(supply_kib, those):
    """What is held together is the supply, less a rounding of a KiB each, unless the bounds say otherwise."""
    held = sum(fill(supply_kib, those))
    lowers, uppers = sum(taker.lower_kib for taker in those), sum(taker.upper_kib for taker in those)
    most = max(lowers, min(supply_kib, uppers))
    assert most - len(those) <= held <= most


@given(SIZES, SIZES, TAKERS)
def test_more_supply_is_less_for_nobody(supply_kib, more_kib, those):
    """Sharing is monotone in the supply."""
    for little, much in zip(fill(supply_kib, those), fill(supply_kib + more_kib, those), strict=True):
        assert much >= little - 1


@given(SIZES, TAKERS)
def test_between_their_bounds_all_stand_at_one_level(supply_kib, those):
    """Who is strictly between its bounds has the same level, (held - base) / weight, as the others there."""
    held = fill(supply_kib, those)
    levels = [
        ((have - taker.base_kib) / taker.weight, 1 / taker.weight)
        for have, taker in zip(held, those, strict=True)
        if taker.lower_kib < have < taker.upper_kib
    ]
    for level, rounding in levels:
        assert all(abs(level - other) <= rounding + other_rounding + 1e-6 for other, other_rounding in levels)


@given(SIZES, TAKERS, st.permutations(range(6)))
def test_order_does_not_matter(supply_kib, those, order):
    """A guest's place in the list gives it nothing."""
    order = [place for place in order if place < len(those)]
    shuffled = fill(supply_kib, [those[place] for place in order])
    straight = fill(supply_kib, those)
    assert all(abs(shuffled[index] - straight[place]) <= 1 for index, place in enumerate(order))


def test_weight_divides_what_is_scarce() -> None:
    """Twice the weight is twice the share above the minimum."""
    assert fill(900, [Taker(100, 100, 9999, 1), Taker(200, 200, 9999, 2)]) == [300, 600]


def test_what_one_does_not_need_the_others_share() -> None:
    """A modest taker's rest goes to the rest."""
    assert fill(900, [Taker(0, 0, 100, 1), Taker(0, 0, 999, 1), Taker(0, 0, 999, 1)]) == [100, 400, 400]


def test_an_upper_bound_below_the_lower_is_read_as_the_lower() -> None:
    """A guest whose demand is below its floor holds its floor."""
    assert fill(50, [Taker(0, 100, 20, 1)]) == [100]
    assert fill(500, [Taker(0, 100, 20, 1)]) == [100]


def test_nobody_shares_nothing() -> None:
    """No guests, no shares."""
    assert fill(100, []) == []
