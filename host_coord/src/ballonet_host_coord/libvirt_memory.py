"""Sets the size of one libvirt domain: of its balloon and, where it has one, of its virtio-mem device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from .hotplug import Mover, Sizes, Split
from .libvirt_callers import Caller, of_running
from .libvirt_xml import requesting
from .model import Hotplug
from .ports import VmGone

if TYPE_CHECKING:
    from .libvirt_hypervisor import LibvirtHypervisor
    from .libvirt_vm import Connection, Start


class DomainMemory:
    """One request at a time is told to a domain with a virtio-mem device. Errors are those of `LibvirtLink.call`."""

    def __init__(self, name: str, hypervisor: LibvirtHypervisor) -> None:
        self._name = name
        self._hypervisor = hypervisor
        self._link = hypervisor.link
        self._clock = hypervisor.clock
        self._mover = Mover()
        self._moving = trio.Lock()

    async def set_balloon(self, connection: Connection, target_kib: int) -> None:
        """What the balloon is to leave of the boot memory."""
        live = self._link.lib.VIR_DOMAIN_AFFECT_LIVE

        def set_memory(caller: Caller) -> None:
            domain = _of_start(caller, connection.start)
            of_running(caller, domain, lambda domain: domain.setMemoryFlags(target_kib, live))

        await self._link.call(f"{self._name}: target", set_memory)
        connection.not_before_s = self._clock.now()
        connection.target_kib, connection.target_s = target_kib, connection.not_before_s

    async def aim(self, connection: Connection, target_kib: int, sizes: Sizes, boot: int) -> None:
        """Head for one size of both devices; `boot` is the guest's."""
        async with self._moving:
            told = self._mover.of_boot(boot).aim(target_kib, sizes, self._clock.now())
            await self._tell(connection, sizes, told)

    async def follow(self, connection: Connection, sizes: Sizes, boot: int) -> Hotplug:
        """Have the balloon take what the guest's kernel refuses to unplug."""
        async with self._moving:
            told = self._mover.of_boot(boot).follow(sizes, self._clock.now())
            if told is None:
                return sizes.hotplug
            await self._tell(connection, sizes, told)
            return replace(sizes.hotplug, requested_kib=told.requested_kib)

    async def _tell(self, connection: Connection, sizes: Sizes, told: Split) -> None:
        """The request first where the guest shrinks: what it is to keep it must not give."""
        shrinks = told.balloon_kib <= sizes.left_kib
        if not shrinks:
            await self.set_balloon(connection, told.balloon_kib)
        if told.requested_kib != sizes.hotplug.requested_kib:
            await self._request(connection, told.requested_kib)
        if shrinks:
            await self.set_balloon(connection, told.balloon_kib)

    async def _request(self, connection: Connection, requested_kib: int) -> None:
        """Have the guest plug or unplug until its virtio-mem device has this size."""
        live = self._link.lib.VIR_DOMAIN_AFFECT_LIVE

        def update(caller: Caller) -> None:
            domain = _of_start(caller, connection.start)
            of_running(
                caller, domain,
                lambda domain: domain.updateDeviceFlags(requesting(domain.XMLDesc(0), requested_kib), live),
            )  # fmt: skip

        await self._link.call(f"{self._name}: virtio-mem", update)
        self._hypervisor.outdated(connection.start.uuid)  # libvirt tells of sizes, not of requests


def _of_start(caller: Caller, start: Start) -> Any:
    """In a worker thread, which may come late: the domain, where this is still its start. Raises VmGone."""
    domain = caller.connection.lookupByUUIDString(start.uuid)  # a known handle would have the id of then
    if domain.ID() != start.number:
        raise VmGone(f"{start.name}: was started anew")
    return domain
