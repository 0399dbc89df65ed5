"""The hypervisor port over simulated machines: answers like QMP, can hang and die like QEMU."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from math import inf

import trio

from ballonet_host_coord.model import Domain, Migration, Settings, VmEvent, VmEventKind, VmFacts
from ballonet_host_coord.ports import ByteStream, PortError, VmAbsent, VmGone

from .machine import SimulatedMachine

Connect = Callable[[], Awaitable[ByteStream]]
ANSWER_WITHIN_S = 5.0
"""As long as the real port waits for a monitor."""


class SimulatedVm:
    """One machine behind the `VmPort`. `hung`, `dead` and `refused` (so many targets) are switches for tests."""

    def __init__(self, machine: SimulatedMachine, connect_channel: Connect) -> None:
        self.machine = machine
        self.hung = False
        self.dead = False
        self.refused = 0
        self.targets: list[tuple[float, int]] = []
        """Every target that was set, with its time."""
        self._connect_channel = connect_channel
        self._send, self._events = trio.open_memory_channel[VmEvent](inf)

    @property
    def listener_pid(self) -> int | None:
        return None if self.dead else self.machine.qemu_pid

    async def connect(self) -> None:
        await self._answer()

    async def facts(self) -> VmFacts:
        await self._answer()
        return self.machine.facts(trio.current_time())

    async def set_target(self, target_kib: int) -> None:
        await self._answer()
        if self.refused:
            self.refused -= 1
            raise PortError(f"{self.machine.name} takes no target")
        self.targets.append((trio.current_time(), target_kib))
        self.machine.set_target(target_kib, trio.current_time())

    async def start(self) -> None:
        await self._answer()
        self.machine.start()

    async def next_event(self) -> VmEvent:
        return await self._events.receive()

    async def open_channel(self) -> ByteStream:
        await self._answer()
        if not self.machine.character.has_agent:
            raise PortError("the machine has no channel org.ballonet.agent.0")
        if self.machine.migration is Migration.INCOMING:
            raise PortError(f"{self.machine.name}: is being migrated here")
        return await self._connect_channel()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    # --- what a test or a demo does to it ------------------------------------------------------------------

    def reset(self) -> None:
        now_s = trio.current_time()
        self.machine.reset(now_s)
        self._send.send_nowait(VmEvent(VmEventKind.RESET, now_s))

    def tell(self, kind: VmEventKind) -> None:
        """The monitor tells of something that happened to the machine."""
        self._send.send_nowait(VmEvent(kind, trio.current_time()))

    def die(self) -> None:
        """QEMU is killed: the monitor closes, its memory is gone."""
        self.dead = self.machine.ended = True
        self._send.send_nowait(VmEvent(VmEventKind.GONE, trio.current_time()))

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.hung:
            await trio.sleep(ANSWER_WITHIN_S)
            raise VmGone(f"monitor of {self.machine.name} does not answer")
        if self.dead:
            raise VmAbsent(f"no monitor of {self.machine.name}")


class SimulatedHypervisor:
    """Some machines."""

    def __init__(self, vms: Iterable[SimulatedVm]) -> None:
        self._vms = {vm.machine.name: vm for vm in vms}

    def list(self) -> tuple[str, ...]:
        return tuple(self._vms)

    def vm(self, name: str) -> SimulatedVm:
        return self._vms[name]

    def named(self, settings: Settings) -> None:
        """All machines are there already, whoever is to manage them."""


class SimulatedDiscovery:
    """Tells of the domains that it was last told of; `away` is what it raises meanwhile."""

    def __init__(self, vms: Iterable[SimulatedVm]) -> None:
        self._vms = {vm.machine.name: vm for vm in vms}
        self._domains: tuple[Domain, ...] = ()
        self._news = trio.Event()
        self.away: PortError | None = None
        self.forgotten: list[str] = []

    def tell(self, domains: Iterable[Domain]) -> None:
        """From now on these are the domains that run."""
        self._domains = tuple(domains)
        self._news.set()

    async def domains(self) -> tuple[Domain, ...]:
        await trio.lowlevel.checkpoint()
        if self.away is not None:
            raise self.away
        self._news = trio.Event()
        return self._domains

    async def changed(self) -> None:
        await self._news.wait()

    def vm(self, name: str) -> SimulatedVm:
        return self._vms[name]

    def forget(self, name: str) -> None:
        self.forgotten.append(name)
