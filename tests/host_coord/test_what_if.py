"""Counterfactuals: each says what the arbiter answers, and only what moves the target is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    GuestSnapshot,
    HostState,
    LinkState,
    Residency,
    RunState,
    Snapshot,
)
from ballonet_host_coord.what_if import CASES, what_if

from .builders import GIB, MIB, NOW_S, make_demand, make_guest, make_report, make_snapshot, make_vm
from .steps import waiting


def changes(snapshot: Snapshot, name: str = "alpha") -> dict[str, int]:
    return {change.what: change.target_kib for change in what_if(snapshot, name)}


def target_kib(snapshot: Snapshot, name: str = "alpha") -> int:
    return next(guest.target_kib for guest in one_iteration(snapshot).guests if guest.name == name)


BETA = make_guest("beta", 800 * MIB, 800 * MIB)
SMALL = make_guest(demand_kib=300 * MIB)
CASES_TOLD: dict[str, tuple[list[GuestSnapshot], dict[str, Any], str, int]] = {
    "headroom": (
        [make_guest(actual_kib=300 * MIB), BETA], {"budget_kib": 1300 * MIB, "headroom_kib": 100 * MIB},
        "no headroom", 433,
    ),
    "slider to performance": (
        [make_guest(demand_kib=300 * MIB)], {"slider": 50}, "the slider at 0 (performance) instead of 50", 1024),
    "slider to density": (
        [make_guest(demand_kib=400 * MIB)], {"slider": 50}, "the slider at 100 (density) instead of 50", 420),
    "host short": (
        [make_guest(demand_kib=400 * MIB)], {"slider": 50, "state": HostState.TIGHT, "state_why": "5 of 100"},
        "the host itself had enough memory", 480),
    "host critical": (
        [make_guest(actual_kib=700 * MIB, demand_kib=700 * MIB)],
        {"slider": 100, "state": HostState.CRITICAL, "lacking_kib": 100 * MIB},
        "the host itself had enough memory", 735),
    "weight": ([make_guest(demand_kib=900 * MIB), BETA], {"budget_kib": 1412 * MIB},
        "weight 10000 instead of 5000", 856),
    "others": ([make_guest(demand_kib=900 * MIB), BETA], {"budget_kib": 1412 * MIB},
        "the other guests need only their minimums", 1024),
    "starts": ([make_guest(actual_kib=400 * MIB), waiting("beta")], {"budget_kib": GIB},
        "no room is kept for the start of beta", 480),
    "old report": ([replace(SMALL, report=make_report(NOW_S - 60))], {}, "a fresh report of the same use", 360),
    "silent agent": (
        [replace(SMALL, agent=AgentFacts(LinkState.UNRESPONSIVE))], {}, "a fresh report of the same use", 360),
    "minimum": ([make_guest(demand_kib=100 * MIB)], {}, "a minimum of 100 instead of 256 MiB", 120),
    "maximum": ([make_guest(demand_kib=900 * MIB, settings={"maximum_kib": 600 * MIB})], {},
        "a maximum of 1024 instead of 600 MiB", 1024),
    "past": ([make_guest(demand=make_demand(300 * MIB, held_kib=500 * MIB))], {},
        "what it still holds from before given back, in some minutes", 360),
    "own floor": ([replace(SMALL, report=make_report(floor_kib=450 * MIB))], {}, "its agent names no floor", 360),
    "deflate-on-oom": ([replace(SMALL, vm=make_vm(deflate_on_oom=False))], {}, "deflate-on-oom on", 360),
    "settling": ([replace(SMALL, vm=make_vm(boot_began_s=NOW_S - 10))], {}, "settling over, in 20 s", 360),
    "released": ([replace(SMALL, released=True)], {}, "managed again (`ballonet resume`)", 360),
    "left alone": ([replace(SMALL, hands_off="another mover set it")], {}, "managed again (`ballonet resume`)", 360),
    "stuck": ([replace(SMALL, stuck_since_s=NOW_S - 9)], {}, "its balloon follows", 360),
    "paused": ([replace(SMALL, vm=make_vm(run_state=RunState.PAUSED))], {}, "it runs and answers", 360),
    "booting": ([replace(SMALL, booking=Booking(GIB, 0, True), residency=Residency(90 * MIB, 0))], {},
        "its balloon driver has answered", 360),
}  # fmt: skip


@pytest.mark.parametrize(("guests", "host", "what", "target_mib"), CASES_TOLD.values(), ids=CASES_TOLD)
def test_what_holds_a_guest_is_told_with_the_size_without(
    guests: list[GuestSnapshot], host: dict[str, Any], what: str, target_mib: int
) -> None:
    """Each cause, where it is the one that counts, is told with the target that the guest would have."""
    found = changes(make_snapshot(*guests, **host))
    assert found[what] // MIB == target_mib


def test_every_case_is_tried_here() -> None:
    """The table above has an example of each case of the module."""
    assert len({what for _, _, what, _ in CASES_TOLD.values()}) >= len(CASES)


@pytest.mark.parametrize("budget_mib", [700, 900, 1100, 1333, 1500, 1800])
def test_budget_is_the_least_that_is_enough(budget_mib: int) -> None:
    """With the budget that is named the goal is met, and with a MiB less it is not."""
    snapshot = make_snapshot(make_guest(demand_kib=800 * MIB), BETA, budget_kib=budget_mib * MIB, headroom_kib=50 * MIB)
    want_kib = 960 * MIB

    def at(mib: int) -> int:
        return target_kib(replace(snapshot, host=replace(snapshot.host, budget_kib=(budget_mib + mib) * MIB)))

    told = [(what, target) for what, target in changes(snapshot).items() if "more budget" in what]
    assert told
    for what, target in told:
        goal_kib = 800 * MIB if "demand" in what else want_kib
        more_mib = int(what.split()[0])
        assert at(more_mib) == target >= goal_kib > at(more_mib - 1)


def test_no_budget_lifts_a_maximum() -> None:
    """Where a guest has its maximum nothing of the budget is told."""
    snapshot = make_snapshot(make_guest(actual_kib=GIB, demand_kib=2 * GIB))
    assert changes(snapshot) == {}


def test_nothing_is_told_that_changes_nothing() -> None:
    """A guest with all that it wants, whose others have it too, has nothing that would change it but the slider."""
    snapshot = make_snapshot(make_guest(actual_kib=480 * MIB), make_guest("beta", 480 * MIB))
    assert all(what.startswith("the slider") for what in changes(snapshot))


def test_what_another_state_of_the_host_hides_is_not_told() -> None:
    """On a critical host no place of the slider matters, so none is named."""
    snapshot = make_snapshot(make_guest(actual_kib=480 * MIB), slider=25, state=HostState.CRITICAL)
    assert [what for what in changes(snapshot) if "slider" in what] == []
    assert "the host itself had enough memory" in changes(snapshot)


@pytest.mark.parametrize("state", [RunState.ABSENT, RunState.SHUTDOWN, RunState.PRELAUNCH, RunState.MIGRATING])
def test_machine_in_any_state_is_imagined_or_left(state: RunState) -> None:
    """Guests that cannot be moved raise nothing; one that is not there is not imagined to run."""
    values: dict[str, Any] = {"run_state": state} if state is RunState.MIGRATING else {"run_state": state, "ram_kib": 0}
    found = changes(make_snapshot(make_guest(vm=make_vm(**values)), BETA))
    assert ("it runs and answers" in found) is (state is RunState.MIGRATING)


def test_a_guest_in_huge_pages_is_imagined_without_them() -> None:
    """No budget has them, whether its driver has answered or not."""
    vm = make_vm(ram_kib=GIB, actual_kib=GIB, hugepages_kib=GIB, hands_off="it uses hugepages")
    huge = make_guest(vm=vm, booking=Booking(0, 0, claimed=True), hypervisor_target_kib=None)
    assert changes(make_snapshot(huge)) == {}
