"""Plugs the agent's channel into a running domain: no restart is needed to let ballonet see it.

In the guest udev starts the agent when the port appears, where the agent is installed. The domain's definition gets the
channel as well, where it has one, so that it is there after the next start.
"""

from __future__ import annotations

from enum import StrEnum

from .libvirt_link import LibvirtLink, LibvirtRefused
from .libvirt_xml import AGENT_PORT, AgentChannel, DomainXml, parse_domain
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
    handle = await link.call(name, link.connection.lookupByName, name)
    if not await link.call(name, handle.isActive):
        raise VmAbsent(f"{name}: does not run; add the channel to its definition with virsh edit")
    domain = await _domain(link, name, handle)
    if domain.channel is not None:
        return Adopted.ALREADY
    flags = lib.VIR_DOMAIN_AFFECT_LIVE
    if await link.call(name, handle.isPersistent):
        flags |= lib.VIR_DOMAIN_AFFECT_CONFIG
    needs_controller = not domain.has_virtio_serial
    if needs_controller:
        try:
            await link.call(f"{name}: virtio-serial controller", handle.attachDeviceFlags, CONTROLLER, flags)
        except LibvirtRefused as error:
            raise PortError(f"{name}: {NO_BUS} ({error})") from error
    await _plug(link, name, handle, flags)
    if await _channel(link, name, handle) is None:
        raise PortError(f"{name}: libvirt plugged the channel in and does not show it")
    return Adopted.PLUGGED_WITH_CONTROLLER if needs_controller else Adopted.PLUGGED


async def adopt_once(uri: str, name: str) -> Adopted:
    """The same on a connection of its own."""
    link = LibvirtLink(uri)
    try:
        return await adopt(link, name)
    finally:
        await link.aclose()


async def _plug(link: LibvirtLink, name: str, handle: object, flags: int) -> None:
    attach = handle.attachDeviceFlags  # type: ignore[attr-defined]
    try:
        await link.call(f"{name}: channel", attach, CHANNEL, flags)
    except LibvirtRefused as error:
        if flags == link.lib.VIR_DOMAIN_AFFECT_LIVE:
            raise
        # The definition has it already, or cannot take it; the running domain matters more.
        try:
            await link.call(f"{name}: channel", attach, CHANNEL, link.lib.VIR_DOMAIN_AFFECT_LIVE)
        except LibvirtRefused:
            raise error from None


async def _channel(link: LibvirtLink, name: str, handle: object) -> AgentChannel | None:
    return (await _domain(link, name, handle)).channel


async def _domain(link: LibvirtLink, name: str, handle: object) -> DomainXml:
    return parse_domain(await link.call(f"{name}: XML", handle.XMLDesc, 0))  # type: ignore[attr-defined]
