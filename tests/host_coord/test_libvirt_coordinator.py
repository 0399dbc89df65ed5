"""The coordinator over the libvirt port: strange and untouchable domains are told, and the others are served."""

from __future__ import annotations

from typing import Any

import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import HostSettings, RunState, Settings
from ballonet_host_coord.simulated.stores import CountedRandomness, MemoryState, SimulatedHostMemory

from .builders import GIB, MIB, make_settings
from .fake_libvirt import FakeLibvirt, xml
from .libvirt_world import Clock, run


class Host(SimulatedHostMemory):
    """With every QEMU alive, and no word of what they reside in."""

    def is_alive(self, qemu_pid: int) -> bool:
        return True


def coordinator_of(hypervisor: LibvirtHypervisor, *names: str) -> Coordinator:
    settings = Settings(HostSettings(budget_kib=8 * GIB), tuple(make_settings(name) for name in names))
    return Coordinator(
        settings, hypervisor, Host(16 * GIB, []), Clock(), None, MemoryState(), CountedRandomness()
    )  # fmt: skip


async def guests(coordinator: Coordinator) -> dict[str, Any]:
    return {guest["name"]: guest for guest in (await coordinator.handle("status", {}))["guests"]}


def test_each_guest_is_served_or_told_why_not() -> None:
    """A young domain gets its startup size; one with hugepages, one whose XML cannot be read and one whose QEMU hangs
    are each told with a clear line, and sent nothing."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        names = ("young", "huge", "odd", "hung")
        young, huge, odd, hung = (fake.domain(name) for name in names)
        huge.xml = xml("huge", huge.uuid, "<memoryBacking><hugepages/></memoryBacking>")
        odd.xml = "<domain><name>odd</name></domain>"
        hung.hangs = hung.occupied = True
        hung.control = (fake.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 9000)
        young.stats["balloon.last-update"] = 1
        coordinator = coordinator_of(hypervisor, *names)
        async with trio.open_nursery() as nursery:
            await nursery.start(coordinator.run)
            await trio.sleep(5)
            told = await guests(coordinator)
            nursery.cancel_scope.cancel()
        assert fake.targets == [("young", 512 * MIB)]
        assert "left alone: it uses hugepages" in told["huge"]["why"]
        assert '(domain "odd": it has no <memory>)' in told["odd"]["why"]
        assert "(hung: its QEMU has not answered libvirt for 9 s)" in told["hung"]["why"]

    run(test, age_s=1)


def test_guests_outlive_libvirtd() -> None:
    """While it is away they are booked as they were; when it is back they go on as the same boot."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("web")
        coordinator = coordinator_of(hypervisor, "web")
        async with trio.open_nursery() as nursery:
            await nursery.start(coordinator.run)
            await trio.sleep(3)
            before = coordinator.snapshot
            fake.away = True
            fake.restart()
            await trio.sleep(3)
            away = coordinator.snapshot
            fake.away = False
            await trio.sleep(3)
            after = coordinator.snapshot
            nursery.cancel_scope.cancel()
        assert before is not None
        assert away is not None
        assert after is not None
        states = [snapshot.guests[0].vm.run_state for snapshot in (before, away, after)]
        assert states == [RunState.RUNNING, RunState.UNREACHABLE, RunState.RUNNING]
        assert len({snapshot.booked_kib for snapshot in (before, away, after)}) == 1
        assert before.guests[0].vm.boot == after.guests[0].vm.boot

    run(test)
