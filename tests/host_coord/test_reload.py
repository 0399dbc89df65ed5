"""Each key of the settings is taken at a reload or named as waiting for a start; none is read and forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio

from ballonet_host_coord import service
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import DemandModel, HostFacts, HostSettings, LinkState, Settings, StopPolicy
from ballonet_host_coord.service import NEEDS_A_START
from ballonet_host_coord.settings_values import DEMAND_KEYS, HOST_KEYS
from ballonet_host_coord.simulated.hypervisor import SimulatedHypervisor, SimulatedVm
from ballonet_host_coord.simulated.machine import SimulatedMachine
from ballonet_host_coord.simulated.stores import FixedSettings, MemoryState, SimulatedHostMemory
from ballonet_protocol import Inflate
from ballonet_protocol.limits import ACK_WITHIN_S, DEAD_S

from .builders import GIB, MIB, CountedRandomness, make_settings, make_vm
from .talk import Channel


class StillClock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("a turn waits for nothing")


class Host(SimulatedHostMemory):
    def facts(self) -> HostFacts:
        return HostFacts(8 * GIB, 4 * GIB)


def made(host: HostSettings) -> Coordinator:
    vm = SimulatedVm(SimulatedMachine("web", GIB, 0.0), None)  # type: ignore[arg-type]
    settings = Settings(host, (make_settings("web"),))
    coordinator = Coordinator(
        settings, SimulatedHypervisor([vm]), Host(8 * GIB, []), StillClock(), None, MemoryState(), CountedRandomness()
    )
    coordinator.guests["web"].record.vm = make_vm()
    coordinator.turn(0.0)
    return coordinator


def host_of(coordinator: Coordinator) -> Any:
    assert coordinator.snapshot is not None
    return coordinator.snapshot.host


def stops_with(coordinator: Coordinator) -> Any:
    policies: list[StopPolicy] = []

    async def stop(policy: StopPolicy, observe: bool) -> None:
        policies.append(policy)

    coordinator.guests["web"].stop = stop  # type: ignore[method-assign]
    trio.run(coordinator._stop)
    return policies


# Key -> another value, and where it shows.
TAKEN: dict[str, tuple[object, Callable[[Coordinator], Any]]] = {
    "budget": (3 * GIB, lambda coordinator: host_of(coordinator).budget_kib),
    "reserve": (2 * GIB, lambda coordinator: host_of(coordinator).budget_parts.reserve_kib),
    "headroom": (100 * MIB, lambda coordinator: host_of(coordinator).headroom_kib),
    "slider": (90, lambda coordinator: (host_of(coordinator).slider, coordinator.guests["web"].record.tuned)),
    "report_ms": (250, lambda coordinator: coordinator.guests["web"].record.session.facts().report_ms),
    "stop_policy": (StopPolicy.DEFLATE, stops_with),
    "observe": (True, lambda coordinator: coordinator.snapshot and coordinator.snapshot.observe),
    "model": (DemandModel.HYPERV, lambda coordinator: coordinator.guests["web"].record.demand_model),
}
KEYS = {**HOST_KEYS, **DEMAND_KEYS}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_takes_effect_at_a_reload_or_is_said_to_wait(key: str, caplog: pytest.LogCaptureFixture) -> None:
    """What was changed in the files shows at once, or the journal names it; and not both."""
    host = HostSettings(control_group="before", record_path="/before")
    coordinator = made(host)
    value, shows = TAKEN.get(key, ("/another", None))
    settings = replace(coordinator.settings, host=replace(host, **{KEYS[key][0]: value}))  # type: ignore[arg-type]
    before = shows(coordinator) if shows else None
    with caplog.at_level(logging.WARNING, "ballonet"):
        service.reload(coordinator, FixedSettings(settings))
    named = [record.getMessage() for record in caplog.records if "at the next start" in record.getMessage()]
    assert bool(named) is (key in NEEDS_A_START) is (key not in TAKEN)
    assert all(f"[host] {key} " in text for text in named)
    if shows is not None:
        assert shows(coordinator) != before


def test_a_session_that_begins_anew_asks_for_the_period_and_for_nothing_that_was_asked() -> None:
    """The agent hears of the new period at once; a request under way is not sent again, and consent is none."""
    channel: Any = Channel()
    channel.answer_hello()
    channel.ask()
    channel.said()
    channel.session.begin_anew(250, 0.5)
    (hello,) = channel.said()
    assert hello.limits.report_ms == 250
    assert (channel.facts.link, channel.facts.detail) == (LinkState.OPENING, "the settings have changed")
    channel.session.tick(0.5 + ACK_WITHIN_S)
    assert not any(isinstance(message, Inflate) for message in channel.said())


def test_an_agent_that_is_silent_is_no_better_known_for_it() -> None:
    """Its line in `status` says what it said before the reload."""
    channel: Any = Channel()
    channel.answer_hello()
    channel.session.tick(DEAD_S)
    before = channel.facts
    assert before.link is LinkState.UNRESPONSIVE
    channel.session.begin_anew(250, DEAD_S + 1)
    assert (channel.facts.link, channel.facts.detail) == (before.link, before.detail)


def test_what_the_last_move_showed_is_not_said_again_while_it_observes(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody follows the balloons then: a guest that was made smaller in the last turn would be so in each one."""
    coordinator = made(HostSettings(budget_kib=4 * GIB))
    coordinator.ledger.began_boot("web", 0, 512 * MIB, adopted=False)
    move = coordinator.ledger._moves["web"]
    move.lowered_kib, move.taken_back_kib, move.set_by_another_kib = GIB, GIB, GIB
    observing = replace(coordinator.settings, host=HostSettings(budget_kib=4 * GIB, observe=True))
    service.reload(coordinator, FixedSettings(observing))
    coordinator.turn(1.0)
    record = coordinator.guests["web"].record
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert (record.snapshot(1.0).wish, record.yielded) == (None, "")


def test_a_period_that_did_not_change_disturbs_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload for another reason opens no new session with five hundred agents."""
    coordinator = made(HostSettings(budget_kib=4 * GIB))
    monkeypatch.setattr(coordinator.guests["web"], "open_session", None)
    settings = replace(coordinator.settings, host=HostSettings(budget_kib=3 * GIB))
    service.reload(coordinator, FixedSettings(settings))
    assert host_of(coordinator).budget_kib == 3 * GIB
