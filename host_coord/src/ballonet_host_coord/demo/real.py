"""The play with real machines: QEMU, Debian guests, the agent as the guest's own service, the service as installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import trio

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.service import serve

from .accelerator import choose_accelerator
from .image import Image
from .lines import PeerGone
from .machine import Guest, Machine, MachineError, MachineSpec, machine_folder, open_machine
from .play import (
    BUDGET_KIB,
    HEADROOM_KIB,
    MINIMUM_KIB,
    OVERHEAD_KIB,
    RAM_KIB,
    SLIDER,
    STARTUP_KIB,
    has_started,
    perform,
)
from .table import Screen, Table
from .verdict import Judge, Verdict

NAMES = ("alpha", "beta")
BOOT_WITHIN_S = 180.0
ANSWER_WITHIN_S = 30.0
"""A guest short of memory may be slow to answer; one that takes this long hangs."""
PAGE_MARGIN_KIB = 16 * 1024
"""The holder's own interpreter and page tables, beside what it holds."""


class RealActor:
    """The workload in a real guest, and the machine's second monitor."""

    def __init__(self, machine: Machine, guest: Guest) -> None:
        self.name = machine.name
        self._machine = machine
        self._guest = guest
        self._idle_kib: int | None = None

    async def hold(self, kib: int, within_s: float) -> float | None:
        # The guest keeps the time itself, by its own clock. Where that stands still, so does its answer.
        with trio.move_on_after(within_s + ANSWER_WITHIN_S), self._answering(float("inf")):
            # A holder that was killed answers, too, and has no time to tell.
            usable_s = (await self._guest.hold(kib // 1024, within_s)).get("usable_s")
            return None if usable_s is None else float(usable_s)
        return None

    async def need_kib(self, kib: int) -> int:
        if self._idle_kib is None:
            meminfo = (await self._counters())["meminfo"]
            # With deflate-on-oom MemTotal counts the balloon, MemAvailable does not: what is idle is neither of both.
            balloon_kib = self._machine.spec.ram_kib - await self.actual_kib()
            used_kib = meminfo["MemTotal"] - balloon_kib - meminfo["MemAvailable"]
            self._idle_kib = used_kib + self._machine.spec.ram_kib - meminfo["MemTotal"]
        return self._idle_kib + kib + PAGE_MARGIN_KIB

    async def actual_kib(self) -> int:
        with self._answering():
            return await self._machine.monitor.actual_kib()

    async def stall_us(self) -> int:
        psi = (await self._counters())["psi"] or ""
        some = next((line for line in psi.splitlines() if line.startswith("some")), "some total=0")
        return int(some.rpartition("total=")[2])

    async def oom_kills(self) -> int:
        return int((await self._counters())["vmstat"]["oom_kill"])

    async def _counters(self) -> dict[str, Any]:
        with self._answering():
            return await self._guest.counters()

    @contextmanager
    def _answering(self, within_s: float = ANSWER_WITHIN_S) -> Iterator[None]:
        """Whoever hangs or goes away is named, with what it said last."""
        try:
            with trio.fail_after(within_s):
                yield
        except trio.TooSlowError:
            raise MachineError(f"no answer in {within_s:g} s; {self._machine.last_words()}") from None
        except PeerGone as why:
            raise MachineError(f"{why}; {self._machine.last_words()}") from why


def settings_for(folder: Path) -> Settings:
    """What an operator would write for these two guests."""
    guests = tuple(
        GuestSettings(
            name,
            MINIMUM_KIB,
            STARTUP_KIB,
            RAM_KIB,
            overhead_kib=OVERHEAD_KIB,
            qmp_path=str(folder / name / "qmp.sock"),
            channel_path=str(folder / name / "agent.sock"),
        )
        for name in NAMES
    )
    host = HostSettings(
        budget_kib=BUDGET_KIB,
        headroom_kib=HEADROOM_KIB,
        slider=SLIDER,
        control_path=str(folder / "control.sock"),
        state_path=str(folder / "state.sqlite"),
    )
    return Settings(host, guests)


async def run_real(image: Image, screen: Screen) -> Verdict:
    """Perform the play with QEMU. Raises MachineError with what a guest or QEMU said last."""
    accelerator = await trio.to_thread.run_sync(choose_accelerator, image.kernel)
    name = accelerator.partition(",")[0]
    screen.say(f"two real Debian guests under QEMU, accelerator {name}")
    judge = Judge(BUDGET_KIB)
    with machine_folder() as folder:
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            coordinator = await nursery.start(_serve, settings_for(folder))
            nursery.start_soon(Table(coordinator, judge, screen).run)
            actors = []
            for guest_name in NAMES:
                screen.say(f"{guest_name} boots: -m {RAM_KIB // 1024} MiB, startup {STARTUP_KIB // 1024} MiB")
                spec = MachineSpec(guest_name, RAM_KIB)
                machine = await stack.enter_async_context(open_machine(spec, image, accelerator, folder))
                guest = await stack.enter_async_context(machine.guest(BOOT_WITHIN_S))
                with trio.move_on_after(BOOT_WITHIN_S) as limit:
                    await has_started(coordinator, guest_name)
                if limit.cancelled_caught:
                    raise MachineError(f"not at its startup size in {BOOT_WITHIN_S:g} s; {machine.last_words()}")
                actors.append(RealActor(machine, guest))
            screen.say("both guests are up at their startup size")
            verdict = await perform(actors, coordinator, judge, False, name, screen.say)
            nursery.cancel_scope.cancel()
    return verdict


async def _serve(settings: Settings, task_status: trio.TaskStatus[Coordinator]) -> None:
    await serve(settings, on_ready=task_status.started)
