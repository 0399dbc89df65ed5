"""A fake libvirt and the port to it, for the tests of the libvirt port's modules."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ballonet_host_coord import libvirt_vm
from ballonet_host_coord.boots import Process
from ballonet_host_coord.libvirt_hypervisor import LibvirtHypervisor
from ballonet_host_coord.libvirt_link import LibvirtLink
from ballonet_host_coord.model import VmEventKind

from .fake_libvirt import FakeLibvirt, InlineThreads

RAM_KIB = 1048576


class Clock:
    def now(self) -> float:
        return trio.current_time()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


def run(test: Callable[[FakeLibvirt, LibvirtHypervisor], Awaitable[None]], age_s: float = 1000) -> None:
    """Run `test` with a fake libvirt and our port to it; time jumps when all wait. Each domain's process is `age_s` old
    and has a number of its own."""
    began_wall_s = time.time() - age_s

    async def main() -> None:
        fake = FakeLibvirt()
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads(), event_loop=lambda lib: None)
        with trio.fail_after(600):
            await test(fake, LibvirtHypervisor(link, Clock(), ["/nowhere"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            libvirt_vm, "find_qemu", lambda name, uuid, user, folders: Process(int(uuid[-6:]), began_wall_s)
        )
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


async def vm_event(vm: libvirt_vm.LibvirtVm) -> VmEventKind:
    with trio.fail_after(1):
        return (await vm.next_event()).kind
