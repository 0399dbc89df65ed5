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
    """Half a second between equals that samples found; what is worse leaves at once."""
    gate = DemandGate()
    gate.raise_(SOME)
    gate.take(5.0)
    gate.raise_(SOME)
    assert gate.take(5.4) is None
    gate.raise_(FULL)
    assert gate.take(5.4) == FULL


def test_what_the_kernel_announces_does_not_wait_for_what_was_found() -> None:
    """In a storm that each sample finds again a trigger's DEMAND leaves when it fires, within the four a second."""
    gate, waited_s = DemandGate(), []
    for step in range(400):  # a sample each 250 ms, a trigger each 500 ms, 110 ms after every other sample
        now_s = step * 0.05
        if step % 5 == 0:
            gate.raise_(FULL)
        if step % 10 == 2:
            gate.raise_(SOME, announced=True)
            waited_s.append(max(0.0, (gate.due_s() or 0.0) - now_s))
        gate.take(now_s)
    assert max(waited_s) < 0.1


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
