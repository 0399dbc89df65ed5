"""The fuzz target over frames: any bytes, to either end, in any state of its session.

The first byte of an input says which end hears it in which situation, and how the rest is wrapped: as it is, in small
portions, as a body that gets its CRC, or as a payload that gets a whole frame of the type that the second byte names.
The wrapping lets the fuzzer past CRC and COBS, where it would otherwise stay for ever.
"""

from __future__ import annotations

import time
from functools import cache
from zlib import crc32

from msgpack import fallback

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MAX_PAYLOAD_BYTES,
    MAX_WIRE_BYTES,
    MESSAGE_TYPES,
    Bye,
    Connection,
    ErrorMessage,
    Hello,
    HelloAck,
    Message,
    RemoteProtocolError,
    Role,
    State,
    _codec,
)
from ballonet_protocol._framing import (
    CRC,
    MAX_BODY_BYTES,
    MAX_ENCODED_BYTES,
    VERSION,
    FrameReader,
    cobs_decode,
    cobs_encode,
    encode_frame,
)
from ballonet_protocol.testing import SESSION, ConnectionPair, make_hello, make_hello_ack

ROLES = (AGENT, COORDINATOR)
IDLE, OPENING, ACTIVE, CLOSED = range(4)  # situations
RAW, PORTIONS, BODY, PAYLOAD = range(4)  # wrappings
PORT_READ_BYTES = 4096
SEQ = 9  # past what the handshake used
SMALLEST_PORTION_BYTES = 16  # single bytes are what the session target delivers
MOST_FOR_SECOND_OPINION = 600  # msgpack's pure Python takes 20 times longer than its extension


def shape(role: Role, situation: int, wrapping: int, detail: int = 0) -> bytes:
    """The two bytes that begin an input. `detail` is the portion's size - 16, or the payload's type code."""
    return bytes((ROLES.index(role) | situation << 1 | wrapping << 3, detail))


def one_input(data: bytes) -> float:
    """Runs one input; returns the CPU seconds of its slowest 4 KiB.

    Raises AssertionError for a finding, and lets pass through whatever the library should not have raised.
    """
    if len(data) < 2:
        return 0.0
    role, situation, wrapping = ROLES[data[0] & 1], data[0] >> 1 & 3, data[0] >> 3 & 3
    detail, rest = data[1], data[2:]
    portion = PORT_READ_BYTES
    wire = rest
    connection = connection_in(role, situation)
    if wrapping == PORTIONS:
        portion = SMALLEST_PORTION_BYTES + detail
    elif wrapping == BODY:
        body = rest[: MAX_BODY_BYTES - CRC.size]
        wire = b"\0%b\0" % cobs_encode(body + CRC.pack(crc32(body)))
    elif wrapping == PAYLOAD:
        flags = MESSAGE_TYPES[detail].FLAGS if detail in MESSAGE_TYPES else 1
        session = 0 if detail == 1 else connection.session or SESSION
        wire = encode_frame(detail, flags, SEQ, session, rest[:MAX_PAYLOAD_BYTES])
    messages, errors, slowest_s = receive(connection, wire, portion)
    check_frames(wire, len(errors))
    for message in messages:
        check_stable(message)
    for error in errors:
        check_answer(connection, error)
    if portion < PORT_READ_BYTES:
        check_portions_do_not_matter(connection_in(role, situation), wire, connection, messages, errors)
    check_a_fresh_hello(connection)
    return slowest_s


@cache
def _template(role: Role, situation: int) -> dict[str, object]:
    pair = ConnectionPair()
    if situation == OPENING:
        pair.agent.receive_data(pair.coordinator.open_session(SESSION, make_hello()))
        pair.agent.next_message()
    elif situation != IDLE:
        pair.open()
    if situation == CLOSED:
        pair.send(AGENT, Bye(why=0))
    return vars(pair.agent if role is AGENT else pair.coordinator)


def connection_in(role: Role, situation: int) -> Connection:
    """One end of a session that is about to begin, in step, or over: a copy, since opening one takes longer."""
    connection = Connection(role)
    vars(connection).update(_template(role, situation), _reader=FrameReader())
    return connection


def receive(
    connection: Connection, wire: bytes, portion: int
) -> tuple[list[Message], list[RemoteProtocolError], float]:
    """Everything that comes out of `wire`, and the CPU seconds of the slowest portion."""
    messages: list[Message] = []
    errors: list[RemoteProtocolError] = []
    slowest_s = 0.0
    for start in range(0, len(wire), portion):
        part = wire[start : start + portion]
        began_s = time.thread_time()
        connection.receive_data(part)
        while True:
            try:
                message = connection.next_message()
            except RemoteProtocolError as error:
                errors.append(error.with_traceback(None))
                continue
            if message is None:
                break
            messages.append(message)
        slowest_s = max(slowest_s, time.thread_time() - began_s)
        assert len(connection._reader._buffer) <= MAX_ENCODED_BYTES
    return messages, errors, slowest_s


def check_frames(wire: bytes, errors: int) -> None:
    """At most one ERROR for each whole frame and none for an ERROR; COBS and msgpack agree with a second opinion."""
    reader = FrameReader()
    answerable = 0
    for start in range(0, len(wire), PORT_READ_BYTES):
        reader.feed(wire[start : start + PORT_READ_BYTES])
        while (frame := reader.next_frame()) is not None:
            version, code, _flags, seq, _session, payload = frame
            answerable += not (version == VERSION and code == ErrorMessage.TYPE_CODE)
            if code in MESSAGE_TYPES and len(payload) <= MOST_FOR_SECOND_OPINION:
                check_both_msgpacks(MESSAGE_TYPES[code], seq, payload)
    assert errors <= answerable, "an ERROR too many"
    for encoded in wire.split(b"\0"):
        if len(encoded) > MOST_FOR_SECOND_OPINION:
            continue
        body = cobs_decode(encoded)
        assert body == plain_cobs_decode(encoded)
        if body is not None:
            assert cobs_decode(cobs_encode(body)) == body


def plain_cobs_decode(encoded: bytes) -> bytes | None:
    """COBS as its paper tells it, run by run."""
    data = b""
    while encoded:
        length = encoded[0]
        if length == 0 or length > len(encoded):
            return None
        data += encoded[1:length]
        encoded = encoded[length:]
        if not encoded:
            return data
        if length < 255:
            data += b"\0"
    return None


def check_both_msgpacks(kind: type[Message], seq: int, payload: bytes) -> None:
    """A guest without msgpack's extension takes and refuses the same payloads."""
    verdicts = [_verdict(kind, seq, payload)]
    extension = _codec.unpackb
    _codec.unpackb = fallback_unpackb
    try:
        verdicts.append(_verdict(kind, seq, payload))
    finally:
        _codec.unpackb = extension
    assert verdicts[0] == verdicts[1], "msgpack's extension and its fallback disagree"


def fallback_unpackb(packed: bytes, **options: object) -> object:
    """What msgpack exports as `unpackb` where its extension was not built."""
    unpacker = fallback.Unpacker(None, max_buffer_size=len(packed), **options)
    unpacker.feed(packed)
    unpacked = unpacker._unpack()
    if unpacker._got_extradata():
        raise ValueError("extra data")
    return unpacked


def _verdict(kind: type[Message], seq: int, payload: bytes) -> object:
    try:
        return _codec.decode_message(kind, seq, payload)
    except RemoteProtocolError as error:
        return error.code


def check_stable(message: Message) -> None:
    """What was decoded can be encoded, and decodes to the same again."""
    payload = _codec.encode_message(message)
    again = _codec.decode_message(type(message), message.seq, payload)
    assert again == message
    assert again.seq == message.seq
    assert _codec.encode_message(again) == payload


def check_answer(connection: Connection, error: RemoteProtocolError) -> None:
    """The ERROR that a bad frame suggests can be sent as it is, and is short."""
    answer = error.as_message()
    assert len(connection.send(answer)) < MAX_WIRE_BYTES // 4
    check_stable(answer)


def check_portions_do_not_matter(
    other: Connection, wire: bytes, connection: Connection, messages: list[Message], errors: list[RemoteProtocolError]
) -> None:
    """The same bytes in larger portions give the same messages and, once the last frame has ended, the same counts."""
    other_messages, other_errors, _slowest_s = receive(other, wire, PORT_READ_BYTES)
    assert other_messages == messages
    assert [(error.code, error.re) for error in other_errors] == [(error.code, error.re) for error in errors]
    assert other.state is connection.state
    for end in (connection, other):
        end.discard_partial()
    assert other.drops == connection.drops


@cache
def _handshake(session: int) -> tuple[bytes, HelloAck, bytes]:
    """HELLO, the answer, and the answer's frame: in a new session they are always the same."""
    agent = Connection(AGENT)
    wire = Connection(COORDINATOR).open_session(session, make_hello())
    agent.receive_data(wire)
    hello = agent.next_message()
    assert isinstance(hello, Hello)
    ack = make_hello_ack(hello)
    return wire, ack, agent.send(ack)


def check_a_fresh_hello(connection: Connection) -> None:
    """Whatever was heard before, a new session opens, with the bytes with which it opens between two new ends.

    Its first zero may end a frame that still waits for one, so other messages may come before the HELLO.
    """
    session = SESSION + 1 if connection.session != SESSION + 1 else SESSION + 2
    hello, ack, answer = _handshake(session)
    if connection.our_role is AGENT:
        assert receive(connection, hello, PORT_READ_BYTES)[0][-1:] == [make_hello()]
        assert connection.send(ack) == answer
    else:
        assert connection.open_session(session, make_hello()) == hello
        assert receive(connection, answer, PORT_READ_BYTES)[0][-1:] == [ack]
    assert connection.state is State.ACTIVE
    assert connection.session == session
