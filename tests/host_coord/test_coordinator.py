"""The coordinator's turn: the slider, the demand model and the host's own state reach the decision and the operator."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from ballonet_host_coord.clock import TrioClock
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.host_state import CALM_S
from ballonet_host_coord.model import Command, DemandModel, HostFacts, HostSettings, HostState, Settings
from ballonet_host_coord.ports import ByteStream, PortError
from ballonet_host_coord.simulated.hypervisor import SimulatedHypervisor, SimulatedVm
from ballonet_host_coord.simulated.machine import SimulatedMachine
from ballonet_host_coord.simulated.stores import MemoryRecorder, MemoryState, SimulatedHostMemory
from ballonet_host_coord.slider import tuning

from .builders import GIB, MIB, CountedRandomness, make_settings


class HostThatSays(SimulatedHostMemory):
    """Without a machine, and with what a test says that is left."""

    def __init__(self) -> None:
        super().__init__(8 * GIB, [])
        self.available_kib = 4 * GIB

    def facts(self) -> HostFacts:
        return HostFacts(8 * GIB, self.available_kib)


class StillClock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a turn waits for nothing")


async def nobody_answers() -> ByteStream:
    raise PortError("no agent")


def coordinator_of(memory: HostThatSays, recorder: MemoryRecorder | None = None, **host: object) -> Coordinator:
    settings = Settings(HostSettings(budget_kib=2 * GIB, **host), (make_settings("web"),))  # type: ignore[arg-type]
    hypervisor = SimulatedHypervisor([SimulatedVm(SimulatedMachine("web", GIB, 0.0), nobody_answers)])
    return Coordinator(settings, hypervisor, memory, StillClock(), recorder, MemoryState(), CountedRandomness())


def told(coordinator: Coordinator) -> dict[str, object]:
    """The host's part of the answer to "status"."""
    answer: dict[str, object] = trio.run(coordinator.handle, "status", {})["host"]
    return answer


def test_status_shows_the_slider_and_a_host_at_ease() -> None:
    """What the operator set, and that nothing is the matter."""
    coordinator = coordinator_of(HostThatSays(), slider=60)
    host = told(coordinator)
    assert (host["slider"], host["state"], host["state_why"]) == (60, "easy", "")


def test_a_short_host_is_seen_said_and_decided_with(caplog: pytest.LogCaptureFixture) -> None:
    """Each turn folds the host's facts in: state, amount and reason are in the snapshot, in status and, once, in the
    journal; the operator's slider stays what it was."""
    memory, recorder = HostThatSays(), MemoryRecorder()
    coordinator = coordinator_of(memory, recorder, slider=0)
    memory.available_kib = 80 * MIB
    with caplog.at_level(logging.WARNING, "ballonet"):
        for now_s in range(3):
            coordinator.turn(float(now_s))
    assert coordinator.snapshot is not None
    host = coordinator.snapshot.host
    assert (host.slider, host.state) == (0, HostState.CRITICAL)
    assert host.lacking_kib == int(8 * GIB * 0.04) - 80 * MIB
    assert told(coordinator)["state"] == "critical"
    assert told(coordinator)["state_why"] == "80 of 8192 MiB available on the host"
    assert [record.getMessage() for record in caplog.records] == [
        "host memory is critical: 80 of 8192 MiB available on the host"
    ]
    assert recorder.values[-1][2]["snapshot"]["host"]["state"] == "critical"


def test_a_host_that_recovers_is_said_to_have(caplog: pytest.LogCaptureFixture) -> None:
    """The state is kept from turn to turn: it ends after its calm, and that is told once."""
    memory = HostThatSays()
    coordinator = coordinator_of(memory)
    memory.available_kib = 400 * MIB
    coordinator.turn(0.0)
    memory.available_kib = 4 * GIB
    coordinator.turn(1.0)
    assert told(coordinator)["state"] == "tight"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ballonet"):
        coordinator.turn(1.0 + CALM_S)
    assert told(coordinator)["state"] == "easy"
    assert [record.getMessage() for record in caplog.records] == ["host memory is easy: it has recovered"]


@pytest.mark.parametrize("slider", [0, 25, 100])
def test_reports_are_folded_with_the_operators_slider_and_model(slider: int) -> None:
    """The estimate of each guest uses the settings of the host."""
    coordinator = coordinator_of(HostThatSays(), slider=slider, demand_model=DemandModel.HYPERV)
    (attendant,) = coordinator.guests
    assert attendant.record.tuned == tuning(slider)
    assert attendant.record.demand_model is DemandModel.HYPERV


@pytest.mark.parametrize("urgent", [False, True])
def test_turns_take_a_bounded_part_of_the_loop_unless_a_guest_is_short(urgent: bool) -> None:
    """Where a turn takes long, wake-ups that can wait share one; a DEMAND has its own at once."""
    turn_s, watched_s = 0.05, 60.0
    turns = 0

    async def main() -> None:
        coordinator = coordinator_of(HostThatSays())
        coordinator.clock = TrioClock()

        def turn(now_s: float) -> list[Command]:
            nonlocal turns
            turns += 1
            clock.jump(turn_s)
            return []

        coordinator.turn = turn  # type: ignore[method-assign]
        with trio.move_on_after(watched_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(coordinator._decide_for_ever)
                while True:
                    await trio.sleep(0.01)
                    coordinator.wake(urgent)

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)
    busy_ratio = turns * turn_s / watched_s
    # Beside those turns there is the one of each second.
    assert busy_ratio > 0.75 if urgent else busy_ratio < 0.25
