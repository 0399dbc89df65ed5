"""The real service before real guests: what an operator sees, and what is lost while it runs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord.control import Unreachable, request
from ballonet_host_coord.demo.machine import MachineSpec, machine_folder, open_machine
from ballonet_host_coord.recorder import read_recording
from ballonet_host_coord.recording import Entry

MIB = 1024
BALLONET = str(Path(sys.executable).with_name("ballonet"))
TOML = """
[host]
slider = 50
budget = "{budget_mib}M"
control = "{folder}/control.sock"
state = "{folder}/state.sqlite"
record = "{folder}/recording"
[defaults]
minimum = "256M"
startup = "512M"
maximum = "1G"
overhead = "112M"
[guest.alpha]
qmp = "{folder}/alpha/qmp.sock"
channel = "{folder}/alpha/agent.sock"
[guest.absent]
qmp = "{folder}/absent/qmp.sock"
channel = "{folder}/absent/agent.sock"
[guest.bare]
maximum = "512M"
qmp = "{folder}/bare.qmp"
channel = "{folder}/bare.agent"
"""
BUDGET_MIB = 1700
BARE_KIB = 512 * MIB
OVERHEAD_KIB = 112 * MIB
"""What is booked for a guest at the least, beside its own memory."""


class Service:
    """`ballonet serve` as a process of its own, and the questions that operators ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "coordinator.toml"
        self.control = str(folder / "control.sock")
        self.config.write_text(TOML.format(folder=folder, budget_mib=BUDGET_MIB))
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self, *options: str) -> None:
        self._starts += 1
        with (self.folder / f"serve-{self._starts}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [BALLONET, "serve", "--config", str(self.config), *options], stdout=log, stderr=log
            )

    def end(self, how: signal.Signals) -> int:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(how)
        return process.wait(timeout=20)

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def journal(self) -> str:
        return (self.folder / f"serve-{self._starts}.log").read_text()

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BALLONET, *words, "--socket", self.control], capture_output=True, text=True, timeout=30, check=False
        )

    async def guest(self, name: str = "alpha") -> dict[str, Any] | None:
        """This guest's line of the status; None while nobody answers."""
        try:
            status = await request(self.control, "status")
        except Unreachable:
            return None
        return next(line for line in status["guests"] if line["name"] == name)

    async def until(
        self, holds: Callable[[dict[str, Any]], bool], within_s: float = 120.0, name: str = "alpha"
    ) -> dict[str, Any]:
        """The first status of a guest for which `holds`; fails with the last one after `within_s`."""
        line = None
        with trio.move_on_after(within_s):
            while True:
                line = await self.guest(name)
                if line is not None and holds(line):
                    return line
                await trio.sleep(0.2)
        pytest.fail(f"not within {within_s} s: {line}\n{self.journal()[-1500:]}")


@contextmanager
def a_machine_that_never_boots(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """QEMU with no disk and no kernel: its firmware looks for one and waits, and no balloon driver ever answers."""
    with (folder / "bare.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL",
                "qemu-system-x86_64", "-accel", "tcg", "-m", f"{BARE_KIB}K", "-S", "-nodefaults", "-display", "none",
                "-device", "virtio-balloon-pci,deflate-on-oom=on", "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=agent,path={folder}/bare.agent,server=on,wait=off",
                "-device", "virtserialport,id=agent,chardev=agent,name=org.ballonet.agent.0",
                "-qmp", f"unix:{folder}/bare.qmp,server=on,wait=off",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def has_settled(line: dict[str, Any]) -> bool:
    return line["demand_kib"] is not None and line["assigned_kib"] <= 516 * MIB


def test_operators_view_and_every_loss(image, accelerator, play):
    """One guest's life under the service: startup, status, agent killed and stopped, coordinator killed, release.

    Two more guests of the settings never come up, and delay nothing in any of it: one is not there at all, the other
    has a QEMU that runs and never boots, and keeps its claim in a budget that has no room to spare.
    """

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(machine_folder())
            service = Service(folder)
            stack.callback(service.close)
            assert service.command("status").returncode == 3
            service.start()
            machine = await stack.enter_async_context(
                open_machine(MachineSpec("alpha", 1024 * MIB), image, accelerator, folder)
            )
            guest = await stack.enter_async_context(machine.guest())
            await service.until(has_settled)
            bare = stack.enter_context(a_machine_that_never_boots(folder))
            await service.until(lambda line: line["state"] == "booting", name="bare")
            await operators_see_what_is_there(service)
            await a_killed_agent_comes_back(service, guest)
            await a_stopped_agent_means_hold(service, guest, machine)
            await a_killed_coordinator_answers_shortages_first(service, guest)
            await a_machine_keeps_its_claim_until_it_ends(service, bare)
            await a_release_gives_everything_back(service, machine)
            assert service.end(signal.SIGTERM) == 0
            assert await machine.monitor.actual_kib() == 1024 * MIB

    play(scenario)


async def operators_see_what_is_there(service: Service) -> None:
    """Status for people and for programs; the socket's mode; the guest that is not there."""
    assert stat.S_IMODE(os.stat(service.control).st_mode) == 0o660
    text = service.command("status")
    assert text.returncode == 0
    assert "alpha" in text.stdout
    assert f"budget {BUDGET_MIB}" in text.stdout
    answer = json.loads(service.command("status", "--json").stdout)
    alpha, absent, bare = answer["guests"]
    assert alpha["status"] in ("OK", "Low", "Warning")
    assert alpha["why"]
    assert alpha["resident_kib"] <= alpha["assigned_kib"]
    assert absent["state"] == "absent"
    assert bare["resident_kib"] < BARE_KIB / 2
    assert bare["booked_kib"] == BARE_KIB + OVERHEAD_KIB
    assert bare["why"].startswith("booting: its balloon driver has not answered yet, booked with its whole RAM")
    assert answer["host"]["booked_kib"] <= answer["host"]["budget_kib"]


async def a_killed_agent_comes_back(service: Service, guest: Any) -> None:
    """kill -9 of the agent: its service starts it again and a new session reports."""
    before = await guest.run("systemctl show -p MainPID --value ballonet-guest-agent")
    await guest.run(f"kill -9 {before.strip()}")
    await service.until(lambda line: not line["agent"].startswith("ballonet-agent"), within_s=30)
    await service.until(lambda line: line["agent"].startswith("ballonet-agent"), within_s=60)
    after = await guest.run("systemctl show -p MainPID --value ballonet-guest-agent")
    assert after.strip() not in ("0", before.strip())


async def a_stopped_agent_means_hold(service: Service, guest: Any, machine: Any) -> None:
    """While no agent speaks the guest keeps what it has, however idle it is."""
    await guest.hold(300)
    await service.until(lambda line: line["assigned_kib"] > 500 * MIB)
    await guest.run("systemctl stop ballonet-guest-agent")
    await guest.hold(0)
    held_kib = (await service.until(lambda line: line["state"] not in ("growing", "shrinking")))["actual_kib"]
    await trio.sleep(15)
    assert await machine.monitor.actual_kib() >= held_kib - MIB  # at rest is within that
    await guest.run("systemctl start ballonet-guest-agent")
    await service.until(lambda line: line["agent"].startswith("ballonet-agent"))


async def a_killed_coordinator_answers_shortages_first(service: Service, guest: Any) -> None:
    """SIGKILL, a shortage meanwhile, a new service: nothing moves before a report, then the shortage is met."""
    await service.until(has_settled)  # else what it still holds from before may do
    service.end(signal.SIGKILL)
    (service.folder / "recording").unlink()
    answer: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            answer.update(await guest.hold(650))

        nursery.start_soon(hold)
        await trio.sleep(2)
        service.start()
    assert answer["usable_s"] is not None
    await beside_the_claim(service)
    turns = [alpha_of(turn) for turn in read_recording(str(service.folder / "recording"))]
    heard = next(index for index, alpha in enumerate(turns) if alpha["report"] is not None)
    assert all(alpha["hypervisor_target_kib"] is None for alpha in turns[:heard])
    grants = [alpha["hypervisor_target_kib"] for alpha in turns if alpha["hypervisor_target_kib"] is not None]
    assert grants[0] > turns[heard]["vm"]["actual_kib"]
    await guest.hold(0)


async def beside_the_claim(service: Service) -> None:
    """Alpha got what it needed, and no more than what the claim of the machine that never boots leaves."""
    status = await request(service.control, "status")
    alpha, _, bare = status["guests"]
    assert bare["booked_kib"] == BARE_KIB + OVERHEAD_KIB
    assert 650 * MIB < alpha["assigned_kib"] <= BUDGET_MIB * MIB - bare["booked_kib"] - OVERHEAD_KIB
    # By nobody's order QEMU's own memory may grow beyond what is booked for it at least.
    grown_kib = alpha["booked_kib"] - alpha["assigned_kib"] - OVERHEAD_KIB
    assert status["host"]["booked_kib"] <= status["host"]["budget_kib"] + grown_kib


async def a_machine_keeps_its_claim_until_it_ends(service: Service, bare: subprocess.Popen[bytes]) -> None:
    """A QEMU that stands still stays booked as it was, and alpha is looked after; when it ends its claim is gone."""
    bare.send_signal(signal.SIGSTOP)
    line = await service.until(lambda line: line["state"] == "unreachable", name="bare")
    assert line["booked_kib"] == BARE_KIB + OVERHEAD_KIB
    assert line["why"].startswith("its hypervisor does not answer: booked as it was")
    alpha = await service.guest()
    assert alpha is not None
    assert alpha["agent"].startswith("ballonet-agent")
    bare.kill()
    bare.wait()
    await service.until(lambda line: line["state"] == "absent" and not line["booked_kib"], name="bare")


def alpha_of(turn: Entry) -> dict[str, Any]:
    """The recorded facts of alpha in one turn."""
    guests = turn.value["snapshot"]["guests"]
    found: dict[str, Any] = next(guest for guest in guests if guest["settings"]["name"] == "alpha")
    return found


async def a_release_gives_everything_back(service: Service, machine: Any) -> None:
    """`ballonet release alpha` lifts it to its whole RAM; an unknown guest is an error that names the known ones."""
    unknown = service.command("release", "omega")
    assert unknown.returncode == 1
    assert "alpha" in unknown.stderr
    assert service.command("release", "alpha").returncode == 0
    with trio.fail_after(20):
        while await machine.monitor.actual_kib() < 1024 * MIB:
            await trio.sleep(0.1)
    line = await service.guest()
    assert line is not None
    assert line["state"] == "released"


def test_observing_moves_nothing(image, accelerator, play):
    """`ballonet serve --observe` reports and decides; the balloon keeps the target that it had."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(machine_folder())
            service = Service(folder)
            stack.callback(service.close)
            spec = MachineSpec("alpha", 1024 * MIB, waiting=False)
            machine = await stack.enter_async_context(open_machine(spec, image, accelerator, folder))
            service.start("--observe")
            await stack.enter_async_context(machine.guest())
            await service.until(lambda line: line["demand_kib"] is not None)
            await machine.monitor.set_balloon(900 * MIB)
            await trio.sleep(20)
            assert await machine.monitor.actual_kib() == 900 * MIB
            status = json.loads(service.command("status", "--json").stdout)
            assert status["host"]["observe"] is True
            assert status["guests"][0]["why"]
            assert service.command("release", "alpha").returncode == 1

    play(scenario)
