"""What `ballonet check` looks at of each guest, and how it asks for it: disturbs no guest and no coordinator.

A monitor serves one client. While a coordinator answers, its snapshot tells what the monitors say; only when none
runs is a monitor asked, with reading commands, and left at once. Channels are never connected to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import psutil
import trio

from .control import ControlError, Unreachable, request
from .finding import shown
from .guest_check import GuestSight, SocketSight
from .guest_rules import settings_for
from .host_check import Service
from .hotplug import hotplug_of
from .libvirt_callers import Caller
from .libvirt_hypervisor import domain_of, running_domains, statistics_of
from .libvirt_link import LibvirtLink
from .libvirt_xml import ABSENT_BALLOON, AGENT_PORT, DomainXml, DomainXmlError, parse_domain
from .model import GuestSettings, GuestSnapshot, LinkState, RunState, Settings, Snapshot
from .ports import PortError, VmAbsent
from .qemu_process import arguments_of
from .qmp import QmpAbsent, QmpClient, QmpClosed, QmpError, QmpTimeout
from .qmp_hypervisor import DEVICE_ROOTS
from .snapshot import snapshot_from_json

MOST_AT_ONCE = 16
NOT_RUNNING = (RunState.ABSENT, RunState.SHUTDOWN)


async def ask_service(control_path: str) -> tuple[Service, Snapshot | None]:
    """The running coordinator's last turn."""
    try:
        answer = await request(control_path, "snapshot")
        return Service(answers=True), snapshot_from_json(answer["snapshot"])
    except Unreachable as error:
        return Service(error=str(error), denied=isinstance(error.__cause__, PermissionError)), None
    except (ControlError, LookupError, TypeError, ValueError, PortError):
        return Service(answers=True), None  # it is there and has no turn yet, or is of another version


# --- guests with a monitor of their own -----------------------------------------------------------------


async def look_at_guests(
    settings: Settings, service: Service, snapshot: Snapshot | None, proc_root: str = "/proc"
) -> list[GuestSight]:
    """Every guest that the settings give a QMP socket, in their order."""
    known = {guest.name: guest for guest in snapshot.guests} if snapshot is not None else {}
    listening = listening_paths(f"{proc_root}/net/unix")
    found: dict[str, GuestSight] = {}
    places = trio.CapacityLimiter(MOST_AT_ONCE)

    async def look(guest: GuestSettings) -> None:
        async with places:
            sight = _named(guest, listening)
            if guest.name in known and not known[guest.name].unseen:
                sight = by_service(sight, known[guest.name], proc_root)
            elif service.answers:
                error = "the coordinator has its monitor and has told nothing of it yet"
                sight = replace(sight, error=error, unjudged=True)
            elif service.denied:
                error = "a coordinator that may not be asked may have its monitor, so it was not connected to"
                sight = replace(sight, error=error, unjudged=True)
            else:
                sight = await _by_monitor(sight, guest.qmp_path, proc_root)
            found[guest.name] = sight

    async with trio.open_nursery() as nursery:
        for guest in settings.guests:
            nursery.start_soon(look, guest)
    return [found[guest.name] for guest in settings.guests]


def _named(guest: GuestSettings, listening: frozenset[str] | None) -> GuestSight:
    return GuestSight(
        name=guest.name,
        minimum_kib=guest.minimum_kib,
        maximum_kib=guest.maximum_kib,
        may_shrink_without_deflate_on_oom=guest.shrink_without_deflate_on_oom,
        monitor=look_at_socket(guest.qmp_path, listening),
        channel=look_at_socket(guest.channel_path, listening) if guest.channel_path else None,
    )


def by_service(sight: GuestSight, known: GuestSnapshot, proc_root: str = "/proc") -> GuestSight:
    """With what the coordinator knows of it."""
    vm, report = known.vm, known.report
    # The coordinator may connect, whatever the caller may.
    monitor = replace(sight.monitor, denied=False) if sight.monitor is not None else None
    channel = replace(sight.channel, denied=False) if sight.channel is not None else None
    sight = replace(sight, monitor=monitor, channel=channel)
    if vm.run_state in NOT_RUNNING:
        return replace(sight, runs=False, resident_kib=0)
    sight = replace(
        sight,
        ram_kib=vm.ram_kib or None,
        deflate_on_oom=vm.deflate_on_oom,
        agent_live=known.agent.link is LinkState.LIVE if sight.channel is not None else None,
        agent_detail=known.agent.detail,
        has_port=None if sight.channel is not None else False,
        swap_kib=report.swap_total_kib if report is not None else None,
        resident_kib=known.residency.resident_kib if known.residency is not None else None,
        pins=tuple(filter(None, vm.hands_off.split("; "))),
    )
    sight = _by_process(sight, vm.qemu_pid, proc_root)
    if vm.run_state is not RunState.UNREACHABLE:
        return replace(sight, has_balloon=None)  # it has told its balloon's size
    if sight.has_balloon is False:
        return sight  # and that is why
    return replace(sight, error="its monitor does not answer the coordinator; `ballonet status` says why")


async def _by_monitor(sight: GuestSight, path: str, proc_root: str) -> GuestSight:
    try:
        client = await QmpClient.connect(path)
    except QmpAbsent:
        return replace(sight, runs=False, resident_kib=0)
    except QmpClosed as error:
        denied = isinstance(error.__cause__, PermissionError)
        # Who listens and does not greet has another client.
        return replace(sight, error=str(error), unjudged=denied or "another client" in str(error))
    try:
        return _by_process(await _ask(sight, client), client.peer[0], proc_root)
    except QmpTimeout as error:
        return replace(sight, error=f"its QEMU is there and does not answer now: {error}", unjudged=True)
    except (QmpClosed, QmpError, ValueError, TypeError, LookupError) as error:
        return replace(sight, error=f"its monitor does not answer like QEMU's: {error}")
    finally:
        await client.aclose()


async def _ask(sight: GuestSight, client: QmpClient) -> GuestSight:
    balloon, has_port, has_hotplug = "", False, False
    for root in DEVICE_ROOTS:
        for device in await client.command("qom-list", {"path": root}):
            kind, path = str(device["type"]), f"{root}/{device['name']}"
            if kind.startswith("child<virtio-balloon"):
                balloon = balloon or path
            has_hotplug = has_hotplug or kind.startswith("child<virtio-mem")
            if kind == "child<virtserialport>":
                has_port = has_port or await _property(client, path, "name") == AGENT_PORT
    ram_bytes = (await client.command("query-memory-size-summary"))["base-memory"]
    hotplug = hotplug_of(await client.command("query-memory-devices")) if has_hotplug else None
    deflates = await _property(client, balloon, "deflate-on-oom") if balloon else None
    reports = await _property(client, balloon, "free-page-reporting") if balloon else None
    return replace(
        sight,
        ram_kib=int(ram_bytes) // 1024 + (hotplug.most_kib if hotplug is not None else 0),
        has_balloon=bool(balloon),
        deflate_on_oom=deflates if isinstance(deflates, bool) else None,
        free_page_reporting=reports if isinstance(reports, bool) else None,
        has_port=has_port,
    )


async def _property(client: QmpClient, path: str, name: str) -> Any:
    try:
        return await client.command("qom-get", {"path": path, "property": name})
    except QmpError:
        return None


def _by_process(sight: GuestSight, qemu_pid: int | None, proc_root: str) -> GuestSight:
    """With what QEMU's process says of itself; unchanged where the kernel does not show it."""
    if not qemu_pid:
        return sight
    arguments = arguments_of(qemu_pid, proc_root)
    try:
        uid = os.stat(f"{proc_root}/{qemu_pid}").st_uid
    except OSError:
        return sight
    if arguments is None:
        return sight
    reporting = sight.free_page_reporting
    return replace(
        sight,
        has_balloon=arguments.has_balloon if sight.has_balloon is None else sight.has_balloon,
        free_page_reporting=arguments.free_page_reporting if reporting is None else reporting,
        pins=tuple(dict.fromkeys((*sight.pins, *arguments.pins))),
        qemu_uid=uid,
        resident_kib=_resident_kib(qemu_pid) if sight.resident_kib is None else sight.resident_kib,
    )


def _resident_kib(pid: int) -> int | None:
    """All that the process holds: QEMU's own part is small beside it."""
    with suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss) // 1024
    return None


def look_at_socket(path: str, listening: frozenset[str] | None) -> SocketSight:
    try:
        status = os.stat(path)
    except OSError as error:
        return SocketSight(path, error.strerror or str(error))
    if not stat.S_ISSOCK(status.st_mode):
        return SocketSight(path, "is no socket")
    heard = path in listening or os.path.realpath(path) in listening if listening is not None else None
    return SocketSight(path, "", status.st_uid, heard, not os.access(path, os.W_OK))


def listening_paths(path: str) -> frozenset[str] | None:
    """The paths that somebody in this network namespace is bound to. A relative one cannot be told: then None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.split(maxsplit=7) for line in file.read().split("\n")[1:]]
    except OSError:
        return None
    return frozenset(row[7] for row in rows if len(row) == 8)


# --- libvirt's domains ----------------------------------------------------------------------------------


async def look_at_domains(
    link: LibvirtLink, settings: Settings, snapshot: Snapshot | None, proc_root: str = "/proc"
) -> list[GuestSight]:
    """Every running domain that the settings' patterns fit. Raises PortError where libvirt cannot be asked."""
    known = {guest.name: guest for guest in snapshot.guests} if snapshot is not None else {}
    own = {guest.name for guest in settings.guests}
    await link.connect()
    running = await link.call("list of domains", running_domains)
    statistics: Mapping[str, Mapping[str, Any]] = {}
    with suppress(PortError):
        statistics = await link.call(
            "statistics of the domains", partial(statistics_of, uuids=[each.uuid for each in running])
        )
    listening = listening_paths(f"{proc_root}/net/unix")
    found = []
    for start in sorted(running, key=lambda start: start.name):
        if start.name in own or not any(fnmatchcase(start.name, domain) for domain in settings.libvirt_domains):
            continue
        try:
            text = await link.call(f"{shown(start.name)}: XML", _xml_of(start.uuid))
            sight = domain_sight(parse_domain(text), settings, listening)
        except VmAbsent:
            continue
        except DomainXmlError as error:
            found.append(GuestSight(start.name, by_libvirt=True, error=str(error)))
            continue
        except PortError as error:
            found.append(GuestSight(start.name, by_libvirt=True, error=str(error), unjudged=True))
            continue
        rss_kib = statistics.get(start.uuid, {}).get("balloon.rss")
        found.append(_with_known(replace(sight, resident_kib=rss_kib), known.get(start.name)))
    return found


def _xml_of(uuid: str) -> Any:
    def read(caller: Caller) -> str:
        return str(caller.domain(uuid).XMLDesc(0))

    return read


def domain_sight(xml: DomainXml, settings: Settings, listening: frozenset[str] | None) -> GuestSight:
    """What the domain's live XML says, and what the settings come to for it."""
    guest, notes = settings_for(settings.rules, domain_of(xml))
    has_balloon = xml.balloon_model != ABSENT_BALLOON
    channel = xml.channel
    return GuestSight(
        name=xml.name,
        by_libvirt=True,
        notes=tuple(notes),
        ram_kib=xml.memory_kib,
        minimum_kib=guest.minimum_kib,
        maximum_kib=guest.maximum_kib,
        may_shrink_without_deflate_on_oom=guest.shrink_without_deflate_on_oom,
        has_balloon=has_balloon,
        deflate_on_oom=xml.deflate_on_oom,
        free_page_reporting=xml.free_page_reporting,
        statistics_period_s=xml.statistics_period_s,
        has_port=channel is not None,
        agent_live=channel.connected if channel is not None else None,
        # Without a balloon that is a problem of its own, told with what to add.
        pins=xml.hands_off if has_balloon else (),
        channel=look_at_socket(channel.path, listening) if channel is not None and channel.path else None,
    )


def _with_known(sight: GuestSight, known: GuestSnapshot | None) -> GuestSight:
    if known is None or known.report is None:
        return sight
    live = known.agent.link is LinkState.LIVE
    return replace(sight, swap_kib=known.report.swap_total_kib, agent_live=live or sight.agent_live)
