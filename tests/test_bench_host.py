"""The benchmark of many agents, with few of them: nothing is lost on the way, whatever the machine's speed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmarks are scripts beside each other and no package."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCH)
    yield importlib.import_module("host_many")
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("port", ["qmp", "libvirt"])
def test_nothing_is_lost_between_agents_and_coordinator(many: ModuleType, port: str) -> None:
    """Every session is live, every DEMAND that was written is heard and answered or kept, no frame is lost, and the
    calls to the hypervisor are counted."""
    load = many.Load(6, 0.5, 4.0, step_every_s=1.5, hold_s=(1.0, 2.0), quiet_s=0.0)
    course = many.play(load, port)
    assert course.last["guests"] == course.last["live"] == 6
    assert course.lost_frames == 0
    assert course.sent >= course.last["demands"] > 0
    # The last ones may be on their way when the coordinator is asked.
    assert course.sent - course.last["demands"] <= 6
    stamped = len(course.samples("at_once")) + len(course.samples("reclaimed"))
    assert 0 < stamped <= course.last["demands"]
    assert min([*course.samples("at_once"), *course.samples("reclaimed")]) > 0
    calls = course.calls()
    polled = "query-balloon" if port == "qmp" else "domainListGetStats"
    moved = "balloon" if port == "qmp" else "setMemoryFlags"
    prefix = "qmp " if port == "qmp" else ""
    assert calls[prefix + polled] > 0
    assert calls[prefix + moved] > 0
    assert course.grown("cpu_s") > 0
