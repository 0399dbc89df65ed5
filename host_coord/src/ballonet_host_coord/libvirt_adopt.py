"""Plugs the agent's channel into a running domain: no restart is needed to let ballonet see it.

In the guest udev starts the agent when the port appears, where the agent is installed. The domain's definition gets the
channel as well, where it has one, so that it is there after the next start.
"""

from __future__ import annotations

from enum import StrEnum

from .libvirt_callers import Caller, LibvirtRefused
from .libvirt_link import LibvirtLink
from .libvirt_xml import AGENT_PORT, DomainXml, parse_domain
from .ports import PortError, VmAbsent

CONTROLLER = "<controller type='virtio-serial'/>"
CHANNEL = f"<channel type='unix'><source mode='bind'/><target type='virtio' name='{AGENT_PORT}'/></channel>"
NO_BUS = "has no virtio-serial controller, and libvirt plugs none in while it runs; add the channel to its definition"


class Adopted(StrEnum):
    """What it took."""

    ALREADY = "there already"
    PLUGGED = "plugged in"
    PLUGGED_WITH_CONTROLLER = "plugged in, with a virtio-serial controller"


async def adopt(link: LibvirtLink, name: str) -> Adopted:
    """Give the running domain the channel. Raises PortError that says what stands in the way; nothing is left half
    done but a controller, which does no harm."""
    await link.connect()
    lib = link.lib
    uuid, runs, persistent = await link.call(name, lambda caller: _look_up(caller, name))
    if not runs:
        raise VmAbsent(f"{name}: does not run; add the channel to its definition with virsh edit")
    domain = await _domain(link, name, uuid)
    if domain.channel is not None:
        return Adopted.ALREADY
    flags = lib.VIR_DOMAIN_AFFECT_LIVE | (lib.VIR_DOMAIN_AFFECT_CONFIG if persistent else 0)
    needs_controller = not domain.has_virtio_serial
    if needs_controller:
        try:
            await _attach(link, f"{name}: virtio-serial controller", uuid, CONTROLLER, flags)
        except LibvirtRefused as error:
            raise PortError(f"{name}: {NO_BUS} ({error})") from error
    try:
        await _attach(link, f"{name}: channel", uuid, CHANNEL, flags)
    except LibvirtRefused:
        if not persistent:
            raise
        # The definition has it already, or cannot take it; the running domain matters more.
        await _attach(link, f"{name}: channel", uuid, CHANNEL, lib.VIR_DOMAIN_AFFECT_LIVE)
    if (await _domain(link, name, uuid)).channel is None:
        raise PortError(f"{name}: libvirt plugged the channel in and does not show it")
    return Adopted.PLUGGED_WITH_CONTROLLER if needs_controller else Adopted.PLUGGED


async def adopt_once(uri: str, name: str) -> Adopted:
    """The same on a connection of its own."""
    link = LibvirtLink(uri)
    try:
        return await adopt(link, name)
    finally:
        await link.aclose()


def _look_up(caller: Caller, name: str) -> tuple[str, bool, bool]:
    """In a worker thread: the domain's uuid, whether it runs, and whether it has a definition."""
    domain = caller.connection.lookupByName(name)
    return domain.UUIDString(), bool(domain.isActive()), bool(domain.isPersistent())


async def _attach(link: LibvirtLink, what: str, uuid: str, device: str, flags: int) -> None:
    await link.call(what, lambda caller: caller.domain(uuid).attachDeviceFlags(device, flags))


async def _domain(link: LibvirtLink, name: str, uuid: str) -> DomainXml:
    return parse_domain(await link.call(f"{name}: XML", lambda caller: caller.domain(uuid).XMLDesc(0)))
