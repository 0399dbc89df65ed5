"""A real guest at its floor that needs a lot while nobody is there, and what its death leaves of the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.demo.machine import Guest, MachineSpec, machine_folder, open_machine
from ballonet_host_coord.model import (
    Command,
    Decision,
    GuestSettings,
    GuestSnapshot,
    HostSettings,
    LinkState,
    RunState,
    SetTarget,
    Settings,
    Snapshot,
    Wish,
)
from ballonet_host_coord.service import serve
from ballonet_protocol import DemandWhy, Severity

MIB = 1024
RAM_KIB = 1024 * MIB
SMALL_KIB = 288 * MIB
OVERHEAD_KIB = 112 * MIB
HEADROOM_KIB = 64 * MIB
NEAR_KIB = 2 * MIB
NEEDED_MIB = 600
AWAY_S = 3.0
"""What fits is touched within a second; by then the guest does little else than swap, and answers nobody."""


class Watch:
    """Looks over the coordinator's shoulder at every turn."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.alpha: GuestSnapshot | None = None
        self.wishes: list[Wish] = []
        self.targets: list[tuple[float, int]] = []
        self.exceeded_kib = 0
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        (self.alpha,) = snapshot.guests
        self.exceeded_kib = max(self.exceeded_kib, decision.booked_kib - decision.budget_kib)
        if self.alpha.wish is not None and self.alpha.wish not in self.wishes:
            self.wishes.append(self.alpha.wish)
        self.targets += [(snapshot.now_s, order.target_kib) for order in commands if isinstance(order, SetTarget)]

    async def until(self, holds: Callable[[GuestSnapshot], bool], within_s: float = 60.0) -> GuestSnapshot:
        """What is known of alpha once `holds`; fails after `within_s` with what was known last."""
        with trio.move_on_after(within_s):
            while True:
                if self.alpha is not None and holds(self.alpha):
                    return self.alpha
                await trio.sleep(0.05)
        pytest.fail(f"not within {within_s:g} s: {self.alpha}")


def settings_for(folder: Path) -> Settings:
    """alpha starts near its minimum, and the budget has room for all of it."""
    alpha = GuestSettings(
        "alpha",
        256 * MIB,
        SMALL_KIB,
        RAM_KIB,
        overhead_kib=OVERHEAD_KIB,
        qmp_path=str(folder / "alpha" / "qmp.sock"),
        channel_path=str(folder / "alpha" / "agent.sock"),
    )
    host = HostSettings(
        slider=50,
        budget_kib=RAM_KIB + OVERHEAD_KIB + HEADROOM_KIB,
        headroom_kib=HEADROOM_KIB,
        control_path=str(folder / "control.sock"),
        state_path=str(folder / "state.sqlite"),
    )
    return Settings(host, (alpha,))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Watch]:
    """The service as long as the context lasts; it leaves balloons as they are."""

    async def run(task_status: trio.TaskStatus[Coordinator]) -> None:
        await serve(settings_for(folder), on_ready=task_status.started)

    async with trio.open_nursery() as nursery:
        watch = Watch(await nursery.start(run))
        yield watch
        nursery.cancel_scope.cancel()
    assert watch.exceeded_kib <= 0


def test_a_full_guest_asks_and_a_dead_one_is_over(image, accelerator, play):
    """One guest's short life: small, in need, served; then killed with its agent in session, and started again."""

    async def scenario() -> None:
        with machine_folder() as folder:
            spec = MachineSpec("alpha", RAM_KIB)
            async with open_machine(spec, image, accelerator, folder) as machine:
                async with serving(folder) as watch, machine.guest():
                    await watch.until(is_small_and_heard)
                async with machine.guest() as guest:
                    await a_stalling_guest_asks_before_it_is_served(folder, guest)
                async with serving(folder) as watch:
                    await watch.until(lambda alpha: alpha.report is not None)
                    machine.kill()
                    await its_death_frees_all_and_stops_nothing(watch)
                    (folder / "alpha").rename(folder / "before")
                    async with open_machine(spec, image, accelerator, folder):
                        await its_next_life_begins_small(watch)

    play(scenario)


def is_small_and_heard(alpha: GuestSnapshot) -> bool:
    return alpha.agent.link is LinkState.LIVE and alpha.booking.assigned_kib <= SMALL_KIB + NEAR_KIB


async def a_stalling_guest_asks_before_it_is_served(folder: Path, guest: Guest) -> None:
    """Asked for a lot while no service runs, it stalls. Once one comes the agent says so, and is granted at once."""
    answer: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            answer.update(await guest.hold(NEEDED_MIB), answered_s=trio.current_time())

        nursery.start_soon(hold)
        await trio.sleep(AWAY_S)
        assert not answer, "there was no need to ask"
        async with serving(folder) as watch:
            await watch.until(lambda alpha: bool(answer), within_s=90)
            await watch.until(lambda alpha: alpha.vm.actual_kib > NEEDED_MIB * MIB + SMALL_KIB // 2)
    assert answer["usable_s"] is not None
    stalling = [
        wish for wish in watch.wishes if wish.severity >= Severity.STALLING and wish.why == DemandWhy.PSI
    ]
    assert stalling, watch.wishes
    asked_s = stalling[0].arrived_s
    assert asked_s < answer["answered_s"]
    granted_s = next(at_s for at_s, kib in watch.targets if at_s >= asked_s and kib > SMALL_KIB)
    assert granted_s < answer["answered_s"]
    assert (await guest.counters())["vmstat"]["oom_kill"] == 0


async def its_death_frees_all_and_stops_nothing(watch: Watch) -> None:
    """QEMU killed in the midst of a session: nothing is booked any more, and the service goes on."""
    dead = await watch.until(lambda alpha: alpha.vm.run_state is RunState.ABSENT, within_s=20)
    assert dead.booking.booked_kib == 0
    assert dead.agent.link is not LinkState.LIVE
    assert dead.demand is None


async def its_next_life_begins_small(watch: Watch) -> None:
    """A new QEMU at the same sockets is a new boot: its claim is booked, its target is the startup size again."""
    born = await watch.until(lambda alpha: alpha.vm.run_state is RunState.RUNNING, within_s=20)
    assert born.booking.claimed
    assert born.booking.assigned_kib == RAM_KIB
    assert born.hypervisor_target_kib == SMALL_KIB
    assert born.report is None
