"""What status tells: the state of each guest in one word, and no number that nobody knows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import AgentFacts, Booking, HostFacts, LinkState, Residency, RunState
from ballonet_host_coord.summary import summarise

from .builders import GIB, MIB, make_demand, make_guest, make_snapshot, make_vm


def told(guest, detail="", **snapshot):
    """The guest's line, through JSON as the control socket sends it."""
    facts = make_snapshot(guest, **snapshot)
    summary = summarise(facts, one_iteration(facts), {guest.name: detail} if detail else {}, "")
    return json.loads(json.dumps(summary))["guests"][0]


STATES = {
    "waiting": {"vm": make_vm(run_state=RunState.PRELAUNCH), "waiting_to_start": True},
    "starting": {"vm": make_vm(run_state=RunState.PRELAUNCH)},
    "paused": {"vm": make_vm(run_state=RunState.PAUSED)},
    "unreachable": {"vm": make_vm(run_state=RunState.UNREACHABLE)},
    "booting": {"booking": Booking(GIB, 0, claimed=True), "released": True},
    "released": {"released": True, "stuck_since_s": 3.0},
    "stuck": {"stuck_since_s": 3.0},
    "uncooperative": {"stuck_since_s": 3.0, "uncooperative": True},
    "growing": {"hypervisor_target_kib": 600 * MIB},
    "shrinking": {"hypervisor_target_kib": 400 * MIB},
    "steady": {},
}


@pytest.mark.parametrize("state", STATES)
def test_state_is_one_word(state):
    """Each condition of a guest has its word; the graver one is told."""
    assert told(replace(make_guest(), **STATES[state]))["state"] == state


def test_guest_that_lacks_memory_is_short():
    """Nothing is under way and it has less than it needs."""
    guest = make_guest(demand_kib=800 * MIB)
    assert told(guest)["state"] == "short"
    assert told(guest)["status"] == "Warning"


def test_absent_guest_shows_no_numbers_of_the_past():
    """Actual, target and want of a machine that is not there are null, not 0."""
    line = told(make_guest(vm=make_vm(run_state=RunState.ABSENT), booking=Booking(0, 0, claimed=False)))
    assert (line["actual_kib"], line["target_kib"], line["want_kib"]) == (None, None, None)
    assert (line["status"], line["state"], line["booked_kib"]) == ("-", "absent", 0)


def test_unknown_is_null():
    """Without report, residency and facts of the host there are no figures of them."""
    line = told(make_guest(demand_kib=None, report=None))
    names = ("use_kib", "demand_kib", "committed_kib", "commit_pressure_percent", "psi_some_percent", "resident_kib")
    assert {line[name] for name in names} == {None}
    assert told(make_guest(booking=Booking(0, 0, claimed=False)))["commit_pressure_percent"] is None


def test_numbers_are_those_of_the_snapshot():
    """Booked with overhead, pressure as demand over assigned, stalls in percent."""
    demand = make_demand(640 * MIB, psi_some_ratio=0.1234, psi_full_ratio=0.0)
    line = told(
        make_guest(demand=demand, booking=Booking(512 * MIB, 30 * MIB, claimed=False), residency=Residency(5, 6))
    )
    assert (line["assigned_kib"], line["booked_kib"], line["resident_kib"]) == (512 * MIB, 542 * MIB, 5)
    assert (line["commit_pressure_percent"], line["psi_some_percent"], line["psi_full_percent"]) == (125, 12.3, 0.0)


@pytest.mark.parametrize(
    ("agent", "claimed", "words"),
    [
        (AgentFacts(LinkState.LIVE, implementation="agent 1.0"), False, "agent 1.0"),
        (AgentFacts(LinkState.LIVE), False, "live"),
        (AgentFacts(LinkState.OPENING, detail="waiting"), True, "not up yet"),
        (AgentFacts(LinkState.UNRESPONSIVE, detail="silent for 10 s"), False, "unresponsive: silent for 10 s"),
        (AgentFacts(), False, "none"),
    ],
)
def test_agent_is_told_in_words(agent, claimed, words):
    """Who answers, or why nobody does."""
    assert told(make_guest(agent=agent, booking=Booking(GIB, 0, claimed=claimed)))["agent"] == words


def test_complaint_of_the_hypervisor_follows_the_reason():
    """Both are told."""
    assert told(make_guest(), detail="monitor is busy")["why"] == f"{told(make_guest())['why']} (monitor is busy)"


def test_host_line_repeats_the_decision():
    """Budget, books, headroom and alarm; available memory only where it is known."""
    snapshot = make_snapshot(make_guest(), budget_kib=400 * MIB, headroom_kib=64 * MIB, facts=HostFacts(GIB, 50 * MIB))
    host = summarise(snapshot, one_iteration(snapshot), {}, "too much")["host"]
    assert (host["budget_kib"], host["booked_kib"], host["overdrawn_kib"]) == (400 * MIB, 512 * MIB, 112 * MIB)
    assert (host["headroom_kib"], host["headroom_free_kib"], host["available_kib"]) == (64 * MIB, 0, 50 * MIB)
    assert (host["alarm"], host["observe"]) == ("too much", False)
    unknown = make_snapshot()
    assert summarise(unknown, one_iteration(unknown), {}, "")["host"]["available_kib"] is None
