"""An agent that is not ours: the example in C beside a Python agent, arbitrated by the real coordinator."""

from __future__ import annotations

import base64
import shutil
import subprocess
from contextlib import AsyncExitStack

import pytest
import trio
from tests.real_parts import cannot

from ballonet_host_coord.booking import booked_at_kib
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.demo.machine import Guest, MachineSpec, machine_folder, open_machine
from ballonet_host_coord.demo.play import RAM_KIB, STARTUP_KIB, has_started
from ballonet_host_coord.demo.real import NAMES, settings_for
from ballonet_host_coord.model import Command, Decision, GuestSnapshot, LinkState, SetTarget, Settings, Snapshot
from ballonet_host_coord.pace import TOLERANCE_KIB
from ballonet_host_coord.service import serve

MIB = 1024
IN_THE_GUEST = "/usr/local/bin/agent-c"  # /run is mounted noexec
PORT = "/dev/virtio-ports/org.ballonet.agent.0"
FLOOR_MIB = 192
PIECE = 24_000
"""Characters of a program in one shell command: well below what the kernel takes as one argument."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> bytes:
    """The example for the guest, which has the same C library as the host: both are Debian's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        cannot("the agent in C needs a compiler; as root: apt-get install -y --no-install-recommends gcc libc6-dev")
    built = tmp_path_factory.mktemp("agent-c") / "agent"
    source = pytestconfig.rootpath / "protocol" / "examples" / "agent.c"
    subprocess.run([compiler, "-std=c11", "-O2", "-static", "-s", "-o", str(built), str(source)], check=True)
    return built.read_bytes()


class Watch:
    """Looks over the coordinator's shoulder at every turn.

    A guest under pressure takes memory back by itself (deflate-on-oom) before anybody can order it, and the books show
    it: an excess that nobody ordered is told with the guest's name, and has an end.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.turns: list[Snapshot] = []
        self.ordered_beyond: list[str] = []
        """The books of the turns in which an order took them over the budget."""
        self.unnamed: list[str] = []
        """... and of those that were over it and said of no guest why."""
        self.exceeded_kib = 0
        """In the last turn."""
        coordinator.on_turn = self._turn

    def _turn(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        self.turns.append(snapshot)
        self.exceeded_kib = decision.booked_kib - decision.budget_kib
        targets_kib = {order.guest: order.target_kib for order in commands if isinstance(order, SetTarget)}
        added_kib = sum(
            max(0, booked_at_kib(guest, targets_kib[guest.name]) - guest.booking.assigned_kib)
            for guest in snapshot.guests
            if guest.name in targets_kib
        )
        books = f"{self.exceeded_kib} KiB over, {added_kib} KiB ordered; {decision.overdrawn_cause}: " + "; ".join(
            f"{guest.name}: {guest.booking}, actual {guest.vm.actual_kib}, target {guest.hypervisor_target_kib}, "
            f"{guest.residency}"
            for guest in snapshot.guests
        )
        if added_kib > max(0, -self.exceeded_kib):
            self.ordered_beyond.append(books)
        if self.exceeded_kib > TOLERANCE_KIB and not any(name in decision.overdrawn_cause for name in NAMES):
            self.unnamed.append(books)

    def known(self, name: str) -> GuestSnapshot:
        return next(guest for guest in self.turns[-1].guests if guest.name == name)

    async def until_speaks(self, name: str, implementation: str) -> None:
        with trio.fail_after(60):
            while True:
                agent = self.known(name).agent
                if agent.link is LinkState.LIVE and agent.implementation.startswith(implementation):
                    return
                await trio.sleep(0.05)


async def _serve(settings: Settings, task_status: trio.TaskStatus[Coordinator]) -> None:
    await serve(settings, on_ready=task_status.started)


async def put(guest: Guest, program: bytes) -> None:
    """The program as an executable file in the guest's memory."""
    text = base64.b64encode(program).decode()
    await guest.run(f"rm -f {IN_THE_GUEST}.b64")
    for start in range(0, len(text), PIECE):
        await guest.run(f"echo {text[start : start + PIECE]} >>{IN_THE_GUEST}.b64")
    await guest.run(f"base64 -d <{IN_THE_GUEST}.b64 >{IN_THE_GUEST} && chmod +x {IN_THE_GUEST}")


def test_an_agent_in_c_is_arbitrated_beside_ours(image, accelerator, play, program):
    """The guest with the agent in C gives memory to the other, down to no less than its floor, and gets it back."""

    async def scenario() -> Watch:
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            folder = stack.enter_context(machine_folder())
            watch = Watch(await nursery.start(_serve, settings_for(folder)))

            async def boot(name: str) -> Guest:
                machine = open_machine(MachineSpec(name, RAM_KIB), image, accelerator, folder)
                guest: Guest = await stack.enter_async_context((await stack.enter_async_context(machine)).guest())
                return guest

            guest = await boot("alpha")
            await guest.run("systemctl stop ballonet-guest-agent")
            await put(guest, program)
            await guest.run(f"systemd-run --unit=agent-c {IN_THE_GUEST} {PORT} {FLOOR_MIB}")
            await watch.until_speaks("alpha", "agent.c")
            with trio.fail_after(60):
                await has_started(watch.coordinator, "alpha")
            other = await boot("beta")
            with trio.fail_after(60):
                await has_started(watch.coordinator, "beta")
            await watch.until_speaks("beta", "ballonet-agent")
            await memory_follows_the_need(watch, guest, other)
            with trio.fail_after(90):
                while watch.exceeded_kib > 0:
                    await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        return watch

    watch: Watch = play(scenario)
    assert watch.ordered_beyond == []
    assert watch.unnamed == []


async def memory_follows_the_need(watch: Watch, guest: Guest, other: Guest) -> None:
    """beta needs more than there is: alpha's agent consents, beta is served; then the other way round."""
    assert (await other.hold(650, give_up_s=90))["usable_s"] is not None
    alpha = watch.known("alpha")
    assert FLOOR_MIB * MIB <= alpha.vm.actual_kib < STARTUP_KIB
    assert alpha.agent.implementation.startswith("agent.c")
    assert any(
        known.agent.consent is not None and not known.agent.consent.refused
        for turn in watch.turns
        for known in turn.guests
        if known.name == "alpha"
    )
    await other.hold(0)
    assert (await guest.hold(600, give_up_s=90))["usable_s"] is not None
    assert watch.known("alpha").vm.actual_kib > STARTUP_KIB
    for each in (guest, other):
        assert (await each.counters())["vmstat"]["oom_kill"] == 0
    assert (await guest.run("systemctl is-active agent-c")).strip() == "active"
