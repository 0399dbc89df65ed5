"""Consent and what ends it: the coordinator's ledger and session, the agent's loop, and a balloon between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from tests.host_coord.builders import MIB

from ballonet_guest_agent.config import AgentSettings
from ballonet_host_coord.ledger import ARRIVED_KIB, BACK_OFF_S
from ballonet_host_coord.model import LinkState
from ballonet_protocol import Demand, MoveStatus
from ballonet_protocol.limits import ACK_WITHIN_S, DEAD_S, TRIES

from .bench import ANSWERS, REPORTS, Bench
from .hypervisor import Machine

GOAL_KIB = 700 * MIB


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(settings: AgentSettings | None = None) -> Machine:
        machine = Machine(settings)
        made.append(machine)
        machine.begin()
        return machine

    yield make
    for machine in made:
        machine.release()


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine()


def holds(machine: Machine, seconds: float) -> None:
    """From now on: no step down, and the hypervisor's target is the size reached."""
    steps = len(machine.steps_down)
    for _ in range(int(seconds)):
        assert machine.target_kib >= machine.guest.size_kib - ARRIVED_KIB
        machine.turns(1.0)
    assert len(machine.steps_down) == steps


@pytest.mark.fault(47)
def test_a_willing_agent_is_shrunk_to_the_goal(machine: Machine) -> None:
    """What the others of this file hold back does happen when nothing is wrong: step by step down to the goal."""
    machine.goal_kib = GOAL_KIB
    machine.turns(40.0)
    assert abs(machine.guest.size_kib - GOAL_KIB) <= ARRIVED_KIB
    assert len(machine.steps_down) >= 2
    assert all(target >= GOAL_KIB for _, target, _ in machine.targets)


@pytest.mark.fault(47)
@pytest.mark.parametrize("loss", ["the agent is dead", "its answers are lost"])
def test_inflate_that_is_never_answered(machine: Machine, loss: str) -> None:
    """Three tries without an answer: HOLD. Nothing was moved, and for a while nothing is asked."""
    if loss == "the agent is dead":
        machine.kill_agent()
    else:
        machine.coordinator.lost = ANSWERS
    machine.goal_kib = GOAL_KIB
    machine.turns((TRIES + 1) * ACK_WITHIN_S)
    assert machine.coordinator.inflates_sent == TRIES
    assert len(machine.asked) == 1
    holds(machine, BACK_OFF_S - 2)
    assert len(machine.asked) == 1
    holds(machine, 60.0)
    assert machine.targets == []


@pytest.mark.fault(47)
def test_agent_killed_in_the_midst_of_an_inflate(machine: Machine) -> None:
    """Its silence ends the consent: the step stops at the size reached, and nothing is taken any more."""
    machine.goal_kib, machine.rate_kib_per_s = GOAL_KIB, 4 * MIB
    machine.until_step()
    machine.kill_agent()
    machine.turns(DEAD_S + 1)
    assert machine.coordinator.session.facts().link is not LinkState.LIVE
    assert machine.guest.size_kib > machine.steps_down[0][1] + ARRIVED_KIB, "the step was over before it could end"
    holds(machine, 120.0)
    assert len(machine.steps_down) == 1


@pytest.mark.fault(47)
def test_reports_stop_in_the_midst_of_an_inflate(machine: Machine) -> None:
    """An agent that lives and reports no more is shrunk by no further step, however long its consent would hold."""
    machine.goal_kib, machine.rate_kib_per_s = GOAL_KIB, 16 * MIB
    machine.until_step()
    machine.coordinator.lost = REPORTS
    while machine.guest.size_kib > machine.target_kib + ARRIVED_KIB:
        machine.turn()
    assert machine.coordinator.live
    holds(machine, 120.0)
    assert len(machine.steps_down) == 1


@pytest.mark.fault(48)
def test_refused(machine: Machine) -> None:
    """A guest that stalls refuses: however often it is asked, it keeps what it has."""
    machine.goal_kib = GOAL_KIB
    for _ in range(60):
        machine.rig.agent.watch.note_harm(machine.now_s)
        machine.turns(1.0)
    assert len(machine.asked) >= 4
    assert machine.targets == []


@pytest.mark.fault(48)
def test_clamped(make_machine: Callable[..., Machine]) -> None:
    """An agent that agrees to less is shrunk to what it agreed to and never below, however often it is asked."""
    machine = make_machine(AgentSettings(floor_kib=740 * MIB))
    machine.goal_kib = GOAL_KIB
    machine.turns(90.0)
    assert len(machine.asked) >= 2
    assert abs(machine.guest.size_kib - 740 * MIB) <= ARRIVED_KIB
    assert all(target >= 740 * MIB for _, target, _ in machine.targets)


@pytest.mark.fault(48)
def test_duplicate_after_a_lost_refusal(machine: Machine) -> None:
    """The refusal is lost and the pressure over when the command comes again: a duplicate is no consent to it."""
    machine.goal_kib = GOAL_KIB
    machine.coordinator.lost = ANSWERS
    machine.rig.agent.watch.note_harm(machine.now_s)
    while not machine.asked:
        machine.turn()
    assert machine.rig.agent.consent.status == MoveStatus.GAVE_UP
    machine.rig.agent.watch.forget()
    machine.turns(ACK_WITHIN_S / 2)
    machine.coordinator.lost = ()
    machine.turns(ACK_WITHIN_S)
    consent = machine.coordinator.session.facts().consent
    assert machine.coordinator.inflates_sent == 2
    assert consent is None or consent.effective_kib >= machine.guest.size_kib
    assert machine.steps_down == []


@pytest.mark.fault(49)
@pytest.mark.parametrize("kind", ["some", "full"])
def test_demand_during_an_inflate(machine: Machine, kind: str) -> None:
    """From a DEMAND's arrival on no step goes down: the last one is returned, and the guest left alone for a while."""
    machine.goal_kib, machine.rate_kib_per_s = GOAL_KIB, 8 * MIB
    machine.until_step()
    size_kib = machine.guest.size_kib
    machine.rig.triggers.fire(kind)
    machine.talk()
    (wish,) = machine.coordinator.wishes
    assert wish.gen == machine.asked[-1].gen
    machine.turn()
    assert machine.target_kib >= size_kib
    holds(machine, BACK_OFF_S - 1)
    assert len(machine.steps_down) == 1


@pytest.mark.fault(49)
def test_demand_that_blames_nothing_during_an_inflate(machine: Machine) -> None:
    """A DEMAND without gen stops the step at the size reached, too."""
    machine.goal_kib, machine.rate_kib_per_s = GOAL_KIB, 8 * MIB
    machine.until_step()
    demand = Demand(boottime_ms=int(machine.now_s * 1000), want_bytes=950 << 20, why=1, severity=2)
    frame = machine.rig.agent.session.connection.send(demand)
    machine.vport.write(machine.rig.port.fileno(), frame)
    machine.turn()
    holds(machine, BACK_OFF_S - 1)
    assert len(machine.steps_down) == 1


@pytest.mark.fault(49)
def test_demand_within_100_ms_of_the_trigger(make_bench: Callable[..., Bench]) -> None:
    """Trigger, wait, a pass over /proc, DEMAND: the loop needs no second turn, no virtual and hardly any real time."""
    took_s = []
    for _ in range(5):  # a busy machine may be late once
        bench = make_bench()
        host = bench.serve()
        began_s = time.monotonic()
        bench.rig.triggers.fire("full")
        bench.rig.loop.turn(1.0)
        took_s.append(time.monotonic() - began_s)
        host.talk()
        (wish,) = host.wishes
        assert wish.arrived_s == bench.now_s
    assert min(took_s) < 0.1


@pytest.mark.fault(50)
@pytest.mark.parametrize("when", ["just now", "long ago"])
def test_deflate_to_a_dead_agent(machine: Machine, when: str) -> None:
    """A grant needs nobody's answer: the balloon is emptied at once, be the agent dead for a moment or for a minute."""
    machine.kill_agent()
    if when == "long ago":
        machine.turns(60.0)
    machine.goal_kib = 1000 * MIB
    machine.turn()
    assert machine.target_kib == 1000 * MIB
    machine.turns(4.0)
    assert machine.guest.size_kib == 1000 * MIB
    holds(machine, 30.0)
    assert machine.target_kib == 1000 * MIB


@pytest.mark.fault(50)
def test_inflate_above_the_present_size(machine: Machine) -> None:
    """"Have no more than" what is more than the guest has: accepted, reached at once, and nothing moves."""
    size_kib = machine.guest.size_kib
    machine.coordinator.session.ask_inflate(1, size_kib + 64 * MIB, 256 * MIB, 1024, machine.now_s)
    machine.turns(5.0)
    consent = machine.coordinator.session.facts().consent
    assert consent is not None
    assert not consent.refused
    assert machine.rig.agent.consent.state == (1, MoveStatus.REACHED)
    assert (machine.targets, machine.guest.size_kib) == ([], size_kib)


@pytest.mark.fault(50)
def test_deflate_below_the_present_size(machine: Machine) -> None:
    """"You may have" what is less than the guest has: reached at once, no consent to shrink, and nothing moves."""
    size_kib = machine.guest.size_kib
    machine.coordinator.session.tell_deflate(1, size_kib - 300 * MIB, machine.now_s)
    machine.turns(5.0)
    assert machine.coordinator.session.facts().consent is None
    assert machine.rig.agent.consent.state == (1, MoveStatus.REACHED)
    assert not machine.rig.agent.consent.shrinking
    assert (machine.targets, machine.guest.size_kib) == ([], size_kib)
