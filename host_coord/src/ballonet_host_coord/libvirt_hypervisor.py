"""The hypervisor port over libvirt: every running domain, found by itself.

All VMs share one bulk call per poll (`domainListGetStats`): 500 guests that are polled once a second cost one or two
requests a second, not 500. It is asked not to wait for a domain that another request occupies; the first to meet a QEMU
that hangs is given up after a second and repeated without that domain (`_ask`). It names the domains that it is about:
while libvirtd runs a hook for one that starts, whatever asks for *all* domains waits for that hook (m), and a hook that
asks us for room waits for what the polls of the others free. So does a start that waits for another's boot claim:
discovery lists once for each connection, and follows the events from then on.

Its `balloon.current` is what libvirt heard last from QEMU's BALLOON_CHANGE, which comes once a second at most: up to a
second old, and mid-way, for a balloon that moves (m). It tells that a size has changed, and `memoryStats` what it is.

A domain's XML is read when its VM is connected, and again when libvirt says that its devices or metadata changed.
libvirt starts its domains itself and at their `currentMemory`, so one that stands still was paused by somebody: none is
PRELAUNCH here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from .libvirt_callers import CALL_TIMEOUT_S, Caller, LibvirtRefused
from .libvirt_link import LibvirtLink, LinkEvent, LinkEventKind
from .libvirt_vm import LibvirtVm, Start
from .libvirt_xml import DomainXml, DomainXmlError, parse_domain
from .model import Domain
from .plain_text import shown_name
from .ports import Clock, PortError, VmAbsent, VmGone

SHARE_S = 0.75
"""VMs that are polled within this time of each other share one call, where nothing has happened to them since."""
POLL_APART_S = 0.1
"""What happens to many VMs at once shares the next call."""
FIRST_PATIENCE_S = 1.0
"""A bulk call takes milliseconds; one that does not met a QEMU that hangs, and the next one steps over it."""
ATTEMPTS = 3
LIST_TIMEOUT_S = 30.0
"""A list waits for the hooks of all domains that start now; one that waits long is better than several."""
OF_ALL = frozenset({LinkEventKind.LOST, LinkEventKind.OVERFLOW})
OF_XML = (LinkEventKind.METADATA, LinkEventKind.DEVICES, LinkEventKind.STARTED, LinkEventKind.HOTPLUG)
OF_DISCOVERY = OF_ALL | {
    LinkEventKind.STARTED, LinkEventKind.STOPPED, LinkEventKind.METADATA, LinkEventKind.DEVICES,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Poll:
    """What one bulk call said: libvirt's statistics of each domain that it was about and that runs, by its uuid."""

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
        self._startup_kib: dict[str, int] = {}
        self._xml_changes = 0
        self._names: tuple[str, ...] = ()
        self._running: dict[str, Start] = {}
        """By uuid, as libvirt listed them and told since."""
        self._listed: int | None = None
        """The connection that they were listed over; None: they are to be listed anew."""
        self._stirred: dict[str, LinkEventKind] = {}
        """STARTED or STOPPED, whichever was told last of a domain since `_running` was brought up to date."""
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
        if self._listed != self.link.generation:
            await self._list()
        else:
            await self._follow()
        found = []
        for start in list(self._running.values()):
            domain = await self._described(start)
            if domain is not None:
                found.append(domain)
        found = [replace(domain, notes=(*domain.notes, *self._shared(domain.uuid))) for domain in found]
        self._xml = {uuid: entry for uuid, entry in self._xml.items() if uuid in self._running}
        self._startup_kib = {uuid: kib for uuid, kib in self._startup_kib.items() if uuid in self._running}
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
            live, defined = await self.link.call(f"{start.name}: XML", partial(live_and_defined, uuid=start.uuid))
            try:
                known = (start.number, parse_domain(live))
                self._startup_kib[start.uuid] = _startup_kib(known[1], defined)
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

    def sharer(self, uuid: str) -> str:
        """The name of another running domain whose channel has the same path: one of the two is heard as the other.
        Empty where there is none."""
        own = self._channel_path(uuid)
        for other, (_, xml) in self._xml.items():
            if own and other != uuid and self._channel_path(other) == own:
                return xml.name if isinstance(xml, DomainXml) else ""
        return ""

    # --- inside ------------------------------------------------------------------------------------------

    async def _list(self) -> None:
        self._stirred.clear()
        self._listed = self.link.generation  # before asking: a connection that is lost meanwhile takes it back
        try:
            running = await self.link.call("list of domains", running_domains, LIST_TIMEOUT_S)
        except BaseException:
            self._listed = None
            raise
        self._running = {start.uuid: start for start in running}
        await self._follow()

    async def _follow(self) -> None:
        """Take what libvirt told of starts and ends. One that cannot be looked up now stays to be looked up."""
        for uuid, kind in list(self._stirred.items()):
            del self._stirred[uuid]
            self._running.pop(uuid, None)
            if kind is LinkEventKind.STARTED:
                try:
                    self._running[uuid] = await self.link.call(f"domain {uuid}", partial(_running_start, uuid=uuid))
                except VmAbsent:
                    continue  # its end is told, too
                except PortError as error:
                    self._stirred.setdefault(uuid, kind)
                    if not (isinstance(error, VmGone) and self.link.connected):
                        raise
                    self._changed.set()  # it waited for an answer long enough

    def _channel_path(self, uuid: str) -> str:
        known = self._xml.get(uuid)
        channel = known[1].channel if known is not None and isinstance(known[1], DomainXml) else None
        return channel.path if channel is not None else ""

    def _shared(self, uuid: str) -> tuple[str, ...]:
        other = self.sharer(uuid)
        return (f"its channel has the same path as that of {shown_name(other)}: neither is opened",) if other else ()

    async def _described(self, start: Start) -> Domain | None:
        """None for one that ended meanwhile."""
        name, uuid = start.name, start.uuid
        try:
            xml = await self.described(start)
            # Its XML may tell the name otherwise: XML has no carriage return.
            return replace(domain_of(xml, self._startup_kib[uuid]), name=name)
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
            uuids = [uuid for vm in self._vms.values() if (uuid := vm.polled_uuid)]
            try:
                statistics = await self.link.call(
                    "statistics of the domains", partial(statistics_of, uuids=uuids), self._patience_s
                )
                break
            except VmGone:
                if self.clock.now() - asked_s >= 0.9 * self._patience_s:
                    self._patience_s = min(2 * self._patience_s, CALL_TIMEOUT_S)
                if attempt == ATTEMPTS - 1 or not self.link.connected:
                    raise
        read_s = self.clock.now()
        # A host with very many domains is given its time.
        self._patience_s = min(max(FIRST_PATIENCE_S, 4 * (read_s - asked_s)), CALL_TIMEOUT_S)
        return Poll(asked_s, read_s, statistics)

    def _on_event(self, event: LinkEvent) -> None:
        if event.kind in (LinkEventKind.STARTED, LinkEventKind.STOPPED):
            self._stirred[event.uuid] = event.kind
        if event.kind in OF_XML:
            self.outdated(event.uuid)
        elif event.kind in OF_ALL:
            self._xml_changes += 1
            self._xml.clear()
            self._listed = None
            self._poll = None
        for vm in list(self._vms.values()):
            vm.happened(event)
        if event.kind in OF_DISCOVERY:
            self._changed.set()


def _running_start(caller: Caller, uuid: str) -> Start:
    """In a worker thread. Raises VmAbsent where it runs no longer."""
    domain = caller.connection.lookupByUUIDString(uuid)
    if domain.ID() < 0:
        raise VmAbsent(f"{domain.name()}: does not run")
    return Start(domain.name(), uuid, domain.ID())


def domain_of(xml: DomainXml, startup_kib: int | None = None) -> Domain:
    """What discovery tells of it."""
    return Domain(
        xml.name, xml.uuid, xml.memory_kib, xml.current_memory_kib if startup_kib is None else startup_kib,
        xml.policy, xml.notes, hotplug_kib=xml.memory_kib - xml.boot_kib,
    )  # fmt: skip


def running_domains(caller: Caller) -> list[Start]:
    """In a worker thread."""
    domains = caller.connection.listAllDomains(caller.lib.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    caller.know(domains)
    return [Start(domain.name(), domain.UUIDString(), domain.ID()) for domain in domains]


def live_and_defined(caller: Caller, uuid: str) -> tuple[str, str]:
    """In a worker thread: the domain's XML as it runs and as it is defined; the latter empty where it is transient."""
    domain = caller.domain(uuid)
    live = domain.XMLDesc(0)
    return live, domain.XMLDesc(caller.lib.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else ""


def _startup_kib(live: DomainXml, untrusted_defined: str) -> int:
    """What it boots with, as its definition says: in its live XML `currentMemory` is the balloon's present size, from
    the first moment on (m). Of a transient domain it cannot be told; then all that it boots with.
    What may be plugged is for later."""
    with suppress(DomainXmlError):
        if untrusted_defined:
            defined = parse_domain(untrusted_defined)
            return min(defined.current_memory_kib, defined.claim_kib)
    return live.boot_kib


def statistics_of(caller: Caller, uuids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """In a worker thread: state and balloon of each of them that runs; an occupied one without QEMU's part."""
    lib = caller.lib
    domains = []
    for uuid in uuids:
        try:
            domains.append(caller.domain(uuid))
        except lib.libvirtError as error:
            if error.get_error_code() != lib.VIR_ERR_NO_DOMAIN:
                raise
    if not domains:  # to libvirt no names are all names
        return {}
    flags = lib.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | lib.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    what = lib.VIR_DOMAIN_STATS_STATE | lib.VIR_DOMAIN_STATS_BALLOON
    answer = caller.connection.domainListGetStats(domains, what, flags)
    return {domain.UUIDString(): values for domain, values in answer}


def lock_directories(control_path: str) -> list[str]:
    """Where channel locks go: beside the control socket, else where this user may write."""
    directories = [os.path.dirname(control_path)]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        directories.append(os.path.join(runtime, "ballonet"))
    return directories
