"""A simulated host on virtual time: real agent cores, real frames, the real coordinator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord.model import (
    Command,
    Decision,
    GuestSettings,
    HostSettings,
    SetTarget,
    Settings,
    Snapshot,
)
from ballonet_host_coord.simulated.house import House
from ballonet_host_coord.simulated.machine import Character

MIB = 1024
GIB = 1024 * MIB
OVERHEAD_KIB = 64 * MIB


def two_guests(budget_kib: int = 1728 * MIB, headroom_kib: int = 64 * MIB, **changes: Any) -> Settings:
    """alpha and beta: 256 MiB at least, 512 at start, 1 GiB at most, on a host that cannot give both their most."""
    values: dict[str, Any] = {
        "minimum_kib": 256 * MIB,
        "startup_kib": 512 * MIB,
        "maximum_kib": 1024 * MIB,
        "overhead_kib": OVERHEAD_KIB,
        **changes,
    }
    guests = tuple(GuestSettings(name, **values) for name in ("alpha", "beta"))
    return Settings(HostSettings(budget_kib=budget_kib, headroom_kib=headroom_kib, slider=50), guests)


class Watch:
    """Looks over the coordinator's shoulder at every turn and keeps what tests ask about."""

    def __init__(self) -> None:
        self.another_moves = False
        """The scenario is one in which somebody else moves a guest."""
        self.exceeded_kib = 0
        self.deepened_kib = 0
        """How much one turn's commands promised beyond the room that the books showed (I1)."""
        self.turns: list[tuple[Snapshot, Decision]] = []
        self.commands: list[tuple[float, Command]] = []

    def turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        self.exceeded_kib = max(self.exceeded_kib, decision.booked_kib - decision.budget_kib)
        booked = {guest.name: guest.booking.assigned_kib for guest in snapshot.guests}
        promised_kib = sum(
            max(0, order.target_kib - booked[order.guest]) for order in commands if isinstance(order, SetTarget)
        )
        room_kib = max(0, decision.budget_kib - decision.booked_kib)
        self.deepened_kib = max(self.deepened_kib, promised_kib - room_kib)
        if not self.another_moves:
            left = [guest.hands_off for guest in snapshot.guests if "another mover" in guest.hands_off]
            assert left == [], "nobody moves these guests but ourselves and they"
        self.turns.append((snapshot, decision))
        self.commands += [(snapshot.now_s, command) for command in commands]

    def commands_of(self, name: str, kind: type) -> list[tuple[float, Any]]:
        return [(at_s, order) for at_s, order in self.commands if order.guest == name and isinstance(order, kind)]


class Stage:
    """A house with a watch at its coordinator, and the words that scenarios are written in."""

    def __init__(self, house: House, nursery: trio.Nursery) -> None:
        self.house = house
        self.watch = Watch()
        self._nursery = nursery
        house.coordinator.on_turn = self.watch.turn
        self._scope: trio.CancelScope | None = None

    async def open(self) -> None:
        self._nursery.start_soon(self.house.live)
        await self.start_coordinator()

    async def start_coordinator(self) -> None:
        self._scope = await self._nursery.start(self._serve)

    async def _serve(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.house.coordinator.run)
                task_status.started(scope)

    async def replace_coordinator(self, away_s: float) -> None:
        """Stop the coordinator, stay away, and begin with one that knows nothing."""
        assert self._scope is not None
        self._scope.cancel()
        await trio.sleep(away_s)
        self.house.coordinator = self.house.new_coordinator()
        self.house.coordinator.on_turn = self.watch.turn
        await self.start_coordinator()

    def work(self, name: str, wanted_mib: int) -> None:
        self.house.machines[name].work(wanted_mib * MIB, trio.current_time())

    async def until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Wait until `condition` holds; returns the seconds it took, fails after `within_s`."""
        began_s = trio.current_time()
        while not condition():
            assert trio.current_time() - began_s < within_s, f"not within {within_s} s"
            await trio.sleep(0.05)
        return trio.current_time() - began_s

    async def until_up(self, within_s: float = 90.0) -> None:
        """Both guests have booted, settled at or below their startup size and may be shrunk."""
        machines = self.house.machines.values()
        await self.until(lambda: all(m.is_up and m.uptime_s > 35 for m in machines), within_s)

    def has_touched(self, name: str) -> bool:
        machine = self.house.machines[name]
        return machine.touched_kib >= machine.wanted_kib


@pytest.fixture
def play() -> Callable[..., Stage]:
    """Run a scenario `async def (stage)` on virtual time and return its stage."""

    def run(
        scenario: Callable[[Stage], Awaitable[None]],
        settings: Settings | None = None,
        characters: dict[str, Character] | None = None,
        observe: bool = False,
        prepare: Callable[[House], None] = lambda house: None,
        discovered: bool = False,
    ) -> Stage:
        stages: list[Stage] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                options = {"observe": observe, "discovered": discovered}
                house = House(settings or two_guests(), 1024 * MIB, 4 * GIB, characters, **options)
                prepare(house)
                stage = Stage(house, nursery)
                stages.append(stage)
                await stage.open()
                await scenario(stage)
                nursery.cancel_scope.cancel()

        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(main, clock=clock, strict_exception_groups=True)
        return stages[0]

    return run


@pytest.fixture
def settings() -> Callable[..., Settings]:
    return two_guests
