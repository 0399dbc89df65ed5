"""A real guest's agent through what befalls guests: thrashing, clock steps, a pause, sleep, a snapshot's two lives."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from ballonet_host_coord.demo.image import Image
from ballonet_host_coord.demo.lines import json_lines
from ballonet_host_coord.demo.machine import (
    Guest,
    Machine,
    MachineSpec,
    Monitor,
    command_line,
    machine_folder,
    open_machine,
    sockets_open,
)
from ballonet_protocol import (
    COORDINATOR,
    AckStatus,
    AckWhy,
    BalloonAck,
    Connection,
    Demand,
    Hello,
    HelloAck,
    HelloReq,
    HelloReqWhy,
    Inflate,
    Limits,
    Message,
    Ping,
    Pong,
    Report,
    Severity,
)

MIB = 1024
RAM_KIB = 512 * MIB
TARGET_KIB = 448 * MIB
UNIT = "ballonet-guest-agent.service"
DEAD_MS = 5000
PAUSED_S = 6.0
ASLEEP_S = 3.0
TTL_MS = 60_000
NEEDED_MIB = 560
THRASHES_S = 8.0
SWAPPED_PAGES = 5000
MOST_MAJOR_FAULTS = 20
"""Code that has never run is not in memory yet, locked or not; what has run once stays."""
WITHIN_S = 30.0
M = TypeVar("M", bound=Message)


class Host:
    """The host's end of the channel, for as long as a session is looked at."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._connection = Connection(COORDINATOR)
        self.heard: list[Message] = []
        self._gen = 0

    async def greet(self) -> HelloAck:
        nonce = secrets.token_bytes(16)
        limits = Limits(frame_bytes=4096, report_ms=1000, dead_ms=DEAD_MS)
        hello = Hello(
            major_range=(1, 1), minor=0, nonce=nonce, capabilities=("events",), ram_bytes=RAM_KIB * 1024, limits=limits
        )
        await self._stream.send_all(self._connection.open_session(secrets.randbits(63) + 1, hello))
        self._gen = 0
        ack = await self.next(HelloAck)
        assert ack.nonce == nonce
        return ack

    async def send(self, message: Message) -> None:
        await self._stream.send_all(self._connection.send(message))

    async def inflate(self, gen: int, target_kib: int = TARGET_KIB) -> BalloonAck:
        await self.send(Inflate(gen=gen, target_bytes=target_kib * 1024, ttl_ms=TTL_MS))
        return await self.next(BalloonAck)

    async def agreed(self) -> BalloonAck:
        """Ask with a new gen until the agent agrees: a stall of just now may stand in the way."""
        with trio.fail_after(WITHIN_S):
            while True:
                self._gen += 1
                ack = await self.inflate(self._gen)
                if ack.status != AckStatus.REFUSED:
                    return ack
                await trio.sleep(0.5)

    async def next(self, kind: type[M], within_s: float = WITHIN_S) -> M:
        """The next message of a kind that comes from now on; all are kept in `heard`."""
        with trio.fail_after(within_s):
            while True:
                while (message := self._connection.next_message()) is not None:
                    self.heard.append(message)
                    if isinstance(message, kind):
                        return message
                self._connection.receive_data(bytes(await self._stream.receive_some(4096)))

    async def collect(self, seconds: float) -> list[Message]:
        """Everything that comes within this time, which the agent spends knowing that somebody is there."""
        before = len(self.heard)
        end_s = trio.current_time() + seconds
        while trio.current_time() < end_s:
            await self.send(Ping(token=1))
            with trio.move_on_after(min(1.0, end_s - trio.current_time())):
                await self.next(HelloReq)
        return self.heard[before:]


@asynccontextmanager
async def connected(machine: Machine) -> AsyncIterator[Host]:
    async with await trio.open_unix_socket(machine.agent_path) as stream:
        yield Host(stream)


@dataclass
class Seen:
    """What one boot of the guest, and its two later lives, showed; the tests below read it."""

    status: dict[str, str] = field(default_factory=dict)
    status_after: dict[str, str] = field(default_factory=dict)
    oom_score_adj: int = 0
    armed: int = 0
    major_faults: tuple[int, int] = (0, 0)
    swapped_pages: int = 0
    thrashing: list[Message] = field(default_factory=list)
    stepped: tuple[Report, Report] | None = None
    stepped_wall_s: float = 0.0
    after_step: BalloonAck | None = None
    paused: list[Message] = field(default_factory=list)
    woken: list[Message] = field(default_factory=list)
    after_sleep: BalloonAck | None = None
    slept_ms: int = 0
    after_hello: BalloonAck | None = None
    clones: list[tuple[HelloAck, BalloonAck, Report]] = field(default_factory=list)


async def status_of(guest: Guest, pid: int) -> dict[str, str]:
    text = await guest.run(f"cat /proc/{pid}/status")
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in text.splitlines())}


async def major_faults(guest: Guest, pid: int) -> int:
    stat = (await guest.run(f"cat /proc/{pid}/stat")).rpartition(")")[2].split()
    return int(stat[9])  # field 12; the list begins with field 3


@pytest.fixture(scope="module")
def seen(image, accelerator, play) -> Seen:
    async def scenario() -> Seen:
        seen = Seen()
        with machine_folder() as folder:
            spec = MachineSpec("guard", RAM_KIB, waiting=False, keep_writes=True)
            snapshot = folder / "snapshot"
            disks = its_own_disks(image, folder)
            async with (
                open_machine(spec, disks, accelerator, folder) as machine,
                machine.guest() as guest,
                connected(machine) as host,
            ):
                await guest.run(f"until systemctl is-active --quiet {UNIT}; do sleep 0.1; done")
                await host.greet()
                await it_thrashes(seen, guest, host)
                await its_wall_clock_steps(seen, guest, host)
                await it_is_paused(seen, machine, host)
                await it_sleeps(seen, machine, guest, host)
                await it_is_saved(machine, snapshot)
            for name in ("first", "second"):
                async with restored(name, snapshot, disks, accelerator, folder) as clone, connected(clone) as host:
                    seen.clones.append((await host.greet(), await host.agreed(), await host.next(Report)))
        return seen

    return play(scenario)


async def it_thrashes(seen: Seen, guest: Guest, host: Host) -> None:
    pid = int(await guest.run(f"systemctl show -P MainPID {UNIT}"))
    seen.status = await status_of(guest, pid)
    seen.oom_score_adj = int(await guest.run(f"cat /proc/{pid}/oom_score_adj"))
    seen.armed = int(await guest.run(f"ls -l /proc/{pid}/fd | grep -c /proc/pressure/memory"))
    faults = await major_faults(guest, pid)
    before = await guest.counters()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guest.hold, NEEDED_MIB, THRASHES_S)
        seen.thrashing = await host.collect(THRASHES_S)
    after = await guest.counters()
    seen.swapped_pages = sum(after["vmstat"][name] - before["vmstat"][name] for name in ("pswpin", "pswpout"))
    seen.status_after = await status_of(guest, pid)
    seen.major_faults = faults, await major_faults(guest, pid)
    await guest.hold(0)
    await host.collect(3.0)


async def alive(host: Host, guest: Guest, command: str) -> str:
    """Run it; however long that takes, the agent has heard of its host just before."""
    await host.send(Ping(token=2))
    return await guest.run(command)


async def its_wall_clock_steps(seen: Seen, guest: Guest, host: Host) -> None:
    gen = (await host.agreed()).gen
    report = await host.next(Report)
    commands = ("date +%s", "date -s '+3 days' >/dev/null; date +%s")
    began_s, stepped_s = [int(await alive(host, guest, command)) for command in commands]
    seen.stepped_wall_s = stepped_s - began_s
    await host.collect(1.5)
    await alive(host, guest, "date -s '-6 days' >/dev/null")
    await host.collect(1.5)
    seen.stepped = report, await host.next(Report)
    await alive(host, guest, "date -s '+3 days' >/dev/null")
    seen.after_step = await host.inflate(gen)


async def it_is_paused(seen: Seen, machine: Machine, host: Host) -> None:
    await machine.monitor.call("stop")
    await trio.sleep(PAUSED_S)
    await machine.monitor.call("cont")
    seen.paused = await host.collect(5.0)


async def it_sleeps(seen: Seen, machine: Machine, guest: Guest, host: Host) -> None:
    gen = (await host.agreed()).gen
    before = await guest.counters()
    await guest.run("(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 </dev/null &")
    with trio.fail_after(WITHIN_S):
        while (await machine.monitor.call("query-status"))["status"] != "suspended":
            await trio.sleep(0.05)
    await trio.sleep(ASLEEP_S)
    await machine.monitor.call("system_wakeup")
    heard = len(host.heard)
    await host.next(HelloReq)
    seen.after_sleep = await host.inflate(gen)
    seen.woken = host.heard[heard:]
    after = await guest.counters()
    asleep = [counters["boottime_s"] - counters["monotonic_s"] for counters in (before, after)]
    seen.slept_ms = round((asleep[1] - asleep[0]) * 1000)
    await host.greet()
    seen.after_hello = await host.agreed()


def its_own_disks(image: Image, folder: Path) -> Image:
    """A snapshot is memory and disks: a guest that finds its swap empty reads zeros where its programs' pages were."""
    own = replace(image, disk=folder / "disk", swap=folder / "swap")
    for copied, copy in ((image.disk, own.disk), (image.swap, own.swap)):
        subprocess.run(["cp", "--sparse=always", copied, copy], check=True)
    return own


async def it_is_saved(machine: Machine, snapshot: Path) -> None:
    """With a session open and a consent live."""
    await machine.monitor.call("stop")
    await machine.monitor.call("migrate", uri=f"exec:cat >{snapshot}")
    with trio.fail_after(60):
        while (await machine.monitor.call("query-migrate"))["status"] != "completed":
            await trio.sleep(0.1)


@asynccontextmanager
async def restored(name: str, snapshot: Path, disks: Image, accelerator: str, parent: Path) -> AsyncIterator[Machine]:
    """Another life of the snapshot, on its disks. What it writes to them is its own, and is lost with it."""
    folder = parent / name
    folder.mkdir()
    spec = MachineSpec(name, RAM_KIB, waiting=False)
    command = [*command_line(spec, disks, accelerator, folder), "-incoming", f"exec:cat {snapshot}"]
    with (folder / "qemu.log").open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    machine = Machine(spec, folder, process)
    try:
        with trio.fail_after(WITHIN_S):
            await sockets_open(machine)
            async with json_lines(machine.monitor_path) as peer:
                machine.monitor = Monitor(peer)
                await machine.monitor.call("qmp_capabilities")
                while (await machine.monitor.call("query-status"))["status"] == "inmigrate":
                    await trio.sleep(0.1)
                await machine.monitor.call("cont")
        yield machine
    finally:
        machine.kill()


def of(messages: list[Message], kind: type[M]) -> list[M]:
    return [message for message in messages if isinstance(message, kind)]


def test_it_is_protected(seen):
    """Under its hardened unit its pages are locked, its OOM score is set, and both PSI triggers are armed."""
    locked_kib, resident_kib = (int(seen.status[name].split()[0]) for name in ("VmLck", "VmRSS"))
    assert locked_kib >= resident_kib > 0
    assert seen.oom_score_adj == -900
    assert seen.armed == 3, "two triggers and the reader"


def test_it_asks_while_its_guest_thrashes(seen):
    """The guest swaps tens of megabytes; the agent says that it stalls, and does not wait for pages of its own."""
    assert seen.swapped_pages > SWAPPED_PAGES
    assert [demand for demand in of(seen.thrashing, Demand) if demand.severity >= Severity.STALLING]
    assert seen.status_after["VmSwap"] == "0 kB"
    before, after = seen.major_faults
    assert after - before <= MOST_MAJOR_FAULTS


def test_wall_clock_is_nothing_to_it(seen):
    """Days forward and back: reports go on in boot time, no session is asked for, and the consent stands."""
    assert seen.stepped_wall_s > 2 * 86400
    before, after = seen.stepped
    assert 0 < after.boottime_ms - before.boottime_ms < 60_000
    assert (seen.after_step.status, seen.after_step.effective_bytes) == (AckStatus.DUPLICATE, TARGET_KIB * 1024)


def test_paused_guest_has_missed_nothing(seen):
    """A pause longer than the agent waits for its host is no silence: its clocks stood still, the session goes on."""
    assert PAUSED_S * 1000 > DEAD_MS
    assert of(seen.paused, Pong)
    assert of(seen.paused, Report)
    assert of(seen.paused, HelloReq) == []


def test_guest_that_slept_agrees_to_nothing(seen):
    """After a suspend to RAM it asks for a session and says why; the old consent is over, a new session has its own."""
    assert seen.slept_ms > 1000
    assert [ask.why for ask in of(seen.woken, HelloReq)][:1] == [HelloReqWhy.RESUMED]
    assert seen.after_sleep.effective_bytes == RAM_KIB * 1024
    assert seen.after_hello.status == AckStatus.ACCEPTED


@pytest.mark.fault(34)
def test_snapshot_that_is_restored_twice(seen):
    """Two lives of one boot: each takes up a session of its own under the same boot id, without the old consent."""
    (first, *_), (second, *_) = seen.clones
    assert first.boot_id == second.boot_id
    assert first.nonce != second.nonce
    for ack, answer, report in seen.clones:
        assert ack.gen >= 1, "the consent of the life before is told of"
        assert (answer.status, answer.why) == (AckStatus.ACCEPTED, AckWhy.NONE)
        assert report.memory.available_bytes > 0
