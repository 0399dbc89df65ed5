"""The engine's stand-in, a trace file and a recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_host_coord.simulate import runs, sources

from .fakes import FakeScore
from .recorded import write_recording


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
    """`write_recording`, which nobody has read yet."""
    path = tmp_path / "day.ballonet"
    write_recording(path)
    sources._known.clear()
    return path
