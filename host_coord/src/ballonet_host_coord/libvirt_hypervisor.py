"""The hypervisor port over libvirt: every running domain, found by itself.

All VMs share one bulk call per poll (`getAllDomainStats`): 500 guests that are polled once a second cost one or two
requests a second, not 500. It is asked not to wait for a domain that another request occupies; the first to meet a QEMU
that hangs is given up after a second and repeated without that domain (`_ask`).

Its `balloon.current` is what libvirt heard last from QEMU's BALLOON_CHANGE, which comes once a second at most: up to a
second old, and mid-way, for a balloon that moves (m). It tells that a size has changed, and `memoryStats` what it is.

A domain's XML is read when its VM is connected, and again when libvirt says that its devices or metadata changed.
libvirt starts its domains itself and at their `currentMemory`, so one that stands still was paused by somebody: none is
PRELAUNCH here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from .libvirt_callers import Caller, LibvirtRefused
from .libvirt_link import LibvirtLink, LinkEvent, LinkEventKind
from .libvirt_vm import LibvirtVm, Start
from .libvirt_xml import DomainXml, DomainXmlError, parse_domain
from .model import Domain
from .ports import Clock, VmAbsent, VmGone

SHARE_S = 0.75
"""VMs that are polled within this time of each other share one call, where nothing has happened to them since."""
POLL_APART_S = 0.1
"""What happens to many VMs at once shares the next call."""
FIRST_PATIENCE_S = 1.0
"""A bulk call takes milliseconds; one that does not met a QEMU that hangs, and the next one steps over it."""
ATTEMPTS = 3
OF_ALL = frozenset({LinkEventKind.LOST, LinkEventKind.OVERFLOW})
OF_XML = (LinkEventKind.METADATA, LinkEventKind.DEVICES, LinkEventKind.STARTED, LinkEventKind.HOTPLUG)
OF_DISCOVERY = OF_ALL | {
    LinkEventKind.STARTED, LinkEventKind.STOPPED, LinkEventKind.METADATA, LinkEventKind.DEVICES,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Poll:
    """What one bulk call said: libvirt's statistics of each running domain by its uuid."""

    asked_s: float
    read_s: float
    statistics: Mapping[str, Mapping[str, Any]]


class LibvirtHypervisor:
    """`ports.Hypervisor` and `ports.Discovery`. Nothing is connected before the first call."""

    def __init__(self, link: LibvirtLink, clock: Clock, lock_directories: Sequence[str]) -> None:
        self.link = link
        self.clock = clock
        self.lock_directories = lock_directories
        link.on_event = self._on_event
        self._vms: dict[str, LibvirtVm] = {}
        self._xml: dict[str, tuple[int, DomainXml | DomainXmlError]] = {}
        self._xml_changes = 0
        self._names: tuple[str, ...] = ()
        self._changed = trio.Event()
        self._poll_lock = trio.Lock()
        self._poll: Poll | None = None
        self._patience_s = FIRST_PATIENCE_S

    # --- as ports.Hypervisor and ports.Discovery ---------------------------------------------------------

    def list(self) -> tuple[str, ...]:
        """The names that `domains` said last."""
        return self._names

    def vm(self, name: str) -> LibvirtVm:
        return self._vms.setdefault(name, LibvirtVm(name, self))

    def forget(self, name: str) -> None:
        self._vms.pop(name, None)

    async def domains(self) -> tuple[Domain, ...]:
        """Raises VmGone where libvirt cannot be reached."""
        await self.link.connect()
        self._changed = trio.Event()  # before asking: what happens from here on is a change
        running = await self.link.call("list of domains", running_domains)
        found = []
        for start in running:
            domain = await self._described(start)
            if domain is not None:
                found.append(domain)
        uuids = {start.uuid for start in running}
        self._xml = {uuid: entry for uuid, entry in self._xml.items() if uuid in uuids}
        found.sort(key=lambda domain: domain.name)
        self._names = tuple(domain.name for domain in found)
        return tuple(found)

    async def changed(self) -> None:
        await self._changed.wait()

    async def aclose(self) -> None:
        await self.link.aclose()

    # --- for its VMs -------------------------------------------------------------------------------------

    async def poll(self, not_before_s: float) -> Poll:
        """Everybody's statistics, asked for no earlier than `not_before_s` and not long ago. Raises VmGone."""
        not_before_s = max(not_before_s, self.clock.now() - SHARE_S)
        async with self._poll_lock:
            # Whoever waited for the lock finds here what the one before asked for.
            if self._poll is None or self._poll.asked_s <= not_before_s:
                if self._poll is not None:
                    await self.clock.sleep(max(0.0, self._poll.asked_s + POLL_APART_S - self.clock.now()))
                self._poll = poll = await self._ask()
                return poll
            return self._poll

    async def described(self, start: Start) -> DomainXml:
        """The domain's live XML, from memory where libvirt has told of no change. Raises VmGone, DomainXmlError."""
        known = self._xml.get(start.uuid)
        if known is None or known[0] != start.number:
            changes = self._xml_changes
            text = await self.link.call(f"{start.name}: XML", lambda caller: caller.domain(start.uuid).XMLDesc(0))
            try:
                known = (start.number, parse_domain(text))
            except DomainXmlError as error:
                known = (start.number, error)
            if changes == self._xml_changes:  # else it may have been written before what changed
                self._xml[start.uuid] = known
        if isinstance(known[1], DomainXmlError):
            raise known[1]
        return known[1]

    def outdated(self, uuid: str) -> None:
        """The domain's XML has changed, or may have."""
        self._xml_changes += 1
        self._xml.pop(uuid, None)

    # --- inside ------------------------------------------------------------------------------------------

    async def _described(self, start: Start) -> Domain | None:
        """None for one that ended meanwhile."""
        name, uuid = start.name, start.uuid
        try:
            xml = await self.described(start)
            return domain_of(xml)
        except VmAbsent:
            return None
        except VmGone:
            if not self.link.connected:
                raise
            return Domain(name, uuid, fault=f"{name}: libvirt does not tell its XML in time")
        except (DomainXmlError, LibvirtRefused) as error:
            return Domain(name, uuid, fault=str(error))

    async def _ask(self) -> Poll:
        for attempt in range(ATTEMPTS):
            asked_s = self.clock.now()
            try:
                statistics = await self.link.call("statistics of all domains", all_statistics, self._patience_s)
                break
            except VmGone:
                if attempt == ATTEMPTS - 1 or not self.link.connected:
                    raise
        read_s = self.clock.now()
        # A host with very many domains is given its time.
        self._patience_s = max(FIRST_PATIENCE_S, 4 * (read_s - asked_s))
        return Poll(asked_s, read_s, statistics)

    def _on_event(self, event: LinkEvent) -> None:
        if event.kind in OF_XML:
            self.outdated(event.uuid)
        elif event.kind in OF_ALL:
            self._xml_changes += 1
            self._xml.clear()
            self._poll = None
        for vm in list(self._vms.values()):
            vm.happened(event)
        if event.kind in OF_DISCOVERY:
            self._changed.set()


def domain_of(xml: DomainXml) -> Domain:
    """What discovery tells of it."""
    hotplug_kib = xml.memory_kib - xml.boot_kib
    return Domain(
        xml.name, xml.uuid, xml.memory_kib, xml.current_memory_kib, xml.policy, hotplug_kib=hotplug_kib
    )


def running_domains(caller: Caller) -> list[Start]:
    """In a worker thread."""
    domains = caller.connection.listAllDomains(caller.lib.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return [Start(domain.name(), domain.UUIDString(), domain.ID()) for domain in domains]


def all_statistics(caller: Caller) -> dict[str, Mapping[str, Any]]:
    """In a worker thread: state and balloon of each running domain by its uuid; an occupied one without QEMU's part."""
    lib = caller.lib
    flags = lib.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | lib.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    answer = caller.connection.getAllDomainStats(lib.VIR_DOMAIN_STATS_STATE | lib.VIR_DOMAIN_STATS_BALLOON, flags)
    return {domain.UUIDString(): values for domain, values in answer}


def lock_directories(control_path: str) -> list[str]:
    """Where channel locks go: beside the control socket, else where this user may write."""
    directories = [os.path.dirname(control_path)]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        directories.append(os.path.join(runtime, "ballonet"))
    return directories
