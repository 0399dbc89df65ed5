"""The fuzz target over sessions: an input is a script for two ends and the two lines between them.

One byte names a step and the end that it concerns, the bytes behind it are the step's numbers. After the script a fresh
HELLO must get through. What must hold meanwhile is in two_ends.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from two_ends import KINDS, PORT_READ_BYTES, ROLES, TwoEnds

from ballonet_protocol import Message, Role

MOST_STEPS = 400
CHECKS_EVERY = 8  # steps


class Script:
    """The bytes of an input, handed out as numbers; past the end all are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def at_end(self) -> bool:
        """True when nothing is left."""
        return self._place >= len(self._data)

    def byte(self) -> int:
        """One number of 0..255."""
        return self.octets(1)[0]

    def number(self) -> int:
        """One number of 0..65535."""
        return int.from_bytes(self.octets(2), "big")

    def octets(self, length: int) -> bytes:
        """The next bytes."""
        part = self._data[self._place : self._place + length]
        self._place += length
        return part.ljust(length, b"\0")


class TimedEnds(TwoEnds):
    """Two ends that know how long the slowest portion took, from its arrival until it was read."""

    slowest_s = 0.0
    _portion_s = 0.0

    def receive_data(self, role: Role, data: bytes) -> None:
        """Times the call; a new portion begins."""
        began_s = time.thread_time()
        super().receive_data(role, data)
        self._portion_s = time.thread_time() - began_s
        self.slowest_s = max(self.slowest_s, self._portion_s)

    def next_message(self, role: Role) -> Message | None:
        """Times the call, also when it raises."""
        began_s = time.thread_time()
        try:
            return super().next_message(role)
        finally:
            self._portion_s += time.thread_time() - began_s
            self.slowest_s = max(self.slowest_s, self._portion_s)


def _exchange(ends: TwoEnds, role: Role, script: Script) -> None:
    """All that is under way to one end arrives and is read."""
    while ends.lines[role]:
        ends.deliver(role, PORT_READ_BYTES)
        ends.read_all(role)


def _forge(ends: TwoEnds, role: Role, script: Script) -> None:
    kind = script.byte()
    flags, seq, foreign = script.number(), script.number(), script.byte() & 1
    ends.forge(role, kind, flags, seq << 16 | seq, script.octets(script.byte()), foreign=bool(foreign))


Step = Callable[[TwoEnds, Role, Script], None]
STEPS: dict[str, Step] = {
    "open": lambda ends, role, script: ends.open(),
    "say": lambda ends, role, script: ends.say(role, KINDS[script.byte() % len(KINDS)]),
    "exchange": _exchange,
    "deliver": lambda ends, role, script: ends.deliver(role, script.byte()),
    "read": lambda ends, role, script: ends.read(role) and None,
    "read all": lambda ends, role, script: ends.read_all(role),
    "lose": lambda ends, role, script: ends.lose(role, script.number(), script.byte()),
    "double": lambda ends, role, script: ends.double(role, script.number(), script.number()),
    "swap": lambda ends, role, script: ends.swap(role, script.number(), script.byte()),
    "flip": lambda ends, role, script: ends.flip(role, script.number(), script.byte()),
    "noise": lambda ends, role, script: ends.noise(role, script.octets(1) * script.number()),
    "give up": lambda ends, role, script: ends.give_up_partial(role),
    "restart": lambda ends, role, script: ends.restart(role),
    "open for sure": lambda ends, role, script: ends.open_for_sure(),
    "forge": _forge,
    "heed": lambda ends, role, script: ends.heed(role),
}
NAMES = tuple(STEPS)


def step(name: str, role: Role = ROLES[0], *numbers: int | bytes) -> bytes:
    """One step as bytes; numbers below 256 take one byte, so give a step's larger ones as bytes."""
    code = NAMES.index(name) << 1 | ROLES.index(role)
    return bytes((code,)) + b"".join(n if isinstance(n, bytes) else bytes((n,)) for n in numbers)


def one_input(data: bytes) -> float:
    """Runs one input; returns the CPU seconds of its slowest 4 KiB.

    Raises AssertionError for a finding, and lets pass through whatever the library should not have raised.
    """
    ends = TimedEnds()
    script = Script(data)
    steps = 0
    while not script.at_end and steps < MOST_STEPS:
        code = script.byte()
        STEPS[NAMES[(code >> 1) % len(NAMES)]](ends, ROLES[code & 1], script)
        steps += 1
        if steps % CHECKS_EVERY == 0:
            ends.check()
    ends.check()
    ends.open_for_sure()
    ends.check()
    return ends.slowest_s
