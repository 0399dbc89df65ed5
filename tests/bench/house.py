"""One real guest and the real service before it: what the benchmarks of real machines share."""

from __future__ import annotations

import base64
import gzip
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from figures import Findings

from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.accelerator import choose_accelerator
from ballonet_host_coord.demo.image import Image, ImageError, build_image
from ballonet_host_coord.demo.machine import Guest, Machine, MachineSpec, machine_folder, open_machine
from ballonet_host_coord.model import GuestSettings, HostSettings, LinkState, Settings
from ballonet_host_coord.service import serve

MIB = 1024
NAME = "bench"
RAM_KIB = 1024 * MIB
SQUEEZED_KIB = 320 * MIB
"""Room for an idle guest and its buffer, so that the coordinator has nothing to do before a step."""
STEP_KIB = 400 * MIB
BUDGET_KIB = 4096 * MIB
"""Far more than the guest may have: what is measured is the way, not the sharing."""
ARRIVED_KIB = MIB
LOOK_EVERY_S = 0.005
BOOT_WITHIN_S = 180.0
READY_WITHIN_S = 60.0
GUEST_FOLDER = "/run/ballonet-bench"
AGENT_UNIT = "ballonet-guest-agent"

Say = Callable[[str], None]


class NoGuests(Exception):
    """Real guests cannot run here. The text says what to install."""


@dataclass(frozen=True, slots=True)
class House:
    machine: Machine
    guest: Guest
    settings: Settings
    findings: Findings
    quick: bool
    say: Say
    folder: Path

    @asynccontextmanager
    async def served(self, observe: bool = False) -> AsyncIterator[Coordinator]:
        """The real service, freshly started: it remembers no earlier step. Ready when the agent has reported to it."""
        async with trio.open_nursery() as nursery:
            coordinator = await nursery.start(_serve, self.settings, observe)
            with trio.fail_after(READY_WITHIN_S):
                while not is_ready(coordinator):
                    await trio.sleep(0.02)
            yield coordinator
            nursery.cancel_scope.cancel()

    async def move_balloon(self, target_kib: int) -> float:
        """Seconds from the raw command on the second monitor until `actual` has arrived. No service may be attached."""
        began_s = trio.current_time()
        await self.machine.monitor.set_balloon(target_kib)
        with trio.fail_after(60):
            while abs(await self.machine.monitor.actual_kib() - target_kib) > ARRIVED_KIB:
                await trio.sleep(LOOK_EVERY_S)
        return trio.current_time() - began_s

    async def squeeze(self) -> None:
        """Back to where every step begins: nothing held, the balloon full."""
        await self.guest.hold(0)
        await self.move_balloon(SQUEEZED_KIB)

    async def systemctl(self, words: str) -> str:
        return await self.guest.run(f"systemctl {words}", timeout_s=60)

    async def put(self, script: str) -> str:
        """A file of in_guest/ into the guest's memory; its path there."""
        text = base64.b64encode((Path(__file__).parent / "in_guest" / script).read_bytes()).decode()
        path = f"{GUEST_FOLDER}/{script}"
        await self.guest.run(f"mkdir -p {GUEST_FOLDER} && echo {text} | base64 -d >{path}")
        return path

    async def fetch(self, name: str) -> Any:
        """A JSON file of a script's, packed: what a command says is cut at 256 KiB."""
        packed = await self.guest.run(f"gzip -c {GUEST_FOLDER}/{name} | base64 -w0")
        return json.loads(gzip.decompress(base64.b64decode(packed)))


def is_ready(coordinator: Coordinator) -> bool:
    snapshot = coordinator.snapshot
    guest = snapshot.guests[0] if snapshot else None
    return guest is not None and guest.agent.link is LinkState.LIVE and guest.demand is not None


async def _serve(settings: Settings, observe: bool, task_status: trio.TaskStatus[Coordinator]) -> None:
    await serve(settings, observe=observe, on_ready=task_status.started)


def make_settings(folder: Path) -> Settings:
    guest = GuestSettings(
        NAME,
        SQUEEZED_KIB,
        SQUEEZED_KIB,
        RAM_KIB,
        overhead_kib=112 * MIB,
        qmp_path=str(folder / NAME / "qmp.sock"),
        channel_path=str(folder / NAME / "agent.sock"),
    )
    host = HostSettings(
        slider=50,
        budget_kib=BUDGET_KIB,
        control_path=str(folder / "control.sock"),
        state_path=str(folder / "state.sqlite"),
    )
    return Settings(host, (guest,))


def find_image() -> tuple[Image, str]:
    """The demo's own guest, and the accelerator. Raises NoGuests."""
    if lacking := requirements.missing(requirements.TO_RUN):
        raise NoGuests(f"real guests need {', '.join(lacking)}; as root: {requirements.apt_line(lacking)}")
    try:
        image = build_image(lambda line: print(line, file=sys.stderr))
    except (ImageError, requirements.RequirementsError) as why:
        raise NoGuests(str(why)) from None
    return image, choose_accelerator(image.kernel)


@asynccontextmanager
async def open_house(image: Image, accelerator: str, findings: Findings, quick: bool, say: Say) -> AsyncIterator[House]:
    """Boot the guest as the service boots any: startup size before the first instruction. No service runs after."""
    with machine_folder() as folder:
        settings = make_settings(folder)
        spec = MachineSpec(NAME, RAM_KIB, compared_agent_port=True)
        async with open_machine(spec, image, accelerator, folder) as machine:
            async with trio.open_nursery() as nursery:
                coordinator = await nursery.start(_serve, settings, False)
                async with machine.guest(BOOT_WITHIN_S):
                    with trio.fail_after(BOOT_WITHIN_S):
                        while not is_ready(coordinator):
                            await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
            async with machine.guest(BOOT_WITHIN_S) as guest:
                yield House(machine, guest, settings, findings, quick, say, folder)
