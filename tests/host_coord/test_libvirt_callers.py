"""Calls to libvirt: one at a time on a connection, with a limit, and what hangs costs nobody else."""

from __future__ import annotations

import threading
import time

import pytest
import trio

from ballonet_host_coord import libvirt_callers
from ballonet_host_coord.libvirt_callers import (
    CALL_TIMEOUT_S,
    CALLERS_MOST,
    LEFT_MOST,
    Caller,
    Callers,
    WorkerThreads,
)
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.ports import VmGone

from .fake_libvirt import FakeLibvirt
from .libvirt_world import run


def test_calls_without_an_answer_are_bounded() -> None:
    """Each costs its own thread and connection, nobody else's; past a bound no further one is made until they end."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        hung = [fake.domain(f"vm{number}") for number in range(LEFT_MOST)]
        for domain in hung:
            domain.hangs = domain.occupied = True
            await hypervisor.vm(domain.text_name).connect()
        for domain in hung:
            with pytest.raises(VmGone, match=f"within {CALL_TIMEOUT_S:g} s"):
                await hypervisor.vm(domain.text_name).set_target(1000)
        assert hypervisor.link.connected
        began_s = trio.current_time()
        with pytest.raises(VmGone, match=f"{LEFT_MOST} calls have had no answer"):
            await hypervisor.domains()
        assert trio.current_time() - began_s < 0.1

    run(test)


def test_no_two_calls_share_a_connection() -> None:
    """Libvirt's client code does not bear it (libvirt_callers): with thirty calls at once each has a connection alone,
    and there are few."""
    most = in_use = 0
    busy: set[int] = set()

    async def main() -> None:
        fake = FakeLibvirt()
        callers = Callers("qemu:///system", WorkerThreads())

        def use(caller: Caller) -> None:
            nonlocal most, in_use
            assert id(caller.connection) not in busy
            busy.add(id(caller.connection))
            in_use += 1
            most = max(most, in_use)
            time.sleep(0.005)  # held while others want one
            in_use -= 1
            busy.remove(id(caller.connection))

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(callers.call, fake, "use", use)
        assert len(fake.connections) <= CALLERS_MOST
        await callers.aclose()
        assert not any(connection.alive for connection in fake.connections)

    trio.run(main)
    assert 1 < most <= CALLERS_MOST


def test_handles_of_domains_that_went_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller keeps few handles, however many domains it has been asked about, and looks up the others again."""
    monkeypatch.setattr(libvirt_callers, "HANDLES_MOST", 10)
    fake = FakeLibvirt()
    caller = Caller(fake, "qemu:///system")
    caller.open()
    domains = [fake.domain(f"vm{number}") for number in range(100)]
    for domain in domains:
        assert caller.domain(domain.uuid) is domain
        assert len(caller._handles) <= 10
    assert caller.domain(domains[0].uuid) is domains[0]


def test_a_list_spares_looking_up_each_domain() -> None:
    """Polls name their domains (libvirt_hypervisor): to find each of hundreds is a request, to list them is one."""

    async def test(fake: FakeLibvirt, hypervisor: LibvirtHypervisor) -> None:
        for number in range(100):
            fake.domain(f"vm{number}")
        await hypervisor.domains()
        for number in range(100):
            await hypervisor.vm(f"vm{number}").connect()
        await hypervisor.vm("vm0").facts()
        assert fake.looked_up == 0

    run(test)


def test_what_is_left_behind_is_closed_when_it_ends() -> None:
    """A call that outlives its limit keeps its connection from others, and takes it along when it ends."""

    async def main() -> None:
        fake = FakeLibvirt()
        callers = Callers("qemu:///system", WorkerThreads())
        go = threading.Event()
        with pytest.raises(VmGone, match="slow: libvirt does not answer"):
            await callers.call(fake, "slow", lambda caller: go.wait(), 1.0)
        assert await callers.call(fake, "fast", lambda caller: caller.connection is fake.connections[1])
        go.set()
        with trio.fail_after(10):
            while fake.connections[0].alive:
                await trio.sleep(0.01)
        assert fake.connections[1].alive

    trio.run(main)


def test_who_is_cancelled_at_once_leaves_nothing_behind() -> None:
    """A call that is given up before its thread has begun counts for nothing, however often that happens."""

    async def main() -> None:
        fake = FakeLibvirt()
        callers = Callers("qemu:///system", WorkerThreads())
        for _ in range(2 * LEFT_MOST):
            with trio.CancelScope() as scope:
                scope.cancel()
                await callers.run(Caller(fake, "qemu:///system"), "given up", lambda caller: None)
            assert scope.cancelled_caught
        assert await callers.call(fake, "asked", lambda caller: 1) == 1

    trio.run(main)


def test_waiting_for_a_place_is_no_silence_of_libvirts() -> None:
    """Many calls at once, each within its limit, are all carried out, however long the last one waits for its turn."""
    done = []

    async def main() -> None:
        fake = FakeLibvirt()
        callers = Callers("qemu:///system", WorkerThreads())

        async def call(number: int) -> None:
            await callers.call(fake, "call", lambda caller: time.sleep(0.05), 3.0)
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(CALLERS_MOST * 75):
                nursery.start_soon(call, number)
        await callers.aclose()

    trio.run(main, strict_exception_groups=True)
    assert len(done) == CALLERS_MOST * 75
