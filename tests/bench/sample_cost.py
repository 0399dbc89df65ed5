"""What a second of an agent in a session costs a processor: wake-ups, sample, report; beside reading its files."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from figures import Findings

from ballonet_guest_agent.actions import Identity, Instant
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.loop import Loop
from ballonet_guest_agent.procfs import Procfs
from ballonet_guest_agent.triggers import PsiTriggers
from ballonet_guest_agent.unixport import UnixPort
from ballonet_protocol import COORDINATOR, Connection, Hello, Ping, Report

NAME = "sample_cost"
SAMPLES, QUICK_SAMPLES = 2000, 200
COLD_SAMPLES, QUICK_COLD_SAMPLES = 30, 3
COLD_S = 1.0
"""How long a real agent sleeps between two samples; meanwhile others use the processor's caches."""
FILES = ("/proc/meminfo", "/proc/vmstat", "/proc/pressure/memory")
PING_EVERY = 3
TURNS = 2
"""A turn that reports is followed by one that hears that the port has room again."""


class Clock:
    """The agent's time; it moves by a second for each sample, so that nobody waits."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> Instant:
        return Instant(self.seconds, self.seconds)


def measure(findings: Findings, quick: bool) -> None:
    """CPU time of the real loop over a Unix socket on this machine's /proc, a second of the agent's time per sample."""
    warm, cold = (QUICK_SAMPLES, QUICK_COLD_SAMPLES) if quick else (SAMPLES, COLD_SAMPLES)
    for label, count, pause_s in (("one after another", warm, 0.0), ("asleep in between", cold, COLD_S)):
        with tempfile.TemporaryDirectory(prefix="ballonet-") as folder:
            seconds = _seconds_of_an_agent(Path(folder, "agent.sock"), count, pause_s)
        work = findings.add(NAME, f"wake-ups, sample, report; {label}", "us", seconds)
        reads = findings.add(NAME, f"reading the three files; {label}", "us", _reading(count, pause_s))
        findings.ratio(NAME, f"all of it / reading; {label}", work, reads)


def _seconds_of_an_agent(path: Path, count: int, pause_s: float) -> list[float]:
    clock = Clock()
    agent = Agent(AgentSettings(), Identity(bytes(16), os.sysconf("SC_PAGE_SIZE")))
    loop = Loop(agent, UnixPort(str(path)), Procfs(), PsiTriggers("/nowhere"), clock, lambda _level, _text: None)
    host = Connection(COORDINATOR)
    hello = Hello(major_range=(1, 1), minor=0, nonce=secrets.token_bytes(16), capabilities=(), ram_bytes=1 << 32)
    found: list[float] = []
    try:
        loop.turn(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(host.open_session(1, hello))
            for number in range(2 * count + 10):
                clock.seconds += 1.0
                if number % PING_EVERY == 0 and agent.session.live:
                    client.sendall(host.send(Ping(token=number)))
                time.sleep(pause_s)
                took_us = _timed(lambda: loop.turn(0))
                reports = _hear(client, host)
                took_us += sum(_timed(lambda: loop.turn(0)) for _ in range(TURNS - 1))
                if reports:
                    found.append(took_us)
                if len(found) == count:
                    break
    finally:
        loop.close()
    return found


def _hear(client: socket.socket, host: Connection) -> int:
    """How many reports wait in the socket."""
    reports = 0
    client.setblocking(False)
    try:
        while data := client.recv(65536):
            host.receive_data(data)
            while (message := host.next_message()) is not None:
                reports += isinstance(message, Report)
    except BlockingIOError:
        pass
    client.setblocking(True)
    return reports


def _reading(count: int, pause_s: float) -> list[float]:
    """The same files, opened once and read from their start, as the agent does it; nothing is parsed."""
    kept = [os.open(path, os.O_RDONLY) for path in FILES if os.path.exists(path)]

    def read() -> None:
        for fd in kept:
            os.pread(fd, 16384, 0)

    found = []
    try:
        for _ in range(count):
            time.sleep(pause_s)
            found.append(_timed(read))
        return found
    finally:
        for fd in kept:
            os.close(fd)


def _timed(call: Callable[[], object]) -> float:
    """Microseconds of this process's time on a processor."""
    began_ns = time.process_time_ns()
    call()
    return (time.process_time_ns() - began_ns) / 1000
