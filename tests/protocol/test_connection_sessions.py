"""Sessions: how they begin, what ends them, and what becomes of frames that belong to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgpack import packb

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    Bye,
    Connection,
    Deflate,
    Drops,
    ErrorCode,
    ErrorMessage,
    Hello,
    HelloReq,
    Inflate,
    Limits,
    LocalProtocolError,
    MemoryReport,
    Message,
    Ping,
    RemoteProtocolError,
    Report,
    Role,
    State,
)
from ballonet_protocol._codec import encode_message
from ballonet_protocol._framing import FrameReader, encode_frame
from ballonet_protocol.testing import (
    SESSION,
    ConnectionPair,
    drain,
    make_hello,
    make_hello_ack,
)

REPORT = Report(
    boottime_ms=1, memory=MemoryReport(total_bytes=4, free_bytes=3, available_bytes=2, committed_bytes=1)
)
OTHER_SESSION = SESSION + 1
HELLO_MAP: dict[str, Any] = {"maj": [1, 1], "min": 0, "nonce": bytes(16), "caps": []}


def _raises(connection: Connection, data: bytes) -> RemoteProtocolError:
    connection.receive_data(data)
    with pytest.raises(RemoteProtocolError) as caught:
        connection.next_message()
    return caught.value


def _receives(connection: Connection, data: bytes) -> list[Message]:
    connection.receive_data(data)
    return drain(connection)


def test_handshake(pair: ConnectionPair) -> None:
    """After HELLO and HELLO_ACK both ends are ACTIVE and agree on session, capabilities and minor version."""
    pair = ConnectionPair()
    assert pair.agent.state is pair.coordinator.state is State.IDLE
    wire = pair.coordinator.open_session(SESSION, make_hello(minor=3, capabilities=("psi", "events", "x-a.b")))
    assert pair.coordinator.state is State.HELLO_SENT
    (hello,) = _receives(pair.agent, wire)
    assert pair.agent.state is State.HELLO_RECEIVED
    assert isinstance(hello, Hello)
    ack = make_hello_ack(hello, minor=5, capabilities=("psi", "refault", "x-a.b"))
    assert pair.send(AGENT, ack) == [ack]
    for connection in (pair.agent, pair.coordinator):
        assert connection.state is State.ACTIVE
        assert connection.session == SESSION
        assert connection.capabilities == {"psi", "x-a.b"}
        assert connection.minor == 3


def _connection_in(state: str) -> ConnectionPair:
    pair = ConnectionPair()
    if state == "idle":
        return pair
    if state == "unsupported":
        payload = {**HELLO_MAP, "maj": [9, 9]}
        _raises(pair.agent, encode_frame(2, 1, 1, SESSION, packb(payload)))
        return pair
    wire = pair.coordinator.open_session(SESSION, make_hello())
    (hello,) = _receives(pair.agent, wire)
    assert isinstance(hello, Hello)
    if state == "hello":
        return pair
    pair.send(AGENT, make_hello_ack(hello))
    if state == "bye received":
        pair.send(COORDINATOR, Bye(why=0))
    elif state == "bye sent":
        pair.send(AGENT, Bye(why=0))
    return pair


@pytest.mark.fault(17)
@pytest.mark.parametrize("state", ["idle", "hello", "active", "bye received", "bye sent", "unsupported"])
@pytest.mark.parametrize("session", [SESSION, OTHER_SESSION])
def test_hello_in_every_state(state: str, session: int) -> None:
    """An agent follows a HELLO in any state, drops what it agreed on before, and both ends work in the new session."""
    pair = _connection_in(state)
    other = Connection(COORDINATOR)
    (hello,) = _receives(pair.agent, other.open_session(session, make_hello(capabilities=("events",))))
    assert isinstance(hello, Hello)
    assert pair.agent.state is State.HELLO_RECEIVED
    assert pair.agent.session == session
    assert pair.agent.capabilities == frozenset()
    with pytest.raises(LocalProtocolError):
        pair.agent.send(REPORT)
    ack = make_hello_ack(hello, capabilities=("events",))
    assert _receives(other, pair.agent.send(ack)) == [ack]
    assert _receives(other, pair.agent.send(REPORT)) == [REPORT]
    assert _receives(pair.agent, other.send(Ping(token=1))) == [Ping(token=1)]
    assert pair.agent.capabilities == {"events"}


@pytest.mark.fault(18)
def test_hello_repeated_in_its_session() -> None:
    """A coordinator that sends one HELLO twice hears every frame of the agent all the same."""
    pair = ConnectionPair()
    wire = pair.coordinator.open_session(SESSION, make_hello())
    (hello,) = _receives(pair.agent, wire)
    assert isinstance(hello, Hello)
    lost = pair.agent.send(make_hello_ack(hello))
    (again,) = _receives(pair.agent, wire)
    assert again == hello
    ack = make_hello_ack(hello)
    assert pair.send(AGENT, ack) == [ack]
    assert pair.coordinator.drops.gap == 1
    assert pair.send(AGENT, REPORT) == [REPORT]
    assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]
    assert _receives(pair.coordinator, lost) == []


@pytest.mark.fault(18)
@pytest.mark.parametrize("change", [{"nonce": bytes(16)}, {"re": 2}], ids=str)
def test_wrong_nonce(change: dict[str, Any], frame: Callable[..., bytes]) -> None:
    """A HELLO_ACK with another nonce, or for another HELLO, opens nothing and gets no answer."""
    coordinator = Connection(COORDINATOR)
    coordinator.open_session(SESSION, make_hello())
    ack = make_hello_ack(make_hello().replace(), re=1)
    wrong = encode_frame(3, 2, 1, SESSION, encode_message(ack.replace(**change)))
    assert _receives(coordinator, wrong) == []
    assert coordinator.state is State.HELLO_SENT
    assert coordinator.unexpected_frames == 1
    assert not coordinator.take_unknown_session()
    assert _receives(coordinator, encode_frame(3, 2, 2, SESSION, encode_message(ack))) == [ack]
    assert coordinator.state is State.ACTIVE


def test_agent_cannot_answer_wrongly() -> None:
    """The agent's own library refuses a HELLO_ACK with another nonce, seq or major than the HELLO asks for."""
    pair = ConnectionPair()
    (hello,) = _receives(pair.agent, pair.coordinator.open_session(SESSION, make_hello()))
    assert isinstance(hello, Hello)
    for change in ({"nonce": bytes(16)}, {"re": 7}, {"major": 2}):
        with pytest.raises(LocalProtocolError, match="nonce"):
            pair.agent.send(make_hello_ack(hello, **change))
    assert pair.agent.state is State.HELLO_RECEIVED


@pytest.mark.fault(22)
@pytest.mark.parametrize("major_range", [(2, 2), (2, 9), (0, 0)])
def test_no_common_major_at_the_agent(major_range: tuple[int, int], frame: Callable[..., bytes]) -> None:
    """A HELLO without major 1 is UNSUPPORTED_VERSION; the agent can say so and leave, and can do nothing else."""
    agent = Connection(AGENT)
    error = _raises(agent, frame(Hello, {**HELLO_MAP, "maj": list(major_range)}, seq=1))
    assert (error.code, error.re) == (ErrorCode.UNSUPPORTED_VERSION, 1)
    with pytest.raises(LocalProtocolError):
        agent.send(make_hello_ack(make_hello(nonce=bytes(16)), re=1))
    coordinator = Connection(COORDINATOR)
    coordinator.open_session(SESSION, make_hello())
    farewell = agent.send(error.as_message(fatal=True)) + agent.send(Bye(why=5))
    assert [type(message) for message in _receives(coordinator, farewell)] == [ErrorMessage, Bye]
    assert agent.state is coordinator.state is State.CLOSED


def test_common_major_in_a_wider_range() -> None:
    """A coordinator that also speaks later majors gets major 1."""
    pair = ConnectionPair()
    assert pair.open(hello=make_hello(major_range=(1, 4))).major == 1
    assert pair.coordinator.state is State.ACTIVE


@pytest.mark.fault(22)
def test_unchosen_major_at_the_coordinator() -> None:
    """A HELLO_ACK that chose a major which was not offered is UNSUPPORTED_VERSION and opens nothing."""
    coordinator = Connection(COORDINATOR)
    coordinator.open_session(SESSION, make_hello())
    ack = make_hello_ack(make_hello(), re=1, major=2)
    error = _raises(coordinator, encode_frame(3, 2, 1, SESSION, encode_message(ack)))
    assert (error.code, error.re) == (ErrorCode.UNSUPPORTED_VERSION, 1)
    assert coordinator.state is State.HELLO_SENT


@pytest.mark.fault(22)
def test_higher_minor_with_unknown_fields(frame: Callable[..., bytes]) -> None:
    """Minor 9 meets minor 0: unknown keys are ignored and both speak 0."""
    pair = ConnectionPair()
    hello_map = {**HELLO_MAP, "min": 9, "zones": [{"a": 1}], "lim": {"later": 7}}
    (hello,) = _receives(pair.agent, frame(Hello, hello_map, seq=1))
    assert isinstance(hello, Hello)
    pair.agent.send(make_hello_ack(hello))
    assert pair.agent.minor == 0
    assert _receives(pair.agent, frame(Ping, {"t": 1, "later": "x"})) == [Ping(token=1)]


@pytest.mark.parametrize("role", list(Role))
def test_stale_session(pair: ConnectionPair, role: Role) -> None:
    """A frame of another session is dropped before its payload is read, and counted, and told of once."""
    connection = pair.agent if role is AGENT else pair.coordinator
    for payload in (b"\x81\xa1t\x00", b"\xc1", b""):
        assert _receives(connection, encode_frame(4, 1, 9, OTHER_SESSION, payload)) == []
    assert _receives(connection, encode_frame(4, 1, 9, 0, b"\x81\xa1t\x00")) == []
    assert _receives(connection, encode_frame(0x7F, 0x8001, 9, OTHER_SESSION, b"")) == []
    assert connection.stale_frames == 5
    assert connection.take_unknown_session()
    assert not connection.take_unknown_session()
    assert connection.drops == Drops(crc=0, over=0, gap=0)
    assert pair.send(COORDINATOR if role is AGENT else AGENT, Ping(token=1)) == [Ping(token=1)]


@pytest.mark.fault(20)
def test_frames_of_the_old_session_after_a_hello(pair: ConnectionPair) -> None:
    """What was under way when a new HELLO came has no effect any more, in both directions."""
    old_command = pair.coordinator.send(Deflate(gen=1, target_bytes=1, ttl_ms=30_000))
    old_report = pair.agent.send(REPORT)
    (hello,) = _receives(pair.agent, pair.coordinator.open_session(OTHER_SESSION, make_hello()))
    assert isinstance(hello, Hello)
    assert _receives(pair.coordinator, old_report) == []
    assert _receives(pair.agent, old_command) == []
    pair.send(AGENT, make_hello_ack(hello))
    assert _receives(pair.coordinator, old_report) == []
    assert pair.agent.stale_frames == 1
    assert pair.coordinator.stale_frames == 2


@pytest.mark.fault(19)
def test_stale_bytes_of_a_dead_host_before_a_hello() -> None:
    """Half a frame and whole frames of a dead coordinator do not keep a new one's HELLO from arriving."""
    dead = ConnectionPair()
    dead.open(session=99)
    old = dead.coordinator.send(Ping(token=1))
    agent = Connection(AGENT)
    wire = Connection(COORDINATOR).open_session(SESSION, make_hello())
    for cut in range(len(old)):
        assert _receives(agent, old + old[:cut] + wire) == [make_hello()]
        assert agent.session == SESSION


def test_first_frame_that_an_idle_end_hears() -> None:
    """An end without a session drops commands and reports and knows that it should ask for a session."""
    pair = ConnectionPair()
    pair.open()
    agent, coordinator = Connection(AGENT), Connection(COORDINATOR)
    assert _receives(agent, pair.coordinator.send(Ping(token=1))) == []
    assert agent.take_unknown_session()
    assert _receives(coordinator, pair.agent.send(REPORT)) == []
    assert coordinator.take_unknown_session()


def test_reports_before_the_hello_ack_arrived(pair: ConnectionPair) -> None:
    """A report in the new session whose HELLO_ACK was lost is dropped and counted, and is no error."""
    (hello,) = _receives(pair.agent, pair.coordinator.open_session(OTHER_SESSION, make_hello()))
    assert isinstance(hello, Hello)
    pair.agent.send(make_hello_ack(hello))
    assert pair.send(AGENT, REPORT) == []
    assert pair.coordinator.unexpected_frames == 1
    assert pair.coordinator.state is State.HELLO_SENT


def test_hello_req_needs_no_session() -> None:
    """HELLO_REQ gets through in every state, again and again, and is numbered apart."""
    request = HelloReq(why=1, implementation="x")
    for state in ("idle", "hello", "active", "bye sent", "bye received"):
        pair = _connection_in(state)
        before = pair.coordinator.state
        for _ in range(3):
            assert pair.send(AGENT, request) == [request]
        assert pair.coordinator.state is before
        restarted = Connection(AGENT)
        assert _receives(pair.coordinator, restarted.send(request)) == [request]
        if state == "active":
            assert pair.send(AGENT, REPORT)[0].seq == 2


def test_hello_req_inside_a_session(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """A HELLO_REQ that names the running session is not what it ought to be, and is dropped."""
    assert _receives(pair.coordinator, frame(HelloReq, {"why": 0, "impl": "x"})) == []
    assert pair.coordinator.unexpected_frames == 1


def test_bye_ends_the_session(pair: ConnectionPair) -> None:
    """After BYE nothing of that session is sent or received; late frames raise no question about the session."""
    late = pair.agent.send(REPORT)
    assert pair.send(COORDINATOR, Bye(why=1)) == [Bye(why=1)]
    for connection in (pair.agent, pair.coordinator):
        assert connection.state is State.CLOSED
        assert connection.session == 0
        with pytest.raises(LocalProtocolError, match="CLOSED"):
            connection.send(Ping(token=1))
    assert _receives(pair.coordinator, late) == []
    assert not pair.coordinator.take_unknown_session()


def test_a_refused_hello_is_heard_of(frame: Callable[..., bytes]) -> None:
    """A HELLO that cannot be taken changes nothing; the ERROR reaches whoever sent it, and names no frame."""
    for payload, flags, code in (
        ({**HELLO_MAP, "nonce": b"x"}, 1, ErrorCode.BAD_MESSAGE),
        (HELLO_MAP, 0x8001, ErrorCode.UNSUPPORTED_CRITICAL),
    ):
        pair = ConnectionPair()
        pair.open()
        error = _raises(pair.agent, frame(Hello, payload, seq=1, flags=flags, session=OTHER_SESSION))
        assert (error.code, error.re, pair.agent.session) == (code, None, SESSION)
        sender = Connection(COORDINATOR)
        sender.open_session(OTHER_SESSION, make_hello())
        assert _receives(sender, pair.agent.send(error.as_message())) == [error.as_message()]
        assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]


def test_late_frames_while_a_hello_is_under_way(pair: ConnectionPair) -> None:
    """What the agent wrote before it read the HELLO asks for no other session, or a slow line would never have one."""
    late = pair.agent.send(REPORT)
    wire = pair.coordinator.open_session(OTHER_SESSION, make_hello())
    assert _receives(pair.coordinator, late) == []
    assert not pair.coordinator.take_unknown_session()
    (hello,) = _receives(pair.agent, wire)
    assert isinstance(hello, Hello)
    ack = make_hello_ack(hello)
    assert pair.send(AGENT, ack) == [ack]
    assert _receives(pair.coordinator, late) == []
    assert pair.coordinator.take_unknown_session()


def test_a_new_session_begins_anew(pair: ConnectionPair) -> None:
    """Numbers, limits, the minor and the question about strangers are the session's own."""
    pair.send(AGENT, REPORT)
    _receives(pair.agent, Connection(COORDINATOR).open_session(9, make_hello())[:-3] + b"\0")  # damaged
    pair.coordinator.receive_data(encode_frame(0x10, 0, 9, 77, b"\x80"))
    assert drain(pair.coordinator) == []
    hello = make_hello(minor=4, limits=Limits(frame_bytes=1024))
    ack = pair.open(OTHER_SESSION, hello, minor=5, limits=Limits(frame_bytes=2048))
    assert (ack.seq, pair.agent.last_seq_sent, pair.coordinator.last_seq_sent) == (0, 1, 1)
    assert (pair.agent.minor, pair.coordinator.minor) == (4, 4)
    assert not pair.coordinator.take_unknown_session()
    for connection, most in ((pair.agent, 1024), (pair.coordinator, 2048)):
        assert connection._peer_frame_bytes == most
    wire = pair.coordinator.open_session(SESSION + 2, make_hello())
    assert pair.coordinator._peer_frame_bytes == 4096
    assert (pair.coordinator.minor, pair.coordinator.last_seq_sent) == (0, 1)
    (hello,) = _receives(pair.agent, wire)
    assert isinstance(hello, Hello)
    assert (pair.agent.minor, pair.agent.last_seq_sent, pair.agent._peer_frame_bytes) == (0, 0, 4096)
    pair.send(AGENT, make_hello_ack(hello))
    assert (pair.agent.drops.gap, pair.coordinator.drops.gap) == (0, 0)


def test_commands_of_a_repeated_hello_have_no_second_effect() -> None:
    """A HELLO that comes twice does not make the commands between news again."""
    pair = ConnectionPair()
    wire = pair.coordinator.open_session(SESSION, make_hello())
    (hello,) = _receives(pair.agent, wire)
    assert isinstance(hello, Hello)
    pair.send(AGENT, make_hello_ack(hello))
    commands = [pair.coordinator.send(Inflate(gen=gen, target_bytes=1, ttl_ms=30_000)) for gen in (1, 2)]
    assert len(_receives(pair.agent, b"".join(commands))) == 2
    assert len(_receives(pair.agent, wire)) == 1
    pair.agent.send(make_hello_ack(hello))
    assert _receives(pair.agent, b"".join(commands)) == []
    assert pair.agent.repeated_frames == 2


def _flags_and_session(wire: bytes) -> tuple[int, int]:
    reader = FrameReader()
    reader.feed(wire)
    frame = reader.next_frame()
    assert frame is not None
    return frame[2], frame[4]


def test_an_error_without_a_session() -> None:
    """An ERROR travels in session 0 when there is none, it names no frame or is UNKNOWN_SESSION; RSP goes with `re`."""
    stranger = Connection(AGENT)
    pair = ConnectionPair()
    pair.open()
    error = ErrorMessage(re=9, code=ErrorCode.UNKNOWN_SESSION, text="unknown session", fatal=False)
    other = ErrorMessage(code=ErrorCode.BUSY, fatal=False)
    named = ErrorMessage(re=9, code=ErrorCode.BUSY, fatal=False)
    for sender, message, flags, session in (
        (stranger, error, 2, 0),
        (stranger, other, 0, 0),
        (pair.agent, error, 2, 0),
        (pair.agent, other, 0, 0),
        (pair.agent, named, 2, SESSION),
    ):
        wire = sender.send(message)
        assert _flags_and_session(wire) == (flags, session)
        assert _receives(pair.coordinator, wire) == [message]
    assert pair.coordinator.drops.gap == 0


@pytest.mark.parametrize("state", ["idle", "active", "bye sent"])
def test_hello_in_session_0(state: str, frame: Callable[..., bytes]) -> None:
    """A HELLO of session 0 opens nothing: 0 is no session."""
    agent = _connection_in(state).agent
    before = agent.session, agent.state
    assert _receives(agent, frame(Hello, HELLO_MAP, seq=1, session=0)) == []
    assert (agent.session, agent.state) == before
    assert agent.stale_frames == 1


def test_open_session_is_the_coordinators() -> None:
    """Only a coordinator opens sessions, with a new number and a range with our major; misuse changes nothing."""
    with pytest.raises(LocalProtocolError, match="only the coordinator"):
        Connection(AGENT).open_session(SESSION, make_hello())
    coordinator = Connection(COORDINATOR)
    for session in (0, 2**64, -1):
        with pytest.raises(LocalProtocolError, match="new number"):
            coordinator.open_session(session, make_hello())
    for hello in (make_hello(major_range=(2, 3)), make_hello(nonce=b"")):
        with pytest.raises(LocalProtocolError):
            coordinator.open_session(SESSION, hello)
    assert (coordinator.state, coordinator.session) == (State.IDLE, 0)
    coordinator.open_session(SESSION, make_hello())
    with pytest.raises(LocalProtocolError, match="new number"):
        coordinator.open_session(SESSION, make_hello())
    with pytest.raises(LocalProtocolError, match="open_session"):
        coordinator.send(make_hello())
