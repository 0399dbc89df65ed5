"""The helpers that authors of other agents use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    Connection,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    Ping,
    State,
)
from ballonet_protocol._framing import encode_frame
from ballonet_protocol.testing import (
    SESSION,
    ConnectionPair,
    drain,
    feed_in_every_split,
    load_vectors,
    make_hello,
    make_hello_ack,
)


def test_pair_opens_and_talks() -> None:
    """A pair opens a session with the fields asked for and carries messages both ways."""
    pair = ConnectionPair()
    ack = pair.open(session=5, hello=make_hello(minor=2), minor=1, page_bytes=65536)
    assert (ack.page_bytes, pair.agent.minor, pair.coordinator.session) == (65536, 1, 5)
    assert pair.agent.state is pair.coordinator.state is State.ACTIVE
    assert pair.send(AGENT, Event(event="resume", boottime_ms=1)) == [Event(event="resume", boottime_ms=1)]
    assert pair.send(COORDINATOR, Ping(token=1)) == [Ping(token=1)]


def test_every_split() -> None:
    """Each place is tried once, on a connection of its own, from the empty first part to the empty rest of one byte."""
    wire = Connection(COORDINATOR).open_session(SESSION, make_hello())
    seen = list(feed_in_every_split(lambda: Connection(AGENT), wire))
    assert [place for place, _, _ in seen] == list(range(len(wire)))
    assert len({id(connection) for _, connection, _ in seen}) == len(wire)
    assert all(messages == [make_hello()] for _, _, messages in seen)


def test_ack_answers_the_hello() -> None:
    """`make_hello_ack` names the number and the nonce of the HELLO that it was given."""
    agent = Connection(AGENT)
    agent.receive_data(Connection(COORDINATOR).open_session(SESSION, make_hello(nonce=b"n" * 16)))
    (hello,) = drain(agent)
    assert isinstance(hello, Hello)
    ack = make_hello_ack(hello, gen=4)
    assert (ack.re, ack.nonce, ack.gen) == (1, b"n" * 16, 4)


def test_vectors(workspace: Path) -> None:
    """The vectors ship inside the package, and protocol/vectors leads people to the same files."""
    vectors = load_vectors("frames")
    assert len(vectors["frames"]) == 19
    assert len(vectors["edge"]) == 18
    shipped = workspace / "protocol/src/ballonet_protocol/vectors/frames.json"
    assert (workspace / "protocol/vectors/frames.json").resolve() == shipped
    with pytest.raises(FileNotFoundError):
        load_vectors("no-such")


def test_readme_example(workspace: Path) -> None:
    """The README's loop answers a HELLO, says one bad frame a second, and reads on behind it."""
    code = (workspace / "protocol" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, "README", "exec"), names)
    host, written = Connection(COORDINATOR), []
    bad = encode_frame(Ping.TYPE_CODE, 1, 2, SESSION, b"\x80")
    names["receive"](host.open_session(SESSION, make_hello()) + bad, 1.0, written.append, make_hello_ack)
    host.receive_data(b"".join(written))
    assert [type(message) for message in drain(host)] == [HelloAck, ErrorMessage]
    written.clear()
    bad = encode_frame(Ping.TYPE_CODE, 1, 3, SESSION, b"\x80") + encode_frame(2, 1, 1, 9, b"\x80")
    again = Connection(COORDINATOR)
    names["receive"](bad + again.open_session(10, make_hello()), 1.5, written.append, make_hello_ack)
    again.receive_data(b"".join(written))
    assert [type(message) for message in drain(again)] == [HelloAck]
