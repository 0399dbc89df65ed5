"""A domain moves between two libvirtds of one machine, with the port at both: what each is told, and by when."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from ballonet_host_coord import libvirt_vm
from ballonet_host_coord.clock import TrioClock
from ballonet_host_coord.demo.image import build_image
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_link import LibvirtLink
from ballonet_host_coord.libvirt_vm import LibvirtVm
from ballonet_host_coord.model import Migration, RunState, VmFacts
from ballonet_host_coord.ports import PortError, VmAbsent, VmGone

from . import rig as rigs
from .rig import Rig
from .test_libvirt import PATIENCE_S, connected, talk, until

SIZE_KIB = 128 * 1024
SLOW_MIB_PER_S = 8

pid_files: ContextVar[str] = ContextVar("pid_files")
"""Where the libvirtd that a task asks keeps them. Both have the same domain."""


@pytest.fixture(scope="module")
def other(rig: Rig) -> Iterator[Rig]:
    """A second host: libvirt refuses to migrate to itself, which it knows by its host's UUID."""
    image = build_image(print)
    with rigs.running(image, host_uuid=str(uuid.uuid4())) as other:
        yield other


@dataclass
class Told:
    """What the ports said, each news once."""

    source: list[tuple[RunState, Migration]] = field(default_factory=list)
    target: list[tuple[RunState, Migration]] = field(default_factory=list)
    first: VmFacts | None = None
    last: VmFacts | None = None
    refusal: str = ""
    refused_s: float = 0.0
    absent: bool = False


@asynccontextmanager
async def a_port(rig: Rig) -> AsyncIterator[LibvirtHypervisor]:
    (rig.folder / "locks").mkdir(exist_ok=True)
    hypervisor = LibvirtHypervisor(LibvirtLink(rig.uri), TrioClock(), [str(rig.folder / "locks")])
    try:
        yield hypervisor
    finally:
        with trio.CancelScope(shield=True):
            await hypervisor.aclose()


async def follow(vm: LibvirtVm, rig: Rig, news: list[tuple[RunState, Migration]]) -> None:
    """Look at it as often as may be, from before it is there."""
    pid_files.set(folder_of(rig))
    while True:
        with suppress(VmGone):
            await vm.connect()
            while True:
                facts = await vm.facts()
                if news[-1:] != [(facts.run_state, facts.migration)]:
                    news.append((facts.run_state, facts.migration))
                await trio.sleep(0.1)
        await trio.sleep(0.1)


def folder_of(rig: Rig) -> str:
    return str(rig.runtime / "libvirt/qemu/run")


async def migrate(rig: Rig, other: Rig, told: Told) -> None:
    """Both ports look on while the operator moves `web`; the guest answers on its channel before and after."""
    import libvirt

    pid_files.set(folder_of(rig))
    async with a_port(rig) as here, a_port(other) as there, trio.open_nursery() as nursery:
        vm = await connected(here, "web")
        await vm.set_target(SIZE_KIB)
        told.first = await until(vm, lambda facts: facts.actual_kib == SIZE_KIB)
        stream = await vm.open_channel()
        await talk(stream, "here")
        await stream.aclose()
        nursery.start_soon(follow, vm, rig, told.source)
        came = there.vm("web")
        nursery.start_soon(follow, came, other, told.target)
        operator = libvirt.open(rig.uri)
        domain = operator.lookupByName("web")
        domain.migrateSetMaxSpeed(SLOW_MIB_PER_S)
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        uri = {libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{rig.folder}/migration"}
        async with trio.open_nursery() as moving:
            moving.start_soon(trio.to_thread.run_sync, lambda: domain.migrateToURI3(other.uri, uri, flags))
            with trio.fail_after(PATIENCE_S):
                while (RunState.MIGRATING, Migration.OUTGOING) not in told.source:
                    await trio.sleep(0.05)
            began_s = trio.current_time()
            with pytest.raises(PortError) as refused:
                await vm.set_target(150 * 1024)
            told.refusal, told.refused_s = str(refused.value), trio.current_time() - began_s
        with trio.fail_after(PATIENCE_S):
            while (RunState.RUNNING, Migration.ARRIVED) not in told.target:
                await trio.sleep(0.05)
        told.last = await until(came, lambda facts: facts.statistics_count >= 1)
        stream = await came.open_channel()
        await talk(stream, "there")
        await stream.aclose()
        with pytest.raises(VmAbsent):
            await vm.connect()
        told.absent = True
        operator.close()
        nursery.cancel_scope.cancel()


def test_a_domain_is_followed_from_host_to_host(rig: Rig, other: Rig, monkeypatch: Any) -> None:
    """The source is left alone while it is copied, the target is told as coming before it runs and as arrived after;
    its balloon and its channel come along."""
    import libvirt

    monkeypatch.setattr(libvirt_vm, "run_folders", lambda: (pid_files.get(),))
    operator = libvirt.open(rig.uri)
    operator.defineXML(rig.xml("web", memory_mib=192)).create()
    operator.close()
    told = Told()

    async def main() -> None:
        with trio.fail_after(3 * PATIENCE_S):
            await migrate(rig, other, told)

    trio.run(main, strict_exception_groups=True)
    print(told)
    assert told.source[-1] == (RunState.MIGRATING, Migration.OUTGOING)
    assert set(told.source) <= {
        (RunState.RUNNING, Migration.NONE), (RunState.MIGRATING, Migration.OUTGOING)
    }  # fmt: skip
    assert told.target[0] == (RunState.MIGRATING, Migration.INCOMING)
    assert told.target[-1] == (RunState.RUNNING, Migration.ARRIVED)
    assert "while it migrates or saves" in told.refusal
    assert told.first is not None
    assert told.last is not None
    assert told.last.actual_kib == told.first.actual_kib
    assert told.last.boot == 2
    assert told.absent
