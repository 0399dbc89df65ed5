"""Who may say what when: the life of a session as tables.

Only the coordinator opens a session, because a guest restored twice from one snapshot draws the same random numbers
twice. An agent asks with HELLO_REQ and otherwise waits. It follows a HELLO in every state: the peer may be another
process on another host since the last frame, and nothing in the stream tells.

    agent          IDLE --HELLO--> HELLO_RECEIVED --HELLO_ACK sent--> ACTIVE --BYE--> CLOSED
    coordinator    IDLE --HELLO sent--> HELLO_SENT --HELLO_ACK--> ACTIVE --BYE--> CLOSED

From every state a HELLO leads back to the second one, with a new session; a BYE, sent or received, leads to CLOSED. A
frame of any other session is stale: it is dropped before its payload is parsed. Session 0 is no session: HELLO_REQ
travels in it always, ERROR where there is no session or no frame to speak of. Frames of session 0 have numbers of
their own, which the receiver does not check: an agent that was restarted counts from 1 again.

A message of the right session that the state does not expect is dropped and counted. It is no error of the peer's:
after a lost HELLO_ACK an agent is ACTIVE and reports, while the coordinator still waits.
"""

from __future__ import annotations

from ._enums import Enum
from ._messages import AGENT, COORDINATOR, MESSAGE_TYPES, Bye, ErrorMessage, Hello, HelloAck, HelloReq, Message, Role


class State(Enum):
    """Where a session stands, seen from one end."""

    IDLE = "no session yet"
    HELLO_SENT = "the coordinator waits for HELLO_ACK"
    HELLO_RECEIVED = "the agent has adopted a session and owes the HELLO_ACK"
    ACTIVE = "both ends are in step"
    CLOSED = "a BYE ended the session"


SENT, RECEIVED = "sent", "received"
OUTSIDE_SESSIONS = frozenset((HelloReq, ErrorMessage))  # may travel in session 0

_STATES = {
    AGENT: (State.IDLE, State.HELLO_RECEIVED, State.ACTIVE, State.CLOSED),
    COORDINATOR: (State.IDLE, State.HELLO_SENT, State.ACTIVE, State.CLOSED),
}
_HANDSHAKE = frozenset((Hello, HelloAck, HelloReq))
_SPOKEN_BY = {
    role: frozenset(kind for kind in MESSAGE_TYPES.values() if role in kind.SENDERS) - _HANDSHAKE for role in Role
}

# (role, state) -> what that role may send then.
SENDS: dict[tuple[Role, State], frozenset[type[Message]]] = {
    (AGENT, State.IDLE): frozenset((HelloReq, ErrorMessage)),
    (AGENT, State.HELLO_RECEIVED): frozenset((HelloReq, HelloAck, ErrorMessage, Bye)),
    (AGENT, State.ACTIVE): _SPOKEN_BY[AGENT] | {HelloReq},
    (AGENT, State.CLOSED): frozenset((HelloReq, ErrorMessage)),
    (COORDINATOR, State.IDLE): frozenset((Hello, ErrorMessage)),
    (COORDINATOR, State.HELLO_SENT): frozenset((Hello, ErrorMessage, Bye)),
    (COORDINATOR, State.ACTIVE): _SPOKEN_BY[COORDINATOR] | {Hello},
    (COORDINATOR, State.CLOSED): frozenset((Hello, ErrorMessage)),
}

# (role, state) -> what that role takes then.
RECEIVES: dict[tuple[Role, State], frozenset[type[Message]]] = {
    (AGENT, State.IDLE): frozenset((Hello, ErrorMessage)),
    (AGENT, State.HELLO_RECEIVED): frozenset((Hello, ErrorMessage, Bye)),
    (AGENT, State.ACTIVE): _SPOKEN_BY[COORDINATOR] | {Hello},
    (AGENT, State.CLOSED): frozenset((Hello, ErrorMessage)),
    (COORDINATOR, State.IDLE): frozenset((HelloReq, ErrorMessage)),
    (COORDINATOR, State.HELLO_SENT): frozenset((HelloReq, HelloAck, ErrorMessage, Bye)),
    (COORDINATOR, State.ACTIVE): _SPOKEN_BY[AGENT] | {HelloReq},
    (COORDINATOR, State.CLOSED): frozenset((HelloReq, ErrorMessage)),
}

# (role, state, SENT or RECEIVED, message) -> the next state; what is not here changes nothing.
TRANSITIONS: dict[tuple[Role, State, str, type[Message]], State] = {
    (AGENT, State.HELLO_RECEIVED, SENT, HelloAck): State.ACTIVE,
    (COORDINATOR, State.HELLO_SENT, RECEIVED, HelloAck): State.ACTIVE,
}
for _role, _states in _STATES.items():
    for _state in _states:
        if _role is AGENT:
            TRANSITIONS[_role, _state, RECEIVED, Hello] = State.HELLO_RECEIVED
        else:
            TRANSITIONS[_role, _state, SENT, Hello] = State.HELLO_SENT
        if Bye in SENDS[_role, _state]:
            TRANSITIONS[_role, _state, SENT, Bye] = State.CLOSED
            TRANSITIONS[_role, _state, RECEIVED, Bye] = State.CLOSED
