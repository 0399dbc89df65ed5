"""A guest moves from one simulated host to another, its agent with it: what each host's coordinator books, does and
leaves alone meanwhile (I1, I3, I7). Two houses share one virtual clock and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ballonet_host_coord.model import (
    AskInflate,
    LinkState,
    Migration,
    RunState,
    SetTarget,
    Settings,
    VmEventKind,
)
from ballonet_host_coord.simulated.house import House

from .conftest import GIB, MIB, Stage, two_guests

RAM_KIB = 1024 * MIB


class Move:
    """alpha and beta run on `source`; on `destination` beta runs, and alpha is to come."""

    def __init__(self, source: Stage, destination: Stage) -> None:
        self.source = source
        self.destination = destination

    def wait_for_alpha(self) -> None:
        """A process with `-incoming` is started on the destination."""
        house = self.destination.house
        house.machines["alpha"].await_migration()
        house.machines["alpha"].ended = house.vms["alpha"].dead = False

    def begin(self) -> None:
        self.source.house.machines["alpha"].begin_to_leave(trio.current_time())
        self.source.house.vms["alpha"].tell(VmEventKind.MIGRATION)

    def cancel(self) -> None:
        self.source.house.machines["alpha"].stay(trio.current_time())
        self.source.house.vms["alpha"].tell(VmEventKind.MIGRATION)

    def finish(self) -> None:
        here, there = self.source.house, self.destination.house
        there.machines["alpha"].arrive_from(here.machines["alpha"], trio.current_time())
        there.agents["alpha"].arrive_from(here.agents["alpha"])
        here.vms["alpha"].tell(VmEventKind.MIGRATION)
        there.vms["alpha"].tell(VmEventKind.RESUMED)


def alpha_of(stage: Stage):
    return stage.watch.turns[-1][0].guests[0]


def why_of(stage: Stage) -> str:
    return stage.watch.turns[-1][1].guests[0].why


def orders_of(stage: Stage, since_s: float, until_s: float = float("inf")):
    """What was asked of alpha, or set for it."""
    orders = stage.watch.commands_of("alpha", SetTarget) + stage.watch.commands_of("alpha", AskInflate)
    return [(at_s, order) for at_s, order in orders if since_s <= at_s < until_s]


@pytest.fixture
def move() -> Callable[..., Move]:
    """Run a scenario `async def (move)` once alpha is up on the source, and beta on both hosts."""

    def run(scenario: Callable[[Move], Awaitable[None]], destination: Settings | None = None) -> Move:
        moves: list[Move] = []

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                stages = []
                for settings in (two_guests(), destination or two_guests()):
                    stages.append(Stage(House(settings, RAM_KIB, 4 * GIB), nursery))
                there = stages[1].house
                there.machines["alpha"].ended = there.vms["alpha"].dead = True
                for stage in stages:
                    await stage.open()
                machines = [*stages[0].house.machines.values(), there.machines["beta"]]
                await stages[0].until(lambda: all(m.is_up and m.uptime_s > 60 for m in machines), within_s=120)
                moves.append(Move(*stages))
                await scenario(moves[0])
                nursery.cancel_scope.cancel()

        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(main, clock=clock, strict_exception_groups=True)
        return moves[0]

    return run


def test_a_guest_is_carried_over_with_its_agent(move):
    """It is booked on the destination before it comes and on the source until its process ends; it keeps its size, gets
    no startup target, and its agent speaks to the new host within seconds."""

    async def scenario(move: Move) -> None:
        source, destination = move.source, move.destination
        machine = destination.house.machines["alpha"]
        move.wait_for_alpha()
        await trio.sleep(30)
        assert alpha_of(destination).booking.assigned_kib == RAM_KIB
        assert why_of(destination) == "is being migrated here: booked with its whole RAM"
        move.begin()
        await trio.sleep(5)
        assert why_of(source).startswith("is being migrated away")
        size_kib = source.house.machines["alpha"].size_kib
        assert size_kib < 400 * MIB
        move.arrived_s = trio.current_time()
        move.finish()
        await destination.until(lambda: alpha_of(destination).report is not None, within_s=2)
        assert alpha_of(destination).agent.link is LinkState.LIVE
        await trio.sleep(5)
        assert why_of(source) == "was migrated away: booked until its process ends"
        assert alpha_of(source).booking.assigned_kib == size_kib
        source.house.vms["alpha"].die()
        await trio.sleep(2)
        assert (alpha_of(source).vm.run_state, alpha_of(source).booking.booked_kib) == (RunState.ABSENT, 0)
        assert machine.size_kib == size_kib == alpha_of(destination).booking.assigned_kib

    moved = move(scenario)
    assert orders_of(moved.destination, 0) == []
    for stage in (moved.source, moved.destination):
        assert stage.watch.exceeded_kib <= 0


def test_nobody_shrinks_a_guest_that_moves(move):
    """I3: neither while it is copied, though it holds what another needs, nor in its first half minute at its new
    host; then it gives as any other."""

    async def scenario(move: Move) -> None:
        source, destination = move.source, move.destination
        source.work("alpha", 700)
        await source.until(lambda: source.has_touched("alpha"), within_s=20)
        source.work("alpha", 0)
        move.wait_for_alpha()
        await trio.sleep(3)
        move.began_s = trio.current_time()
        move.begin()
        source.work("beta", 800)
        destination.work("beta", 800)
        await trio.sleep(20)
        move.arrived_s = trio.current_time()
        move.finish()
        await destination.until(lambda: bool(orders_of(destination, move.arrived_s)), within_s=60)

    moved = move(scenario)
    assert orders_of(moved.source, moved.began_s + 1) == []
    first_s, _ = orders_of(moved.destination, 0)[0]
    assert first_s - moved.arrived_s >= 29.5


def test_a_shrink_under_way_ends_where_it_is_when_the_guest_leaves(move):
    """The target in force travels with the balloon: it is set to the size reached before nobody follows it any more."""

    async def scenario(move: Move) -> None:
        source = move.source
        machine, vm = source.house.machines["alpha"], source.house.vms["alpha"]
        source.work("alpha", 700)
        await source.until(lambda: source.has_touched("alpha"), within_s=20)
        await trio.sleep(3)
        source.work("alpha", 0)
        source.work("beta", 800)
        await source.until(lambda: machine.target_kib < machine.size_kib - 16 * MIB, within_s=60)
        planned_kib = machine.target_kib
        move.begin()
        began_s = trio.current_time()
        await trio.sleep(2)
        assert vm.targets[-1][0] - began_s < 0.5
        assert machine.target_kib == vm.targets[-1][1] > planned_kib
        kept_kib = machine.size_kib
        await trio.sleep(10)
        assert machine.size_kib == kept_kib

    move(scenario)


@pytest.mark.parametrize("short", [False, True])
def test_a_migration_that_comes_to_nothing_leaves_a_guest_like_any_other(move, short):
    """Cancelled or failed, it is managed where it is: given to where it is short, taken from where it is idle."""

    async def scenario(move: Move) -> None:
        source = move.source
        source.work("alpha", 0 if short else 700)
        await source.until(lambda: source.has_touched("alpha"), within_s=20)
        await trio.sleep(3)
        move.begin()
        await trio.sleep(1)
        began_s = trio.current_time()
        source.work("alpha", 700 if short else 0)
        source.work("beta", 0 if short else 800)
        await trio.sleep(10)
        assert orders_of(source, began_s) == []
        move.cancel()
        name = "alpha" if short else "beta"
        await source.until(lambda: source.has_touched(name), within_s=30)
        assert orders_of(source, began_s)

    assert move(scenario).source.watch.deepened_kib <= 0


def test_what_was_reserved_pays_for_who_arrives(move):
    """A reservation by its name is its own from the moment the process is there, and nothing is overdrawn."""

    async def scenario(move: Move) -> None:
        destination = move.destination
        coordinator = destination.house.coordinator
        destination.work("beta", 400)
        await trio.sleep(5)
        await coordinator.handle("reserve", {"guest": "alpha", "size": "1088M", "hold_s": 600})
        with trio.fail_after(30):
            while (await coordinator.handle("reservation", {"guest": "alpha"}))["state"] == "pending":
                await trio.sleep(0.1)
        assert coordinator.reservations.reserved_kib == 1088 * MIB
        move.wait_for_alpha()
        await trio.sleep(3)
        assert coordinator.reservations.reserved_kib == 0
        assert alpha_of(destination).booking.booked_kib == 1088 * MIB
        move.begin()
        await trio.sleep(3)
        move.finish()
        await trio.sleep(20)
        assert alpha_of(destination).booking.assigned_kib < 500 * MIB

    moved = move(scenario, two_guests(budget_kib=1900 * MIB))
    assert moved.destination.watch.exceeded_kib <= 0
    assert moved.destination.watch.deepened_kib <= 0


def test_who_arrives_unasked_overdraws_and_is_named(move):
    """It cannot be held back, so the books say what it costs, grant nothing, and are balanced once it has answered."""

    async def scenario(move: Move) -> None:
        destination = move.destination
        destination.work("beta", 700)
        await destination.until(lambda: destination.has_touched("beta"), within_s=20)
        await trio.sleep(3)
        move.wait_for_alpha()
        await trio.sleep(3)
        _, decision = destination.watch.turns[-1]
        assert decision.overdrawn_kib > 0
        assert decision.overdrawn_cause.startswith("alpha migrates here and is booked with its whole RAM")
        destination.work("beta", 800)
        await trio.sleep(10)
        move.begin()
        await trio.sleep(3)
        move.finish()
        await destination.until(lambda: not destination.watch.turns[-1][1].overdrawn_kib, within_s=5)

    moved = move(scenario)
    assert moved.destination.watch.deepened_kib <= 0


def test_a_need_that_begins_on_the_way_is_met_at_the_end_of_it(move):
    """The old host leaves the guest alone; the new one hears its DEMAND as soon as it hears its agent."""

    async def scenario(move: Move) -> None:
        source, destination = move.source, move.destination
        move.wait_for_alpha()
        await trio.sleep(3)
        move.begin()
        await trio.sleep(1)
        began_s = trio.current_time()
        source.work("alpha", 800)
        await trio.sleep(1)
        assert not source.has_touched("alpha")
        move.finish()
        await destination.until(lambda: destination.has_touched("alpha"), within_s=6)
        assert orders_of(source, began_s) == []
        assert alpha_of(destination).vm.migration is Migration.ARRIVED
        assert any(isinstance(order, SetTarget) for _, order in orders_of(destination, began_s))

    moved = move(scenario)
    assert moved.destination.watch.exceeded_kib <= 0


def test_a_coordinator_that_finds_a_guest_after_its_arrival_adopts_it(move):
    """Started anew right after it, it sets no startup target for a guest that only looks young (I3)."""

    async def scenario(move: Move) -> None:
        destination = move.destination
        destination.house.machines["alpha"].character.has_agent = False
        move.wait_for_alpha()
        move.begin()
        await trio.sleep(3)
        move.finish()
        await destination.replace_coordinator(away_s=1)
        await trio.sleep(10)
        assert alpha_of(destination).vm.run_state is RunState.RUNNING
        assert destination.house.vms["alpha"].targets == []

    move(scenario)
