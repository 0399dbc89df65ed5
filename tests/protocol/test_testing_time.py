"""The guest's clocks in the hands of a test."""

from __future__ import annotations

import pytest

from ballonet_protocol.testing import VirtualTime


def test_only_a_suspended_guest_sees_two_times() -> None:
    """Time that passes moves both clocks; a suspension moves the boot time alone."""
    time = VirtualTime(5.0, boottime_s=7.0)
    time.advance(2.0)
    assert (time.monotonic_s, time.boottime_s) == (7.0, 9.0)
    time.sleep(30.0)
    assert (time.monotonic_s, time.boottime_s) == (7.0, 39.0)


def test_never_suspended_by_default() -> None:
    """A new guest has slept for no second and has been up for longer than anything waits after a boot."""
    time = VirtualTime()
    assert time.monotonic_s == time.boottime_s >= 600.0


def test_deadlines_fall_due_in_order_and_on_time() -> None:
    """What is due is called in the order of its times, equal ones as they were given, and reads its own time."""
    time = VirtualTime(0.0)
    seen: list[tuple[str, float]] = []
    for name, at_s in (("late", 3.0), ("first", 1.0), ("second", 1.0), ("never", 9.0)):
        time.call_at(at_s, lambda name=name: seen.append((name, time.monotonic_s)))
    time.advance(4.0)
    assert seen == [("first", 1.0), ("second", 1.0), ("late", 3.0)]
    assert (time.monotonic_s, time.boottime_s) == (4.0, 4.0)


def test_a_deadline_may_set_the_next() -> None:
    """A timer that sets itself again rings as often as it fits, within one `advance`."""
    time = VirtualTime(0.0)
    rung: list[float] = []

    def ring() -> None:
        rung.append(time.monotonic_s)
        time.call_at(time.monotonic_s + 2.0, ring)

    time.call_at(2.0, ring)
    time.advance(7.0)
    assert rung == [2.0, 4.0, 6.0]


def test_the_past_is_due_at_once() -> None:
    """A deadline that has gone by is called at the next `advance`, also by nothing, and turns no clock back."""
    time = VirtualTime(10.0)
    seen: list[float] = []
    time.call_at(3.0, lambda: seen.append(time.monotonic_s))
    time.advance(0.0)
    assert seen == [10.0]


def test_a_suspended_guests_deadlines_wait() -> None:
    """No suspension, however long, makes anything due."""
    time = VirtualTime(0.0)
    seen: list[float] = []
    time.call_at(1.0, lambda: seen.append(time.boottime_s))
    time.sleep(3600.0)
    assert seen == []
    time.advance(1.0)
    assert seen == [3601.0]


@pytest.mark.parametrize("move", ["advance", "sleep"])
def test_no_way_back(move: str) -> None:
    """Neither clock runs backwards."""
    with pytest.raises(ValueError, match="backwards"):
        getattr(VirtualTime(), move)(-0.1)
