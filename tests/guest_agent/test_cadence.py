"""cadence.py: back-off, frame budget and report rhythm on a clock of numbers."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.cadence import (
    REST_LEAST_S,
    REST_LONGEST_S,
    WORK_BURST_S,
    WORK_RATIO,
    Backoff,
    FrameBudget,
    LineBudget,
    ReportRhythm,
    WorkBudget,
)


def test_backoff_grows_and_ends_at_15_s() -> None:
    """1 s, x1.5 each time, never above 15 s; a reset begins anew and a rest goes to the end."""
    backoff = Backoff(jitter_byte=0)
    pauses = [backoff.next_s() for _ in range(12)]
    assert pauses[:4] == [1.0, 1.5, 2.25, 3.375]
    assert max(pauses) == pauses[-1] == 15.0
    backoff.reset()
    assert backoff.next_s() == 1.0
    backoff.rest()
    assert backoff.next_s() == 15.0


def test_backoff_differs_between_guests() -> None:
    """The jitter takes up to a fifth off, by the guest's own byte."""
    assert Backoff(255).next_s() == pytest.approx(0.8)
    assert Backoff(128).next_s() != Backoff(7).next_s()


def test_frame_budget() -> None:
    """A burst of 60, then 20 a second, however long it was quiet before."""
    budget = FrameBudget()
    assert sum(budget.take(0.0) for _ in range(100)) == 60
    assert sum(budget.take(0.5) for _ in range(100)) == 10
    assert sum(budget.take(1000.0) for _ in range(100)) == 60


def test_frame_budget_survives_a_clock_that_goes_back() -> None:
    """An earlier instant gives no frames and takes none away."""
    budget = FrameBudget()
    assert budget.take(10.0)
    assert sum(budget.take(5.0) for _ in range(100)) == 59


def test_frame_budget_keeps_a_reserve() -> None:
    """What can be done without leaves the last ones to what cannot."""
    budget = FrameBudget()
    assert sum(budget.take(0.0, keep=16) for _ in range(100)) == 44
    assert sum(budget.take(0.0) for _ in range(100)) == 16


def test_line_budget_counts_what_it_leaves_out() -> None:
    """Twenty lines, then one a second that says how many were not said."""
    budget = LineBudget()
    assert [budget.next_line(0.0) for _ in range(25)] == [0] * 20 + [None] * 5
    assert budget.next_line(1.0) == 5
    assert budget.next_line(1.5) is None


def test_report_each_period(make_guest) -> None:
    """An unchanged guest is reported once per period and not in between."""
    rhythm, sample = ReportRhythm(1.0), make_guest().sample()
    assert rhythm.is_due(sample, None, 5.0)
    rhythm.sent(sample, None, 5.0)
    assert rhythm.due_s() == 6.0
    assert not rhythm.is_due(sample, None, 5.9)
    assert rhythm.is_due(sample, None, 6.0)


@pytest.mark.parametrize("change", ["used_kib", "committed_kib", "balloon"])
def test_report_early(make_guest, change: str) -> None:
    """A change of more than 2 % is reported early, but not within 250 ms; a smaller one waits for the period."""
    rhythm, guest = ReportRhythm(1.0), make_guest()
    rhythm.sent(guest.sample(), None, 5.0)

    def move(kib: int) -> None:
        if change == "balloon":
            guest.inflate(kib)
        else:
            setattr(guest, change, getattr(guest, change) + kib)

    move(guest.ram_kib // 100)
    assert not rhythm.is_due(guest.sample(), None, 5.5)
    move(guest.ram_kib // 50)
    assert not rhythm.is_due(guest.sample(), None, 5.24)
    assert rhythm.is_due(guest.sample(), None, 5.25)


def test_report_early_when_the_move_changes_state(make_guest) -> None:
    """A new state of the move is worth a report, whatever the memory does."""
    rhythm, sample = ReportRhythm(60.0), make_guest().sample()
    rhythm.sent(sample, (7, 0), 5.0)
    assert not rhythm.is_due(sample, (7, 0), 6.0)
    assert rhythm.is_due(sample, (7, 1), 6.0)


def test_work_budget() -> None:
    """A burst is free; beyond it the rest is what the budget needs to recover, within its bounds."""
    budget = WorkBudget()
    assert budget.spend(0.0, WORK_BURST_S) == 0.0
    assert budget.spend(0.0, 1e-6) == REST_LEAST_S
    assert budget.spend(0.0, 0.2 * WORK_RATIO) == pytest.approx(0.2, abs=1e-3)
    assert budget.spend(0.0, 10.0) == REST_LONGEST_S
    assert budget.spend(REST_LONGEST_S, 0.0) == 0.0


def test_report_often_while_something_stirs(make_guest) -> None:
    """A move under way and stalls are worth a report each 250 ms, however long the period and still the sizes."""
    rhythm, sample = ReportRhythm(60.0), make_guest().sample()
    rhythm.sent(sample, None, 5.0)
    assert not rhythm.is_due(sample, None, 5.24, stirred=True)
    assert rhythm.is_due(sample, None, 5.25, stirred=True)
    assert not rhythm.is_due(sample, None, 5.25, stirred=False)
