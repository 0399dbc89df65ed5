"""What the agent costs a real guest when nobody is there, and that it answers once somebody comes."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from ballonet_host_coord.demo.machine import Guest, MachineSpec
from ballonet_protocol import COORDINATOR, Bye, ByeWhy, Connection, Hello, HelloAck, Message, Ping, Report

RAM_KIB = 512 * 1024
UNIT = "ballonet-guest-agent.service"
IDLE_S = 60.0
MOST_CPU_RATIO = 0.003
"""An emulated guest's clock counts what its host does meanwhile; whether it polls, `MOST_WAITS` tells."""
MOST_WAITS = 30
"""How often it may wake up in `IDLE_S`: it looks each 15 s, and a poll would be hundreds."""
MOST_GROWTH_KIB = 64
"""A page may be touched for the first time at any moment; what is lost with every round would be more by then."""
RECONNECTIONS = 5
MOST_RESIDENT_KIB = 10 * 1024
MOST_PRIVATE_DIRTY_KIB = 4 * 1024
LIVE_REPORTS = 8
HELLO_EVERY_S = 2.0
ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True)
class Cost:
    """A process in the guest at one moment."""

    pid: int
    cpu_ticks: int
    rss_kib: int
    waits: int


@dataclass
class Seen:
    """What one boot of the guest showed; the tests below read it."""

    before: Cost = Cost(0, 0, 0, 0)
    after: Cost = Cost(0, 0, 0, 0)
    at_the_end: Cost = Cost(0, 0, 0, 0)
    ticks_per_s: int = 0
    alone_s: float = 0.0
    conversations: list[tuple[float, Report]] = field(default_factory=list)
    """Seconds until the session was open, and the first report in it."""
    rollup: dict[str, int] = field(default_factory=dict)
    """KiB by name, in the middle of a session, after LIVE_REPORTS reports."""


async def cost(guest: Guest) -> Cost:
    pid = int(await guest.run(f"systemctl show -P MainPID {UNIT}"))
    stat = (await guest.run(f"cat /proc/{pid}/stat")).rpartition(")")[2].split()
    switches = await guest.run(f"grep ^voluntary_ctxt_switches /proc/{pid}/status")
    rss = await guest.run(f"grep ^Rss: /proc/{pid}/smaps_rollup")  # exact, as VmRSS is not
    utime, stime = stat[11:13]  # fields 14 and 15; the list begins with field 3
    return Cost(pid, int(utime) + int(stime), int(rss.split()[1]), int(switches.split()[1]))


async def rollup(guest: Guest) -> dict[str, int]:
    lines = (await guest.run(f"cat /proc/$(systemctl show -P MainPID {UNIT})/smaps_rollup")).splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}


async def converse(
    path: Path, politely: bool, reports: int = 1, live: Callable[[], Awaitable[None]] | None = None
) -> tuple[float, Report]:
    """Be the host for as long as it takes to hear so many reports, then do `live`; leave with a BYE or without."""
    began_s = trio.current_time()
    connection = Connection(COORDINATOR)
    with trio.fail_after(ANSWER_WITHIN_S * reports):
        async with await trio.open_unix_socket(path) as stream:
            while True:
                nonce = secrets.token_bytes(16)
                hello = Hello(major_range=(1, 1), minor=0, nonce=nonce, capabilities=(), ram_bytes=RAM_KIB * 1024)
                await stream.send_all(connection.open_session(secrets.randbits(63) + 1, hello))
                with trio.move_on_after(HELLO_EVERY_S):
                    await answer(connection, stream, HelloAck)
                    break
            open_s = trio.current_time() - began_s
            report = await answer(connection, stream, Report)
            for count in range(1, reports):
                await answer(connection, stream, Report)
                await stream.send_all(connection.send(Ping(token=count)))
            if live is not None:
                await live()
            if politely:
                await stream.send_all(connection.send(Bye(why=ByeWhy.STOP)))
    assert isinstance(report, Report)
    return open_s, report


async def answer(connection: Connection, stream: trio.SocketStream, kind: type[Message]) -> Message:
    """The next message of this kind."""
    while True:
        while (message := connection.next_message()) is not None:
            if isinstance(message, kind):
                return message
        data = await stream.receive_some(4096)
        assert data, "QEMU closed the channel"
        connection.receive_data(bytes(data))


@pytest.fixture(scope="module")
def seen(machines, play) -> Seen:
    async def scenario() -> Seen:
        seen = Seen()
        async with machines(MachineSpec("cost", RAM_KIB, waiting=False)) as machine, machine.guest() as guest:
            await guest.run(f"until systemctl is-active --quiet {UNIT}; do sleep 0.1; done")
            seen.ticks_per_s = int(await guest.run("getconf CLK_TCK"))
            # Gone without a word is the harder case: there was a session, and the port says hang-up from now on.
            seen.conversations.append(await converse(machine.agent_path, politely=False))
            await trio.sleep(5)  # what it does about that is no waiting
            seen.before = await cost(guest)
            began_s = trio.current_time()
            await trio.sleep(IDLE_S)
            seen.alone_s = trio.current_time() - began_s
            seen.after = await cost(guest)
            for count in range(RECONNECTIONS):
                seen.conversations.append(await converse(machine.agent_path, politely=count % 2 == 0))
            seen.at_the_end = await cost(guest)

            async def look() -> None:
                seen.rollup = await rollup(guest)

            await converse(machine.agent_path, politely=True, reports=LIVE_REPORTS, live=look)
        return seen

    return play(scenario)


@pytest.mark.fault(25)
def test_an_agent_without_a_host_costs_nothing(seen):
    """After its host has gone the agent sleeps: it wakes up a few times a minute, and next to no time is used."""
    used_s = (seen.after.cpu_ticks - seen.before.cpu_ticks) / seen.ticks_per_s
    assert seen.before.cpu_ticks > 0
    assert seen.after.waits - seen.before.waits < MOST_WAITS
    assert used_s < MOST_CPU_RATIO * seen.alone_s


@pytest.mark.fault(25)
def test_an_agent_without_a_host_does_not_grow(seen):
    """Waiting for a host, however long, takes no memory; and the agent is the same process all the time."""
    assert seen.after.pid == seen.before.pid
    assert 0 < seen.after.rss_kib <= seen.before.rss_kib + MOST_GROWTH_KIB


def test_an_agent_at_work_is_small(seen):
    """In a session, at one report a second, the service stays within what a guest may be asked to pay for it."""
    assert 0 < seen.rollup["Private_Dirty"] <= MOST_PRIVATE_DIRTY_KIB
    assert 0 < seen.rollup["Rss"] <= MOST_RESIDENT_KIB
    assert seen.rollup["Locked"] > seen.rollup["Rss"] // 2, "the agent's pages are not locked"


def test_a_host_that_comes_is_answered(seen):
    """A session opens within seconds of the connection, and the first report tells of this guest."""
    open_s, report = seen.conversations[0]
    assert 0 < open_s < ANSWER_WITHIN_S
    assert RAM_KIB * 1024 * 3 // 4 < report.memory.total_bytes < RAM_KIB * 1024
    assert 0 < report.memory.available_bytes < report.memory.total_bytes


def test_a_host_may_come_and_go(seen):
    """Each connection gets a session and a report of its own, from the process that was there before."""
    assert len(seen.conversations) == 1 + RECONNECTIONS
    boottimes_ms = [report.boottime_ms for _, report in seen.conversations]
    assert boottimes_ms == sorted(set(boottimes_ms))
    assert seen.at_the_end.pid == seen.before.pid
