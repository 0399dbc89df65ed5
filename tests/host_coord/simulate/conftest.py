"""The engine's stand-in, a trace file and a recording."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.host_coord.builders import GIB, MIB, make_demand, make_guest, make_report, make_snapshot, make_vm

from ballonet_host_coord.model import Booking, RunState
from ballonet_host_coord.recorder import FileRecorder
from ballonet_host_coord.simulate import runs, sources
from ballonet_host_coord.snapshot import snapshot_to_json

from .fakes import FakeScore


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeScore:
    fake = FakeScore()
    monkeypatch.setattr(runs, "score", fake)
    return fake


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Three machines that start an hour apart; each uses 1 GiB, then 3 of its 4, and exists for two hours."""
    rows = [
        f"vm{n},{n * 3600 + s},{gib << 20},{4 << 20}" for n in range(3) for s, gib in ((0, 1), (1800, 3), (5400, 3))
    ]
    sources.load.cache_clear()
    path = tmp_path / "house.csv"
    path.write_text("\n".join(["vm,t_s,used_kib,provisioned_kib", *rows]) + "\n")
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Ten minutes of two guests of 1 GiB under 2 GiB, slider 60: alpha grows, beta goes and comes; its end is torn."""
    path, wall_s = tmp_path / "day.ballonet", 0.0
    recorder = FileRecorder(str(path), wall=lambda: 1.795e9 + wall_s)
    for number in range(601):
        wall_s = float(number)
        alpha = using("alpha", 300 if number < 300 else 700, buffer_percent=35)
        beta = using("beta", 200, run_state=RunState.SHUTDOWN if 200 <= number < 400 else RunState.RUNNING)
        snapshot = make_snapshot(alpha, beta, now_s=1000 + wall_s, budget_kib=2 * GIB, headroom_kib=32 * MIB)
        snapshot = replace(snapshot, host=replace(snapshot.host, slider=60))
        recorder.record("turn", snapshot.now_s, {"snapshot": snapshot_to_json(snapshot), "decision": {}})
    recorder.close()
    path.write_bytes(path.read_bytes()[:-5])
    sources._known.clear()
    return path


def using(name: str, use_mib: int, run_state=RunState.RUNNING, **settings):
    """A guest of which QEMU itself takes 96 MiB."""
    return make_guest(
        name, demand=make_demand(use_mib * MIB), vm=make_vm(run_state=run_state), report=make_report(),
        booking=Booking(512 * MIB, 96 * MIB, claimed=False), settings=settings,
    )  # fmt: skip
