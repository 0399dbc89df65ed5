"""The benchmarks run and say what they found; how fast anything is, no test asks."""

from __future__ import annotations

import importlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from ballonet_guest_agent.loop import Loop
from ballonet_host_coord.qmp import QmpClient
from ballonet_host_coord.session import AgentSession
from ballonet_protocol import COORDINATOR, Connection, Demand, Hello, Limits

from .host_coord.test_qmp_hypervisor import FakeQemu

MIB = 1024
BENCH = Path(__file__).parent / "bench"
RUN = BENCH / "run.py"
PROBE = BENCH / "in_guest" / "probe.py"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a module of the benchmarks, which are scripts beside each other and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def bench(path: Path, *words: str, **environment: str) -> tuple[str, list[dict[str, Any]]]:
    """The table and the figures of one run that had to succeed."""
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--json", str(path), *words],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())["figures"]


def test_what_needs_no_guest_is_measured_and_shown(tmp_path: Path) -> None:
    """Each figure has samples, quantiles in their order, and a line in the table."""
    table, figures = bench(tmp_path / "figures.json", "--only", "codec,decide,imports,sample_cost")
    assert {figure["bench"] for figure in figures} == {"codec", "decide", "imports", "sample_cost"}
    for figure in figures:
        assert figure["count"] > 0
        assert 0 < figure["median"] <= figure["max"]
        assert figure["p99"] is None or figure["median"] <= figure["p99"] <= figure["max"]
        assert f"{figure['bench']}  " in table
        assert figure["name"] in table


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    """Without QEMU the figures of real guests are not left out: they carry the line that would install it."""
    table, figures = bench(tmp_path / "figures.json", "--only", "footprint,steps,latency", PATH="/nonexistent")
    assert [figure["bench"] for figure in figures] == ["footprint", "steps", "latency"]
    for figure in figures:
        assert figure["median"] is None
        assert "apt-get install" in figure["missing"]
    assert "qemu-system-x86" in table


def test_an_unknown_name_is_refused_before_anything_runs() -> None:
    """A mistyped name ends the run and names those that there are."""
    done = subprocess.run(
        [sys.executable, str(RUN), "--only", "codec,stepps"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "stepps" in done.stderr
    assert "steps" in done.stderr.replace("stepps", "")


def test_a_figure_of_few_samples_has_no_p99(module: Callable[[str], ModuleType]) -> None:
    """Below a hundred samples a 99th percentile is the maximum by another name, and is left out."""
    findings = module("figures").Findings()
    assert findings.add("b", "few", "ms", range(99)).p99 is None
    assert findings.add("b", "enough", "ms", range(1, 101)).p99 == 99


def test_a_ratio_says_how_many_samples_stand_behind_it(module: Callable[[str], ModuleType]) -> None:
    """In the table and in the JSON a ratio carries the number of samples of both sides."""
    findings = module("figures").Findings()
    over, under = findings.add("b", "over", "s", [4, 6, 8]), findings.add("b", "under", "s", [2, 3])
    findings.ratio("b", "over / under", over, under)
    assert findings.figures[-1].as_json()["of"] == [3, 2]
    assert "3:2    2.40" in findings.table()


def test_what_has_no_samples_never_goes_without_a_reason(module: Callable[[str], ModuleType]) -> None:
    """A figure without samples is marked, also where nobody thought of a reason."""
    findings = module("figures").Findings()
    assert findings.add("b", "nothing", "ms", []).missing == "no samples"


def test_every_demand_is_stamped_from_the_session_to_qmp(tmp_path: Path, module: Callable[[str], ModuleType]) -> None:
    """Through the real service and a real socket each DEMAND that moves the balloon gives one sample.

    What is wrapped has private names: this fails where one of them, or how QMP's commands are written, changes.
    """
    answers, house = module("answers"), module("house")
    settings = house.make_settings(tmp_path)
    (guest,) = settings.guests
    settings = replace(settings, guests=(replace(guest, qmp_path=str(tmp_path / "qmp"), maximum_kib=380 * MIB),))
    places = AgentSession.received, QmpClient._send
    stamps = answers.HostStamps()

    async def main() -> int:
        qemu = FakeQemu(str(tmp_path / "qmp"))
        qemu.actual_bytes = guest.minimum_kib * 1024
        qemu.ram_bytes = 380 * MIB * 1024

        async def actual_kib() -> int:
            return qemu.actual_bytes // 1024

        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(qemu.path)
            listening.listen()
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    await nursery.start(trio.serve_listeners, qemu.serve, [trio.SocketListener(listening)])
                    asked: int = await answers.ask(settings, str(tmp_path / "agent"), actual_kib, stamps)
                    nursery.cancel_scope.cancel()
        return asked

    asked = trio.run(main, strict_exception_groups=True)
    assert asked == stamps.received == stamps.settled == 9
    # On a machine that stands still for a second two of them share a command.
    assert asked // 2 < len(stamps.samples) <= asked
    assert min(stamps.samples) > 0
    assert (AgentSession.received, QmpClient._send) == places


def test_the_probe_stamps_the_real_daemons_demands(tmp_path: Path) -> None:
    """The agent's daemon under the probe asks when its guest is short, and each DEMAND written is in the file."""
    proc = tmp_path / "proc"
    (proc / "pressure").mkdir(parents=True)
    fixtures = Path(__file__).parent / "guest_agent" / "fixtures" / "linux-6.1"
    for name, place in (("meminfo", "meminfo"), ("vmstat", "vmstat")):
        (proc / place).write_text((fixtures / name).read_text())
    (tmp_path / "agent.conf").write_text(f"proc_root = {proc}\nlock_memory = no\nsettling_s = 0\n")
    words = [str(tmp_path / "found.json"), "--port", f"unix:{tmp_path}/port", "--config", str(tmp_path / "agent.conf")]
    with subprocess.Popen([sys.executable, str(PROBE), *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert next_demand(str(tmp_path / "port"), proc / "meminfo") is not None
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            said = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == 0, said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["triggers"] == []
    assert found["demands"]
    assert all(written > 0 and isinstance(why, int) for written, why in found["demands"])


def next_demand(path: str, meminfo: Path) -> Demand | None:
    """Talk to the agent at `path` as a coordinator; once it reports, its guest runs short. None: it never asked."""
    connection = Connection(COORDINATOR)
    hello = Hello(
        major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=("psi",), ram_bytes=4 << 30,
        limits=Limits(report_ms=250),
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(30)
        while host.connect_ex(path):
            select.select([], [], [], 0.05)
        host.sendall(connection.open_session(1, hello))
        while data := host.recv(65536):
            connection.receive_data(data)
            while (message := connection.next_message()) is not None:
                if isinstance(message, Demand):
                    return message
                short = [
                    f"{name}:       20000 kB" if name in ("MemAvailable", "MemFree") else line
                    for line in meminfo.read_text().splitlines()
                    for name in [line.partition(":")[0]]
                ]
                meminfo.write_text("\n".join(short) + "\n")
    return None


def test_the_probe_stamps_a_trigger_with_the_demand_that_it_caused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where epoll reports a trigger's event the probe notes it, with the DEMAND that left at once or with none."""
    specification = importlib.util.spec_from_file_location("probe", PROBE)
    assert specification is not None
    assert specification.loader is not None
    probe = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(probe)
    loop = object.__new__(probe.StampedLoop)
    loop._triggers = type("Triggers", (), {"fds": (5,)})()
    answers = [True, False]

    def take_pressure(self: Loop, events: list[tuple[int, int]]) -> None:
        if answers.pop(0):
            probe.found["demands"].append([10**18, 1])

    # Not with raising=False: where the loop has no such method, nothing is stamped.
    monkeypatch.setattr(Loop, "_take_pressure", take_pressure)
    for events in ([(5, select.EPOLLPRI)], [(5, select.EPOLLPRI)]):
        loop._take_pressure(events)
    assert [entry[1] for entry in probe.found["triggers"]] == [10**18, None]


def test_forms_of_a_recording_are_compared() -> None:
    """The script behind the design's table runs, and reads back what it recorded."""
    script = [sys.executable, str(BENCH / "recording.py"), "--guests", "2", "--seconds", "40"]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r" MB an hour", done.stdout)) == 7
