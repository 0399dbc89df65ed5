"""Balloon and virtio-mem of a domain: read as one size, told in the right order, and settled where a guest refuses."""

from __future__ import annotations

import pytest
import trio

from ballonet_host_coord.hotplug import PATIENCE_S
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_xml import DomainXmlError, parse_domain, requesting
from ballonet_host_coord.model import Hotplug, VmEventKind

from .fake_libvirt import FakeDomain, FakeLibvirt
from .libvirt_world import RAM_KIB, run, vm_event

MIB = 1024
SIZE_CHANGE = 26


def moved(fake: FakeLibvirt, domain: FakeDomain, left_kib: int, plugged_kib: int) -> None:
    """The guest has followed so far, and libvirt has heard of it; it adds what is plugged to the balloon's size."""
    domain.actual_kib = left_kib
    domain.stats["balloon.current"] = left_kib + plugged_kib
    domain.device(current_kib=plugged_kib)
    fake.event(domain, SIZE_CHANGE, "virtiomem0", plugged_kib)


def test_balloon_and_virtio_mem_are_one_size() -> None:
    """RAM and size count both devices; a target is divided among them, and deflating comes before plugging."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.device()
        (found,) = await hypervisor.domains()
        assert (found.ram_kib, found.hotplug_kib) == (3 * RAM_KIB, 2 * RAM_KIB)
        domain.actual_kib = domain.stats["balloon.current"] = 400 * MIB
        await vm.connect()
        facts = await vm.facts()
        assert (facts.ram_kib, facts.boot_kib, facts.actual_kib) == (3 * RAM_KIB, RAM_KIB, 400 * MIB)
        assert facts.hotplug == Hotplug(2 * RAM_KIB, 2 * MIB, 0, 0)
        await vm.set_target(1501 * MIB)
        assert fake.targets == [("web", RAM_KIB), ("web's virtio-mem", 476 * MIB)]
        moved(fake, domain, RAM_KIB, 476 * MIB)
        assert await vm_event(vm) is VmEventKind.BALLOON
        facts = await vm.facts()
        assert (facts.actual_kib, facts.claim_kib, facts.balloon_kib) == (1500 * MIB, 1500 * MIB, 0)
        fake.targets.clear()
        await vm.set_target(901 * MIB)
        assert fake.targets == [("web's virtio-mem", 0), ("web", 901 * MIB)]

    run(test)


def test_what_a_guest_does_not_unplug_is_taken_by_the_balloon() -> None:
    """A guest that keeps plugged blocks is asked for them once; then its balloon shrinks it, and nobody asks on."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.device(requested_kib=512 * MIB)
        await vm.connect()
        moved(fake, domain, RAM_KIB, 512 * MIB)
        await vm_event(vm)
        await vm.set_target(RAM_KIB)
        moved(fake, domain, RAM_KIB, 256 * MIB)
        await vm_event(vm)
        await vm.facts()
        await trio.sleep(PATIENCE_S + 0.2)
        await vm.facts()
        assert fake.targets[2:] == [("web's virtio-mem", 256 * MIB), ("web", 768 * MIB)]
        moved(fake, domain, 768 * MIB, 256 * MIB)
        for _ in range(5):
            await trio.sleep(PATIENCE_S)
            assert (await vm.facts()).actual_kib == RAM_KIB
        assert len(fake.targets) == 4

    run(test)


def test_a_device_at_rest_costs_no_calls() -> None:
    """What is plugged stands in the XML, which is read again only when libvirt says that it has changed."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.device()
        await vm.connect()
        moved(fake, domain, RAM_KIB, 64 * MIB)
        await vm.facts()
        await trio.sleep(1)
        await vm.facts()
        fake.heard.clear()
        for _ in range(3):
            await trio.sleep(1)
            await vm.facts()
        assert set(fake.heard) == {"domainListGetStats"}

    run(test)


def test_the_request_is_the_device_as_libvirt_wrote_it() -> None:
    """libvirt finds the device by all that it says of it, so only the requested size is another."""
    fake = FakeLibvirt()
    domain = fake.domain("web")
    domain.device(requested_kib=4096, current_kib=2048)
    device = requesting(domain.xml, 8192)
    assert device.startswith("<memory model=")
    text = domain.xml[: domain.xml.index("<memory model")] + device + domain.xml[domain.xml.index("<memballoon") :]
    (changed,), (before,) = parse_domain(text).virtio_mem, parse_domain(domain.xml).virtio_mem
    assert (changed.requested_kib, before.requested_kib) == (8192, 4096)
    assert changed.size_kib == before.size_kib
    assert changed.block_kib == before.block_kib
    with pytest.raises(DomainXmlError, match="virtio-mem"):
        requesting("<domain/>", 1)
