"""The main job on real guests, as an operator runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KEYS = {"simulated", "accelerator", "budget_kib", "budget_exceeded_kib", "oom_kills", "guests"}
GUEST_KEYS = {"name", "demand_met", "seconds_to_usable", "deepest_shortage_kib", "stall_us", "refused"}


def test_two_real_guests_share_one_budget(image, tmp_path: Path):
    """`ballonet demo` meets both demands with real guests, never exceeds the budget, and says so to programs."""
    file = tmp_path / "verdict.json"
    command = [str(Path(sys.executable).with_name("ballonet")), "demo", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    verdict = json.loads(file.read_text())
    assert set(verdict) == KEYS
    assert verdict["simulated"] is False
    assert verdict["accelerator"] in ("kvm", "tcg")
    assert (verdict["budget_exceeded_kib"], verdict["oom_kills"]) == (0, 0)
    assert [guest["name"] for guest in verdict["guests"]] == ["alpha", "beta"]
    for guest in verdict["guests"]:
        assert set(guest) == GUEST_KEYS
        assert guest["demand_met"]
        assert 0 < guest["seconds_to_usable"] < 60
