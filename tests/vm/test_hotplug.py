"""A real guest with a virtio-mem device: it grows beyond its boot memory when it needs to, gives it back, and settles
where its kernel refuses to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.demo.machine import Guest, MachineSpec, machine_folder, open_machine
from ballonet_host_coord.model import (
    Command,
    Decision,
    GuestSettings,
    GuestSnapshot,
    HostSettings,
    LinkState,
    Settings,
    Snapshot,
)
from ballonet_host_coord.service import serve

MIB = 1024
BOOT_KIB = 512 * MIB
HOTPLUG_KIB = 1024 * MIB
RAM_KIB = BOOT_KIB + HOTPLUG_KIB
OVERHEAD_KIB = 128 * MIB
HEADROOM_KIB = 64 * MIB
NEEDED_MIB = 800
"""More than it is booted with."""
PINNED_MIB = 160
"""Pages of pipes: a kernel cannot move them."""
QUIET_S = 8.0
PIN = """
import fcntl, os, time
pipes = [os.pipe() for _ in range({mib})]
for _, end in pipes:
    fcntl.fcntl(end, 1031, 1 << 20)
    os.write(end, bytes(1 << 20))
open("/run/pinned", "w").close()
time.sleep(600)
"""


class Watch:
    """Looks over the coordinator's shoulder at every turn."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.alpha: GuestSnapshot | None = None
        self.requests: list[int] = []
        """What its virtio-mem device was to have, each time that this changed."""
        self.most_resident_kib = 0
        self.most_overhead_kib = 0
        self.exceeded_kib = 0
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, _commands: list[Command]) -> None:
        (self.alpha,) = snapshot.guests
        self.exceeded_kib = max(self.exceeded_kib, decision.booked_kib - decision.budget_kib)
        if self.alpha.residency is not None:
            self.most_resident_kib = max(self.most_resident_kib, self.alpha.residency.resident_kib)
            self.most_overhead_kib = max(self.most_overhead_kib, self.alpha.residency.overhead_kib)
        if self.alpha.vm.hotplug is not None:
            requested_kib = self.alpha.vm.hotplug.requested_kib
            if self.requests[-1:] != [requested_kib]:
                self.requests.append(requested_kib)

    async def until(self, holds: Callable[[GuestSnapshot], bool], within_s: float = 240.0) -> GuestSnapshot:
        with trio.move_on_after(within_s):
            while True:
                if self.alpha is not None and holds(self.alpha):
                    return self.alpha
                await trio.sleep(0.05)
        pytest.fail(f"not within {within_s:g} s: {self.alpha}, requests {self.requests[-12:]}")


def settings_for(folder: Path) -> Settings:
    """Thrifty, so that what is not needed any more comes back within the test's time."""
    alpha = GuestSettings(
        "alpha", 256 * MIB, BOOT_KIB, RAM_KIB, overhead_kib=OVERHEAD_KIB,
        qmp_path=str(folder / "alpha" / "qmp.sock"), channel_path=str(folder / "alpha" / "agent.sock"),
    )  # fmt: skip
    host = HostSettings(
        slider=100,
        budget_kib=RAM_KIB + OVERHEAD_KIB + HEADROOM_KIB,
        headroom_kib=HEADROOM_KIB,
        control_path=str(folder / "control.sock"),
        state_path=str(folder / "state.sqlite"),
    )
    return Settings(host, (alpha,))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Watch]:
    async def run(task_status: trio.TaskStatus[Coordinator]) -> None:
        await serve(settings_for(folder), on_ready=task_status.started)

    async with trio.open_nursery() as nursery:
        watch = Watch(await nursery.start(run))
        yield watch
        nursery.cancel_scope.cancel()
    assert watch.exceeded_kib <= 0


def plugged_kib(alpha: GuestSnapshot) -> int:
    assert alpha.vm.hotplug is not None
    return alpha.vm.hotplug.plugged_kib


def test_a_guest_grows_beyond_its_boot_memory_and_gives_it_back(image, accelerator, play):
    """One guest's life: booted small and booked as such, grown in need, small again; then its kernel keeps memory."""

    async def scenario() -> None:
        with machine_folder() as folder:
            spec = MachineSpec(
                "alpha", BOOT_KIB, hotplug_kib=HOTPLUG_KIB, kernel_arguments="memhp_default_state=online_movable"
            )
            async with open_machine(spec, image, accelerator, folder) as machine, serving(folder) as watch:
                booting = await watch.until(lambda alpha: alpha.vm.ram_kib > 0 and alpha.booking.claimed)
                assert booting.booking.assigned_kib == BOOT_KIB
                async with machine.guest() as guest:
                    await watch.until(lambda alpha: alpha.agent.link is LinkState.LIVE and alpha.demand is not None)
                    await it_grows_and_gives_back(watch, guest)
                    await what_its_kernel_keeps_is_settled(watch, guest)

    play(scenario)


async def it_grows_and_gives_back(watch: Watch, guest: Guest) -> None:
    """It touches more than it was booted with, by plugged blocks; all of them are unplugged when it is over."""
    answer = await guest.hold(NEEDED_MIB, give_up_s=180)
    assert answer["usable_s"] is not None
    grown = await watch.until(lambda alpha: alpha.vm.actual_kib > (NEEDED_MIB + 128) * MIB)
    assert plugged_kib(grown) > 0
    assert plugged_kib(grown) == grown.vm.actual_kib - BOOT_KIB + grown.vm.balloon_kib
    assert (await guest.counters())["vmstat"]["oom_kill"] == 0
    await watch.until(lambda alpha: watch.most_resident_kib > NEEDED_MIB * MIB)
    assert watch.most_overhead_kib < 256 * MIB
    await guest.hold(0)
    small = await watch.until(
        lambda alpha: not plugged_kib(alpha) and alpha.vm.actual_kib < BOOT_KIB and alpha.stuck_since_s is None
    )
    assert not small.uncooperative


async def what_its_kernel_keeps_is_settled(watch: Watch, guest: Guest) -> None:
    """Unmovable pages in plugged blocks: these stay and are booked, the balloon takes the rest, and nobody asks on."""
    await guest.run("echo online_kernel > /sys/devices/system/memory/auto_online_blocks")
    await guest.hold(NEEDED_MIB)
    await watch.until(lambda alpha: plugged_kib(alpha) > PINNED_MIB * MIB)
    await guest.run(f"cat > /run/pin.py <<'E'\n{PIN.format(mib=PINNED_MIB)}\nE")
    await guest.run("setsid python3 /run/pin.py < /dev/null > /dev/null 2>&1 &")
    await guest.run("until test -e /run/pinned; do sleep 0.2; done", timeout_s=60)
    await guest.hold(0)

    def has_settled(alpha: GuestSnapshot) -> bool:
        hotplug = alpha.vm.hotplug
        assert hotplug is not None
        at_rest = hotplug.requested_kib == hotplug.plugged_kib and alpha.vm.balloon_kib > 16 * MIB
        return at_rest and alpha.vm.actual_kib < BOOT_KIB + hotplug.plugged_kib - 64 * MIB

    settled = await watch.until(has_settled)
    assert plugged_kib(settled) > 0
    with trio.fail_after(20 * QUIET_S):
        while True:
            before = len(watch.requests)
            await trio.sleep(QUIET_S)
            if len(watch.requests) == before:
                break
    await trio.sleep(QUIET_S)
    assert len(watch.requests) - before <= 2, watch.requests
    alpha = await watch.until(has_settled)
    assert alpha.booking.assigned_kib >= alpha.vm.actual_kib >= plugged_kib(alpha)
    assert not alpha.uncooperative
