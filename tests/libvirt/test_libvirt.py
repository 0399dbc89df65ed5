"""The libvirt port against a real libvirtd, QEMU and guests: nothing here is simulated."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from ballonet_host_coord import hotplug, libvirt_vm
from ballonet_host_coord.channel_socket import ChannelStream
from ballonet_host_coord.cli import cli
from ballonet_host_coord.clock import TrioClock
from ballonet_host_coord.libvirt_adopt import Adopted, adopt
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_link import LibvirtLink
from ballonet_host_coord.libvirt_stream import LibvirtStream
from ballonet_host_coord.libvirt_vm import LibvirtVm
from ballonet_host_coord.libvirt_xml import parse_domain, requesting
from ballonet_host_coord.model import Hotplug, RunState, VmEventKind, VmFacts
from ballonet_host_coord.ports import ByteStream, PortError, VmAbsent, VmGone

from .rig import Rig

PATIENCE_S = 60.0
"""Two cores, busy with other things: any single wait of a test ends well before."""
RAM_KIB = 192 * 1024
STRANGE = "two words, 'quoted' \"twice\" & <é 雲> " + "x" * 160
POLICY = "<metadata><ballonet:policy minimum='64M' weight='5000'/></metadata>"


@pytest.fixture(scope="module")
def raw(rig: Rig) -> Any:
    """A connection of the tests' own, with which they act as the operator; opened anew for each use."""
    import libvirt

    @contextmanager
    def connected() -> Iterator[Any]:
        connection = libvirt.open(rig.uri)
        try:
            yield connection
        finally:
            connection.close()

    with connected() as connection:
        connection.defineXML(rig.xml("web", memory_mib=192, top=POLICY)).create()
        connection.defineXML(rig.xml("bare", memory_mib=192, channel=False)).create()
    return connected


@pytest.fixture
def play(rig: Rig, raw: Any) -> Callable[[Callable[[LibvirtHypervisor], Awaitable[None]]], None]:
    """Run a scenario with a port of its own."""

    def run(scenario: Callable[[LibvirtHypervisor], Awaitable[None]]) -> None:
        async def main() -> None:
            hypervisor = LibvirtHypervisor(LibvirtLink(rig.uri), TrioClock(), [str(rig.folder / "locks")])
            with trio.fail_after(2 * PATIENCE_S):
                try:
                    await scenario(hypervisor)
                finally:
                    with trio.CancelScope(shield=True):
                        await hypervisor.aclose()

        (rig.folder / "locks").mkdir(exist_ok=True)
        trio.run(main, strict_exception_groups=True)

    # The pid file is where this libvirt puts it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libvirt_vm, "run_folders", lambda: (str(rig.runtime / "libvirt/qemu/run"),))
        yield run


async def until(vm: LibvirtVm, holds: Callable[[VmFacts], bool]) -> VmFacts:
    """Facts as soon as they are so."""
    with trio.move_on_after(PATIENCE_S):
        while not holds(facts := await vm.facts()):
            await trio.sleep(0.1)
        return facts
    pytest.fail(f"not within {PATIENCE_S:g} s: {await vm.facts()}")


async def event(vm: LibvirtVm, kind: VmEventKind) -> None:
    with trio.fail_after(PATIENCE_S):
        while (await vm.next_event()).kind is not kind:
            pass


async def connected(hypervisor: LibvirtHypervisor, name: str) -> LibvirtVm:
    """The VM, its guest's balloon driver up."""
    vm = hypervisor.vm(name)
    await vm.connect()
    await until(vm, lambda facts: facts.statistics_count >= 1)
    return vm


async def talk(stream: ByteStream, word: str) -> None:
    """The guest answers on its port."""
    heard = b""
    with trio.fail_after(PATIENCE_S):
        await stream.send_all(f"{word}\n".encode())
        while f"echo {word}\n".encode() not in heard.replace(b"\r", b""):
            data = await stream.receive_some(4096)
            assert data, heard
            heard += data


def test_running_domains_are_found_and_those_that_come_and_go(play: Any, raw: Any, rig: Rig) -> None:
    """Discovery tells who runs with its policy, and says when that changes: a start, a stop, new metadata."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        bare, web = await hypervisor.domains()
        assert (bare.name, web.name) == ("bare", "web")
        assert web.policy == (("minimum", "64M"), ("weight", "5000"))
        import libvirt

        with raw() as operator, trio.fail_after(PATIENCE_S):
            operator.createXML(rig.xml(STRANGE, memory_mib=64), libvirt.VIR_DOMAIN_START_PAUSED)
            while [domain.name for domain in await hypervisor.domains()] != ["bare", STRANGE, "web"]:
                await hypervisor.changed()
            strange = hypervisor.vm(STRANGE)
            await strange.connect()
            assert (await strange.facts()).run_state is RunState.PAUSED
            with open(f"/proc/{strange.listener_pid}/cmdline") as arguments:
                assert parse_domain(operator.lookupByName(STRANGE).XMLDesc()).uuid in arguments.read()
            operator.lookupByName(STRANGE).destroy()
            await event(strange, VmEventKind.GONE)
            while hypervisor.list() != ("bare", "web"):
                await hypervisor.changed()
                await hypervisor.domains()
            with pytest.raises(VmAbsent):
                await strange.connect()
            element = libvirt.VIR_DOMAIN_METADATA_ELEMENT
            operator.lookupByName("web").setMetadata(
                element, "<policy weight='8000'/>", "ballonet", "urn:ballonet:domain:1", libvirt.VIR_DOMAIN_AFFECT_LIVE
            )
            await hypervisor.changed()
            assert (await hypervisor.domains())[1].policy == (("weight", "8000"),)

    play(scenario)


def test_facts_and_targets(play: Any, rig: Rig) -> None:
    """Facts are those of the real machine, and a target that is set is reached, and seen as soon as it is."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        facts = await vm.facts()
        assert (facts.run_state, facts.ram_kib, facts.actual_kib) == (RunState.RUNNING, RAM_KIB, RAM_KIB)
        assert (facts.deflate_on_oom, facts.hands_off) == (True, "")
        assert facts.qemu_pid == vm.listener_pid == rig.qemu_pid("web")
        assert facts.statistics is not None
        assert facts.statistics.total_kib is not None
        assert 0 < facts.statistics.total_kib < RAM_KIB
        for target_kib in (128 * 1024, RAM_KIB):
            await vm.set_target(target_kib)
            await until(vm, lambda facts, target_kib=target_kib: facts.actual_kib == target_kib)
        with pytest.raises(PortError, match="higher than max memory"):
            await vm.set_target(2 * RAM_KIB)
        assert (await vm.facts()).run_state is RunState.RUNNING

    play(scenario)


def test_a_domain_grows_beyond_its_boot_memory(
    play: Any, raw: Any, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A domain with a virtio-mem device is one size: it grows by plugged blocks, gives them back before its balloon
    moves, and shows what somebody else requests."""
    boot_kib, ram_kib = RAM_KIB, RAM_KIB + 256 * 1024
    monkeypatch.setattr(hotplug, "PATIENCE_S", 30.0)  # a guest that gets no processor for a while refuses nothing

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        with raw() as operator:
            hot = operator.createXML(rig.xml("hot", memory_mib=192, hotplug_mib=256), 0)
            try:
                vm = await connected(hypervisor, "hot")
                facts = await vm.facts()
                assert (facts.ram_kib, facts.boot_kib, facts.actual_kib) == (ram_kib, boot_kib, boot_kib)
                assert facts.claim_kib == boot_kib
                for target_kib in (300 * 1024, ram_kib, 160 * 1024, 200 * 1024):
                    await vm.set_target(target_kib)
                    facts = await until(vm, lambda facts, target_kib=target_kib: facts.actual_kib == target_kib)
                    assert facts.hotplug is not None
                    assert facts.hotplug.plugged_kib == max(0, target_kib - boot_kib)
                    assert facts.claim_kib == max(boot_kib, target_kib)
                hot.updateDeviceFlags(requesting(hot.XMLDesc(), 0))
                facts = await until(vm, lambda facts: facts.actual_kib == boot_kib)
                assert facts.hotplug == Hotplug(256 * 1024, 2048, 0, 0)
                await hypervisor.domains()
                assert hypervisor.list() == ("bare", "hot", "web")
            finally:
                hot.destroy()

    play(scenario)


def test_the_channel_by_its_path_and_through_libvirt(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's port answers over the socket in the live XML, and through openChannel where that is out of reach."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        stream = await vm.open_channel()
        assert isinstance(stream, ChannelStream)
        await talk(stream, "by-path")
        await stream.aclose()
        monkeypatch.setattr(libvirt_vm, "is_local", lambda uri: False)
        stream = await vm.open_channel()
        assert isinstance(stream, LibvirtStream)
        await talk(stream, "through-libvirt")
        await talk(stream, "x" * 900)
        with pytest.raises(PortError, match="Active channel stream"):
            await vm.open_channel()
        await stream.aclose()
        with pytest.raises(PortError):
            await stream.send_all(b"x")

    play(scenario)


def test_adopting_a_running_domain(play: Any, raw: Any, rig: Rig) -> None:
    """A running domain gets the channel, keeps it, and its guest answers there; without a controller it is told why
    not."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "bare")
        with pytest.raises(PortError, match="ballonet adopt"):
            await vm.open_channel()
        assert await adopt(hypervisor.link, "bare") is Adopted.PLUGGED
        assert await adopt(hypervisor.link, "bare") is Adopted.ALREADY
        stream = await vm.open_channel()
        await talk(stream, "adopted")
        await stream.aclose()
        import libvirt

        with raw() as operator:
            assert "org.ballonet.agent.0" in operator.lookupByName("bare").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            lone = operator.createXML(rig.xml("lone", channel=False, controller=False), libvirt.VIR_DOMAIN_START_PAUSED)
            with pytest.raises(PortError, match="lone: has no virtio-serial controller"):
                await adopt(hypervisor.link, "lone")
            lone.destroy()
        with pytest.raises(VmAbsent):
            await adopt(hypervisor.link, "nobody")

    play(scenario)
    told = CliRunner().invoke(cli, ["adopt", "bare", "--uri", rig.uri])
    assert (told.output, told.exit_code) == ("bare: the channel is there already\n", 0)
    told = CliRunner().invoke(cli, ["adopt", "nobody", "--uri", rig.uri])
    assert told.exit_code == 1
    assert "Domain not found" in told.output


def test_paused_and_reset(play: Any, raw: Any) -> None:
    """A pause, its end and a reset are told, and seen in the next facts; a reset is another boot."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        with raw() as operator:
            web = operator.lookupByName("web")
            web.suspend()
            await event(vm, VmEventKind.PAUSED)
            assert (await vm.facts()).run_state is RunState.PAUSED
            web.resume()
            await event(vm, VmEventKind.RESUMED)
            facts = await vm.facts()
            assert facts.run_state is RunState.RUNNING
            web.reset(0)
            await event(vm, VmEventKind.RESET)
            again = await vm.facts()
            assert again.boot > facts.boot
            assert again.statistics_count == 0
            await until(vm, lambda facts: facts.statistics_count >= 1)

    play(scenario)


def test_libvirtd_restarts_in_the_middle(play: Any, rig: Rig) -> None:
    """VMs and their channels live on; the end of the connection is told, and a new one finds the same boots."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        before, pid = await vm.facts(), vm.listener_pid
        stream = await vm.open_channel()
        await trio.to_thread.run_sync(rig.stop_libvirtd)
        try:
            await event(vm, VmEventKind.GONE)
            with pytest.raises(VmGone) as caught:
                await vm.connect()
            assert not isinstance(caught.value, VmAbsent)
            assert vm.listener_pid == pid
            await talk(stream, "still-here")
        finally:
            await trio.to_thread.run_sync(rig.start_libvirtd)
        with trio.fail_after(PATIENCE_S):
            while True:
                with suppress(VmGone):
                    await vm.connect()
                    break
                await trio.sleep(0.2)
        after = await until(vm, lambda facts: facts.statistics_count > before.statistics_count)
        assert (after.boot, after.qemu_pid) == (before.boot, pid)
        await vm.set_target(RAM_KIB - 16 * 1024)
        await event(vm, VmEventKind.BALLOON)  # events were registered anew
        await vm.set_target(RAM_KIB)
        await stream.aclose()

    play(scenario)


def test_a_stopped_qemu_delays_nobody(play: Any, rig: Rig) -> None:
    """While one QEMU does not answer, another VM's facts go on; it is told as gone, and comes back."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        hung, fine = await connected(hypervisor, "bare"), await connected(hypervisor, "web")
        pid = rig.qemu_pid("bare")
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(VmGone, match="bare: its QEMU has not answered"):
                await until(hung, lambda facts: False)
            for _ in range(3):
                with trio.fail_after(4):
                    assert (await fine.facts()).run_state is RunState.RUNNING
                await trio.sleep(0.8)
        finally:
            os.kill(pid, signal.SIGCONT)
        with trio.fail_after(PATIENCE_S):
            while True:
                with suppress(VmGone):
                    await hung.connect()
                    if (await hung.facts()).run_state is RunState.RUNNING:
                        break
                await trio.sleep(0.2)
        assert hung.listener_pid == pid

    play(scenario)


def test_a_saved_domain_goes_on_as_it_was(play: Any, raw: Any) -> None:
    """A domain that is saved is absent, and once restored is told as one that arrives, not as one that boots."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        before = await vm.facts()
        with raw() as operator:
            web = operator.lookupByName("web")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, web.managedSave)
                await event(vm, VmEventKind.GONE)
            with pytest.raises(VmAbsent):
                await vm.connect()
            assert vm.listener_pid is None
            await trio.to_thread.run_sync(web.create)
        await vm.connect()
        states = [(await vm.facts()).run_state for _ in range(2)]
        assert states == [RunState.MIGRATING, RunState.RUNNING]
        assert (await vm.facts()).boot > before.boot
        await until(vm, lambda facts: facts.statistics_count >= 1)

    play(scenario)


def test_destroyed_in_the_middle(play: Any, raw: Any) -> None:
    """A domain that is destroyed while its balloon moves is gone, then absent; the other is served on."""

    async def scenario(hypervisor: LibvirtHypervisor) -> None:
        vm = await connected(hypervisor, "web")
        other = await connected(hypervisor, "bare")
        await vm.set_target(96 * 1024)
        with raw() as operator:
            await trio.to_thread.run_sync(operator.lookupByName("web").destroy)
        await event(vm, VmEventKind.GONE)
        with pytest.raises(VmGone):
            await vm.set_target(RAM_KIB)
        with pytest.raises(VmAbsent):
            await vm.connect()
        assert (await other.facts()).run_state is RunState.RUNNING

    play(scenario)
