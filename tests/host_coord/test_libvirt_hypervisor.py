"""All domains of a libvirt together: one call for everybody, discovery, and one that hangs or cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import trio
import trio.testing

from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import Domain, RunState, VmEventKind
from ballonet_host_coord.ports import PortError, VmGone

from . import libvirt_world
from .fake_libvirt import FakeLibvirt, InlineThreads, xml
from .libvirt_world import run

T = TypeVar("T")


def test_all_guests_share_one_call() -> None:
    """A hundred guests, each polled once a second at a moment of its own, cost about one or two calls a second."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        names = [f"vm{number}" for number in range(100)]
        for name in names:
            fake.domain(name)
            await hypervisor.vm(name).connect()
            await hypervisor.vm(name).facts()
        fake.heard.clear()

        async def attend(name: str, phase_s: float) -> None:
            await trio.sleep(phase_s)
            for _ in range(20):
                await hypervisor.vm(name).facts()
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number, name in enumerate(names):
                nursery.start_soon(attend, name, number / 100)
        assert 15 <= len(fake.heard) <= 42
        assert set(fake.heard) == {"domainListGetStats"}

    run(test)


def test_one_hanging_qemu_delays_nobody_for_long() -> None:
    """When a QEMU stops answering, the others' facts come a second later once, then as ever; it is told as gone."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        hung, fine = fake.domain("hung"), hypervisor.vm("fine")
        fake.domain("fine")
        for vm in (hypervisor.vm("hung"), fine):
            await vm.connect()
            await vm.facts()
        hung.hangs = True
        hung.control = (fake.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 4000)
        await trio.sleep(1)
        began_s = trio.current_time()
        assert (await fine.facts()).run_state is RunState.RUNNING
        assert trio.current_time() - began_s < 1.5
        with pytest.raises(VmGone, match="has not answered libvirt for 4 s"):
            await hypervisor.vm("hung").facts()
        for _ in range(10):
            await trio.sleep(1)
            began_s = trio.current_time()
            await fine.facts()
            assert trio.current_time() - began_s < 0.2
        assert len(fake.connections) == 3  # that for events, the one left behind, and its successor

    run(test)


def test_a_hook_that_waits_for_room_keeps_nobody_from_being_polled() -> None:
    """While libvirtd runs a hook for a domain that starts, a list waits; the others' facts come as ever, nothing is
    left behind for them, and their balloons move."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for name in ("web", "db"):
            fake.domain(name)
            await hypervisor.vm(name).connect()
            await hypervisor.vm(name).facts()
        fake.starting.add("new")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hypervisor.domains)
            for _ in range(10):
                await trio.sleep(1)
                began_s = trio.current_time()
                assert (await hypervisor.vm("web").facts()).run_state is RunState.RUNNING
                assert trio.current_time() - began_s < 0.2
            await hypervisor.vm("db").set_target(600_000)
            assert not hypervisor.link.callers._left
            nursery.cancel_scope.cancel()
        assert fake.targets == [("db", 600_000)]

    run(test)


def test_a_host_with_very_many_domains_is_given_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shared call takes longer than the first patience, the polls find that out and succeed from then on."""

    class Slow(InlineThreads):
        async def run(self, ended: Callable[[], None], function: Callable[[], T]) -> T:
            result = await super().run(ended, function)
            if isinstance(result, dict):
                await trio.sleep(2.5)
            return result

    monkeypatch.setattr(libvirt_world, "InlineThreads", Slow)

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("web")
        vm = hypervisor.vm("web")
        await vm.connect()
        for _ in range(5):
            assert (await vm.facts()).run_state is RunState.RUNNING
            await trio.sleep(1)
        assert fake.heard.count("domainListGetStats") == 7

    run(test)


def test_discovery_tells_who_runs_and_with_what_policy() -> None:
    """Domains come with their policy; a change of metadata is a change, and is read again."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        web = fake.domain("web")
        fake.domain("a name with 'quotes' & ü")
        assert [domain.name for domain in await hypervisor.domains()] == ["a name with 'quotes' & ü", "web"]
        with trio.move_on_after(5) as waited:
            await hypervisor.changed()
        assert waited.cancelled_caught
        policy = "<metadata><b:policy xmlns:b='urn:ballonet:domain:1' weight='9000'/></metadata>"
        web.xml = xml("web", web.uuid, policy)
        fake.event(web, fake.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 2, "urn:ballonet:domain:1")
        await hypervisor.changed()
        fake.heard.clear()
        assert (await hypervisor.domains())[1] == Domain("web", web.uuid, 1048576, 1048576, (("weight", "9000"),))
        assert fake.heard.count("XMLDesc") == 2  # as it runs and as it is defined
        del fake.running["web"]
        fake.lifecycle(web, fake.VIR_DOMAIN_EVENT_STOPPED)
        await hypervisor.changed()
        assert hypervisor.list() != ("a name with 'quotes' & ü",)
        assert len(await hypervisor.domains()) == 1
        assert hypervisor.list() == ("a name with 'quotes' & ü",)

    run(test)


def test_a_domain_boots_with_what_its_definition_says() -> None:
    """Not with what its balloon leaves it just now, as its live XML says; a transient one, with all that it has."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        defined, transient, odd = (fake.domain(name) for name in ("defined", "transient", "odd"))
        for domain in (defined, transient, odd):
            domain.xml = domain.xml.replace("<currentMemory>1048576", "<currentMemory>300000")
        defined.definition = defined.definition.replace("<currentMemory>1048576", "<currentMemory>700000")
        transient.definition, odd.definition = "", "<domain/>"
        found = {domain.name: domain.startup_kib for domain in await hypervisor.domains()}
        assert found == {"defined": 700_000, "transient": 1_048_576, "odd": 1_048_576}

    run(test)


def test_starts_and_ends_are_followed_while_a_hook_keeps_the_list_waiting() -> None:
    """Domains that come up while others wait in their hooks for room are found by their events: who waits for a boot
    claim would otherwise wait for it to be listed, and the list for who waits. A new connection lists anew."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("first")
        assert [domain.name for domain in await hypervisor.domains()] == ["first"]
        fake.starting.add("waits")
        second = fake.domain("second")
        fake.lifecycle(second, fake.VIR_DOMAIN_EVENT_STARTED)
        await hypervisor.changed()
        assert [domain.name for domain in await hypervisor.domains()] == ["first", "second"]
        del fake.running["second"]
        fake.lifecycle(second, fake.VIR_DOMAIN_EVENT_STOPPED)
        gone = fake.domain("gone")
        fake.lifecycle(gone, fake.VIR_DOMAIN_EVENT_STARTED)
        del fake.running["gone"]
        await hypervisor.changed()
        assert [domain.name for domain in await hypervisor.domains()] == ["first"]
        assert fake.heard.count("listAllDomains") == 1
        fake.starting.clear()
        fake.domain("unheard")
        fake.restart()
        await hypervisor.changed()
        assert [domain.name for domain in await hypervisor.domains()] == ["first", "unheard"]

    run(test)


def test_a_start_that_cannot_be_looked_up_is_looked_up_again() -> None:
    """Its event comes once; an answer that does not come in time is asked for again, and the others are told."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        assert await hypervisor.domains() == ()
        slow, fine = fake.domain("slow"), fake.domain("fine")
        fake.slow_lookups.add("slow")
        for domain in (slow, fine):
            fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_STARTED)
        await hypervisor.changed()
        assert [domain.name for domain in await hypervisor.domains()] == ["fine"]
        fake.slow_lookups.clear()
        await hypervisor.changed()
        assert [domain.name for domain in await hypervisor.domains()] == ["fine", "slow"]

    run(test)


def test_what_was_written_before_a_change_is_not_kept() -> None:
    """Metadata that changes while the XML is under way are in what is read next."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        web = fake.domain("web")
        old = web.xml
        policy = "<metadata><policy xmlns='urn:ballonet:domain:1' weight='1'/></metadata>"
        new = xml("web", web.uuid, policy)

        def write(flags: int = 0) -> str:
            web.xml, said = new, web.xml
            if said == old:
                fake.event(web, fake.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, 2, "urn:ballonet:domain:1")
            return said

        web.XMLDesc = write  # type: ignore[method-assign]
        await hypervisor.domains()
        await hypervisor.changed()
        assert (await hypervisor.domains())[0].policy == (("weight", "1"),)

    run(test)


def test_a_strange_domain_is_told_and_hurts_nobody() -> None:
    """One whose XML cannot be read is listed with one clear line; its VM refuses, the others are served."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("good")
        fake.domain("odd").xml = "<!DOCTYPE x [<!ENTITY a 'b'>]><domain>&a;</domain>"
        good, odd = await hypervisor.domains()
        assert good.fault == ""
        assert "document type" in odd.fault
        with pytest.raises(PortError, match="document type"):
            await hypervisor.vm("odd").connect()
        await hypervisor.vm("good").connect()
        assert (await hypervisor.vm("good").facts()).run_state is RunState.RUNNING

    run(test)


def test_facts_after_news_are_newer_than_the_news() -> None:
    """What happened to a VM, or was done to it, is in its next facts although others were polled a moment ago."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        assert (await vm.facts()).run_state is RunState.RUNNING
        domain.status = (3, 1)
        fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_SUSPENDED)
        assert (await vm.next_event()).kind is VmEventKind.PAUSED
        assert (await vm.facts()).run_state is RunState.PAUSED

    run(test)
