"""The benchmarks run and say what they found; how fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RUN = Path(__file__).parent / "bench" / "run.py"


def bench(path: Path, *words: str, **environment: str) -> tuple[str, list[dict[str, Any]]]:
    """The table and the figures of one run that had to succeed."""
    done = subprocess.run(
        [sys.executable, str(RUN), "--quick", "--json", str(path), *words],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())["figures"]


def test_what_needs_no_guest_is_measured_and_shown(tmp_path: Path) -> None:
    """Each figure has samples, quantiles in their order, and a line in the table."""
    table, figures = bench(tmp_path / "figures.json", "--only", "codec,decide")
    assert {figure["bench"] for figure in figures} == {"codec", "decide"}
    for figure in figures:
        assert figure["count"] > 0
        assert 0 < figure["median"] <= figure["p99"] <= figure["max"]
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
        [sys.executable, str(RUN), "--only", "codec,stepps"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "stepps" in done.stderr
    assert "steps" in done.stderr.replace("stepps", "")
