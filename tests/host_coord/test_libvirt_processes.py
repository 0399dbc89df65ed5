"""Which process is a libvirt domain's QEMU: found, looked for again, and known where all else fails."""

from __future__ import annotations

import pytest
import trio

from ballonet_host_coord import libvirt_vm
from ballonet_host_coord.boots import Process
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import RunState
from ballonet_host_coord.ports import PortError

from .fake_libvirt import FakeLibvirt, Hang
from .libvirt_world import run


def test_a_process_that_was_not_found_is_looked_for_again() -> None:
    """Once in ten seconds, and what is found then belongs to the same boot."""
    looked: list[float] = []

    def find(name: str, uuid: str, user: str, folders: object) -> Process | None:
        looked.append(trio.current_time())
        return Process(77, 0.0) if len(looked) > 2 else None

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        libvirt_vm.find_qemu = find  # `run` puts the real one back
        fake.domain("web")
        vm = hypervisor.vm("web")
        await vm.connect()
        told = []
        for _ in range(40):
            told.append(await vm.facts())
            await trio.sleep(1)
        assert [facts.qemu_pid for facts in told] == [None] * 20 + [77] * 20
        assert {facts.boot for facts in told} == {1}
        assert len(looked) == 3

    run(test)


def test_who_reads_of_processes_for_ever_delays_nobody() -> None:
    """The VM is served without its process meanwhile, and a later look that ends tells it."""
    hangs = True
    looked = 0

    def find(name: str, uuid: str, user: str, folders: object) -> Process | None:
        nonlocal looked
        looked += 1
        if hangs:
            raise Hang
        return Process(77, 0.0)

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        nonlocal hangs
        libvirt_vm.find_qemu = find  # `run` puts the real one back
        fake.domain("web")
        vm = hypervisor.vm("web")
        began_s = trio.current_time()
        await vm.connect()
        assert (await vm.facts()).run_state is RunState.RUNNING
        assert trio.current_time() - began_s < 3
        hangs = False
        await trio.sleep(20)
        assert (await vm.facts()).qemu_pid == 77
        assert looked == 2

    run(test)


@pytest.mark.parametrize("wrong", ["<domain><name>web</name></domain>", ""])
def test_the_process_of_a_strange_or_hanging_domain_is_known(wrong: str) -> None:
    """What cannot be served is booked by what its process holds: that is found before anything is asked that fails."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        if wrong:
            domain.xml = wrong
        else:
            domain.control = (fake.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 9000)
        with pytest.raises(PortError):
            await vm.connect()
        assert vm.listener_pid == int(domain.uuid[-6:])

    run(test)
