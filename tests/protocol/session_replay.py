"""Plays the scripts of sessions.json, as their README says, to our agent's core and our coordinator's session.

Time is virtual: a unit under test says when it wants to be woken, and the interpreter moves its clock there.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from typing import Any, Protocol

from msgpack import unpackb
from tests.guest_agent.conftest import BOOT_ID, Guest

from ballonet_guest_agent.actions import Identity, Instant, SetTriggers, TakeSample, Write
from ballonet_guest_agent.agent import Agent
from ballonet_guest_agent.config import AgentSettings

from .vector_bytes import TYPES, body, pack, plain, uncobs, unplain, wire

NAMES = {code: name for name, (code, *_) in TYPES.items()}
SLACK_MS = 2  # a deadline in seconds is no whole number of milliseconds


class Broken(AssertionError):
    """The unit under test did what its script forbids, or not what it demands."""


class Unit(Protocol):
    """What a script is played to."""

    def receive(self, data: bytes) -> None: ...
    def advance(self, most_ms: float) -> float:
        """Let time pass up to the unit's next deadline, at most so long; how long it was."""

    def act(self, what: dict[str, Any]) -> None: ...
    def take(self) -> list[bytes]:
        """What was written since the last time, in pieces of any size."""


class AgentUnit:
    """Our agent's core with a simulated guest."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.guest = Guest(given["ram"] // 1024)
        self.guest.has_psi = given["psi"]
        self.agent = Agent(AgentSettings(floor_kib=given["floor"] // 1024), Identity(BOOT_ID, has_psi_trigger=True))
        self._now_s = self._woken_s = given["boottime_ms"] / 1000
        self._written: list[bytes] = []
        self._portion = 0
        self.act({"size": given["size"]})
        self.act({"connect": True})

    @property
    def _now(self) -> Instant:
        return Instant(self._now_s, self._woken_s)

    def _do(self, actions: list[Any]) -> None:
        todo = list(actions)
        while todo:
            action = todo.pop(0)
            if isinstance(action, Write):
                self._written.append(action.data)
            elif isinstance(action, TakeSample):
                todo = self.agent.sampled(self.guest.sample(), self._now) + todo
            elif isinstance(action, SetTriggers):
                continue

    def receive(self, data: bytes) -> None:
        size = self._portion or max(1, len(data))
        for start in range(0, len(data), size):
            self._do(self.agent.received(data[start : start + size], self._now))

    def advance(self, most_ms: float) -> float:
        deadline_s = self.agent.deadline_s(self._now)
        passed_s = min(most_ms / 1000, most_ms / 1000 if deadline_s is None else deadline_s)
        self._now_s += passed_s
        self._woken_s += passed_s
        self._do(self.agent.tick(self._now))
        return passed_s * 1000

    def act(self, what: dict[str, Any]) -> None:
        ((name, value),) = what.items()
        if name == "connect":
            self._do(self.agent.connected(self._now))
        elif name == "disconnect":
            self._do(self.agent.disconnected(self._now))
        elif name == "stall":
            self._do(self.agent.pressed(value, self._now))
        elif name == "size":
            change_kib = self.guest.size_kib - value // 1024
            (self.guest.inflate if change_kib > 0 else self.guest.deflate)(abs(change_kib))
        elif name == "sleep_ms":
            self._woken_s += value / 1000
            self._do(self.agent.tick(self._now))
        elif name == "portions":
            self._portion = value
        else:
            raise LookupError(name)

    def take(self) -> list[bytes]:
        written, self._written = self._written, []
        return written


class Replay:
    """One script, played to one unit."""

    def __init__(self, script: dict[str, Any], unit: Unit) -> None:
        self.script = script
        self.unit = unit
        self.now_ms = 0.0
        self.variables: dict[str, Any] = {}
        self.waiting: list[dict[str, Any]] = []  # frames that no `<` has looked at
        self.tally: Counter[str] = Counter()  # since the last `#`
        self._seq: Counter[int] = Counter()

    def run(self) -> None:
        """Raises Broken at the first step that does not hold."""
        for number, step in enumerate(self.script["steps"]):
            self._numbered(number, step)

    def _numbered(self, number: int, step: dict[str, Any]) -> None:
        try:
            self._step(step)
        except Broken as broken:
            raise Broken(f"{self.script['id']}, step {number} {step}: {broken}") from None

    def _step(self, step: dict[str, Any]) -> None:
        self._listen()
        if ">" in step:
            self.unit.receive(bytes.fromhex(step["wire"]) if "wire" in step else self._frame(step[">"]))
        elif "<" in step:
            self._expect(step)
        elif "." in step:
            before = Counter(self.tally)
            self._pass(step["."])
            _check_counts(self.tally - before, step.get("count", {}))
        elif "!" in step:
            self.unit.act(step["!"])
        else:
            _check_counts(self.tally, step["#"])
            self.tally.clear()
        self._listen()

    def _pass(self, ms: float, until: Any = None) -> bool:
        """Lets `ms` pass, or less when `until` holds."""
        end_ms = self.now_ms + ms
        for _ in range(100_000):
            if until is not None and until():
                return True
            left_ms = end_ms - self.now_ms
            if left_ms <= 0:
                return False
            self.now_ms = min(end_ms, self.now_ms + self.unit.advance(left_ms))
            if left_ms < 1e-6:
                self.now_ms = end_ms
            self._listen()
        raise Broken("the unit's clock does not move on")

    def _expect(self, step: dict[str, Any]) -> None:
        patterns = step["<"] if isinstance(step["<"], list) else [step["<"]]
        seen: list[Any] = []

        def found() -> bool:
            while self.waiting:
                frame = self.waiting.pop(0)
                seen.append(frame)
                if any(self._matches(pattern, frame) for pattern in patterns):
                    for name, path in step.get("bind", {}).items():
                        self.variables[name] = _look_up(frame, path)
                    return True
                if not step.get("skip") and any(self._same_kind(pattern, frame) for pattern in patterns):
                    raise Broken(f"another {frame['type']} came: {frame}")
            return False

        if not found() and not self._pass(step["within_ms"] + SLACK_MS, found):
            raise Broken(f"nothing of the kind within {step['within_ms']} ms, but {seen}")

    def _matches(self, pattern: dict[str, Any], frame: dict[str, Any]) -> bool:
        return self._same_kind(pattern, frame) and all(
            self._agrees(wanted, frame["payload"].get(key)) for key, wanted in pattern.get("payload", {}).items()
        )

    def _same_kind(self, pattern: dict[str, Any], frame: dict[str, Any]) -> bool:
        same_session = "session" not in pattern or self._value(pattern["session"]) == frame["session"]
        return pattern["type"] == frame["type"] and same_session

    def _agrees(self, wanted: Any, value: Any) -> bool:
        if isinstance(wanted, dict) and wanted and wanted.keys() <= {"min", "max"}:
            return type(value) is int and wanted.get("min", 0) <= value <= wanted.get("max", 2**53)
        return bool(self._value(wanted) == value) and type(self._value(wanted)) is type(value)

    def _value(self, value: Any) -> Any:
        return self.variables[value[1:]] if isinstance(value, str) and value.startswith("$") else value

    def _frame(self, parts: dict[str, Any]) -> bytes:
        payload = unplain({key: self._value(value) for key, value in self._value(parts["payload"]).items()})
        code, seq, session = TYPES[parts["type"]][0], self._value(parts["seq"]), int(self._value(parts["session"]), 16)
        return wire(body(code, pack(payload), parts["flags"], seq, session))

    # ---- what the unit says

    def _listen(self) -> None:
        for piece in self.unit.take():
            if piece and (piece[0] or piece[-1]):
                raise Broken(f"no zero before or behind {piece.hex()}")
            for encoded in filter(None, piece.split(b"\0")):
                frame = self._understand(encoded)
                self.waiting.append(frame)
                self.tally[frame["type"]] += 1

    def _understand(self, encoded: bytes) -> dict[str, Any]:
        """A frame as the scripts write it; whatever a script says, it has to be a good one."""
        whole = uncobs(encoded)
        version, code, flags, seq, session = struct.unpack_from(">BBHIQ", whole)
        if len(encoded) > 4094 or len(whole) > 4064:
            raise Broken("a frame that is too long")
        if (version, whole[-4:]) != (1, struct.pack(">I", zlib.crc32(whole[:-4]))):
            raise Broken(f"version {version}, or a wrong CRC")
        name = NAMES[code]
        payload = plain(unpackb(whole[16:-4]))
        if flags != (0 if name == "ERROR" and "re" not in payload else TYPES[name][1]):
            raise Broken(f"{name} with flags {flags}")
        if session:
            self._seq[session] = 1 if name == "HELLO" else self._seq[session] + 1
            if name == "HELLO_ACK" and self.script["role"] == "agent" and seq == 1:
                self._seq[session] = 1  # a session that is opened once more
            if seq != self._seq[session]:
                raise Broken(f"{name} has seq {seq}, not {self._seq[session]}")
        return {"type": name, "flags": flags, "seq": seq, "session": f"{session:016x}", "payload": payload}


def replay_session(script: dict[str, Any]) -> Replay:
    """Plays a script to our own peer of its role. Raises Broken."""
    replay = Replay(script, _unit(script))
    replay.run()
    return replay


def _unit(script: dict[str, Any]) -> Unit:
    if script["role"] == "agent":
        return AgentUnit(script["given"])
    from .session_coordinator import CoordinatorUnit  # it runs on fewer Pythons than the agent

    return CoordinatorUnit(script["given"])


def _check_counts(tally: Counter[str], bounds: dict[str, list[int]]) -> None:
    for kind, (least, most) in bounds.items():
        if not least <= tally[kind] <= most:
            raise Broken(f"{tally[kind]} {kind}, not {least} to {most}; in all {dict(tally)}")


def _look_up(frame: dict[str, Any], path: str) -> Any:
    value: Any = frame
    for part in path.split("."):
        value = value[part]
    return value
