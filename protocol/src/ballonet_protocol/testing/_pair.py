"""Two connections back to back, and the messages that open a session between them."""

from __future__ import annotations

from ballonet_protocol._connection import Connection
from ballonet_protocol._framing import VERSION
from ballonet_protocol._messages import AGENT, COORDINATOR, Hello, HelloAck, Limits, Message, Role

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

SESSION = 0x1122334455667788
NONCE = bytes(range(16))
BOOT_ID = bytes(range(64, 80))


def make_hello(**changes: Any) -> Hello:
    """A HELLO that any agent can answer; `changes` replace fields of it."""
    hello = Hello(
        major_range=(VERSION, VERSION), minor=0, nonce=NONCE, capabilities=("psi", "refault"), ram_bytes=4 * 2**30
    )
    return hello.replace(**changes)


def make_hello_ack(hello: Hello, **changes: Any) -> HelloAck:
    """The HELLO_ACK that completes the session of a received `hello`; `changes` replace fields of it."""
    ack = HelloAck(
        re=hello.seq,
        nonce=hello.nonce,
        major=VERSION,
        minor=0,
        capabilities=("psi", "refault"),
        implementation="ballonet-testing",
        implementation_version="0",
        boot_id=BOOT_ID,
        boottime_ms=1,
        page_bytes=4096,
        total_bytes=4_120_412_160,
        floor_bytes=2**30,
        limits=Limits(),
        gen=0,
        status=1,
    )
    return ack.replace(**changes)


def drain(connection: Connection) -> list[Message]:
    """Every message that waits in `connection`. RemoteProtocolError passes through."""
    return list(iter(connection.next_message, None))


def feed_in_every_split(
    make_connection: Callable[[], Connection], data: bytes
) -> Iterator[tuple[int, Connection, list[Message]]]:
    """Feeds `data` to new connections, cut in two at every place: (place, connection, messages received).

    At place 0 the first part is empty. The connection is asked for messages between the parts too.
    """
    for place in range(len(data)):
        connection = make_connection()
        messages = []
        for part in (data[:place], data[place:]):
            connection.receive_data(part)
            messages += drain(connection)
        yield place, connection, messages


class ConnectionPair:
    """An agent's and a coordinator's connection, back to back."""

    def __init__(self) -> None:
        self.agent = Connection(AGENT)
        self.coordinator = Connection(COORDINATOR)

    def open(self, session: int = SESSION, hello: Hello | None = None, **ack_changes: Any) -> HelloAck:
        """Opens a session and completes it; `ack_changes` replace fields of the HELLO_ACK, which is returned."""
        self.agent.receive_data(self.coordinator.open_session(session, hello or make_hello()))
        received = self.agent.next_message()
        assert isinstance(received, Hello), received
        ack = make_hello_ack(received, **ack_changes)
        assert self.send(AGENT, ack) == [ack]
        return ack

    def send(self, role: Role, message: Message) -> list[Message]:
        """Sends `message` from that role's end; returns what the other end received."""
        sender, receiver = self.agent, self.coordinator
        if role is COORDINATOR:
            sender, receiver = receiver, sender
        receiver.receive_data(sender.send(message))
        return drain(receiver)
