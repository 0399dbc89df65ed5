"""The engine's stand-in, and a trace file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_host_coord.simulate import runs, sources

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
