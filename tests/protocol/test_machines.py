"""Two ends and two bad lines, driven by hypothesis: whatever happens between them, what two_ends.py checks holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from two_ends import KINDS, PORT_READ_BYTES, ROLES, TwoEnds

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    Bye,
    Connection,
    HelloAck,
    Ping,
    RemoteProtocolError,
    Report,
    Role,
    State,
    _connection,
)
from ballonet_protocol._framing import FrameReader
from ballonet_protocol._state import RECEIVES

roles = st.sampled_from(ROLES)
kinds = st.sampled_from(KINDS)
places = st.integers(0, 3 * PORT_READ_BYTES)
lengths = st.integers(0, 80) | st.integers(0, PORT_READ_BYTES)
# Some 2 s each, and fewer in the matrix; the fuzzer goes on from here.
FEW = settings(max_examples=min(50, settings().max_examples), stateful_step_count=40)


class HonestEnds(RuleBasedStateMachine):
    """Both ends speak by the table; the lines lose, repeat, swap and damage; either end may be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = TwoEnds()

    @initialize(in_session=st.booleans())
    def begin(self, in_session: bool) -> None:
        """Half of the runs begin in session: most of what can go wrong goes wrong there."""
        if in_session:
            self.ends.open_for_sure()

    @rule()
    def open(self) -> None:
        """The coordinator opens a session, which may be lost."""
        self.ends.open()

    @rule(role=roles, kind=kinds)
    def say(self, role: Role, kind: type[Any]) -> None:
        """An end sends any message, allowed or not."""
        self.ends.say(role, kind)

    @rule(role=roles, number=st.integers(1, 6))
    def say_several(self, role: Role, number: int) -> None:
        """An end sends what may be sent in session, so that the line has something to spoil."""
        for _ in range(number):
            self.ends.say(role, Report if role is AGENT else Ping)

    @rule()
    def handshake(self) -> None:
        """What is under way to the agent arrives, and it answers."""
        self.exchange(AGENT)
        self.ends.say(AGENT, HelloAck)

    @rule(role=roles)
    def exchange(self, role: Role) -> None:
        """All that is under way to an end arrives and is read."""
        while self.ends.lines[role]:
            self.ends.deliver(role, PORT_READ_BYTES)
        self.ends.read_all(role)

    @rule(role=roles, length=lengths)
    def deliver(self, role: Role, length: int) -> None:
        """A portion arrives and waits."""
        self.ends.deliver(role, length)

    @rule(role=roles)
    def read(self, role: Role) -> None:
        """An end reads one message."""
        self.ends.read(role)

    @rule(role=roles, place=places, length=lengths)
    def lose(self, role: Role, place: int, length: int) -> None:
        """Bytes vanish."""
        self.ends.lose(role, place, length)

    @rule(role=roles, place=places, length=lengths)
    def double(self, role: Role, place: int, length: int) -> None:
        """Bytes come twice: a HELLO is repeated, a dead host's bytes come again."""
        self.ends.double(role, place, length)

    @rule(role=roles, place=places, length=lengths)
    def swap(self, role: Role, place: int, length: int) -> None:
        """Bytes come in another order."""
        self.ends.swap(role, place, length)

    @rule(role=roles, place=places, bit=st.integers(0, 7))
    def flip(self, role: Role, place: int, bit: int) -> None:
        """A bit turns over."""
        self.ends.flip(role, place, bit)

    @rule(role=roles, data=st.binary(max_size=60) | st.integers(0, 5000).map(lambda length: b"\x05" * length))
    def noise(self, role: Role, data: bytes) -> None:
        """Bytes come from nowhere."""
        self.ends.noise(role, data)

    @rule(role=roles)
    def give_up_partial(self, role: Role) -> None:
        """The rest of a frame did not come in time."""
        self.ends.give_up_partial(role)

    @rule(role=roles)
    def restart(self, role: Role) -> None:
        """An end is another process from now on."""
        self.ends.restart(role)

    @rule(role=roles)
    def heed(self, role: Role) -> None:
        """An end heeds frames of a foreign session."""
        self.ends.heed(role)

    @rule()
    def open_for_sure(self) -> None:
        """A fresh HELLO gets through."""
        self.ends.open_for_sure()

    @invariant()
    def holds(self) -> None:
        """What holds in every situation."""
        self.ends.check()

    def teardown(self) -> None:
        """Every run ends in step, whatever came before."""
        self.ends.open_for_sure()
        self.ends.check()


class HostileLine(HonestEnds):
    """The same with whole frames that no end sent: nothing can be said of the messages, everything else still holds."""

    @rule(
        role=roles,
        code=st.sampled_from(sorted(MESSAGE_TYPES)) | st.integers(0, 255),
        flags=st.sampled_from((0, 1, 2, 3, 0x80, 0x0100, 0x8001)),
        seq=st.integers(0, 9) | st.integers(0, 2**32 - 1),
        payload=st.binary(max_size=40) | st.just(b"\x80"),
        foreign=st.booleans(),
    )
    def forge(self, role: Role, code: int, flags: int, seq: int, payload: bytes, foreign: bool) -> None:
        """A frame with a right CRC and anything else."""
        self.ends.forge(role, code, flags, seq, payload, foreign=foreign)


@pytest.mark.parametrize("machine", [HonestEnds, HostileLine])
def test_two_ends(machine: type[RuleBasedStateMachine]) -> None:
    """Whatever two ends say and two lines do to it, the wire keeps its promises and a fresh HELLO gets through."""
    run_state_machine_as_test(machine, settings=FEW)


# --- the machine sees what it is there for ---------------------------------------------------------------------------


def _in_session() -> TwoEnds:
    ends = TwoEnds()
    ends.open_for_sure()
    return ends


def _exchange(ends: TwoEnds, role: Role) -> None:
    while ends.lines[role]:
        ends.deliver(role, PORT_READ_BYTES)
        ends.read_all(role)


def _repeat(ends: TwoEnds) -> None:
    ends.say(COORDINATOR, Ping)
    ends.double(AGENT, 0, PORT_READ_BYTES)
    _exchange(ends, AGENT)


def _stale(ends: TwoEnds) -> None:
    ends.say(AGENT, Report)
    ends.open()
    _exchange(ends, COORDINATOR)


def _cut(ends: TwoEnds) -> None:
    ends.say(COORDINATOR, Ping)
    ends.lose(AGENT, 10, PORT_READ_BYTES)
    ends.open_for_sure()


def _endless(ends: TwoEnds) -> None:
    ends.noise(AGENT, b"\x05" * 3 * PORT_READ_BYTES)
    _exchange(ends, AGENT)


def _damage(ends: TwoEnds) -> None:
    for place in range(30):
        ends.say(COORDINATOR, Ping)
        ends.flip(AGENT, place, 0)
        _exchange(ends, AGENT)


def _unasked(ends: TwoEnds) -> None:
    ends.say(AGENT, Bye)
    ends.say(AGENT, Report)


def _take_every_number(connection: Connection, seq: int) -> bool:
    return True


def _take_every_session(connection: Connection, *parts: Any) -> Any:
    connection.session = parts[4]
    connection.state = State.ACTIVE
    return _RECEIVE_FRAME(connection, *parts)


def _without_leading_zero(*parts: Any) -> bytes:
    return _ENCODE_FRAME(*parts)[1:]


def _raise(connection: Connection, *parts: Any) -> None:
    raise RemoteProtocolError(_connection.ErrorCode.INTERNAL, None, "always")


_RECEIVE_FRAME = Connection._receive_frame
_ENCODE_FRAME = _connection.encode_frame
EVERYTHING = dict.fromkeys(RECEIVES, frozenset(MESSAGE_TYPES.values()))


@pytest.mark.parametrize(
    ("script", "where", "name", "broken"),
    [
        (_repeat, Connection, "_is_new", _take_every_number),
        (_stale, Connection, "_receive_frame", _take_every_session),
        (_cut, _connection, "encode_frame", _without_leading_zero),
        (_endless, FrameReader, "_partial_bytes", lambda reader: 0),
        (_damage, "ballonet_protocol._framing", "crc32", lambda body: 0),
        (_unasked, _connection, "SENDS", EVERYTHING),
        (_repeat, Connection, "_receive_frame", _raise),
    ],
    ids=["repeated", "stale", "leading zero", "endless", "crc", "table", "refusal"],
)
def test_a_broken_library_is_noticed(
    script: Callable[[TwoEnds], None], where: Any, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each promise, taken out of the library, ends a run that passes with it."""
    script(_in_session())
    ends = _in_session()
    if isinstance(where, str):
        monkeypatch.setattr(f"{where}.{name}", broken)
    else:
        monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        script(ends)
