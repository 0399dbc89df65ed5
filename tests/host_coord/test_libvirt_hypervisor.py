"""The libvirt port against a libvirt that hangs, lies, dies and floods on command; tests/libvirt has the real one."""

from __future__ import annotations

import builtins
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord import libvirt_link, libvirt_vm
from ballonet_host_coord.boots import Process
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_link import CALL_TIMEOUT_S, LibvirtLink, LinkEvent, LinkEventKind, is_local
from ballonet_host_coord.model import Domain, RunState, VmEventKind
from ballonet_host_coord.ports import PortError, VmAbsent, VmGone

from .fake_libvirt import CONSTANTS, FakeDomain, FakeLibvirt, InlineThreads, xml

RAM_KIB = 1048576
BEGAN_WALL_S = time.time() - 1000


class Clock:
    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


@pytest.fixture(autouse=True)
def _qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each domain's process is an old one with a number of its own."""
    monkeypatch.setattr(
        libvirt_vm, "find_qemu", lambda name, uuid, user, folders: Process(int(uuid[-6:]), BEGAN_WALL_S)
    )


def run(test: Callable[[FakeLibvirt, LibvirtHypervisor], Awaitable[None]]) -> None:
    """Run `test` with a fake libvirt and our port to it; time jumps when all wait."""

    async def main() -> None:
        fake = FakeLibvirt()
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads, event_loop=lambda lib: None)
        with trio.fail_after(600):
            await test(fake, LibvirtHypervisor(link, Clock(), ["/nowhere"]))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


def test_the_fake_has_libvirts_numbers() -> None:
    """Constants of the fake are those of the real module."""
    libvirt = pytest.importorskip("libvirt")
    assert {name: getattr(libvirt, name) for name in CONSTANTS} == CONSTANTS


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libvirt's module the error says which package has it, and the port can still be imported."""
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "libvirt":
            raise ImportError("No module named 'libvirt'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "libvirt", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)

    async def main() -> None:
        with pytest.raises(PortError, match="python3-libvirt"):
            await LibvirtHypervisor(LibvirtLink("qemu:///system"), Clock(), []).domains()

    trio.run(main)


def test_facts_are_what_libvirt_says() -> None:
    """RAM, size, state, deflate-on-oom, statistics and process come out in our units."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain = fake.domain("web")
        domain.actual_kib = domain.stats["balloon.current"] = 400_000
        vm = hypervisor.vm("web")
        await vm.connect()
        facts = await vm.facts()
        assert (facts.run_state, facts.ram_kib, facts.actual_kib) == (RunState.RUNNING, RAM_KIB, 400_000)
        assert facts.deflate_on_oom is True
        assert facts.hands_off == ""
        assert facts.qemu_pid == vm.listener_pid == int(domain.uuid[-6:])
        assert (facts.boot, facts.statistics, facts.statistics_count) == (1, None, 0)
        assert facts.boot_began_s == pytest.approx(facts.read_s - 1000, abs=600)
        await trio.sleep(1)
        domain.stats |= {"balloon.last-update": 7, "balloon.available": 900, "balloon.usable": 500}
        domain.stats["balloon.unused"] = -1
        statistics = (await vm.facts()).statistics
        assert statistics is not None
        assert (statistics.total_kib, statistics.available_kib, statistics.free_kib) == (900, 500, None)
        assert "setMemoryStatsPeriod" in fake.heard

    run(test)


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
        assert set(fake.heard) == {"getAllDomainStats"}

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


def test_a_moving_balloon_is_asked_for_its_size() -> None:
    """libvirt's own number lags behind a balloon that moves; ours does not, and a balloon at rest costs no call."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        await vm.set_target(500_000)
        assert fake.targets == [("web", 500_000)]
        sizes = []
        for actual_kib, told_kib in ((900_000, RAM_KIB), (500_000, RAM_KIB), (500_000, 900_000), (500_000, 500_000)):
            domain.actual_kib, domain.stats["balloon.current"] = actual_kib, told_kib
            await trio.sleep(0.25)
            sizes.append((await vm.facts()).actual_kib)
        assert sizes == [900_000, 500_000, 500_000, 500_000]
        # At rest again: the guest takes memory back by itself, and libvirt hears of it in the middle.
        fake.heard.clear()
        await trio.sleep(1)
        await vm.facts()
        assert "memoryStats" not in fake.heard
        domain.actual_kib, domain.stats["balloon.current"] = 700_000, 600_000
        await trio.sleep(1)
        assert (await vm.facts()).actual_kib == 700_000

    run(test)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ((1, 1), RunState.RUNNING),
        ((2, 0), RunState.RUNNING),
        ((1, 10), RunState.MIGRATING),
        ((3, 1), RunState.PAUSED),
        ((3, 5), RunState.PAUSED),
        ((3, 2), RunState.MIGRATING),
        ((3, 3), RunState.MIGRATING),
        ((4, 1), RunState.SHUTDOWN),
        ((6, 1), RunState.PAUSED),
        ((7, 1), RunState.PAUSED),
        ((99, 99), RunState.PAUSED),
    ],
)
def test_run_states(status: tuple[int, int], state: RunState) -> None:
    """Every state of libvirt's has one of ours; what is not known stands still, and is left alone."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        domain.status = status
        await trio.sleep(2)
        assert (await vm.facts()).run_state is state

    run(test)


def test_a_job_is_a_migration_until_it_ends() -> None:
    """A domain that is migrated away or saved is left alone, from the first event on, and not asked once it is over."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        domain.job = 2
        fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, 1)
        assert (await vm.next_event()).kind is VmEventKind.MIGRATION
        assert (await vm.facts()).run_state is RunState.MIGRATING
        domain.job = 0
        await trio.sleep(1)
        assert (await vm.facts()).run_state is RunState.RUNNING
        fake.heard.clear()
        await trio.sleep(1)
        await vm.facts()
        assert fake.heard == ["getAllDomainStats"]

    run(test)


@pytest.mark.parametrize("reason", [2, 3, 4])
def test_who_arrives_is_told_as_migrating_once(reason: int) -> None:
    """A domain that came from a file or another host shows MIGRATING and then a new boot, so that it is adopted as it
    is and not set to its startup size."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.status = (1, reason)
        await vm.connect()
        first = await vm.facts()
        second = await vm.facts()
        assert (first.run_state, second.run_state) == (RunState.MIGRATING, RunState.RUNNING)
        assert second.boot == 2

    run(test)


def test_a_reset_is_a_boot() -> None:
    """A reboot begins another boot, known to the next facts even before anybody fetches the event."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        assert (await vm.facts()).boot == 1
        fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_REBOOT)
        await trio.testing.wait_all_tasks_blocked()
        facts = await vm.facts()
        assert (facts.boot, facts.statistics_count) == (2, 0)
        assert (await vm.next_event()).kind is VmEventKind.RESET

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
        assert len(fake.connections) == 1

    run(test)


def test_a_qemu_that_hangs_for_long_costs_no_more_than_one_call() -> None:
    """However often it is tried again, what would wait for it is not asked: others keep their connection."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        hung = fake.domain("hung")
        hung.hangs = hung.occupied = True
        hung.control = (fake.VIR_DOMAIN_CONTROL_OCCUPIED, 0, 60_000)
        for _ in range(20):
            with pytest.raises(VmGone, match="for 60 s"):
                await hypervisor.vm("hung").connect()
        assert set(fake.heard) == {"open", "lookupByName", "controlInfo"}
        assert len(fake.connections) == 1

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


def test_calls_without_an_answer_cost_a_new_connection() -> None:
    """A third call that hangs ends the connection, before libvirtd stops listening to it; a new one works."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for name in ("a", "b", "c"):
            fake.domain(name).hangs = True
            fake.running[name].occupied = True
            await hypervisor.vm(name).connect()
        for name in ("a", "b", "c"):
            with pytest.raises(VmGone, match=f"within {CALL_TIMEOUT_S:g} s"):
                await hypervisor.vm(name).set_target(1000)
        assert not hypervisor.link.connected
        fake.domain("d")
        assert len(await hypervisor.domains()) == 4
        assert len(fake.connections) == 2

    run(test)


def test_a_hanging_libvirtd_has_one_attempt_at_a_time() -> None:
    """However many wait for it, one opening is under way, and each waiter is told within seconds."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.hangs = True
        refused = 0

        async def attend(name: str) -> None:
            nonlocal refused
            for _ in range(5):
                began_s = trio.current_time()
                with pytest.raises(VmGone, match="libvirt"):
                    await hypervisor.vm(name).connect()
                assert trio.current_time() - began_s < 11
                refused += 1
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(attend, f"vm{number}")
        assert refused == 100
        assert fake.heard.count("open") == 1

    run(test)


def test_an_absent_libvirtd_is_asked_once_for_all() -> None:
    """Twenty VMs that look for it once a second make about one attempt a second, and each is told why."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.away = True

        async def attend(name: str, phase_s: float) -> None:
            await trio.sleep(phase_s)
            for _ in range(10):
                with pytest.raises(VmGone, match="Failed to connect"):
                    await hypervisor.vm(name).connect()
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(attend, f"vm{number}", number / 20)
        assert 9 <= fake.heard.count("open") <= 13

    run(test)


def test_a_restarted_libvirtd_is_found_again() -> None:
    """Its end is told as GONE; the next connection registers everything anew and goes on with the same boot."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await hypervisor.domains()
        await vm.connect()
        await vm.facts()
        fake.restart()
        fake.away = True
        assert (await vm.next_event()).kind is VmEventKind.GONE
        with pytest.raises(VmGone):
            await vm.next_event()
        await hypervisor.changed()
        with pytest.raises(VmGone, match="Failed to connect"):
            await vm.connect()
        fake.away = False
        await trio.sleep(1)
        await vm.connect()
        assert (await vm.facts()).boot == 1
        fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_RESUMED)
        assert (await vm.next_event()).kind is VmEventKind.RESUMED

    run(test)


def test_a_dead_connection_is_noticed_without_a_word() -> None:
    """Where libvirt's thread has not told yet, the first call that fails does."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("web")
        vm = hypervisor.vm("web")
        await vm.connect()
        fake.connections[0].alive = False
        with pytest.raises(VmGone, match="client socket is closed"):
            await vm.facts()
        assert (await vm_event(vm)) is VmEventKind.GONE
        await vm.connect()
        assert (await vm.facts()).run_state is RunState.RUNNING

    run(test)


async def vm_event(vm: libvirt_vm.LibvirtVm) -> VmEventKind:
    with trio.fail_after(1):
        return (await vm.next_event()).kind


def test_events_do_not_pile_up() -> None:
    """A flood of events keeps one of each kind and domain, in the order of the latest."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        for _ in range(5000):
            fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, 1)
            fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_SUSPENDED)
            fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_RESUMED)
        kinds = [await vm_event(vm) for _ in range(3)]
        assert kinds == [VmEventKind.BALLOON, VmEventKind.PAUSED, VmEventKind.RESUMED]
        with trio.move_on_after(5) as waited:
            await vm.next_event()
        assert waited.cancelled_caught

    run(test)


def test_what_happened_last_is_told_last() -> None:
    """A VM that was paused, went on and was paused again is not told as one that goes on."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        suspended, resumed = fake.VIR_DOMAIN_EVENT_SUSPENDED, fake.VIR_DOMAIN_EVENT_RESUMED
        for happened in (suspended, resumed, suspended):
            fake.lifecycle(domain, happened)
            await trio.testing.wait_all_tasks_blocked()
        assert [await vm_event(vm), await vm_event(vm)] == [VmEventKind.RESUMED, VmEventKind.PAUSED]

    run(test)


def test_too_many_different_events_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound everything is dropped for one event that says so."""
    monkeypatch.setattr(libvirt_link, "PENDING_MOST", 10)
    got: list[LinkEvent] = []

    async def main() -> None:
        pending = libvirt_link._Pending(got.append)
        pending.token = trio.lowlevel.current_trio_token()
        for number in range(15):
            pending.put(LinkEvent(LinkEventKind.BALLOON, str(number)))
        await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    assert got[0].kind is LinkEventKind.OVERFLOW
    assert len(got) <= 10


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
        assert (await hypervisor.domains())[1] == Domain("web", web.uuid, (("weight", "9000"),))
        assert fake.heard.count("XMLDesc") == 1
        del fake.running["web"]
        fake.lifecycle(web, fake.VIR_DOMAIN_EVENT_STOPPED)
        await hypervisor.changed()
        assert hypervisor.list() != ("a name with 'quotes' & ü",)
        assert len(await hypervisor.domains()) == 1
        assert hypervisor.list() == ("a name with 'quotes' & ü",)

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


@pytest.mark.parametrize("absurd", [-1, (1 << 64) - 1, 1.5, "many", None])
def test_absurd_values_are_told_or_left_out(absurd: object) -> None:
    """Whatever stands in libvirt's numbers, facts are numbers and nothing breaks."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        for key in ("balloon.current", "balloon.last-update", "balloon.available", "balloon.usable", "balloon.swap_in"):
            domain.stats[key] = absurd
        await trio.sleep(2)
        facts = await vm.facts()
        assert type(facts.actual_kib) is int
        assert facts.statistics is None or facts.statistics.total_kib is None or facts.statistics.total_kib >= 0

    run(test)


def test_what_is_left_alone_is_not_moved() -> None:
    """A domain without a balloon says why in its facts, and no target is sent to it."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.xml = xml("web", domain.uuid, "<memoryBacking><hugepages/></memoryBacking>")
        await vm.connect()
        assert (await vm.facts()).hands_off == "it uses hugepages"
        with pytest.raises(PortError, match="left alone: it uses hugepages"):
            await vm.set_target(1000)
        assert fake.targets == []
        assert "setMemoryStatsPeriod" not in fake.heard

    run(test)


def test_what_becomes_untouchable_is_noticed() -> None:
    """A host's device that is plugged into a running domain is in the next facts."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        assert (await vm.facts()).hands_off == ""
        domain.xml = domain.xml.replace("<devices>", "<devices><hostdev type='pci'/>")
        fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, "hostdev0")
        await vm.next_event()
        assert "VFIO" in (await vm.facts()).hands_off

    run(test)


def test_refusals_are_errors_and_no_loss() -> None:
    """A target that libvirt refuses is a PortError, and the VM is served on; nobody starts what somebody paused."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        for wrong in (RAM_KIB + 1, 0, -5):
            with pytest.raises(PortError) as caught:
                await vm.set_target(wrong)
            assert not isinstance(caught.value, VmGone)
        assert (await vm.facts()).run_state is RunState.RUNNING
        await vm.start()
        domain.status = (3, 1)
        await trio.sleep(1)
        with pytest.raises(PortError, match="paused"):
            await vm.start()
        with pytest.raises(PortError, match="no channel"):
            await vm.open_channel()

    run(test)


def test_who_does_not_run_is_absent() -> None:
    """A domain that libvirt does not know, or that has ended, is absent: it holds no memory."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        vm = hypervisor.vm("web")
        with pytest.raises(VmAbsent):
            await vm.connect()
        domain: FakeDomain = fake.domain("web")
        await vm.connect()
        del fake.running["web"]
        fake.lifecycle(domain, fake.VIR_DOMAIN_EVENT_STOPPED)
        assert (await vm_event(vm)) is VmEventKind.GONE
        with pytest.raises(VmAbsent):
            await vm.connect()
        assert vm.listener_pid is None
        domain.number = -1
        fake.running["web"] = domain
        with pytest.raises(VmAbsent, match="does not run"):
            await vm.connect()

    run(test)


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True), ("qemu:///session", True), ("qemu+unix:///session?socket=/x", True),
        ("qemu+ssh://host/system", False), ("qemu+tls://host/system", False), ("qemu+ssh:///system", False),
        ("test:///default", True), ("", True), ("qemu://[", False),
    ],
)  # fmt: skip
def test_whose_files_are_ours(uri: str, local: bool) -> None:
    """Only a libvirt on this machine has sockets and processes that may be looked at."""
    assert is_local(uri) is local
