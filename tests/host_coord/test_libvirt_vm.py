"""One libvirt domain as a VM: its facts, states, events and refusals."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.model import Migration, RunState, VmEventKind
from ballonet_host_coord.ports import PortError, VmAbsent, VmGone

from .fake_libvirt import FakeDomain, FakeLibvirt, xml
from .libvirt_world import RAM_KIB, run, vm_event


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
        facts = await vm.facts()
        assert (facts.run_state, facts.migration) == (RunState.MIGRATING, Migration.OUTGOING)
        with pytest.raises(PortError, match="while it migrates or saves"):
            await vm.set_target(100 * 1024)
        assert "setMemoryFlags" not in fake.heard
        domain.job = 0
        await trio.sleep(1)
        facts = await vm.facts()
        assert (facts.run_state, facts.migration) == (RunState.RUNNING, Migration.NONE)
        fake.heard.clear()
        await trio.sleep(1)
        await vm.facts()
        assert fake.heard == ["domainListGetStats"]
        await vm.set_target(100 * 1024)
        assert "setMemoryFlags" in fake.heard

    run(test)


def test_a_job_that_keeps_the_domain_occupied_is_a_migration() -> None:
    """A domain that is occupied at the poll, by a migration that is known of or right after connecting, is not told as
    running: it would be shrunk in the midst of it."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.job, domain.occupied, domain.control = 2, True, (fake.VIR_DOMAIN_CONTROL_JOB, 0, 10)
        await vm.connect()
        assert (await vm.facts()).run_state is RunState.MIGRATING
        domain.occupied = False
        await trio.sleep(1)
        assert (await vm.facts()).run_state is RunState.MIGRATING
        domain.occupied = True
        await trio.sleep(1)
        assert (await vm.facts()).run_state is RunState.MIGRATING
        domain.job, domain.occupied, domain.control = 0, False, (0, 0, 0)
        await trio.sleep(1)
        assert (await vm.facts()).run_state is RunState.RUNNING

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
        assert (second.boot, second.migration) == (2, Migration.ARRIVED)
        assert (await vm.facts()).migration is Migration.ARRIVED
        fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_REBOOT)
        await trio.testing.wait_all_tasks_blocked()
        assert (await vm.facts()).migration is Migration.NONE

    run(test)


def test_a_domain_that_is_being_started_is_looked_at_once_it_is() -> None:
    """Until then an arrival looks like a boot, and would be set to its startup size."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.status = (3, 11)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vm.connect)
            await trio.sleep(1)
            assert nursery.child_tasks
            domain.status = (3, 2)
        assert (await vm.facts()).migration is Migration.INCOMING
        domain.status = (1, 2)
        await trio.sleep(2)
        await vm.facts()
        facts = await vm.facts()
        assert (facts.migration, facts.boot) == (Migration.ARRIVED, 2)

    run(test)


def test_a_domain_that_never_gets_started_delays_nobody_for_long() -> None:
    """It is taken as it looks then."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.status = (3, 11)
        with trio.fail_after(15):
            await vm.connect()
        assert (await vm.facts()).run_state is RunState.PAUSED

    run(test)


def test_a_domain_that_waits_for_its_memory_is_told_as_coming() -> None:
    """Before it runs, and in post-copy while it runs: its memory is still elsewhere."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        domain.status = (3, 2)
        await vm.connect()
        for _ in range(2):
            facts = await vm.facts()
            assert (facts.run_state, facts.migration, facts.boot) == (RunState.MIGRATING, Migration.INCOMING, 1)

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
        assert len(fake.connections) == 2  # that for events, and one for calls

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
        facts = await vm.facts()
        assert (facts.hands_off, facts.hugepages_kib) == ("it uses hugepages", RAM_KIB)
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


@pytest.mark.parametrize("asks", ["facts", "set_target"])
@pytest.mark.parametrize("ended", [True, False])
def test_who_ends_between_two_calls_is_gone(asks: str, ended: bool) -> None:
    """libvirt's words for a domain that ran a moment ago are several, so it is asked. Any other refusal is an error,
    and the VM is served on."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        fake.event(domain, fake.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, 1)
        domain.refusal = "domain is not running"
        domain.isActive = lambda: not ended  # type: ignore[method-assign]
        with pytest.raises(PortError, match="runs no longer" if ended else "is not running") as caught:
            await (vm.facts() if asks == "facts" else vm.set_target(500_000))
        assert isinstance(caught.value, VmGone) is ended
        domain.refusal = ""
        await trio.sleep(1)
        assert (await vm.facts()).run_state is RunState.RUNNING

    run(test)


def test_a_late_target_does_not_reach_the_next_start() -> None:
    """A domain that was destroyed and started anew while a call waited for its thread is not set by that call."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        domain, vm = fake.domain("web"), hypervisor.vm("web")
        await vm.connect()
        await vm.facts()
        await vm.set_target(900_000)
        looked_up = fake.looked_up
        await vm.set_target(900_000)
        assert fake.looked_up == looked_up + 1  # a handle that is kept would have the number of its own time
        domain.number += 1
        with pytest.raises(VmGone, match="was started anew"):
            await vm.set_target(500_000)
        assert fake.targets == [("web", 900_000)] * 2

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
