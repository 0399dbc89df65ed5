"""The coordinator over the libvirt port: strange and untouchable domains are told, and the others are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import HostSettings, RunState, Settings
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.simulated.hypervisor import SimulatedHypervisor
from ballonet_host_coord.simulated.stores import CountedRandomness, MemoryState, SimulatedHostMemory

from .builders import GIB, MIB, make_settings
from .fake_libvirt import FakeDomain, FakeLibvirt, libvirtError, xml
from .libvirt_world import Clock, run


class Host(SimulatedHostMemory):
    """With every QEMU alive, or none, and no word of what they reside in."""

    alive = True

    def is_alive(self, qemu_pid: int) -> bool:
        return self.alive


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


def discovering(hypervisor: LibvirtHypervisor, state: MemoryState | None = None, *patterns: str) -> Coordinator:
    return Coordinator(
        of_patterns(*patterns), SimulatedHypervisor([]), Host(16 * GIB, []), Clock(), None, state or MemoryState(),
        CountedRandomness(), discovery=hypervisor,
    )  # fmt: skip


def of_patterns(*patterns: str) -> Settings:
    return Settings(HostSettings(budget_kib=8 * GIB), (), libvirt_uri="x", libvirt_domains=patterns or ("*",))


@asynccontextmanager
async def serving(coordinator: Coordinator) -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        await nursery.start(coordinator.run)
        yield nursery
        nursery.cancel_scope.cancel()


def refuses_its_xml(domain: FakeDomain, times: int) -> None:
    """libvirt cannot tell it that often."""
    tell = domain.XMLDesc

    def refuse(flags: int = 0) -> str:
        nonlocal times
        if times:
            times -= 1
            raise libvirtError("Timed out during operation: cannot acquire state change lock", 68)
        return tell(flags)

    domain.XMLDesc = refuse  # type: ignore[method-assign]


def test_an_xml_that_cannot_be_read_for_a_moment_changes_nothing() -> None:
    """A guest that is known keeps its settings, says so, and is read again within seconds."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        web = fake.domain("web")
        coordinator = discovering(hypervisor)
        async with serving(coordinator):
            await trio.sleep(3)
            before = coordinator.guests["web"].record.settings
            assert before.minimum_kib == 512 * MIB
            refuses_its_xml(web, 1)
            web.xml = xml("web", web.uuid, "<metadata><policy xmlns='urn:ballonet:domain:1' weight='7'/></metadata>")
            fake.event(web, fake.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 0, "")
            await trio.sleep(1)
            record = coordinator.guests["web"].record
            assert record.settings == before
            assert "state change lock; its settings are those from before" in record.said
            assert record.vm.hands_off == ""
            await trio.sleep(3)
            assert record.settings == replace(before, weight=7)
            assert "state change lock" not in record.said

    run(test)


def test_who_cannot_be_read_at_first_sight_is_left_alone_until_it_can() -> None:
    """Nothing is known of its bounds, so nothing is moved; two seconds later it is a guest like any other."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        refuses_its_xml(fake.domain("web"), 1)
        coordinator = discovering(hypervisor)
        async with serving(coordinator):
            await trio.sleep(1.5)
            record = coordinator.guests["web"].record
            assert record.vm.run_state is RunState.RUNNING
            assert "state change lock" in record.vm.hands_off
            await trio.sleep(3)
            assert record.vm.hands_off == ""
            assert record.settings.maximum_kib == GIB

    run(test)


def test_nobody_is_granted_anything_beside_one_of_unknown_size() -> None:
    """A domain of which neither size nor process is known may hold anything: it counts as not seen yet."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("web")
        odd = fake.domain("odd")
        odd.xml = "<domain><name>odd</name></domain>"
        coordinator = discovering(hypervisor)
        async with serving(coordinator):
            await trio.sleep(5)
            assert coordinator.snapshot is not None
            assert {guest.name: guest.unseen for guest in coordinator.snapshot.guests} == {"web": False, "odd": True}
            del fake.running["odd"]
            fake.lifecycle(odd, fake.VIR_DOMAIN_EVENT_STOPPED)
            Host.alive = False
            await trio.sleep(5)
            assert not any(guest.unseen for guest in coordinator.snapshot.guests)

    try:
        run(test)
    finally:
        Host.alive = True


def test_a_domain_that_the_settings_name_no_longer_is_left_alone() -> None:
    """It stays in the books for as long as it runs, and is served again when they name it; others come at once."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for name in ("web", "db"):
            fake.domain(name)
        coordinator = discovering(hypervisor, None, "web")
        async with serving(coordinator):
            await trio.sleep(3)
            assert coordinator.guests.names == ("web",)
            coordinator.reload(of_patterns("db"))
            assert set(coordinator.guests.names) == {"web", "db"}
            assert coordinator.guests["web"].record.vm.hands_off == "not ours by the settings any more"
            await trio.sleep(3)
            told = await guests(coordinator)
            assert "not ours by the settings any more" in told["web"]["why"]
            assert told["web"]["booked_kib"] >= GIB
            coordinator.reload(of_patterns("*"))
            await trio.sleep(3)
            assert coordinator.guests["web"].record.vm.hands_off == ""
            coordinator.reload(of_patterns("db"))
            web = fake.running.pop("web")
            fake.lifecycle(web, fake.VIR_DOMAIN_EVENT_STOPPED)
            await trio.sleep(3)
            fake.running["web"] = web
            fake.lifecycle(web, fake.VIR_DOMAIN_EVENT_STARTED)
            await trio.sleep(3)
            assert coordinator.guests.names == ("db",)

    Host.alive = False
    try:
        run(test)
    finally:
        Host.alive = True


class Locked(MemoryState):
    """A store that cannot be read for a while."""

    is_locked = False
    asked = 0

    def get(self, key: str) -> Any:
        self.asked += 1
        if self.is_locked:
            raise PortError(f"state.sqlite: cannot read {key}: database is locked")
        return super().get(key)


def test_a_state_store_that_cannot_be_read_ends_nothing() -> None:
    """Guests that are known go on as they were; a new one is left alone until it can be told what was chosen for it."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        state = Locked()
        state.put("paused:new", True)
        state.put("settings:web", {"weight": "9"})
        web = fake.domain("web")
        coordinator = discovering(hypervisor, state)
        async with serving(coordinator):
            await trio.sleep(3)
            state.is_locked, state.asked = True, 0
            new = fake.domain("new")
            fake.lifecycle(new, fake.VIR_DOMAIN_EVENT_STARTED)
            fake.event(web, fake.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 0, "")
            await trio.sleep(3)
            known, unknown = (coordinator.guests[name].record for name in ("web", "new"))
            assert (known.settings.weight, known.vm.hands_off) == (9, "")
            assert "database is locked" in known.said
            assert "database is locked" in unknown.vm.hands_off
            assert state.asked == 1  # each time may take seconds
            state.is_locked = False
            await trio.sleep(12)
            assert (unknown.vm.hands_off, unknown.paused) == ("", True)
            assert "locked" not in known.said + unknown.said

    run(test)


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
