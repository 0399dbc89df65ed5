"""The connection to libvirt, which hangs, dies and floods on command; tests/libvirt has the real one."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord import libvirt_link
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_link import LibvirtLink, LinkEvent, LinkEventKind, is_local
from ballonet_host_coord.model import RunState, VmEventKind
from ballonet_host_coord.ports import PortError, VmGone

from .fake_libvirt import CONSTANTS, FakeLibvirt
from .libvirt_world import Clock, run, vm_event


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
        hypervisor = LibvirtHypervisor(LibvirtLink("qemu:///system"), Clock(), [])
        for _ in range(3):  # however often it is tried again
            with pytest.raises(PortError, match="python3-libvirt"):
                await hypervisor.domains()
            await trio.sleep(1)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_attempt_that_is_cancelled_at_once_stands_in_nobodys_way() -> None:
    """Who gives up before its thread has begun leaves nothing that a later attempt would wait for."""

    async def main() -> None:
        fake = FakeLibvirt()
        link = LibvirtLink("qemu:///system", lib=fake, event_loop=lambda lib: None)
        with trio.CancelScope() as scope:
            scope.cancel()
            await link._connect()
        assert scope.cancelled_caught
        with trio.fail_after(10):
            await link.connect()
        assert link.connected
        await link.aclose()

    trio.run(main)


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


def test_a_closed_link_leaves_nothing_open() -> None:
    """Every callback is taken back, on a live connection and on one that had ended: each would hold it open."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        await hypervisor.domains()
        fake.restart()
        await trio.sleep(1)
        await hypervisor.domains()
        await hypervisor.aclose()
        assert len(fake.connections) == 4
        assert not any(connection.alive or connection.callbacks for connection in fake.connections)

    run(test)


def test_a_dead_connection_is_noticed_without_a_word() -> None:
    """Where libvirt's thread has not told yet, the first call that fails does."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        fake.domain("web")
        vm = hypervisor.vm("web")
        await vm.connect()
        for connection in fake.connections:
            connection.alive = False
        with pytest.raises(VmGone, match="client socket is closed"):
            await vm.facts()
        assert (await vm_event(vm)) is VmEventKind.GONE
        await vm.connect()
        assert (await vm.facts()).run_state is RunState.RUNNING

    run(test)


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
