"""A recording of a small host, as `ballonet serve` would have written it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.host_coord.builders import GIB, MIB, make_demand, make_guest, make_report, make_snapshot, make_vm

from ballonet_host_coord.model import Booking, GuestSnapshot, RunState
from ballonet_host_coord.recorder import FileRecorder
from ballonet_host_coord.snapshot import snapshot_to_json


def write_recording(path: Path) -> None:
    """Ten minutes of two guests of 1 GiB under 2 GiB, slider 60: alpha grows, beta goes and comes; the end is torn."""
    wall_s = 0.0
    recorder = FileRecorder(str(path), wall=lambda: 1.795e9 + wall_s)
    for number in range(601):
        wall_s = float(number)
        alpha = _using("alpha", 300 if number < 300 else 700, buffer_percent=35)
        beta = _using("beta", 200, run_state=RunState.SHUTDOWN if 200 <= number < 400 else RunState.RUNNING)
        snapshot = make_snapshot(alpha, beta, now_s=1000 + wall_s, budget_kib=2 * GIB, headroom_kib=32 * MIB)
        snapshot = replace(snapshot, host=replace(snapshot.host, slider=60))
        recorder.record("turn", snapshot.now_s, {"snapshot": snapshot_to_json(snapshot), "decision": {}})
    recorder.close()
    path.write_bytes(path.read_bytes()[:-5])


def _using(name: str, use_mib: int, run_state: RunState = RunState.RUNNING, **settings: Any) -> GuestSnapshot:
    """A guest of which QEMU itself takes 96 MiB."""
    return make_guest(
        name, demand=make_demand(use_mib * MIB), vm=make_vm(run_state=run_state), report=make_report(),
        booking=Booking(512 * MIB, 96 * MIB, claimed=False), settings=settings,
    )  # fmt: skip
