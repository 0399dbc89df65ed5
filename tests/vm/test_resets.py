"""Real guests that do what nobody asked for: reset, lose their balloon driver, help themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.demo.machine import Guest, Machine, MachineSpec, machine_folder, open_machine
from ballonet_host_coord.demo.play import BUDGET_KIB, RAM_KIB, STARTUP_KIB, has_started
from ballonet_host_coord.demo.real import settings_for
from ballonet_host_coord.model import (
    AskInflate,
    Command,
    Decision,
    GuestSnapshot,
    ReportKind,
    SetTarget,
    Settings,
    Snapshot,
)
from ballonet_host_coord.service import serve

MIB = 1024
NEAR_KIB = 2 * MIB
SQUEEZED_KIB = STARTUP_KIB - 64 * MIB
DRIVER = "/sys/bus/virtio/drivers/virtio_balloon"

Turn = tuple[Snapshot, Decision, list[Command]]


class Stage:
    """The service in this process, looked at in every turn, and the machines before it."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.machines: dict[str, Machine] = {}
        self.turns: list[Turn] = []
        self.deepened_kib = 0
        """How much one turn's commands promised beyond the room that the books showed."""
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        assigned = {guest.name: guest.booking.assigned_kib for guest in snapshot.guests}
        promised_kib = sum(
            max(0, order.target_kib - assigned[order.guest]) for order in commands if isinstance(order, SetTarget)
        )
        room_kib = max(0, decision.budget_kib - decision.booked_kib)
        self.deepened_kib = max(self.deepened_kib, promised_kib - room_kib)
        self.turns.append((snapshot, decision, commands))

    def known(self, name: str) -> GuestSnapshot:
        """What the coordinator knew of one guest in its last turn."""
        return guest_of(self.turns[-1], name)

    def since(self, began_s: float) -> list[Turn]:
        return [turn for turn in self.turns if turn[0].now_s >= began_s]

    async def until(self, holds: Callable[[], bool], within_s: float) -> None:
        """Wait until `holds`; fails after `within_s` with what the coordinator knew, decided and ordered last."""
        with trio.move_on_after(within_s):
            while not (self.turns and holds()):
                await trio.sleep(0.05)
            return
        orders = [order for _, _, commands in self.turns[-30:] for order in commands]
        pytest.fail(f"not within {within_s} s: {self.turns[-1][:2]}; last orders {orders}")

    async def until_squeezed(self, name: str, within_s: float) -> None:
        """Until an idle guest is smaller than at its start."""
        await self.until(lambda: self.known(name).vm.actual_kib <= SQUEEZED_KIB, within_s)


def guest_of(turn: Turn, name: str) -> GuestSnapshot:
    return next(guest for guest in turn[0].guests if guest.name == name)


def shrinks_of(turns: list[Turn], name: str) -> list[Command]:
    """What would take memory from this guest: a target below what it has, or a request for its consent."""
    return [
        order
        for turn in turns
        for order in turn[2]
        if order.guest == name
        and (
            isinstance(order, AskInflate)
            or (isinstance(order, SetTarget) and order.target_kib < guest_of(turn, name).vm.actual_kib)
        )
    ]


def grants_of(turns: list[Turn], name: str) -> list[int]:
    """The targets that were set above what this guest had."""
    return [
        order.target_kib
        for turn in turns
        for order in turn[2]
        if isinstance(order, SetTarget)
        and order.guest == name
        and order.target_kib > guest_of(turn, name).vm.actual_kib
    ]


@pytest.fixture
def staged(image, accelerator):
    """`async with staged(settings_for, specs) as stage`: the service runs and each guest is up at its startup size."""

    @asynccontextmanager
    async def open_stage(settings: Callable[[Path], Settings], specs: list[MachineSpec]) -> AsyncIterator[Stage]:
        with machine_folder() as folder:
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                stage = Stage(await nursery.start(_serve, settings(folder)))
                for spec in specs:
                    machine = await stack.enter_async_context(open_machine(spec, image, accelerator, folder))
                    stage.machines[spec.name] = machine
                    async with machine.guest():
                        pass
                    with trio.fail_after(60):
                        await has_started(stage.coordinator, spec.name)
                yield stage
                nursery.cancel_scope.cancel()

    return open_stage


async def _serve(settings: Settings, task_status: trio.TaskStatus[Coordinator]) -> None:
    await serve(settings, on_ready=task_status.started)


@pytest.mark.fault(30)
def test_two_guests_on_one_budget_survive_lost_drivers_and_resets(staged, play):
    """Neither a driver that is gone nor a reset makes the books believe the device, or the service promise too much."""

    async def scenario() -> Stage:
        specs = [MachineSpec(name, RAM_KIB) for name in ("alpha", "beta")]
        async with staged(settings_for, specs) as stage, stage.machines["beta"].guest() as beta:
            await a_driver_that_is_gone_is_noticed_and_comes_back(stage, beta)
            await a_reset_is_booked_until_its_driver_answers(stage, beta)
        return stage

    stage = play(scenario)
    assert stage.deepened_kib <= 0


async def a_driver_that_is_gone_is_noticed_and_comes_back(stage: Stage, beta: Guest) -> None:
    """Without its driver alpha has its whole RAM and no shrink follows: beta is served from the rest, then from all."""
    alpha = stage.machines["alpha"]
    await stage.until_squeezed("alpha", within_s=180)
    began_s = stage.coordinator.now()
    async with alpha.guest() as guest:
        devices = await guest.run(f"cd {DRIVER}; for d in virtio*; do echo $d; echo $d > unbind; done")
        assert await alpha.monitor.actual_kib() == RAM_KIB
        await stage.until(lambda: stage.known("alpha").booking.assigned_kib >= RAM_KIB, within_s=20)
        await stage.until(lambda: stage.known("alpha").stuck_since_s is not None, within_s=120)
        assert await alpha.monitor.actual_kib() == RAM_KIB
        assert (await beta.hold(200))["usable_s"] is not None
        assert all(decision.overdrawn_kib == 0 for _, decision, _ in stage.since(began_s))
        for device in devices.split():
            await guest.run(f"echo {device} > {DRIVER}/bind")
    await stage.until(lambda: stage.known("alpha").stuck_since_s is None, within_s=90)
    await stage.until_squeezed("alpha", within_s=180)
    assert (await beta.hold(450))["usable_s"] is not None


async def a_reset_is_booked_until_its_driver_answers(stage: Stage, beta: Guest) -> None:
    """A squeezed guest that is reset has its whole RAM until this boot's driver answers, whatever its device says."""
    alpha = stage.machines["alpha"]
    await stage.until_squeezed("alpha", within_s=180)
    boot = stage.known("alpha").vm.boot
    reset_s = stage.coordinator.now()
    await alpha.monitor.call("system_reset")
    with trio.fail_after(30):
        while (await alpha.monitor.next_event()).get("event") != "RESET":
            pass
    squeezed_kib = await alpha.monitor.actual_kib()  # nothing moves it before the next driver
    wanted: dict[str, Any] = {}

    async def want_more() -> None:
        wanted.update(await beta.hold(600, give_up_s=120))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(want_more)
        with trio.fail_after(90):
            while await alpha.monitor.actual_kib() <= squeezed_kib + 64 * MIB:
                await trio.sleep(0.05)
        answered_s = stage.coordinator.now()
        await stage.until(lambda: not stage.known("alpha").booking.claimed, within_s=30)
        await stage.until(lambda: stage.known("alpha").vm.actual_kib <= STARTUP_KIB + NEAR_KIB, within_s=60)
        assert await alpha.monitor.actual_kib() >= STARTUP_KIB - NEAR_KIB

    turns = [turn for turn in stage.since(reset_s) if guest_of(turn, "alpha").vm.boot > boot]
    assert turns[0][0].now_s - reset_s < 10
    waiting = [turn for turn in turns if turn[0].now_s < answered_s - 1]
    assert len(waiting) >= 3
    for turn in waiting:
        known = guest_of(turn, "alpha")
        assert known.vm.actual_kib == squeezed_kib
        assert known.booking.claimed
        assert known.booking.assigned_kib >= RAM_KIB
        assert known.hypervisor_target_kib == STARTUP_KIB
    assert max(decision.overdrawn_kib for _, decision, _ in turns) > 0
    assert turns[-1][1].booked_kib <= BUDGET_KIB
    assert wanted["usable_s"] is not None


def is_held(guest: GuestSnapshot) -> bool:
    """Until the balloon's statistics judge in the place of an agent that was heard."""
    return guest.report is not None and guest.report.kind is ReportKind.AGENT


def test_a_guest_that_takes_memory_back_is_not_fought(staged, play):
    """With no swap and nobody to ask, a guest helps itself: its size becomes its target, and nothing shrinks it."""

    def alone(folder: Path) -> Settings:
        settings = settings_for(folder)
        return replace(settings, guests=settings.guests[:1])

    async def scenario() -> Stage:
        async with staged(alone, [MachineSpec("alpha", RAM_KIB, swap=False)]) as stage:
            alpha = stage.machines["alpha"]
            await stage.until_squeezed("alpha", within_s=180)
            async with alpha.guest() as guest:
                await guest.run("systemctl stop ballonet-guest-agent")
                await stage.until(lambda: not stage.coordinator.ledger.is_moving("alpha"), within_s=60)
                squeezed_kib = await alpha.monitor.actual_kib()
                began_s = stage.coordinator.now()
                held = await guest.hold(500)
                assert held["usable_s"] is not None
                for _ in range(30):
                    await trio.sleep(0.5)
                counters = await guest.counters()
            await stage.until(lambda: not stage.coordinator.ledger.is_moving("alpha"), within_s=60)
            actual_kib = await alpha.monitor.actual_kib()
            known = stage.known("alpha")
        turns = [turn for turn in stage.since(began_s) if is_held(guest_of(turn, "alpha"))]
        assert counters["vmstat"]["oom_kill"] == 0
        assert actual_kib >= squeezed_kib + 128 * MIB
        assert any("the guest's own act" in order.why for _, _, orders in turns for order in orders)
        assert abs((known.hypervisor_target_kib or 0) - actual_kib) <= NEAR_KIB
        assert known.booking.assigned_kib >= actual_kib
        assert shrinks_of(turns, "alpha") == []
        assert grants_of(turns, "alpha"), "a guest without its agent is held, and still given to"
        return stage

    assert play(scenario).deepened_kib <= 0
