"""Cases of sections 5 and 10 that are the same for both roles: numbers, foreign sessions, ending, errors."""

from __future__ import annotations

from ballonet_protocol import (
    AGENT,
    MESSAGE_TYPES,
    BalloonAck,
    Bye,
    ErrorMessage,
    Hello,
    Inflate,
    Message,
    Ping,
    Pong,
)
from ballonet_protocol._messages import REQ
from ballonet_protocol.limits import ERRORS_IN_A_ROW

from .table import BOTH, MUST, SHOULD, case, check
from .talk import MARGIN_S, Talk

WRONG_DIRECTION = "A message that only the other role may send is answered by ERROR 11 and MUST NOT touch the numbers."
UNKNOWN_TYPE = "A type that is not known is answered by ERROR 5 when it has REQ, and MUST be ignored otherwise."


@case(
    "5.3/2",
    BOTH,
    MUST,
    "A receiver MUST drop a frame whose seq is not greater than the last one (repeated), and counts those that are "
    "missing (`gap`).",
)
def repeated(talk: Talk) -> None:
    """A PING that comes a second time, and one with a lower number, have no PONG."""
    talk.fresh()
    token = talk.token()
    once = talk.frame(Ping, {"t": token})
    talk.write(once)
    talk.pong(token, "a PONG")
    lower = talk.token()
    wires = [once, talk.frame(Ping, {"t": lower}, seq=talk.seq - 1), talk.frame(Ping, {"t": lower}, seq=0)]
    talk.unanswered(*wires, tokens=[token, lower], what="no second PONG")


@case("5.3/3", BOTH, MUST, "and counts those that are missing (`gap`)")
def gaps(talk: Talk) -> None:
    """Numbers that are missing do no harm, be they five or two thousand million."""
    talk.fresh()
    for number in (talk.seq + 6, 2**31, 2**32 - 1):
        token = talk.token()
        talk.seq = number
        talk.write(talk.frame(Ping, {"t": token}, seq=number))
        talk.pong(token, f"a PONG to a PING with seq {number}")
    talk.fresh()


@case("5.5/1", BOTH, MUST, "A frame of any other session MUST be dropped before its payload is parsed, and counted.")
def foreign_session(talk: Talk) -> None:
    """Frames of another session, bad ones too, have neither PONG nor ERROR and touch no numbers."""
    talk.fresh()
    token = talk.token()
    foreign = talk.session ^ 0x55
    wires = [
        talk.frame(Ping, {"t": token}, session=foreign, seq=999),
        talk.frame(Ping, b"\xc1", session=foreign, seq=9),
        talk.frame(Ping, {"t": token}, session=0, seq=9),
    ]
    talk.unanswered(*wires, tokens=[token])


@case("5.6/1", BOTH, MUST, WRONG_DIRECTION)
def wrong_direction(talk: Talk) -> None:
    """What only the peer's own role says has an ERROR 11; the number it had is still free."""
    talk.active()
    kind, values = _theirs(talk)
    number = talk.seq + 1000
    wire = talk.frame(kind, values, seq=number)
    talk.refused(wire, 11, number, f"a {kind.TYPE_NAME} of the wrong direction")


def _theirs(talk: Talk) -> tuple[type[Message], dict[str, object]]:
    if talk.peer is AGENT:
        return BalloonAck, {"re": 1, "gen": 1, "st": 0, "eff": 1, "why": 0}
    return Inflate, {"gen": 1, "target": 1, "ttl_ms": 30_000}


@case("5.6/2", BOTH, MUST, UNKNOWN_TYPE)
def unknown_request(talk: Talk) -> None:
    """A type that SPEC.md does not have, with REQ, has an ERROR 5."""
    talk.active()
    wire = talk.frame(0x7E, {"a": 1}, flags=REQ)
    talk.refused(wire, 5, talk.seq, "an unknown type with REQ")


@case("5.6/3", BOTH, MUST, UNKNOWN_TYPE)
def unknown_statement(talk: Talk) -> None:
    """Types that SPEC.md does not have, without REQ, are ignored, whatever they hold."""
    talk.active()
    assert 0x7E not in MESSAGE_TYPES
    talk.unanswered(
        talk.frame(0x7E, {"a": 1}, flags=0),
        talk.frame(0xC0, {"x": 1}, flags=0),
        talk.frame(0xFF, b"\xc1", flags=0),
        what="no answer to an unknown type without REQ",
    )


@case(
    "5.6/4",
    BOTH,
    SHOULD,
    "A receiver SHOULD drop a frame that equals one of the last eight of its own that both roles may send (PING, PONG, "
    "BYE, ERROR)",
    slow_s=2.0,
)
def echo(talk: Talk) -> None:
    """The peer's own PONG, come back, does not count as ours: our next number is new."""
    talk.fresh()
    own = talk.run_ahead()
    check(own.seq > talk.seq, f"a number ahead of our {talk.seq}", own, own)
    talk.unanswered(own.wire, what="no answer to an echo")


@case("5.7/2", BOTH, MUST, "its receiver treats late frames of it as foreign")
def after_our_bye(talk: Talk) -> None:
    """After our BYE a PING of that session has no PONG."""
    talk.fresh()
    talk.leave()
    token = talk.token()
    talk.write(talk.frame(Ping, {"t": token}))
    for frame in talk.listen(MARGIN_S):
        late = isinstance(frame.message, Pong) and frame.message.token == token
        check(not late, "no PONG in a session that has ended", frame, frame)
    talk.fresh()
    talk.fence("a PONG in the session after it")


@case("10.1/1", BOTH, MUST, "A frame whose first byte is not 1 is answered by ERROR 4 without `re`.")
def other_wire_version(talk: Talk) -> None:
    """A frame of wire version 2 has an ERROR 4 that names no frame."""
    talk.active()
    wire = talk.frame(Ping, {"t": talk.token()}, version=2)
    talk.refused(wire, 4, None, "a frame of wire version 2")


@case(
    "10.2/1",
    BOTH,
    MUST,
    "An ERROR MUST NOT be answered by an ERROR, not even a bad one, or one of another wire version: that is dropped "
    "and counted.",
)
def errors_are_not_answered(talk: Talk) -> None:
    """No ERROR of ours has an answer: good, bad, critical or of another wire version."""
    talk.active()
    good: dict[str, object] = {"re": 1, "code": 2, "msg": "conformance", "fatal": False}
    talk.unanswered(talk.frame(ErrorMessage, good), what="no answer to an ERROR")
    talk.unanswered(talk.frame(ErrorMessage, {"code": 99, "fatal": False}, session=0, seq=1))
    talk.unanswered(talk.frame(ErrorMessage, {"code": "two"}), what="no answer to a bad ERROR")
    talk.unanswered(talk.frame(ErrorMessage, good, flags=0x8002), what="no answer to an ERROR with a critical flag")
    talk.unanswered(talk.frame(ErrorMessage, good, version=2), what="no answer to an ERROR of wire version 2")


@case("10.3/2", BOTH, MUST, "A side MUST NOT send more than one ERROR per second.")
def one_error_per_second(talk: Talk) -> None:
    """Five bad frames at once have one ERROR, and a sixth a second later has another."""
    talk.active()
    talk.calm()
    talk.take()
    talk.write(*(talk.frame(Ping, {}) for _ in range(5)))
    errors = [frame for frame in talk.fence() if isinstance(frame.message, ErrorMessage)]
    check(len(errors) == 1, "one ERROR to five bad frames at once", f"{len(errors)}", errors[-1] if errors else None)
    talk.calm()
    talk.write(talk.frame(Ping, {}))
    talk.find(ErrorMessage, "an ERROR to a bad frame a second later")


@case("10.3/3", BOTH, SHOULD, "After 16 bad frames in a row it SHOULD send BYE 5.")
def enough_is_enough(talk: Talk) -> None:
    """Sixteen bad frames in a row are answered by BYE 5; fifteen are not."""
    talk.fresh()
    talk.fence()
    talk.write(*(talk.frame(Ping, {}) for _ in range(ERRORS_IN_A_ROW - 1)))
    for frame in talk.fence("a PONG after 15 bad frames"):
        check(not isinstance(frame.message, Bye), "no BYE after 15 bad frames", frame, frame)
    talk.write(*(talk.frame(Ping, {}) for _ in range(ERRORS_IN_A_ROW)))
    bye = talk.find(Bye, "a BYE after 16 bad frames in a row")
    check(isinstance(bye.message, Bye) and bye.message.why == 5, "BYE with why 5", bye, bye)
    talk.fresh()
    talk.fence("a PONG in the session after it")


@case("10.3/4", BOTH, SHOULD, "A message of the wrong direction (ERROR 11) does not count towards the sixteen")
def echoes_are_no_reason(talk: Talk) -> None:
    """Twenty messages of the wrong direction end nothing."""
    talk.fresh()
    kind, values = _theirs(talk)
    talk.calm()
    talk.write(*(talk.frame(kind, values, seq=5000 + number) for number in range(20)))
    for frame in talk.fence("a PONG after twenty messages of the wrong direction"):
        check(not isinstance(frame.message, (Bye, Hello)), "the session to go on", frame, frame)
