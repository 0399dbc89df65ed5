"""The engine's stand-in, in the place where everything meets the real one."""

from __future__ import annotations

import pytest

from ballonet_host_coord.simulate import cli, runs

from .fakes import FakeJoined


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeJoined:
    fake = FakeJoined()
    for module in (cli, runs):
        monkeypatch.setattr(module, "joined", fake)
    runs._loaded.cache_clear()
    yield fake
    runs._loaded.cache_clear()
