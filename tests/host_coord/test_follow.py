"""`ballonet record`'s loop on virtual time: each turn once, a coordinator that is away is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from ballonet_host_coord import follow
from ballonet_host_coord.control import Unreachable
from ballonet_host_coord.follow import Follower
from ballonet_host_coord.recorder import FileRecorder, read_recording


class Service:
    """Stands for the control socket: a turn every `turn_s`, none while it is away."""

    def __init__(self, turn_s: float = 1.0) -> None:
        self.turn_s = turn_s
        self.away: tuple[float, float] = (0.0, 0.0)
        self.began_s = 0.0

    async def request(self, path: str, operation: str) -> Any:
        assert (path, operation) == ("socket", "snapshot")
        passed_s = trio.current_time() - self.began_s
        if self.away[0] < passed_s < self.away[1]:
            raise Unreachable("no coordinator runs")
        return {"snapshot": {"now_s": passed_s // self.turn_s}, "decision": {}}


def followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service, for_s: float
) -> tuple[list[float], list[str], Follower]:
    monkeypatch.setattr(follow, "request", service.request)
    said: list[str] = []
    path = str(tmp_path / "recording")
    follower = Follower("socket", recorder := FileRecorder(path), said.append)

    async def main() -> None:
        service.began_s = trio.current_time()
        await follower.run(for_s)

    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)
    finally:
        recorder.close()
    return [entry.now_s for entry in read_recording(path)], said, follower


def test_each_turn_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that has not turned since is not recorded twice, and the end comes when it was said."""
    turns, said, follower = followed(tmp_path, monkeypatch, Service(turn_s=2.0), for_s=9.5)
    assert (turns, said, follower.turns) == ([0.0, 1.0, 2.0, 3.0, 4.0], [], 5)


def test_coordinator_that_restarts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody answers that is said once, and the recording goes on afterwards."""
    service = Service()
    service.away = (2.5, 6.5)
    turns, said, _ = followed(tmp_path, monkeypatch, service, for_s=8.5)
    assert turns == [0.0, 1.0, 2.0, 7.0, 8.0]
    assert said == ["no coordinator runs; waiting for it", "the coordinator answers again"]


def test_nobody_at_the_beginning_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who records with no coordinator there learns it at once."""
    service = Service()
    service.away = (-1.0, 1.0)
    with pytest.raises(Unreachable):
        followed(tmp_path, monkeypatch, service, for_s=5)
