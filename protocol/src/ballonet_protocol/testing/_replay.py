"""Plays the vectors of frames and streams to this library, as their README says; shows how to do it with yours.

for case in load_vectors("frames")["cases"]:
    assert replay_frame(case) in case["permitted"]
for vector in load_vectors("streams")["streams"]:
    assert replay_stream(vector) in vector["permitted"]
"""

from __future__ import annotations

from ballonet_protocol._connection import Connection
from ballonet_protocol._errors import RemoteProtocolError
from ballonet_protocol._messages import AGENT, COORDINATOR, Hello
from ballonet_protocol._records import Record

from ._pair import NONCE, SESSION, ConnectionPair, make_hello, make_hello_ack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ballonet_protocol._messages import Message


def make_receiver(to: str, state: str) -> Connection:
    """An end of the wire in the state that a vector begins in.

    `to` is "agent" or "coordinator". IDLE: nothing was said yet. HELLO_SENT: the coordinator sent the HELLO of session
    0x1122334455667788. ACTIVE: the session stands, and one frame has come from the other side.
    """
    role = AGENT if to == "agent" else COORDINATOR
    if state == "IDLE":
        return Connection(role)
    if state == "HELLO_SENT":
        connection = Connection(COORDINATOR)
        connection.open_session(SESSION, make_hello(nonce=NONCE))
        return connection
    pair = ConnectionPair()
    pair.open()
    return pair.agent if role is AGENT else pair.coordinator


def as_vector(message: Message) -> dict[str, Any]:
    """A received message as the vectors write it: its name, its seq, and its fields under their keys on the wire."""
    return {"message": message.TYPE_NAME, "seq": message.seq, "payload": _as_json(message)}


def replay_frame(case: dict[str, Any]) -> dict[str, Any]:
    """What became of the bytes of a case of frames.json: one of the outcomes that its `permitted` may list."""
    connection = make_receiver(case["to"], case["state"])
    connection.receive_data(bytes.fromhex(case["wire"]))
    events = _read(connection)
    if len(events) == 1:
        return events[0]
    counted = [name for name, count in counters(connection).items() if count]
    if events or len(counted) > 1:
        return {"events": events, "counted": counted}
    return {"count": counted[0]} if counted else {"ignore": True}


def replay_stream(vector: dict[str, Any]) -> dict[str, Any]:
    """What became of the chunks of a vector of streams.json: the events in their order, and the counters."""
    connection = make_receiver(vector["to"], vector["state"])
    events = []
    for chunk in vector["chunks"]:
        connection.receive_data(bytes.fromhex(chunk))
        events += _read(connection)
    return {"events": events, "counters": counters(connection)}


def counters(connection: Connection) -> dict[str, int]:
    """How many frames `connection` has dropped, by reason."""
    drops = connection.drops
    return {
        "crc": drops.crc or 0,
        "over": drops.over or 0,
        "gap": drops.gap or 0,
        "stale": connection.stale_frames,
        "repeated": connection.repeated_frames,
        "unexpected": connection.unexpected_frames,
    }


def _read(connection: Connection) -> list[dict[str, Any]]:
    """Every message and every refusal that waits; an agent answers a HELLO before it reads on."""
    events: list[dict[str, Any]] = []
    while True:
        try:
            message = connection.next_message()
        except RemoteProtocolError as error:
            events.append({"error": int(error.code), "re": error.re})
            continue
        if message is None:
            return events
        events.append(as_vector(message))
        if isinstance(message, Hello):
            connection.send(make_hello_ack(message))


def _as_json(value: object) -> Any:
    if isinstance(value, Record):
        fields = ((field.key, getattr(value, field.attribute)) for field in value.FIELDS)
        return {key: _as_json(item) for key, item in fields if item is not None}
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    return [_as_json(item) for item in value] if isinstance(value, tuple) else value
