"""A whole simulated host: machines, the agents in them and the coordinator that arbitrates between them.

The same assembly serves the tests (virtual time, memory channels) and `ballonet demo --simulated` (real time and
Unix sockets).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import trio

from ballonet_host_coord.clock import TrioClock
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import Settings
from ballonet_host_coord.ports import Clock, Recorder, StateStore

from .channels import MemoryChannel, UnixChannel
from .guest import SimulatedAgent
from .hypervisor import SimulatedDiscovery, SimulatedHypervisor, SimulatedVm
from .machine import Character, SimulatedMachine
from .stores import CountedRandomness, MemoryState, SimulatedHostMemory, SimulatedLimits


class House:
    """Machines by name, beside `coordinator`. Build it inside trio; `run` lives until cancelled."""

    def __init__(
        self,
        settings: Settings,
        ram_kib: int,
        total_kib: int,
        characters: Mapping[str, Character] | None = None,
        channels: Mapping[str, MemoryChannel | UnixChannel] | None = None,
        observe: bool = False,
        recorder: Recorder | None = None,
        clock: Clock | None = None,
        discovered: bool = False,
    ) -> None:
        """With `discovered` the coordinator is not told of the guests: it hears of them from `discovery`."""
        now_s = trio.current_time()
        self.settings = settings
        self.state: StateStore = MemoryState()
        self.machines: dict[str, SimulatedMachine] = {}
        self.vms: dict[str, SimulatedVm] = {}
        self.agents: dict[str, SimulatedAgent] = {}
        self._channels = dict(channels or {})
        self._clock: Clock = clock or TrioClock()
        self._recorder = recorder
        for guest in settings.guests:
            machine = SimulatedMachine(guest.name, ram_kib, now_s, (characters or {}).get(guest.name))
            channel = self._channels.setdefault(guest.name, MemoryChannel())
            self.machines[guest.name] = machine
            self.vms[guest.name] = SimulatedVm(machine, channel.connect)
            self.agents[guest.name] = SimulatedAgent(machine)
        self.discovery = SimulatedDiscovery(self.vms.values()) if discovered else None
        self.host_memory = SimulatedHostMemory(total_kib, list(self.machines.values()))
        self.limits = SimulatedLimits(list(self.machines.values()))
        self.coordinator = self.new_coordinator(observe)

    def new_coordinator(self, observe: bool = False) -> Coordinator:
        """A coordinator that knows nothing yet, before the same machines and the same persistent state."""
        return Coordinator(
            self.settings if self.discovery is None else replace(self.settings, guests=()),
            SimulatedHypervisor(self.vms.values()),
            self.host_memory,
            self._clock,
            self._recorder,
            self.state,
            CountedRandomness(),
            observe=observe,
            discovery=self.discovery,
            limits=self.limits,
        )

    async def live(self) -> None:
        """The machines and their agents, without a coordinator."""
        async with trio.open_nursery() as nursery:
            for name, agent in self.agents.items():
                nursery.start_soon(agent.serve, self._channels[name].accept)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.live)
            await nursery.start(self.coordinator.run)
            task_status.started()
