"""The tables of the session: total, reachable, and the same from both ends."""

from __future__ import annotations

from itertools import product

from ballonet_protocol import AGENT, COORDINATOR, MESSAGE_TYPES, Bye, Hello, HelloReq, Role, State
from ballonet_protocol._state import RECEIVED, RECEIVES, SENDS, SENT, TRANSITIONS

STATES = {AGENT: set(State) - {State.HELLO_SENT}, COORDINATOR: set(State) - {State.HELLO_RECEIVED}}


def test_tables_are_total() -> None:
    """Each role has an entry for each state that it can be in, and for no other."""
    places = {(role, state) for role in Role for state in STATES[role]}
    assert set(SENDS) == set(RECEIVES) == places
    assert {key[:2] for key in TRANSITIONS} <= places


def test_nobody_sends_for_the_other() -> None:
    """What a role sends has it as a sender, what it receives has the other one."""
    for (role, _), kinds in SENDS.items():
        assert all(role in kind.SENDERS for kind in kinds)
    for (role, _), kinds in RECEIVES.items():
        assert all(set(kind.SENDERS) - {role} for kind in kinds)


def test_active_ends_understand_each_other() -> None:
    """What an ACTIVE end may send the other takes when ACTIVE, and between them they speak all sixteen messages."""
    for ours, theirs in ((AGENT, COORDINATOR), (COORDINATOR, AGENT)):
        assert SENDS[ours, State.ACTIVE] <= RECEIVES[theirs, State.ACTIVE]
    spoken = {kind for kinds in SENDS.values() for kind in kinds}
    assert spoken == set(MESSAGE_TYPES.values())


def test_transitions_follow_what_is_allowed() -> None:
    """Every transition is by a message that may be sent or received in that state."""
    for role, state, way, kind in TRANSITIONS:
        assert kind in (SENDS if way == SENT else RECEIVES)[role, state]


def test_every_state_is_reached_and_left() -> None:
    """From any state a new HELLO leads on, a BYE of either end closes, and all states can be reached from IDLE."""
    for role in Role:
        reached = {State.IDLE}
        while True:
            found = {next_ for (who, state, *_), next_ in TRANSITIONS.items() if who is role and state in reached}
            if found <= reached:
                break
            reached |= found
        assert reached == STATES[role]
        way = RECEIVED if role is AGENT else SENT
        assert all((role, state, way, Hello) in TRANSITIONS for state in STATES[role])
        for way in (SENT, RECEIVED):
            assert TRANSITIONS[role, State.ACTIVE, way, Bye] is State.CLOSED


def test_an_agent_can_always_ask() -> None:
    """HELLO_REQ may be sent and is taken in every state."""
    assert all(HelloReq in SENDS[AGENT, state] for state in STATES[AGENT])
    assert all(HelloReq in RECEIVES[COORDINATOR, state] for state in STATES[COORDINATOR])
    assert all(Hello in RECEIVES[AGENT, state] for _, state in product((AGENT,), STATES[AGENT]))
