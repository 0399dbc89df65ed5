"""The demo's judgement: what it accepts, what it counts, what it writes."""

from __future__ import annotations

import dataclasses

import pytest
from tests.host_coord.builders import MIB, NOW_S, make_guest, make_report, make_snapshot, make_vm

from ballonet_host_coord.demo.verdict import BALLOON_TOLERANCE_KIB, GuestScore, Judge, Verdict
from ballonet_host_coord.model import AgentFacts, Booking, Consent, Residency, RunState

OVERHEAD_KIB = 100 * MIB
BUDGET_KIB = 1824 * MIB
# What the coordinator writes beside the facts in every test here: nothing at all.
NOTHING_BOOKED = Booking(assigned_kib=0, overhead_kib=0, claimed=False)


def a_guest(name="alpha", actual_kib=512 * MIB, vm=None, **changes):
    """A guest of 1 GiB that runs, answers and holds little, and that the coordinator's books leave out."""
    values = {
        "settings": {"overhead_kib": OVERHEAD_KIB},
        "vm": make_vm(**{"actual_kib": actual_kib, **(vm or {})}),
        "booking": NOTHING_BOOKED,
        "residency": Residency(200 * MIB, 90 * MIB),
        **changes,
    }
    return make_guest(name, actual_kib, **values)


def judged_kib(*snapshots_of_guests):
    judge = Judge(BUDGET_KIB)
    for guests in snapshots_of_guests:
        judge.look(make_snapshot(*guests, budget_kib=BUDGET_KIB))
    return judge.booked_most_kib


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


def test_books_that_lie_do_not_convince_the_judge():
    """Guests that have and hold more than the budget exceed it, whatever the coordinator has booked for them."""
    modest = Booking(512 * MIB, OVERHEAD_KIB, claimed=False)
    pair = [
        a_guest(name, vm={"actual_kib": 2048 * MIB, "ram_kib": 2048 * MIB}, booking=modest,
                residency=Residency(1000 * MIB, OVERHEAD_KIB))
        for name in ("alpha", "beta")
    ]  # fmt: skip
    judge = Judge(BUDGET_KIB)
    judge.look(make_snapshot(*pair, budget_kib=BUDGET_KIB))
    assert judge.exceeded_kib == 2 * (2048 * MIB + OVERHEAD_KIB) - BUDGET_KIB


@pytest.mark.parametrize(
    ("changes", "counts_mib"),
    [
        ({}, 512 + 100),
        ({"residency": None}, 512 + 100),
        ({"residency": Residency(700 * MIB, 90 * MIB)}, 700 + 100),
        ({"residency": Residency(200 * MIB, 130 * MIB)}, 512 + 130),
        ({"hypervisor_target_kib": 900 * MIB}, 900 + 100),
        ({"vm": {"run_state": RunState.UNREACHABLE}}, 512 + 100),
        ({"vm": {"run_state": RunState.SHUTDOWN}}, 200 + 90),
        ({"vm": {"run_state": RunState.ABSENT, "actual_kib": 0}, "residency": None}, 0),
    ],
    ids=["has", "unmeasured", "holds", "overhead", "granted", "silent", "ends", "not there"],
)
def test_judge_counts_the_most_that_a_guest_may_have(changes, counts_mib):
    """What it has, what the host's kernel sees and what it was granted: the largest, and QEMU's own beside it."""
    assert judged_kib([a_guest(**changes)]) == counts_mib * MIB


UNANSWERED = {"statistics_count": 0, "boot": 2, "boot_began_s": NOW_S}


@pytest.mark.parametrize(
    ("changes", "answered"),
    [
        ({"report": None}, False),
        ({}, True),
        ({"report": make_report(NOW_S - 1)}, False),
        ({"report": make_report(actual_kib=512 * MIB + BALLOON_TOLERANCE_KIB + 1)}, False),
        ({"report": make_report(balloon_kib=None)}, False),
        ({"report": None, "vm": UNANSWERED | {"statistics_count": 2}}, False),
        ({"report": None, "vm": UNANSWERED | {"statistics_count": 3}}, True),
        ({"vm": UNANSWERED | {"run_state": RunState.PRELAUNCH, "statistics_count": 3}}, False),
    ],
    ids=["silent", "matching", "last boot's", "another balloon", "uncounted", "2 statistics", "3", "waits"],
)
def test_a_boot_counts_in_full_until_its_own_driver_answers(changes, answered):
    """From QEMU's start on the whole RAM counts, until a report or statistics of this very boot."""
    expected_kib = (512 if answered else 1024) * MIB + OVERHEAD_KIB
    assert judged_kib([a_guest(**{"vm": UNANSWERED, **changes})]) == expected_kib


def test_an_answer_holds_for_its_boot_and_no_longer():
    """A driver that answered once stays believed while its reports lag; a reset or another QEMU begins anew."""
    answered = a_guest(vm=UNANSWERED)
    lags = a_guest(vm=UNANSWERED, report=make_report(actual_kib=900 * MIB))
    assert judged_kib([answered], [lags]) == 612 * MIB
    reset = a_guest(vm=UNANSWERED | {"boot": 3}, report=None)
    assert judged_kib([answered], [reset]) == 1124 * MIB
    another = a_guest(vm=UNANSWERED | {"qemu_pid": 8}, report=None)
    assert judged_kib([answered], [another]) == 1124 * MIB


def test_judge_keeps_the_worst_moment():
    """A budget that was exceeded once stays exceeded."""
    worst = [a_guest("alpha", 900 * MIB), a_guest("beta", 300 * MIB)]
    assert judged_kib(worst, [a_guest("alpha", 300 * MIB)]) == 1400 * MIB


def test_judge_counts_each_refusal_once():
    """A refusal that is seen in several turns is one refusal."""
    judge = Judge(BUDGET_KIB)
    refusal = Consent(gen=3, effective_kib=0, refused=True, why=2, answered_s=0, expires_s=30)
    for _ in range(3):
        judge.look(make_snapshot(a_guest(agent=AgentFacts(consent=refusal))))
    again = dataclasses.replace(refusal, gen=4)
    judge.look(make_snapshot(a_guest(agent=AgentFacts(consent=again))))
    assert judge.refused == {"alpha": {3, 4}}


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_exceeded_kib": 1},
        {"guests": (GuestScore("alpha", [1.0, None]),)},
        {"guests": (GuestScore("alpha", []),)},
        {"guests": ()},
        {"guests": (GuestScore("alpha", [1.0], oom_kills=1),)},
    ],
    ids=["exceeded", "not met", "no step", "no guest", "killed"],
)
def test_any_failure_fails_the_whole(changes):
    """An exceeded budget, a demand unmet or never made, one killed process: each alone is a failed demo."""
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
