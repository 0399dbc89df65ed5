from __future__ import annotations

from math import inf

import pytest

from ballonet_host_coord.simulate.policies.ticks import Ticks


def test_each_turn_is_taken_once() -> None:
    """A turn falls on a multiple of the period, and only once."""
    ticks = Ticks(10.0)
    assert ticks.upcoming_s(0.0) == 0.0
    assert [ticks.take(now_s) for now_s in (0.0, 0.0, 5.0, 10.0)] == [0, None, None, 1]
    assert ticks.upcoming_s(10.0) == 20.0


def test_sleep_ends_with_a_change() -> None:
    """Asleep there is no next turn; after a change it is the first multiple later than that."""
    ticks = Ticks(10.0)
    ticks.take(0.0)
    ticks.asleep = True
    assert ticks.next_s(0.0, False) == inf
    assert ticks.next_s(33.0, True) == 40.0
    ticks.asleep = True
    assert ticks.next_s(50.0, True) == 60.0


@pytest.mark.parametrize("period_s", [0.1, 1.0, 5.0, 15.0])
def test_multiples_stay_exact_over_a_week(period_s: float) -> None:
    """No turn is lost or doubled by rounding, however late it is."""
    ticks = Ticks(period_s)
    now_s = 604_000.0
    ticks.skip(now_s)
    for _ in range(200):
        following_s = ticks.upcoming_s(now_s)
        assert following_s - now_s == pytest.approx(period_s, rel=1e-6) or following_s - now_s < period_s
        assert following_s > now_s
        assert ticks.take(following_s) is not None
        now_s = following_s


def test_phase_shifts_the_turns() -> None:
    """With a phase of -1 s turns come 1 s before the multiples."""
    ticks = Ticks(10.0, phase_s=-1.0)
    assert [ticks.take(now_s) is not None for now_s in (9.0, 10.0, 19.0)] == [True, False, True]
