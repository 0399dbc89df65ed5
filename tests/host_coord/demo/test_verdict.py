"""The demo's judgement: what it accepts, what it counts, what it writes."""

from __future__ import annotations

import dataclasses

import pytest

from ballonet_host_coord.demo.verdict import GuestScore, Judge, Verdict
from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    Consent,
    GuestSettings,
    GuestSnapshot,
    HostSnapshot,
    Residency,
    RunState,
    Snapshot,
    VmFacts,
)

MIB = 1024


def a_guest(name="alpha", run_state=RunState.RUNNING, assigned_kib=512 * MIB, consent=None):
    return GuestSnapshot(
        settings=GuestSettings(name, 256 * MIB, 512 * MIB, 1024 * MIB),
        vm=VmFacts(run_state, ram_kib=1024 * MIB, actual_kib=assigned_kib),
        booking=Booking(assigned_kib, 100 * MIB, claimed=False),
        residency=Residency(200 * MIB, 90 * MIB),
        agent=AgentFacts(consent=consent),
    )


def a_snapshot(*guests):
    return Snapshot(0.0, HostSnapshot(2000 * MIB, 0), guests)


def a_verdict(**changes):
    met = GuestScore("alpha")
    met.step(1.5)
    values = {
        "simulated": False,
        "accelerator": "tcg",
        "budget_kib": 100,
        "budget_exceeded_kib": 0,
        "booked_most_kib": 90,
        "actual_most_kib": 80,
        "resident_most_kib": 70,
        "promised_kib": 200,
        "guests": (met,),
    }
    return Verdict(**{**values, **changes})


def test_judge_counts_a_waiting_machine_with_its_whole_ram():
    """From QEMU's start on, also before the first instruction, a machine is held against the budget in full."""
    judge = Judge(2000 * MIB)
    judge.look(a_snapshot(a_guest(run_state=RunState.PRELAUNCH, assigned_kib=0)))
    assert judge.booked_most_kib == 1124 * MIB


def test_judge_keeps_the_worst_moment():
    """A budget that was exceeded once stays exceeded."""
    judge = Judge(1000 * MIB)
    judge.look(a_snapshot(a_guest("alpha", assigned_kib=900 * MIB), a_guest("beta", assigned_kib=300 * MIB)))
    judge.look(a_snapshot(a_guest("alpha", assigned_kib=300 * MIB)))
    assert judge.exceeded_kib == 400 * MIB


def test_judge_counts_each_refusal_once():
    """A refusal that is seen in several turns is one refusal."""
    judge = Judge(2000 * MIB)
    refusal = Consent(gen=3, effective_kib=0, refused=True, why=2, answered_s=0, expires_s=30)
    for _ in range(3):
        judge.look(a_snapshot(a_guest(consent=refusal)))
    judge.look(a_snapshot(a_guest(consent=dataclasses.replace(refusal, gen=4))))
    assert judge.refused == {"alpha": {3, 4}}


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_exceeded_kib": 1},
        {"guests": (GuestScore("alpha", demand_met=False),)},
        {"guests": (GuestScore("alpha", oom_kills=1),)},
    ],
)
def test_any_failure_fails_the_whole(changes):
    """An exceeded budget, an unmet demand or one killed process: each alone is a failed demo."""
    assert a_verdict().holds
    assert not a_verdict(**changes).holds


def test_time_of_the_longest_step_counts_and_an_unmet_one_has_none():
    """`seconds_to_usable` is the worst step's; a step that was never met cannot have a time."""
    score = GuestScore("alpha")
    score.step(1.0)
    score.step(2.5)
    assert score.seconds_to_usable == 2.5
    score.step(None)
    assert (score.demand_met, score.seconds_to_usable) == (False, None)


def test_json_has_the_promised_shape():
    """Programs find exactly the keys that README names."""
    value = a_verdict().to_json()
    assert set(value) == {"simulated", "accelerator", "budget_kib", "budget_exceeded_kib", "oom_kills", "guests"}
    assert set(value["guests"][0]) == {
        "name",
        "demand_met",
        "seconds_to_usable",
        "deepest_shortage_kib",
        "stall_us",
        "refused",
    }


def test_text_says_when_it_does_not_hold():
    """Nobody has to work out from numbers whether the demo failed."""
    assert a_verdict().to_text().endswith("all of it holds")
    failed = a_verdict(budget_exceeded_kib=2048).to_text()
    assert "EXCEEDED by 2 MiB" in failed
    assert failed.endswith("it does NOT hold")
