"""The demo without QEMU: the same play on virtual time, and once as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from ballonet_host_coord.demo.simulated import run_simulated
from ballonet_host_coord.demo.table import Screen


def test_the_simulated_play_holds(capsys, caplog):
    """Both demands are met on a budget smaller than the maximums, and it is never exceeded from QEMU's start on."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    verdict = trio.run(run_simulated, Screen(), False, clock=clock, strict_exception_groups=True)
    assert verdict.holds
    assert "another mover" not in caplog.text
    assert verdict.budget_kib < verdict.promised_kib
    assert verdict.simulated
    assert "no QEMU" in capsys.readouterr().out.splitlines()[0]
    assert all(len(guest.steps_s) == 3 for guest in verdict.guests)


@pytest.mark.slow
def test_the_command_as_a_person_runs_it(tmp_path: Path):
    """`ballonet demo --simulated` needs nothing but Python, says what it is first, and takes under a minute."""
    file = tmp_path / "verdict.json"
    command = [str(Path(sys.executable).with_name("ballonet")), "demo", "--simulated", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "simulated guests" in done.stdout.splitlines()[0]
    assert json.loads(file.read_text())["oom_kills"] == 0
