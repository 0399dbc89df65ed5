"""demand.py: a DEMAND leaves at once, and at most four a second."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.demand import DemandGate
from ballonet_guest_agent.pressure import Harm

SOME, FULL = Harm(1, 2), Harm(1, 3)


def test_first_leaves_at_once() -> None:
    """The first harm waits for nothing."""
    gate = DemandGate()
    assert gate.due_s() is None
    gate.raise_(SOME)
    assert gate.take(5.0) == SOME
    assert gate.take(5.0) is None


def test_same_severity_waits_and_worse_does_not() -> None:
    """A quarter of a second between equals; what is worse leaves at once."""
    gate = DemandGate()
    gate.raise_(SOME)
    gate.take(5.0)
    gate.raise_(SOME)
    assert gate.take(5.1) is None
    gate.raise_(FULL)
    assert gate.take(5.1) == FULL


def test_worst_wins() -> None:
    """Of several waiting harms the worst is sent, and only that."""
    gate = DemandGate()
    gate.raise_(FULL)
    gate.raise_(SOME)
    assert gate.take(5.0) == FULL
    assert gate.due_s() is None


def test_clear() -> None:
    """A harm that nobody was there to hear is not sent later."""
    gate = DemandGate()
    gate.raise_(FULL)
    gate.clear()
    assert gate.take(5.0) is None


@given(st.lists(st.tuples(st.floats(0, 0.4), st.integers(0, 3)), max_size=80))
def test_never_more_than_four_a_second(steps: list[tuple[float, int]]) -> None:
    """Whatever is raised when, no second holds more than four."""
    gate, now_s, sent = DemandGate(), 0.0, []
    for wait_s, severity in steps:
        now_s += wait_s
        gate.raise_(Harm(1, severity))
        if gate.take(now_s) is not None:
            sent.append(now_s)
    for first, fifth in zip(sent, sent[4:]):
        assert fifth - first >= 1.0
