"""operations.py and choices.py: what an operator sets, pauses and takes up again, and what of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import HostSettings, Settings
from ballonet_host_coord.operations import resume_command
from ballonet_host_coord.ports import ByteStream, PortError
from ballonet_host_coord.reservations import Reservation, Reservations
from ballonet_host_coord.simulated.hypervisor import SimulatedHypervisor, SimulatedVm
from ballonet_host_coord.simulated.machine import SimulatedMachine
from ballonet_host_coord.simulated.stores import MemoryState, SimulatedHostMemory

from .builders import GIB, MIB, CountedRandomness, make_settings


class StillClock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("an operation waits for nothing")


class FullDisk(MemoryState):
    """Keeps nothing and says so."""

    def put(self, key: str, value: Any) -> None:
        raise PortError("state: database or disk is full")

    def delete(self, key: str) -> None:
        self.put(key, None)


async def nobody_answers() -> ByteStream:
    raise PortError("no agent")


def coordinator_with(state: MemoryState) -> Coordinator:
    """A coordinator as it starts, over what an earlier one kept."""
    settings = Settings(HostSettings(budget_kib=2 * GIB), (make_settings("web", minimum_kib=256 * MIB),))
    hypervisor = SimulatedHypervisor([SimulatedVm(SimulatedMachine("web", GIB, 0.0), nobody_answers)])
    memory = SimulatedHostMemory(8 * GIB, [])
    return Coordinator(settings, hypervisor, memory, StillClock(), None, state, CountedRandomness())


def ask(coordinator: Coordinator, operation: str, **arguments: Any) -> dict[str, Any]:
    return trio.run(coordinator.handle, operation, {"guest": "web", **arguments})


def settings_of(coordinator: Coordinator) -> Any:
    return coordinator.guests["web"].record.settings


def test_set_changes_the_running_guest() -> None:
    """The next decision goes by it, and the answer shows all that is in force and what was set."""
    coordinator = coordinator_with(MemoryState())
    answer = ask(coordinator, "set", values={"minimum": "512M", "weight": "8000"})
    assert (settings_of(coordinator).minimum_kib, settings_of(coordinator).weight) == (512 * MIB, 8000)
    assert answer["settings"]["minimum"] == 512 * MIB
    assert answer["set"] == {"minimum": "512M", "weight": "8000"}
    coordinator.turn(0.0)
    assert coordinator.snapshot is not None
    assert coordinator.snapshot.guests[0].settings.minimum_kib == 512 * MIB


@pytest.mark.parametrize(("persist", "weight_after"), [(False, 5000), (True, 8000)])
def test_only_what_is_persisted_outlives_the_service(persist: bool, weight_after: int) -> None:
    """A coordinator that starts anew has what was said to be kept, and nothing else."""
    state = MemoryState()
    ask(coordinator_with(state), "set", values={"weight": "8000"}, persist=persist)
    assert settings_of(coordinator_with(state)).weight == weight_after


def test_persisting_one_key_keeps_the_others() -> None:
    """What was set for this run stays for this run; a key that is persisted later has the later value."""
    state = MemoryState()
    coordinator = coordinator_with(state)
    ask(coordinator, "set", values={"weight": "1", "buffer": "1"})
    ask(coordinator, "set", values={"weight": "2"}, persist=True)
    assert (settings_of(coordinator).weight, settings_of(coordinator).buffer_percent) == (2, 1)
    assert settings_of(coordinator_with(state)).buffer_percent == 20


def test_reset_forgets() -> None:
    """The files' word is in force again, kept values too are gone."""
    state = MemoryState()
    coordinator = coordinator_with(state)
    ask(coordinator, "set", values={"weight": "1"}, persist=True)
    ask(coordinator, "set", reset=True)
    assert settings_of(coordinator).weight == settings_of(coordinator_with(state)).weight == 5000


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"weight": "0"}, 'weight = "0": allowed is a whole number from 1 to 10000'),
        ({"minimum": "2G"}, "minimum 2 GiB does not fit this machine; 1 GiB is in force"),
        ({"wieght": "5"}, "did you mean weight?"),
        ({"qmp": "/tmp/x"}, "unknown"),
        ({"weight": 5}, "an object of texts is expected"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(values: dict[str, Any], said: str) -> None:
    """A person gets to know what is allowed; the settings stay as they were."""
    coordinator = coordinator_with(MemoryState())
    before = settings_of(coordinator)
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        ask(coordinator, "set", values=values)
    assert settings_of(coordinator) == before


def test_persist_is_confirmed_only_when_it_is_kept() -> None:
    """With a full disk nothing is changed; without --persist it is done, and that it is not kept needs no word."""
    coordinator = coordinator_with(FullDisk())
    with pytest.raises(ValueError, match="nothing was changed: state: database or disk is full"):
        ask(coordinator, "set", values={"weight": "1"}, persist=True)
    assert settings_of(coordinator).weight == 5000
    assert "not_saved" not in ask(coordinator, "set", values={"weight": "1"})
    assert settings_of(coordinator).weight == 1


def test_a_reset_is_one_step() -> None:
    """Where the new values cannot be kept the old ones are in force, kept as before; and what does not fit is
    refused before anything is forgotten."""
    state = FullDisk()
    state._values["settings:web"] = {"weight": "7"}
    for values, persist in (({"buffer": "1"}, True), ({"buffer": "1"}, False), ({}, False)):
        coordinator = coordinator_with(state)
        with pytest.raises(ValueError, match="nothing was changed: state: database or disk is full"):
            ask(coordinator, "set", values=values, persist=persist, reset=True)
        assert (settings_of(coordinator).weight, settings_of(coordinator).buffer_percent) == (7, 20)
    coordinator = coordinator_with(state)
    with pytest.raises(ValueError, match="does not fit this machine"):
        ask(coordinator, "set", values={"minimum": "2G"}, reset=True)
    assert settings_of(coordinator).weight == 7


class Unreadable(MemoryState):
    """A disk that gives nothing back any more."""

    fails = False

    def get(self, key: str) -> Any:
        if self.fails and key != "reservations":
            raise PortError("state: disk I/O error")
        return super().get(key)


def test_a_store_that_fails_while_we_serve_takes_nothing_away() -> None:
    """A guest keeps what was set for it, and whoever asks for what cannot be read is told so."""
    state = Unreadable()
    state.put("settings:web", {"weight": "7"})
    coordinator = coordinator_with(state)
    state.fails = True
    coordinator.guests.refresh("web")
    assert settings_of(coordinator).weight == 7
    assert ask(coordinator, "set")["set"] == {"weight": "7"}


def test_a_guest_whose_choices_cannot_be_read_is_left_alone() -> None:
    """It may have been paused or released, so it is not moved, and its line says why."""
    state = Unreadable()
    state.fails = True
    coordinator = coordinator_with(state)
    coordinator.turn(0.0)
    assert coordinator.snapshot is not None
    assert "cannot be read: state: disk I/O error" in coordinator.snapshot.guests[0].vm.hands_off
    with pytest.raises(ValueError, match="state: disk I/O error"):
        ask(coordinator, "set", values={"weight": "1"}, persist=True)


def test_kept_values_of_another_version_do_not_stop_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """What this version does not allow is left out and named."""
    state = MemoryState()
    state.put("settings:web", {"weight": "7", "colour": "blue", "minimum": "a lot"})
    assert settings_of(coordinator_with(state)).weight == 7
    assert "colour" in caplog.text
    assert "minimum" in caplog.text


def test_pause_and_resume_are_kept() -> None:
    """A paused guest is left alone, over a restart too, until it is resumed; a release ends a pause."""
    state = MemoryState()
    coordinator = coordinator_with(state)
    assert ask(coordinator, "pause")["names"] == ["web"]
    assert coordinator.guests["web"].record.paused
    assert coordinator_with(state).guests["web"].record.paused
    ask(coordinator, "release")
    record = coordinator.guests["web"].record
    assert (record.paused, record.released) == (False, True)
    ask(coordinator, "resume", all=True)
    later = coordinator_with(state).guests["web"].record
    assert (later.paused, later.released) == (False, False)


def test_what_is_said_for_all_guests_is_one_change() -> None:
    """Each waits for the disk while nobody is decided for."""
    changes: list[int] = []

    class Counted(MemoryState):
        def change(self, values: Mapping[str, Any]) -> None:
            changes.append(len(values))
            super().change(values)

    names = ("a", "b", "c")
    settings = Settings(HostSettings(budget_kib=4 * GIB), tuple(make_settings(name) for name in names))
    hypervisor = SimulatedHypervisor([SimulatedVm(SimulatedMachine(name, GIB, 0.0), nobody_answers) for name in names])
    memory = SimulatedHostMemory(8 * GIB, [])
    coordinator = Coordinator(settings, hypervisor, memory, StillClock(), None, Counted(), CountedRandomness())
    for operation in ("pause", "resume", "release"):
        ask(coordinator, operation, all=True)
    assert changes == [9, 9, 9]


def test_giving_way_to_another_mover_is_kept_until_resume(caplog: pytest.LogCaptureFixture) -> None:
    """Said once, left alone over a restart; resume, release and pause each end it for good."""
    for ending in ("resume", "release", "pause"):
        state = MemoryState()
        coordinator = coordinator_with(state)
        coordinator._operations.give_way("web", 512 * MIB)
        assert "web: another mover set it to 512 MiB at " in caplog.text
        later = coordinator_with(state)
        assert later.guests["web"].record.yielded.endswith("given way to until `ballonet resume web`")
        ask(later, ending)
        assert not later.guests["web"].record.yielded
        assert not coordinator_with(state).guests["web"].record.yielded


def test_giving_way_acts_even_where_it_cannot_be_kept(caplog: pytest.LogCaptureFixture) -> None:
    """A full disk does not make us fight; that it will not last is said."""
    coordinator = coordinator_with(FullDisk())
    coordinator._operations.give_way("web", 512 * MIB)
    assert coordinator.guests["web"].record.yielded
    assert "will not outlive a restart" in caplog.text


def test_the_command_that_is_named_can_be_typed() -> None:
    """A name with a space or a quote comes quoted."""
    assert resume_command("web") == "ballonet resume web"
    assert resume_command("my web's") == """ballonet resume 'my web'"'"'s'"""


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "   ", "\u202egnp", "n" * 300])
def test_room_is_asked_for_a_machine_of_any_name(name: str) -> None:
    """libvirt starts a domain of such a name, and its hook asks for it."""
    coordinator = coordinator_with(MemoryState())
    answer = ask(coordinator, "reserve", guest=name, size="64M")
    assert (answer["name"], answer["state"]) == (name, "pending")


def test_what_is_held_longer_is_kept_before_the_answer() -> None:
    """Asked again for an hour: a coordinator that is killed then keeps it for an hour, not for the first minute; and
    what a larger ask has given up does not stand again."""
    state = MemoryState()
    coordinator = coordinator_with(state)
    first = Reservation("db", 64 * MIB, 5000, 0.0, 30.0, 60.0, held_since_s=0.0)
    coordinator.reservations = Reservations([first])
    answer = ask(coordinator, "reserve", guest="db", size="64M", hold_s=3600)
    assert (answer["state"], answer["hold_s"]) == ("held", 3600)
    (kept,) = coordinator_with(state).reservations
    assert kept.hold_s > 3500
    assert ask(coordinator, "reserve", guest="db", size="128M")["state"] == "pending"
    assert list(coordinator_with(state).reservations) == []
