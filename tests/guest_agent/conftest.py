"""A simulated guest, a coordinator's connection and a clock, so that the agent's core can be driven without waiting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ballonet_guest_agent.actions import Identity, Instant, Log, SetTriggers, TakeSample, Write
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.zram import Zram
from ballonet_protocol import (
    COORDINATOR,
    Connection,
    Deflate,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    Message,
    Ping,
    Report,
)

from .rig import Rig, ScriptedPort

MIB = 1024
GIB_BYTES = 1 << 30
BOOT_ID = bytes(range(16))
PAGE_KIB = 4


class Guest:
    """A guest's /proc as a few numbers that a scenario changes. Sizes in KiB."""

    def __init__(self, ram_kib: int = 1024 * MIB) -> None:
        self.ram_kib = ram_kib
        self.reserve_kib = 64 * MIB
        self.used_kib = 200 * MIB
        self.anon_kib = 150 * MIB
        self.unevictable_kib = 0
        self.committed_kib = 300 * MIB
        self.swap_total_kib = 512 * MIB
        self.swap_free_kib = 512 * MIB
        self.inflated_pages = 0
        self.deflated_pages = 0
        self.has_balloon = True
        self.has_psi = True
        self.deflate_on_oom: bool | None = True
        self.zram = Zram()
        self.psi_some_us = 0
        self.psi_full_us = 0
        self.counters = {"pgfault": 1000, "pgmajfault": 10, "workingset_refault_file": 0, "pswpin": 0, "oom_kill": 0}

    @property
    def balloon_kib(self) -> int:
        return (self.inflated_pages - self.deflated_pages) * PAGE_KIB

    @property
    def size_kib(self) -> int:
        return self.ram_kib - self.balloon_kib

    def inflate(self, kib: int) -> None:
        self.inflated_pages += kib // PAGE_KIB

    def deflate(self, kib: int) -> None:
        self.deflated_pages += kib // PAGE_KIB

    def texts(self) -> tuple[str, str, str | None]:
        total = self.ram_kib - self.reserve_kib
        if not self.deflate_on_oom:
            total -= self.balloon_kib
        available = max(0, self.ram_kib - self.reserve_kib - self.balloon_kib - self.used_kib)
        meminfo = "".join(
            f"{name}: {kib:8} kB\n"
            for name, kib in {
                "MemTotal": total,
                "MemFree": available // 2,
                "MemAvailable": available,
                "Active(file)": available // 4,
                "Inactive(file)": available // 4,
                "AnonPages": self.anon_kib,
                "Shmem": 0,
                "Unevictable": self.unevictable_kib,
                "SUnreclaim": 8 * MIB,
                "SwapTotal": self.swap_total_kib,
                "SwapFree": self.swap_free_kib,
                "CommitLimit": total // 2 + self.swap_total_kib,
                "Committed_AS": self.committed_kib,
            }.items()
        )
        counters = dict(self.counters)
        if self.has_balloon:
            counters["balloon_inflate"] = self.inflated_pages
            counters["balloon_deflate"] = self.deflated_pages
        vmstat = "".join(f"{name} {count}\n" for name, count in counters.items())
        psi = None
        if self.has_psi:
            psi = "".join(
                f"{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={us}\n"
                for kind, us in (("some", self.psi_some_us), ("full", self.psi_full_us))
            )
        return meminfo, vmstat, psi

    def sample(self) -> Sample:
        return Sample.from_texts(*self.texts(), self.deflate_on_oom, PAGE_KIB, self.zram)


class Stage:
    """The agent's core, its guest, and the coordinator's end of the wire, on a clock that only moves when told."""

    def __init__(self, settings: AgentSettings | None = None, *, has_psi_trigger: bool = True) -> None:
        self.guest = Guest()
        self.agent = Agent(settings or AgentSettings(), Identity(BOOT_ID, 4096, "ballonet-agent", "0", has_psi_trigger))
        self.host = Connection(COORDINATOR)
        self.monotonic_s = 1000.0
        self.asleep_s = 0.0
        self.frames: list[bytes] = []
        self.logs: list[str] = []
        self.triggers: list[SetTriggers] = []
        self.samples_taken = 0
        self.gen = 0
        self._sessions = 0
        self._ping_s = 0.0

    @property
    def now(self) -> Instant:
        return Instant(self.monotonic_s, self.monotonic_s + self.asleep_s)

    def do(self, actions: list[object]) -> list[Message]:
        """Carry the actions out as the shell does; what the coordinator hears of it."""
        todo, heard = list(actions), []
        while todo:
            action = todo.pop(0)
            if isinstance(action, Write):
                self.frames.append(action.data)
                self.host.receive_data(action.data)
                while (message := self.host.next_message()) is not None:
                    heard.append(message)
            elif isinstance(action, TakeSample):
                self.samples_taken += 1
                todo = self.agent.sampled(self.guest.sample(), self.now) + todo
            elif isinstance(action, SetTriggers):
                self.triggers.append(action)
            else:
                assert isinstance(action, Log)
                self.logs.append(action.text)
        return heard

    def connect(self) -> list[Message]:
        return self.do(self.agent.connected(self.now))

    def hello(self, **changes: object) -> list[Message]:
        """Open a session; what comes back, HELLO_ACK and the first REPORT."""
        self._sessions += 1
        self._ping_s = self.monotonic_s + 2.0
        self.gen = 0
        fields: dict[str, object] = {
            "major_range": (1, 1),
            "minor": 0,
            "nonce": bytes([self._sessions] * 16),
            "capabilities": ("psi", "refault", "events"),
            "ram_bytes": self.guest.ram_kib * 1024,
            "limits": Limits(frame_bytes=4096, report_ms=1000, dead_ms=10_000),
        }
        return self.receive(self.host.open_session(self._sessions, Hello(**{**fields, **changes})))  # type: ignore[arg-type]

    def open(self) -> list[Message]:
        return self.connect() + self.hello()

    def receive(self, data: bytes) -> list[Message]:
        return self.do(self.agent.received(data, self.now))

    def send(self, message: Message) -> list[Message]:
        return self.receive(self.host.send(message))

    def inflate(self, target_kib: int, *, gen: int | None = None, ttl_ms: int = 30_000, **more: int) -> list[Message]:
        self.gen = self.gen + 1 if gen is None else gen
        return self.send(Inflate(gen=self.gen, target_bytes=target_kib * 1024, ttl_ms=ttl_ms, **more))

    def deflate(self, target_kib: int, *, gen: int | None = None, ttl_ms: int = 30_000) -> list[Message]:
        self.gen = self.gen + 1 if gen is None else gen
        return self.send(Deflate(gen=self.gen, target_bytes=target_kib * 1024, ttl_ms=ttl_ms))

    def press(self, kind: str = "some") -> list[Message]:
        return self.do(self.agent.pressed(kind, self.now))

    def wait(self, seconds: float, *, ping: bool = True) -> list[Message]:
        """Let time pass, ticking at every deadline as the shell does; the coordinator pings each 2 s."""
        end_s, heard = self.monotonic_s + seconds, []
        for _ in range(20_000):
            deadline_s = self.agent.deadline_s(self.now)
            next_s = end_s if deadline_s is None else min(end_s, self.monotonic_s + deadline_s)
            if ping and self._ping_s <= next_s:
                self.monotonic_s = max(self.monotonic_s, self._ping_s)
                self._ping_s = self.monotonic_s + 2.0
                heard += self.send(Ping(token=1))
                continue
            self.monotonic_s = max(self.monotonic_s, next_s)
            if self.monotonic_s >= end_s:
                return heard + self.do(self.agent.tick(self.now))
            heard += self.do(self.agent.tick(self.now))
        raise AssertionError("the core spins: its deadline does not move on")


@pytest.fixture
def stage() -> Stage:
    """An agent whose guest booted long ago."""
    return Stage()


@pytest.fixture(scope="session")
def make_stage() -> type[Stage]:
    """The class itself, for an agent with settings of its own."""
    return Stage


@pytest.fixture(scope="session")
def make_guest() -> type[Guest]:
    """A guest without an agent."""
    return Guest


@pytest.fixture
def rig(make_guest) -> Iterator[Rig]:
    rig = Rig(make_guest(), ScriptedPort())
    yield rig
    rig.release()


@pytest.fixture
def served(rig: Rig) -> Rig:
    """With a session open."""
    rig.loop.turn(0)
    rig.port.reads = [rig.hello()]
    rig.port.nudge()
    rig.loop.turn(0)
    assert [type(message) for message in rig.heard()] == [HelloReq, HelloAck, Report]
    return rig
