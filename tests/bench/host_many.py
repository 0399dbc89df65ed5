"""Many agents in front of recorded hypervisors: what the coordinator costs per guest, and how fast it answers.

A run has three kinds of processes: some with guests (host_agents.py), the coordinator's (host_serve.py), and this one,
which asks the coordinator's for its figures at the beginning and at the end of the time that counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from figures import Figure, Findings
from host_proc import write_host
from host_table import Table

HERE = Path(__file__).parent
MIB = 1024
PER_PROCESS = 50
WRITES = "qmp (writes)"
READY_WITHIN_S = 120.0
ANSWER_WITHIN_S = 30.0
EACH_KIB = 640 * MIB
"""Of the budget for each guest: enough for all at the most times, so that a DEMAND can be paid at once."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the guests do: quiet at `base_mib`; each steps up every `step_every_s` on average."""

    count: int
    warm_s: float
    seconds: float
    step_every_s: float = 120.0
    step_mib: tuple[int, int] = (150, 400)
    hold_s: tuple[float, float] = (10.0, 30.0)
    base_mib: tuple[int, int] = (60, 300)
    quiet_s: float = 10.0
    """Nobody steps before."""


@dataclass(slots=True)
class Course:
    """What one run said."""

    load: Load
    port: str
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    ready_s: float = 0.0
    """From the coordinator's start until every session was live."""
    agents_cpu_s: float = 0.0
    sent: int = 0
    """DEMANDs that the agents wrote in all."""
    lost_frames: int = 0
    stalled_ms: int = 0
    unmet_ms: int = 0
    busy_ratio: float = 0.0
    """How busy the machine's processors were meanwhile, with everything that ran on them."""
    profile: str = ""

    @property
    def seconds(self) -> float:
        return float(self.last["now_s"] - self.first["now_s"])

    @property
    def guest_seconds(self) -> float:
        return self.seconds * self.load.count

    def grown(self, name: str) -> float:
        return float(self.last[name] - self.first[name])

    def calls(self) -> dict[str, int]:
        before = self.first["calls"]
        return {name: n - before.get(name, 0) for name, n in self.last["calls"].items() if n > before.get(name, 0)}

    def samples(self, kind: str, scale: float = 1e3) -> list[float]:
        return [sample * scale for sample in self.last["samples"].get(kind, [])]


class Served:
    """The coordinator's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, word: str = "count") -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the coordinator's process has ended; its words are above")
        return dict(json.loads(line))

    def until_live(self, count: int) -> float:
        """Seconds until every guest has a live session."""
        began_s = time.monotonic()
        while (answer := self.ask())["live"] < count:
            if time.monotonic() > began_s + READY_WITHIN_S:
                raise RuntimeError(f"{answer['live']} of {count} sessions live after {READY_WITHIN_S:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - began_s


@contextmanager
def served(spec: Path) -> Iterator[Served]:
    words = [sys.executable, str(HERE / "host_serve.py"), str(spec)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        try:
            yield Served(process)
            process.stdin.close()
            process.wait(ANSWER_WITHIN_S)
        finally:
            process.kill()


def busy_s() -> float:
    """Seconds that all processors of the machine have worked."""
    ticks = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, ticks[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def play(load: Load, port: str, profile: bool = False) -> Course:
    """One run through `port`, "qmp" or "libvirt"."""
    course = Course(load, port)
    with ExitStack() as stack:
        top = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bn-", dir=top)))
        spec = write_spec(folder, load, port, profile)
        table = Table(folder / "table", load.count)
        agents = [
            stack.enter_context(_agents(spec, first, min(PER_PROCESS, load.count - first)))
            for first in range(0, load.count, PER_PROCESS)
        ]
        for process in agents:
            assert process.stdout is not None
            process.stdout.readline()
        with served(spec) as coordinator:
            course.ready_s = coordinator.until_live(load.count)
            time.sleep(load.warm_s)
            course.first = coordinator.ask("profile" if profile else "count")
            began_busy_s = busy_s()
            time.sleep(load.seconds)
            course.last = coordinator.ask()
            course.sent = sum(table.demands)
            course.busy_ratio = (busy_s() - began_busy_s) / course.seconds / (os.cpu_count() or 1)
        course.lost_frames = sum(table.lost_frames)
        course.stalled_ms = sum(table.stalled_ms)
        course.unmet_ms = max(table.unmet_ms)
        for process in agents:
            process.terminate()
            assert process.stdout is not None
            course.agents_cpu_s += json.loads(process.stdout.readline())["cpu_s"]
        if profile:
            course.profile = (folder / "profile").read_text()
    return course


@contextmanager
def _agents(spec: Path, first: int, count: int) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, str(HERE / "host_agents.py"), str(spec), str(first), str(count)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def write_spec(folder: Path, load: Load, port: str, profile: bool) -> Path:
    """The file that both kinds of processes read."""
    budget_kib = load.count * EACH_KIB
    sizes = {"minimum_kib": 192 * MIB, "startup_kib": 448 * MIB, "maximum_kib": 1024 * MIB}
    names = [f"g{number:04}" for number in range(load.count)]
    guests = [
        {"name": name, "qmp_path": f"{folder}/{number}.qmp", "channel_path": f"{folder}/{number}.agent", **sizes}
        for number, name in enumerate(names)
    ]
    spec = {
        "folder": str(folder),
        "port": port,
        "recorded": True,
        "profile": profile,
        "count": load.count,
        "ram_kib": sizes["maximum_kib"],
        "names": names,
        "host": {
            "budget_kib": budget_kib,
            "slider": 50,
            "control_path": f"{folder}/control",
            "state_path": f"{folder}/state",
        },
        "guests": guests if port == "qmp" else [],
        "defaults": {} if port == "qmp" else sizes,
        "uri": None if port == "qmp" else "qemu:///session",
        "base_mib": load.base_mib,
        "step_mib": load.step_mib,
        "hold_s": load.hold_s,
        "step_every_s": load.step_every_s,
        "quiet_s": load.quiet_s,
    }
    write_host(folder / "proc", 2 * budget_kib, budget_kib)
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def add(findings: Findings, bench: str, course: Course) -> None:
    """The figures of one run."""
    n = f"{course.load.count} guests, {course.port}"

    def one(name: str, unit: str, value: float) -> Figure:
        return findings.add(bench, f"{n}: {name}", unit, [value])

    one("CPU per guest-second", "us", course.grown("cpu_s") / course.guest_seconds * 1e6)
    one("of it the loop's thread", "us", course.grown("loop_cpu_s") / course.guest_seconds * 1e6)
    calls = course.calls()
    writes = calls.pop(WRITES, 0)
    one("calls per guest-second", "count", sum(calls.values()) / course.guest_seconds)
    if writes:
        one("of them in one write", "count", sum(calls.values()) / writes)
    for name, times in sorted(calls.items(), key=lambda entry: -entry[1]):
        one(f"calls: {name}", "1/s", times / course.seconds)
    one("turns", "1/s", course.grown("turns") / course.seconds)
    findings.add(bench, f"{n}: one turn, CPU", "ms", course.samples("turn_cpu"))
    findings.add(bench, f"{n}: one turn", "ms", course.samples("turn"))
    findings.add(bench, f"{n}: DEMAND -> balloon command", "ms", course.samples("at_once"))
    findings.add(bench, f"{n}: the same, another guest gave first", "ms", course.samples("reclaimed"), "none had to")
    one("DEMANDs heard", "1/s", course.grown("demands") / course.seconds)
    one("DEMANDs for what was there already", "1/s", course.grown("already") / course.seconds)
    one("DEMANDs written and not heard", "count", course.sent - course.last["demands"])
    one("frames that a channel did not take", "count", course.lost_frames)
    one("sessions not live at the end", "count", course.load.count - course.last["live"])
    one("longest that a guest waited for memory", "ms", course.unmet_ms)
    one("resident", "MiB", course.last["rss_kib"] / MIB)
    one("Pss grown meanwhile", "KiB", course.grown("pss_kib"))
    one("until all sessions were live", "s", course.ready_s)
    one("the machine's processors busy", "%", course.busy_ratio * 100)


def measure(findings: Findings, loads: list[Load], say: Any, ports: tuple[str, ...] = ("qmp", "libvirt")) -> None:
    """Each load through each port; memory per guest is the slope between the first and the last load."""
    for port in ports:
        courses = []
        for load in loads:
            say(f"{load.count} agents in front of recorded hypervisors, {port}")
            courses.append(play(load, port))
            add(findings, "many", courses[-1])
        few, most = courses[0], courses[-1]
        if most.load.count > few.load.count:
            grown_kib = most.last["pss_kib"] - few.last["pss_kib"]
            slope_kib = grown_kib / (most.load.count - few.load.count)
            findings.add("many", f"memory per guest, {port}", "KiB", [slope_kib])
