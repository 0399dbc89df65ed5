"""The real coordinator over simulated machines whose channels are the conformance kit's sockets.

Each machine has been up for a minute, its balloon is empty, and its agent is the kit: one kit per machine, in a thread
of its own, so that many cases wait beside each other. What a kit asks of the hypervisor is the target of its machine.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from ballonet_host_coord.clock import TrioClock
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.service import HostRandomness
from ballonet_host_coord.simulated.hypervisor import SimulatedHypervisor, SimulatedVm
from ballonet_host_coord.simulated.machine import Character, SimulatedMachine
from ballonet_host_coord.simulated.stores import MemoryState, SimulatedHostMemory
from ballonet_protocol.conform import Line, Verdict
from ballonet_protocol.conform.lines import UnixServer

MIB = 1024
RAM_KIB = 1024 * MIB
UP_S = 60.0

Kit = Callable[[Line, Callable[[], int]], list[Verdict]]


class _Channel:
    """Where a machine's channel leads: to the kit's socket."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(str(self.path))


def serve(folder: Path, kits: list[Kit]) -> list[list[Verdict]]:
    """Let each kit try the coordinator; what they found."""
    lines = [UnixServer(str(folder / f"{number}.sock")) for number in range(len(kits))]
    try:
        return trio.run(_serve, folder, kits, lines)
    finally:
        for line in lines:
            line.close()


async def _serve(folder: Path, kits: list[Kit], lines: list[UnixServer]) -> list[list[Verdict]]:
    now_s = trio.current_time()
    machines, vms, guests = [], [], []
    for number in range(len(kits)):
        name = str(number)
        machine = SimulatedMachine(name, RAM_KIB, now_s - UP_S, Character(boot_s=1.0))
        machine.start()
        machine.advance(now_s)
        machines.append(machine)
        vms.append(SimulatedVm(machine, _Channel(folder / f"{name}.sock").connect))
        guests.append(GuestSettings(name, 256 * MIB, 512 * MIB, RAM_KIB, overhead_kib=64 * MIB))
    budget_kib = len(kits) * 2 * RAM_KIB
    settings = Settings(HostSettings(budget_kib=budget_kib, headroom_kib=64 * MIB, slider=50), tuple(guests))
    coordinator = Coordinator(
        settings,
        SimulatedHypervisor(vms),
        SimulatedHostMemory(2 * budget_kib, machines),
        TrioClock(),
        None,
        MemoryState(),
        HostRandomness(),
    )
    found: list[list[Verdict]] = [[] for _ in kits]

    async def try_it(number: int) -> None:
        def size_bytes() -> int:
            return machines[number].target_kib * 1024

        found[number] = await trio.to_thread.run_sync(kits[number], lines[number], size_bytes)

    async with trio.open_nursery() as nursery:
        await nursery.start(coordinator.run)
        async with trio.open_nursery() as trials:
            for number in range(len(kits)):
                trials.start_soon(try_it, number)
        nursery.cancel_scope.cancel()
    return found
