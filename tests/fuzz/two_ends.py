"""An agent, a coordinator and the two bad lines between them, with a journal of what was said: what must always hold.

Each message that is sent carries a stamp of its own and goes into the journal with its session and its number. Whatever
the lines do, what arrives is held against the journal: it was said, in this session, by the other side, and nothing
comes twice or in another order. A session that an end takes up again after it had another counts as a new one: an end
remembers no session but its own, so the bytes of a dead host can be played to it once more, and SPEC says so.

Once `forge` has put in frames that no end sent, the journal is silent, and only the other rules hold.
"""

from __future__ import annotations

from collections.abc import Callable

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    BalloonAck,
    BalloonStatus,
    Bye,
    Connection,
    Deflate,
    Demand,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    LocalProtocolError,
    MemoryReport,
    Message,
    Ping,
    PolicyAck,
    Pong,
    RemoteProtocolError,
    Report,
    Role,
    SetPolicy,
    State,
)
from ballonet_protocol._framing import MAX_ENCODED_BYTES, FrameReader, encode_frame
from ballonet_protocol._state import RECEIVED, RECEIVES, SENDS, SENT, TRANSITIONS
from ballonet_protocol.testing import make_hello, make_hello_ack

PORT_READ_BYTES = 4096  # what one read() of a virtio port gives at most; no more ever waits unread here
MOST_ON_A_LINE = 4 * PORT_READ_BYTES
ROLES = (AGENT, COORDINATOR)
KINDS = tuple(MESSAGE_TYPES.values())
OTHER = {AGENT: COORDINATOR, COORDINATOR: AGENT}
_MEMORY = MemoryReport(total_bytes=4, free_bytes=3, available_bytes=2, committed_bytes=1)

# How each message carries its stamp. HELLO and HELLO_ACK have theirs where they are made.
STAMPED: dict[type[Message], Callable[[int], Message]] = {
    HelloReq: lambda stamp: HelloReq(why=stamp, implementation="two-ends"),
    Ping: lambda stamp: Ping(token=stamp),
    Pong: lambda stamp: Pong(re=1, token=stamp),
    Bye: lambda stamp: Bye(why=stamp),
    ErrorMessage: lambda stamp: ErrorMessage(code=stamp, fatal=False),
    Report: lambda stamp: Report(boottime_ms=stamp, memory=_MEMORY),
    Demand: lambda stamp: Demand(boottime_ms=stamp, want_bytes=1, why=1, severity=0),
    Inflate: lambda stamp: Inflate(gen=stamp, target_bytes=1, ttl_ms=5000),
    Deflate: lambda stamp: Deflate(gen=stamp, target_bytes=1, ttl_ms=5000),
    BalloonAck: lambda stamp: BalloonAck(re=1, gen=stamp, status=0, why=0),
    BalloonStatus: lambda stamp: BalloonStatus(gen=stamp, status=0, current_bytes=1, boottime_ms=1),
    SetPolicy: lambda stamp: SetPolicy(gen=stamp),
    PolicyAck: lambda stamp: PolicyAck(re=1, gen=stamp, status=0),
    Event: lambda stamp: Event(event="resume", boottime_ms=stamp),
}
FIRST_STAMP = 100  # above ErrorCode.UNKNOWN_SESSION, which would send an ERROR outside its session


class TwoEnds:
    """Two connections, the bytes under way to each, and the journal. Every method may be called in every situation."""

    def __init__(self) -> None:
        self.ends = {role: Connection(role) for role in ROLES}
        self.lines = {role: bytearray() for role in ROLES}  # under way to that role
        self.journal: dict[Message, tuple[Role, int, int]] = {}  # message -> sender, session, seq
        self.forged = False
        self.errors = 0
        self.received: list[Message] = []  # by either end, in a row
        self._unread_bytes = dict.fromkeys(ROLES, 0)
        self._last_sent = dict.fromkeys(ROLES, (0, 0))  # session, seq
        self._last_received = dict.fromkeys(ROLES, 0)
        self._hello: Hello | None = None
        self._stamp = FIRST_STAMP

    # --- what the ends do --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """The coordinator sends a HELLO with a session number and a nonce that were never there."""
        stamp = self._next_stamp()
        session = stamp * 0x9E3779B97F4A7C15 & (2**64 - 1) or 1  # an odd factor: no two stamps give the same
        hello = make_hello(nonce=session.to_bytes(8, "big") * 2, ram_bytes=stamp)
        coordinator = self.ends[COORDINATOR]
        wire = coordinator.open_session(session, hello)
        assert (coordinator.state, coordinator.session) == (State.HELLO_SENT, session)
        self._forget(COORDINATOR)
        self._write(COORDINATOR, hello, wire, session)

    def say(self, role: Role, kind: type[Message]) -> None:
        """That end sends a message of that type; where the table forbids it, nothing happens but LocalProtocolError."""
        end = self.ends[role]
        if kind is HelloAck:
            message: Message = make_hello_ack(self._hello or make_hello(), boottime_ms=self._next_stamp())
        elif kind is Hello:
            message = make_hello()
        else:
            message = STAMPED[kind](self._next_stamp())
        before, session = end.state, end.session
        may = kind is not Hello and kind in SENDS[role, before]
        try:
            wire = end.send(message)
        except LocalProtocolError:
            assert not may or (self.forged and kind is HelloAck), "cannot send what the table allows"
            assert (end.state, end.session) == (before, session)
            return
        assert may, "sent what the table forbids"
        assert end.state is TRANSITIONS.get((role, before, SENT, kind), before)
        self._write(role, message, wire, session)

    def restart(self, role: Role) -> None:
        """That end is another process from now on, which knows nothing. The bytes under way stay."""
        self.ends[role] = Connection(role)
        self._unread_bytes[role] = 0
        self._forget(role)
        if role is AGENT:
            self._hello = None

    def deliver(self, role: Role, length: int) -> None:
        """The next bytes under way to that end arrive there, at most one read() of them; they wait unread."""
        length = min(length, PORT_READ_BYTES)
        if self._unread_bytes[role] + length > PORT_READ_BYTES:
            self.read_all(role)
        line = self.lines[role]
        data = bytes(line[:length])
        del line[:length]
        self._unread_bytes[role] += len(data)
        self.receive_data(role, data)

    def read_all(self, role: Role) -> None:
        """That end reads until nothing more waits."""
        while self.read(role):
            pass
        self._unread_bytes[role] = 0
        assert self.held_bytes(role) <= MAX_ENCODED_BYTES

    def read(self, role: Role) -> bool:
        """That end reads one message. False when none waits."""
        end = self.ends[role]
        before, session = end.state, end.session
        try:
            message = self.next_message(role)
        except RemoteProtocolError as error:
            if not self.forged:
                raise AssertionError("one of two honest ends refuses a frame of the other") from error
            self.errors += 1
            if end.session != session:
                self._forget(role)
            answer = error.as_message()
            self._write(role, answer, end.send(answer), end.session)
            return True
        if message is None:
            assert (end.state, end.session) == (before, session)
            return False
        self.received.append(message)
        kind = type(message)
        assert kind in RECEIVES[role, before]
        assert end.state is TRANSITIONS.get((role, before, RECEIVED, kind), before)
        if isinstance(message, Hello):
            self._hello = message
            if end.session != session:
                self._forget(role)
            session = end.session
        if not self.forged:
            self._check_against_journal(role, message, session)
        return True

    def give_up_partial(self, role: Role) -> None:
        """That end gives up the frame that has begun, as it does after 2 s."""
        self.ends[role].discard_partial()
        assert not self.ends[role].has_partial

    def heed(self, role: Role) -> None:
        """That end does what frames of a foreign session ask for, if there were any: once."""
        end = self.ends[role]
        if end.take_unknown_session():
            assert end.stale_frames
            assert not end.take_unknown_session()
            if role is AGENT:
                self.say(AGENT, HelloReq)
            else:
                self.open()

    # --- what the lines do -------------------------------------------------------------------------------------------

    def lose(self, role: Role, place: int, length: int) -> None:
        """Bytes under way vanish: with place 0 a start in the middle, at the end a sender that died."""
        line = self.lines[role]
        place = place % (len(line) + 1)
        del line[place : place + length]

    def double(self, role: Role, place: int, length: int) -> None:
        """Bytes under way come twice: behind themselves."""
        line = self.lines[role]
        place = place % (len(line) + 1)
        again = line[place : place + min(length, PORT_READ_BYTES)]
        if len(line) + len(again) <= MOST_ON_A_LINE:
            line[place + len(again) : place + len(again)] = again

    def swap(self, role: Role, place: int, length: int) -> None:
        """Bytes change places with as many behind them."""
        line = self.lines[role]
        place = place % (len(line) + 1)
        first, second = line[place : place + length], line[place + length : place + 2 * length]
        line[place : place + 2 * length] = second + first

    def flip(self, role: Role, place: int, bit: int) -> None:
        """One bit under way turns over."""
        line = self.lines[role]
        if line:
            line[place % len(line)] ^= 1 << bit % 8

    def noise(self, role: Role, data: bytes) -> None:
        """Bytes that nobody sent, and that are no frame."""
        if len(self.lines[role]) + len(data) <= MOST_ON_A_LINE:
            self.lines[role] += data

    def forge(self, role: Role, type_code: int, flags: int, seq: int, payload: bytes, *, foreign: bool = False) -> None:
        """A whole frame that the other end did not send, in that end's session or another: a hostile peer."""
        self.forged = True
        session = self.ends[role].session ^ int(foreign)
        self.noise(role, encode_frame(type_code, flags, seq, session, payload))

    # --- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds in every situation."""
        for role, end in self.ends.items():
            assert (role, end.state) in SENDS
            assert (end.session == 0) == (end.state in (State.IDLE, State.CLOSED))
            assert end.state in (State.ACTIVE, State.CLOSED) or not end.capabilities
            assert self.held_bytes(role) <= MAX_ENCODED_BYTES + PORT_READ_BYTES
            assert len(self.lines[role]) <= MOST_ON_A_LINE + PORT_READ_BYTES

    def open_for_sure(self) -> None:
        """A fresh HELLO gets through whatever came before it, and a PING goes each way afterwards."""
        self.open()
        self._flush(AGENT)
        agent, coordinator = (self.ends[role] for role in ROLES)
        assert (agent.state, agent.session) == (State.HELLO_RECEIVED, coordinator.session)
        assert self._hello is not None
        self.say(AGENT, HelloAck)
        self._flush(COORDINATOR)
        assert (agent.state, coordinator.state) == (State.ACTIVE, State.ACTIVE)
        assert agent.session == coordinator.session
        for role in ROLES:
            self.say(role, Ping)
            (ping,) = [message for message in self.journal if isinstance(message, Ping)][-1:]
            self.received.clear()
            self._flush(OTHER[role])
            assert self.received.count(ping) == 1

    def held_bytes(self, role: Role) -> int:
        """What the reader of that end holds on to."""
        return len(self.ends[role]._reader._buffer)

    # --- how the library is called; a target measures here -----------------------------------------------------------

    def receive_data(self, role: Role, data: bytes) -> None:
        """Hands bytes to that end."""
        self.ends[role].receive_data(data)

    def next_message(self, role: Role) -> Message | None:
        """Asks that end for a message."""
        return self.ends[role].next_message()

    # --- the journal -------------------------------------------------------------------------------------------------

    def _next_stamp(self) -> int:
        self._stamp += 1
        return self._stamp

    def _forget(self, role: Role) -> None:
        """That end begins a session: numbers count from 1 again, in both directions."""
        self._last_sent[role] = (0, 0)
        self._last_received[role] = 0

    def _write(self, role: Role, message: Message, wire: bytes, session: int) -> None:
        """Notes a message and puts its frame on the line. Of a line that is full the oldest bytes are lost."""
        reader = FrameReader()
        reader.feed(wire)
        frame = reader.next_frame()
        assert frame is not None
        assert reader.next_frame() is None
        _version, _code, _flags, seq, session_sent, _payload = frame
        assert session_sent in (0, session)
        if session_sent:
            last_session, last_seq = self._last_sent[role]
            assert seq == (last_seq + 1 if last_session == session_sent else 1)
            self._last_sent[role] = (session_sent, seq)
        self.journal[message] = (role, session_sent, seq)
        line = self.lines[OTHER[role]]
        line += wire
        del line[:-MOST_ON_A_LINE]

    def _check_against_journal(self, role: Role, message: Message, session: int) -> None:
        assert message in self.journal, "nobody said this"
        sender, session_sent, seq = self.journal[message]
        assert sender is OTHER[role]
        assert message.seq == seq
        if session_sent == 0:  # numbered apart and unchecked; comes twice when the line doubles it
            assert isinstance(message, (HelloReq, ErrorMessage))
            return
        assert session_sent == session, "a message of another session"
        if not isinstance(message, Hello):  # a HELLO may come again
            assert seq > self._last_received[role], "twice, or in another order"
        self._last_received[role] = max(seq, self._last_received[role])

    def _flush(self, role: Role) -> None:
        while self.lines[role]:
            self.deliver(role, PORT_READ_BYTES)
            self.read_all(role)
        self.read_all(role)
