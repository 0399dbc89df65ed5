"""What the scripts of sessions.json for a coordinator are played to: our coordinator's session with one agent."""

from __future__ import annotations

from typing import Any

from tests.host_coord.builders import CountedRandomness

from ballonet_host_coord.session import AgentSession


class CoordinatorUnit:
    """Our coordinator's session with one agent."""

    def __init__(self, _given: dict[str, Any]) -> None:
        self.session = AgentSession(CountedRandomness())
        self._now_s = 0.0
        self.session.attached(1024 * 1024, 0.0)

    def receive(self, data: bytes) -> None:
        self.session.received(data, self._now_s)

    def advance(self, most_ms: float) -> float:
        end_s = min(self._now_s + most_ms / 1000, max(self._now_s, self.session.deadline_s()))
        passed_s, self._now_s = end_s - self._now_s, end_s
        self.session.tick(self._now_s)
        return passed_s * 1000

    def act(self, what: dict[str, Any]) -> None:
        ((name, value),) = what.items()
        if name == "inflate":
            sizes = (value["target"] // 1024, value["floor"] // 1024, value["rate"] // 1024)
            self.session.ask_inflate(value["gen"], *sizes, self._now_s)
        elif name == "deflate":
            self.session.tell_deflate(value["gen"], value["target"] // 1024, self._now_s)
        elif name == "stop":
            self.session.goodbye(self._now_s)
        else:
            raise LookupError(name)

    def take(self) -> list[bytes]:
        return [self.session.take_output()]
