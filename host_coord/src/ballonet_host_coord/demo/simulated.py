"""The play with simulated machines: the real coordinator, the agent's own core, Unix sockets between them, no QEMU."""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio

from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.simulated.channels import UnixChannel
from ballonet_host_coord.simulated.house import House
from ballonet_host_coord.simulated.machine import IDLE_KIB, KERNEL_SHARE, LEFT_FREE_KIB, Character, SimulatedMachine

from .play import (
    BUDGET_KIB,
    HEADROOM_KIB,
    MINIMUM_KIB,
    OVERHEAD_KIB,
    RAM_KIB,
    SLIDER,
    STARTUP_KIB,
    has_started,
    perform,
)
from .table import Screen, Table
from .verdict import Judge, Verdict

BOOT_S = 2.0
"""Nobody learns anything from watching arithmetic boot for 20 s."""
LOOK_EVERY_S = 0.02
HOST_KIB = 2 * BUDGET_KIB
NAMES = ("alpha", "beta")


class SimulatedActor:
    """A simulated machine's workload."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self.name = machine.name
        self._machine = machine

    async def hold(self, kib: int, within_s: float) -> float | None:
        began_s = trio.current_time()
        self._machine.work(kib, began_s)
        while trio.current_time() - began_s < within_s:
            if self._machine.touched_kib >= kib:
                return trio.current_time() - began_s
            await trio.sleep(LOOK_EVERY_S)
        return None

    async def need_kib(self, kib: int) -> int:
        return int(kib + IDLE_KIB + LEFT_FREE_KIB + self._machine.ram_kib * KERNEL_SHARE)

    async def actual_kib(self) -> int:
        return self._machine.size_kib

    async def stall_us(self) -> int:
        return self._machine.stall_us

    async def oom_kills(self) -> int:
        return self._machine.oom_kills


async def run_simulated(screen: Screen, over_sockets: bool = True) -> Verdict:
    """Perform the play without QEMU, in under a minute. Not `over_sockets`: in memory, so that a clock may jump."""
    screen.say("simulated guests: no QEMU; the coordinator and the agents' cores are the real ones")
    guests = tuple(
        GuestSettings(name, MINIMUM_KIB, STARTUP_KIB, RAM_KIB, overhead_kib=OVERHEAD_KIB) for name in NAMES
    )
    settings = Settings(HostSettings(budget_kib=BUDGET_KIB, headroom_kib=HEADROOM_KIB, slider=SLIDER), guests)
    with tempfile.TemporaryDirectory(prefix="ballonet-") as folder:
        sockets = {name: UnixChannel(Path(folder) / f"{name}.sock") for name in NAMES if over_sockets}
        for channel in sockets.values():
            await channel.listen()
        characters = {name: Character(boot_s=BOOT_S) for name in NAMES}
        house = House(settings, RAM_KIB, HOST_KIB, characters, sockets)
        judge = Judge(BUDGET_KIB)
        table = Table(house.coordinator, judge, screen)
        async with trio.open_nursery() as nursery:
            # The second machine is switched on when the first has settled, as with real ones.
            house.vms["beta"].dead = True
            await nursery.start(house.run)
            nursery.start_soon(table.run)
            await has_started(house.coordinator, "alpha")
            house.vms["beta"].dead = False
            await has_started(house.coordinator, "beta")
            screen.say("both guests are up at their startup size")
            actors = [SimulatedActor(house.machines[name]) for name in NAMES]
            verdict = await perform(actors, house.coordinator, judge, True, "none", screen.say)
            nursery.cancel_scope.cancel()
        for channel in sockets.values():
            channel.close()
    return verdict
