"""Sessions that stand, frames with a payload of one's own, and a strategy for every message of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from msgpack import packb

from ballonet_protocol import AGENT, COORDINATOR, MESSAGE_TYPES, Connection, Message, Record, Role
from ballonet_protocol._framing import encode_frame
from ballonet_protocol._records import BIN, BOOL, INT, MAP, RANGE, TEXT, Field
from ballonet_protocol.testing import NONCE, SESSION, ConnectionPair, make_hello, make_hello_ack

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


@pytest.fixture
def pair() -> ConnectionPair:
    """An agent and a coordinator in an ACTIVE session. Each has sent one frame."""
    pair = ConnectionPair()
    pair.open()
    return pair


@pytest.fixture(scope="session")
def frame() -> Callable[..., bytes]:
    """Makes a whole frame whose payload is any object or any bytes, right or wrong."""

    def make(
        message_type: type[Message] | int, payload: Any, seq: int = 2, flags: int | None = None, session: int = SESSION
    ) -> bytes:
        code = message_type if isinstance(message_type, int) else message_type.TYPE_CODE
        if flags is None:
            flags = MESSAGE_TYPES[code].FLAGS
        return encode_frame(code, flags, seq, session, payload if isinstance(payload, bytes) else packb(payload))

    return make


@pytest.fixture(scope="session")
def receiver() -> Callable[[dict[str, Any]], Connection]:
    """Makes the end that a golden frame is addressed to, in the state in which it takes that frame."""

    def make(vector: dict[str, Any]) -> Connection:
        role = AGENT if vector["dir"] == "H>A" else COORDINATOR
        if vector["type"] in ("HELLO", "HELLO_REQ") or vector["header"]["session"] == "0" * 16:
            return Connection(role)
        if vector["type"] == "HELLO_ACK":
            connection = Connection(COORDINATOR)
            connection.open_session(SESSION, make_hello(nonce=NONCE))
            return connection
        pair = ConnectionPair()
        pair.open()
        return pair.agent if role is AGENT else pair.coordinator

    return make


def _values(field: Field) -> st.SearchStrategy[Any]:
    if field.kind == INT:
        return st.integers(field.low, field.high) | st.sampled_from((field.low, field.high))
    if field.kind == BOOL:
        return st.booleans()
    if field.kind == TEXT:
        return st.text(PRINTABLE, min_size=field.low, max_size=field.high)
    if field.kind == BIN:
        return st.binary(min_size=field.low, max_size=field.high)
    if field.kind == MAP:
        assert field.record is not None
        return records(field.record)
    if field.kind == RANGE:
        return st.tuples(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1)).map(lambda pair: tuple(sorted(pair)))
    return st.lists(st.text(PRINTABLE, min_size=field.low, max_size=16), max_size=64).map(tuple)


def records(record_type: type[Record]) -> st.SearchStrategy[Any]:
    """Any record of that type: optional fields there or not, numbers anywhere within their bounds."""
    mandatory = {field.attribute: _values(field) for field in record_type.FIELDS if field.mandatory}
    optional = {field.attribute: _values(field) for field in record_type.FIELDS if not field.mandatory}
    return st.fixed_dictionaries(mandatory, optional=optional).map(lambda values: record_type(**values))


@pytest.fixture(scope="session")
def any_record() -> Callable[[type[Record]], st.SearchStrategy[Any]]:
    """The strategy for one record type, for `data.draw`."""
    return records


@pytest.fixture(scope="session")
def ready() -> Callable[[type[Message], Message], tuple[ConnectionPair, Role, Message]]:
    """Brings two ends to where `message` may be sent: (pair, who sends it, the message as it may be sent)."""

    def make(message_type: type[Message], message: Message) -> tuple[ConnectionPair, Role, Message]:
        pair = ConnectionPair()
        role = AGENT if AGENT in message_type.SENDERS else COORDINATOR
        if message_type.TYPE_NAME == "HELLO_ACK":
            pair.agent.receive_data(pair.coordinator.open_session(SESSION, make_hello()))
            hello = pair.agent.next_message()
            assert hello is not None
            message = message.replace(**{key: getattr(make_hello_ack(hello), key) for key in ("re", "nonce", "major")})
        elif message_type.TYPE_NAME != "HELLO_REQ":
            pair.open()
        return pair, role, message

    return make
