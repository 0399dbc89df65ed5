"""Two ends and everything that can go wrong between them: sessions, numbers, versions, strangers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    BalloonStatus,
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
    Pong,
    RemoteProtocolError,
    Report,
    Role,
    State,
)
from ballonet_protocol._codec import encode_message
from ballonet_protocol._framing import FrameReader, cobs_encode, encode_frame
from ballonet_protocol._records import MAX_INT
from ballonet_protocol.testing import (
    SESSION,
    ConnectionPair,
    drain,
    feed_in_every_split,
    load_vectors,
    make_hello,
    make_hello_ack,
)

VECTORS = load_vectors("frames")
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


# --- golden and edge frames ------------------------------------------------------------------------------------------


@pytest.mark.fault(1)
@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["id"])
def test_golden_frames_at_every_split(
    vector: dict[str, Any], receiver: Callable[[dict[str, Any]], Connection]
) -> None:
    """The end that a golden frame is meant for receives its message once, however the frame is cut in two."""
    wire = bytes.fromhex(vector["wire"])
    for _place, connection, messages in feed_in_every_split(lambda: receiver(vector), wire):
        assert [type(message).TYPE_NAME for message in messages] == [vector["type"]]
        assert messages[0].seq == vector["header"]["seq"]
        assert (connection.drops.crc, connection.drops.over) == (0, 0)


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: vector["id"])
def test_golden_frames_are_what_we_send(
    vector: dict[str, Any], receiver: Callable[[dict[str, Any]], Connection]
) -> None:
    """`send` writes each golden frame byte for byte."""
    message = drain_one(receiver(vector), bytes.fromhex(vector["wire"]))
    sent = bytes.fromhex(vector["wire"])
    if isinstance(message, Hello):
        assert Connection(COORDINATOR).open_session(SESSION, message) == sent
        return
    pair = ConnectionPair()
    sender = pair.agent if vector["dir"] == "A>H" else pair.coordinator
    if vector["type"] == "HELLO_ACK":
        hello = make_hello(capabilities=("psi", "refault"))
        pair.agent.receive_data(pair.coordinator.open_session(SESSION, hello))
        assert pair.agent.next_message() == hello
    elif vector["header"]["session"] != "0" * 16:
        pair.open()
        while sender.last_seq_sent < vector["header"]["seq"] - 1:
            sender.send(Ping(token=0))
    assert sender.send(message) == sent
    assert sender.last_seq_sent == vector["header"]["seq"]


def drain_one(connection: Connection, wire: bytes) -> Message:
    (message,) = _receives(connection, wire)
    return message


@pytest.mark.parametrize("vector", VECTORS["edge"], ids=lambda vector: vector["id"])
def test_edge_frames(vector: dict[str, Any], pair: ConnectionPair) -> None:
    """An edge frame has the effect that stands beside it, in a session that goes on."""
    wire = bytes.fromhex(vector["wire"])
    reader = FrameReader()
    reader.feed(wire)
    parts = reader.next_frame()
    connection = pair.agent
    if parts is not None:  # their number 1 was the handshake's; only the number is changed
        _version, type_code, flags, _seq, session, payload = parts
        wire = encode_frame(type_code, flags, 2, session, payload)
        connection = pair.coordinator if type_code == 0x11 else pair.agent
    if vector["effect"] == "count drop.crc":
        assert _receives(connection, wire) == []
        assert connection.drops.crc == 1
    elif vector["effect"].startswith("ERROR"):
        error = _raises(connection, wire)
        assert (error.code, error.re) == (int(vector["effect"][6:]), 2)
    elif vector["effect"] == "ignored":
        assert _receives(connection, wire) == []
        assert connection.drops == Drops(crc=0, over=0, gap=0)
    else:
        assert vector["effect"].startswith("as PING t=0")
        assert _receives(connection, wire) == [Ping(token=0)]
    assert drain(connection) == []
    assert pair.send(AGENT if connection is pair.coordinator else COORDINATOR, Ping(token=5)) in ([Ping(token=5)], [])
    assert pair.send(AGENT if connection is pair.coordinator else COORDINATOR, Ping(token=6)) == [Ping(token=6)]


@pytest.mark.parametrize("message_type", MESSAGE_TYPES.values(), ids=lambda kind: kind.TYPE_NAME)
@given(data=st.data())
def test_round_trip_between_two_ends(message_type: type[Message], any_record: Any, ready: Any, data: Any) -> None:
    """Whatever one end may send the other receives, equal and numbered; what is too long is refused, not cut."""
    pair, role, message = ready(message_type, data.draw(any_record(message_type)))
    if isinstance(message, Hello):
        message = message.replace(major_range=(1, 7))
        pair.agent.receive_data(pair.coordinator.open_session(OTHER_SESSION, message))
        assert drain(pair.agent) == [message]
        return
    try:
        received = pair.send(role, message)
    except LocalProtocolError as error:
        assert len(encode_message(message)) > 4000
        assert "bytes" in str(error)  # noqa: PT017
        return
    assert received == [message]
    assert received[0].seq == (pair.agent if role is AGENT else pair.coordinator).last_seq_sent


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_empty_data(pair: ConnectionPair) -> None:
    """b"" and lone zeros are harmless in every state."""
    for connection in (Connection(AGENT), Connection(COORDINATOR), pair.agent, pair.coordinator):
        assert _receives(connection, b"") == []
        assert _receives(connection, b"\0" * 9) == []
        assert not connection.has_partial


def test_several_in_one(pair: ConnectionPair) -> None:
    """Frames that arrive together come out one by one, in order."""
    data = b"".join(pair.coordinator.send(Ping(token=token)) for token in range(40))
    assert _receives(pair.agent, data) == [Ping(token=token) for token in range(40)]


def test_one_bad_frame_does_not_hide_the_next(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """After RemoteProtocolError the next call goes on behind the bad frame."""
    first, _unsent, last = (pair.coordinator.send(Ping(token=token)) for token in (1, 2, 3))
    pair.agent.receive_data(first + frame(Ping, {"t": None}, seq=3) + last)
    assert pair.agent.next_message() == Ping(token=1)
    with pytest.raises(RemoteProtocolError, match="t is no number"):
        pair.agent.next_message()
    assert pair.agent.next_message() == Ping(token=3)
    assert pair.agent.next_message() is None


def test_damage_in_the_middle(pair: ConnectionPair) -> None:
    """A frame damaged on the way is counted as damaged and as a gap; those around it arrive."""
    frames = [pair.coordinator.send(Ping(token=token)) for token in range(3)]
    damaged = frames[1][:-4] + b"\x01" + frames[1][-3:]
    assert _receives(pair.agent, frames[0] + damaged + frames[2]) == [Ping(token=0), Ping(token=2)]
    assert pair.agent.drops == Drops(crc=1, over=0, gap=1)


def test_partial_shows_and_can_be_discarded(pair: ConnectionPair) -> None:
    """The caller sees half a frame and can give it up; the next frame then arrives."""
    assert _receives(pair.agent, pair.coordinator.send(Ping(token=1))[:10]) == []
    assert pair.agent.has_partial
    pair.agent.discard_partial()
    assert not pair.agent.has_partial
    assert pair.send(COORDINATOR, Ping(token=2)) == [Ping(token=2)]
    assert pair.agent.drops == Drops(crc=1, over=0, gap=1)


def test_hostile_stream_in_bounded_memory(pair: ConnectionPair) -> None:
    """Megabytes of damaged, stale and endless frames leave nothing behind but counts."""
    stale = encode_frame(4, 1, 1, OTHER_SESSION, b"\x81\xa1t\x00")
    chunk = (stale + b"\0\x05\x01\x02\0" + b"\x07" * 5000 + b"\0") * 4
    tracemalloc.start()
    for _ in range(200):
        assert _receives(pair.agent, chunk) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(chunk)
    assert pair.agent.stale_frames == 800
    assert (pair.agent.drops.crc, pair.agent.drops.over) == (800, 800)
    assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(21)
def test_repeated_number(pair: ConnectionPair) -> None:
    """A frame whose number was there already, or an older one, has no second effect."""
    first, second = (pair.coordinator.send(Ping(token=token)) for token in (1, 2))
    assert _receives(pair.agent, first + second + first + second) == [Ping(token=1), Ping(token=2)]
    assert pair.agent.repeated_frames == 2
    assert pair.agent.drops == Drops(crc=0, over=0, gap=0)


@pytest.mark.fault(21)
def test_gap(pair: ConnectionPair) -> None:
    """Frames that are missing are counted and missed, no more."""
    for token in (1, 2, 3):
        pair.coordinator.send(Ping(token=token))
    assert pair.send(COORDINATOR, Ping(token=4)) == [Ping(token=4)]
    assert pair.agent.drops.gap == 3


def test_a_gap_that_no_report_could_carry(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """However much a peer skips, the counts of what was lost can be reported."""
    pair.agent._missing_frames = 2**53 - 1  # type: ignore[misc]  # two million sessions ago
    assert len(_receives(pair.agent, frame(Ping, {"t": 1}, seq=2**32 - 1))) == 1
    report = REPORT.replace(drops=pair.agent.drops)
    assert pair.send(AGENT, report) == [report]


def test_a_bad_frame_uses_its_number_up(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """A frame that was refused cannot be repeated: its number is known."""
    bad = frame(Ping, {"t": -1})
    assert _raises(pair.agent, bad).code is ErrorCode.BAD_MESSAGE
    assert _receives(pair.agent, bad) == []
    assert pair.agent.repeated_frames == 1


@pytest.mark.fault(21)
def test_last_number(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """Numbers do not wrap: after 2^32-1 the sender is refused and the receiver drops, until the next HELLO."""
    last = frame(Ping, {"t": 1}, seq=2**32 - 1)
    assert [m.seq for m in _receives(pair.agent, last)] == [2**32 - 1]
    assert _receives(pair.agent, frame(Ping, {"t": 1}, seq=0) + frame(Ping, {"t": 1}, seq=1)) == []
    pair.coordinator._seq_in_session = 2**32 - 2  # type: ignore[misc]  # four thousand million frames ago
    pair.coordinator.send(Ping(token=1))
    with pytest.raises(LocalProtocolError, match="HELLO"):
        pair.coordinator.send(Ping(token=1))
    pair.open(session=OTHER_SESSION)
    assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]


# --- flags, types, roles ---------------------------------------------------------------------------------------------


def test_wire_version(pair: ConnectionPair) -> None:
    """A whole frame of another wire version is UNSUPPORTED_VERSION; nothing in it is trusted, not even its number."""
    body = b"\x02\x04\0\x01\0\0\0\x09" + SESSION.to_bytes(8, "big") + b"\x81\xa1t\x00"
    error = _raises(pair.agent, b"\0" + cobs_encode(body + crc32(body).to_bytes(4, "big")) + b"\0")
    assert (error.code, error.re) == (ErrorCode.UNSUPPORTED_VERSION, None)


@pytest.mark.fault(16)
def test_flags(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """Unknown low flags are ignored; each unknown high flag is critical, and the frame has no effect."""
    assert _receives(pair.agent, frame(Ping, {"t": 1}, flags=0x00FD)) == [Ping(token=1)]
    for bit in range(8, 16):
        error = _raises(pair.agent, frame(Bye, {"why": 0}, seq=bit, flags=1 << bit))
        assert (error.code, error.re) == (ErrorCode.UNSUPPORTED_CRITICAL, bit)
    assert pair.agent.state is State.ACTIVE
    error = _raises(pair.agent, frame(Hello, HELLO_MAP, seq=1, flags=0x0101, session=OTHER_SESSION))
    assert error.code is ErrorCode.UNSUPPORTED_CRITICAL
    assert pair.agent.session == SESSION


@pytest.mark.fault(16)
@pytest.mark.parametrize("type_code", [0x00, 0x08, 0x12, 0x7F, 0xC0, 0xFF])
def test_unknown_type(pair: ConnectionPair, frame: Callable[..., bytes], type_code: int) -> None:
    """A message type that we do not know is UNSUPPORTED_TYPE when it asks for an answer, else nothing."""
    assert _receives(pair.agent, frame(type_code, b"\xc1", seq=2, flags=0)) == []
    error = _raises(pair.agent, frame(type_code, b"\xc1", seq=3, flags=1))
    assert (error.code, error.re) == (ErrorCode.UNSUPPORTED_TYPE, 3)


def test_wrong_direction(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """A message that only the other role may send is NOT_PERMITTED and leaves the numbers alone; so is our own echo."""
    assert _raises(pair.coordinator, frame(Deflate, {})).code is ErrorCode.NOT_PERMITTED
    assert _raises(pair.agent, pair.agent.send(REPORT)).code is ErrorCode.NOT_PERMITTED
    assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]
    assert pair.agent.drops.gap == 0
    assert _receives(pair.agent, pair.agent.send(HelloReq(why=0, implementation="x"))) == []


def test_a_bad_error_is_not_answered(pair: ConnectionPair, frame: Callable[..., bytes]) -> None:
    """An ERROR that is itself wrong, of another wire version too, is dropped and counted: nobody answers an ERROR."""
    assert _receives(pair.agent, frame(ErrorMessage, {"code": "x"})) == []
    assert _receives(pair.agent, frame(ErrorMessage, {"code": 2, "fatal": False}, seq=3, flags=0x8000)) == []
    body = b"\x02" + bytes([ErrorMessage.TYPE_CODE]) + bytes(14) + b"\x80"
    other_version = b"\0%b\0" % cobs_encode(body + crc32(body).to_bytes(4, "big"))
    assert _receives(pair.agent, other_version) == []
    assert pair.agent.unexpected_frames == 3


@pytest.mark.parametrize(
    "message", [Ping(token=1), Pong(re=1, token=1, boottime_ms=5), ErrorMessage(re=1, code=2, fatal=False)]
)
def test_an_echo_of_what_both_may_send(pair: ConnectionPair, message: Message) -> None:
    """On a line that echoes, our own message is dropped and its number is not taken for the peer's."""
    for _ in range(30):
        pair.agent.send(REPORT)
    echo = pair.agent.send(message)
    assert _receives(pair.agent, echo) == []
    assert pair.agent.unexpected_frames == 1
    command = Deflate(gen=1, target_bytes=1, ttl_ms=30_000)
    assert pair.send(COORDINATOR, command) == [command]
    assert pair.agent.drops.gap == 0


def test_counts_stay_numbers_of_the_wire(pair: ConnectionPair) -> None:
    """However much was lost, the counts fit into a REPORT."""
    pair.agent._missing_frames = pair.agent._reader.crc = pair.agent._reader.over = MAX_INT + 7
    assert pair.agent.drops == Drops(crc=MAX_INT, over=MAX_INT, gap=MAX_INT)
    report = REPORT.replace(drops=pair.agent.drops)
    assert pair.send(AGENT, report) == [report]


def test_sending_in_the_wrong_role_or_state() -> None:
    """What a role may not send, or not yet, is refused before a number is used."""
    pair = ConnectionPair()
    for connection in (pair.agent, pair.coordinator):
        for message in (Ping(token=1), REPORT, Inflate(gen=1, target_bytes=1, ttl_ms=30_000), Bye(why=0)):
            with pytest.raises(LocalProtocolError, match="IDLE"):
                connection.send(message)
    pair.open()
    with pytest.raises(LocalProtocolError, match="agent in ACTIVE"):
        pair.agent.send(Inflate(gen=1, target_bytes=1, ttl_ms=30_000))
    with pytest.raises(LocalProtocolError, match="coordinator in ACTIVE"):
        pair.coordinator.send(REPORT)
    with pytest.raises(LocalProtocolError, match=r"Ping\.token"):
        pair.agent.send(Ping(token=-1))
    assert (pair.agent.last_seq_sent, pair.coordinator.last_seq_sent) == (1, 1)
    assert pair.send(AGENT, REPORT)[0].seq == 2


def test_peers_frame_limit() -> None:
    """An agent sends no frame longer than the HELLO said the coordinator takes."""
    many = tuple("x" * 62 + f"{i:02}" for i in range(20))
    for frame_bytes, fits in ((4096, True), (2**20, True), (1024, False)):
        pair = ConnectionPair()
        wire = pair.coordinator.open_session(SESSION, make_hello(limits=Limits(frame_bytes=frame_bytes)))
        (hello,) = _receives(pair.agent, wire)
        assert isinstance(hello, Hello)
        if not fits:
            with pytest.raises(LocalProtocolError, match="the peer takes 1024 bytes"):
                pair.agent.send(make_hello_ack(hello, capabilities=many))
            many = ()
        ack = make_hello_ack(hello, capabilities=many)
        assert pair.send(AGENT, ack) == [ack]


def test_answers_carry_the_request() -> None:
    """`last_seq_sent` is what the answer's `re` names, so a caller can match the two."""
    pair = ConnectionPair()
    pair.open()
    (ping,) = pair.send(COORDINATOR, Ping(token=8))
    asked = pair.coordinator.last_seq_sent
    assert pair.send(AGENT, Pong(re=ping.seq, token=8)) == [Pong(re=asked, token=8)]
    assert pair.send(AGENT, BalloonStatus(gen=1, status=1, current_bytes=1, boottime_ms=1))


@pytest.mark.fault(8)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([bytes.fromhex(v["wire"]) for v in VECTORS["frames"]])))
def test_any_bytes_in_any_state(chunks: list[bytes]) -> None:
    """Any bytes whatever give messages, RemoteProtocolError or nothing, and a HELLO still gets through afterwards."""
    for role in Role:
        connection = Connection(role)
        for chunk in chunks:
            connection.receive_data(chunk)
            while True:
                try:
                    if connection.next_message() is None:
                        break
                except RemoteProtocolError as error:
                    assert error.as_message().text  # noqa: PT017 - any number of them may come
        if role is AGENT:
            wire = Connection(COORDINATOR).open_session(OTHER_SESSION, make_hello())
            assert _receives(connection, wire) == [make_hello()]
