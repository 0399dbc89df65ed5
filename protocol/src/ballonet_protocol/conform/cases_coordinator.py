"""Cases of sections 5, 6 and 12 about coordinators: opening sessions, keeping them, versions."""

from __future__ import annotations

from ballonet_protocol import COORDINATOR, Bye, ErrorMessage, Hello, HelloAck, Limits, Ping, Pong, Report
from ballonet_protocol.limits import (
    DEAD_S,
    HEARTBEAT_S,
    HELLO_FIRST_S,
    HELLO_GROWTH,
    HELLO_JITTER_RATIO,
    RESYNC_EVERY_S,
)

from .as_agent import QUIET_WITHIN_S, CoordinatorTalk
from .table import LINE, MUST, SHOULD, case, check
from .talk import MARGIN_S, PATIENCE_S
from .wire import Frame

DROPS = "H MUST drop a HELLO_ACK whose nonce or `re` is not its HELLO's."
RANDOM = "Only the coordinator opens a session, with a random number other than 0 and a random nonce of 16 bytes"
REPEATS = "It SHOULD repeat an unanswered HELLO, as a new session, at the pace of section 11"
NEW = (
    "It SHOULD open a new one when it hears HELLO_REQ, when frames of a foreign session arrive, when the agent has "
    "been silent for 10 s"
)
#: The pause before the first repetition, and what it may differ by.
FIRST_LEAST_S = HELLO_FIRST_S * (1 - HELLO_JITTER_RATIO) - 0.05


def _refuses_answer(talk: CoordinatorTalk, wrong: HelloAck) -> None:
    """A HELLO_ACK that is not ours to send opens nothing; the right one behind it does."""
    token = talk.token()
    talk.say(wrong)
    talk.write(talk.frame(Ping, {"t": token}))
    talk.answer()
    for frame in talk.fence("a PONG after the right HELLO_ACK"):
        pong = isinstance(frame.message, Pong) and frame.message.token == token
        check(not pong, "no session by a wrong HELLO_ACK", frame, frame)


@case("3.2/4", COORDINATOR, MUST, "nor the peer's `lim.frame`")
def short_frames(talk: CoordinatorTalk) -> None:
    """A HELLO_ACK with `lim.frame` of 1024 is followed by no longer frame."""
    talk.greeted()
    talk.answer(limits=Limits(frame_bytes=1024))
    talk.report()
    talk.fence()
    for frame in talk.came:
        if frame.session == talk.session and not isinstance(frame.message, Hello):
            check(len(frame.wire) <= 1024, "a frame of at most 1024 bytes", f"{len(frame.wire)} bytes", frame)


@case("5.1/8", COORDINATOR, MUST, RANDOM, (LINE,))
def sessions_are_random(talk: CoordinatorTalk) -> None:
    """Of three HELLOs no two have the same number or nonce, and none a number that was to be foreseen."""
    numbers, nonces = [], []
    for _ in range(3):
        nonces.append(talk.greeted().nonce)
        numbers.append(talk.session)
    check(len(set(numbers)) == 3 and 0 not in numbers, "three session numbers", numbers)
    check(len(set(nonces)) == 3, "three nonces", nonces)
    # Three draws of 64 bits lie this close together, or this low, once in more than 2^30 tries.
    apart = min(abs(a - b) for a, b in zip(numbers, [*numbers[1:], 0]))
    check(apart > 2**32, "random numbers of 64 bits", numbers)


@case("5.1/9", COORDINATOR, MUST, "H sends HELLO with session S, seq 1.")
def hello_has_number_one(talk: CoordinatorTalk) -> None:
    """The HELLO has seq 1, and an answer to it opens the session."""
    talk.greeted()
    assert talk.heard is not None
    check(talk.heard.seq == 1, "seq 1", talk.heard, talk.heard)
    talk.answer()
    talk.fence()


@case("5.1/10", COORDINATOR, MUST, DROPS)
def wrong_nonce(talk: CoordinatorTalk) -> None:
    """A HELLO_ACK with another nonce is dropped."""
    talk.greeted()
    nonce = talk.ack().nonce
    _refuses_answer(talk, talk.ack(nonce=nonce[:-1] + bytes([nonce[-1] ^ 1])))


@case("5.1/11", COORDINATOR, MUST, DROPS)
def wrong_re(talk: CoordinatorTalk) -> None:
    """A HELLO_ACK with another `re` is dropped."""
    talk.greeted()
    _refuses_answer(talk, talk.ack(re=talk.ack().re + 1))


@case("5.1/12", COORDINATOR, MUST, "Then both are in session, and the first command may follow.")
def no_command_before_the_answer(talk: CoordinatorTalk) -> None:
    """Before the HELLO_ACK nothing but HELLO comes."""
    talk.greeted()
    for frame in talk.listen(0.5):
        check(isinstance(frame.message, Hello), "nothing but HELLO", frame, frame)


@case("5.2/2", COORDINATOR, MUST, "A coordinator MUST open a session when it connects.", (LINE,))
def opens_when_it_connects(talk: CoordinatorTalk) -> None:
    """A HELLO comes on a new line, though nobody asks for it."""
    talk.is_open = False
    talk.reopen_line()
    talk.hear_hello(PATIENCE_S, "a HELLO on a new line")


@case("5.2/3", COORDINATOR, SHOULD, NEW, slow_s=RESYNC_EVERY_S)
def hears_hello_req(talk: CoordinatorTalk) -> None:
    """A HELLO_REQ is followed by the HELLO of a new session."""
    talk.fresh()
    talk.listen(RESYNC_EVERY_S + 0.1)
    old = talk.session
    talk.request_session(1)
    talk.hear_hello(PATIENCE_S, "a HELLO after a HELLO_REQ")
    check(talk.session != old, "a new session", f"{talk.session:016x} again", talk.heard)
    talk.answer()
    talk.fence()


@case("5.2/4", COORDINATOR, SHOULD, REPEATS, slow_s=HELLO_FIRST_S * (1 + HELLO_GROWTH))
def repeats_its_hello(talk: CoordinatorTalk) -> None:
    """Unanswered, a HELLO comes again after a second and after one and a half more, each time in a new session."""
    talk.greeted()
    assert talk.heard is not None
    sessions, before = {talk.session}, talk.heard
    for pause_s in (HELLO_FIRST_S, HELLO_FIRST_S * HELLO_GROWTH):
        talk.hear_hello(pause_s * (1 + HELLO_JITTER_RATIO) + 1.0, "the HELLO again")
        assert talk.heard is not None
        apart_s = talk.heard.at_s - before.at_s
        least_s, most_s = pause_s * (1 - HELLO_JITTER_RATIO) - 0.05, pause_s * (1 + HELLO_JITTER_RATIO) + 0.5
        check(least_s <= apart_s <= most_s, f"the HELLO again after {pause_s} s", f"after {apart_s:.2f} s", talk.heard)
        sessions.add(talk.session)
        before = talk.heard
    check(len(sessions) == 3, "three sessions", len(sessions))


@case("5.2/5", COORDINATOR, SHOULD, "and not sooner for what arrives meanwhile in a foreign session")
def patient_while_it_waits(talk: CoordinatorTalk) -> None:
    """While its HELLO waits, frames of a foreign session bring no other HELLO before its time."""
    talk.greeted()
    assert talk.heard is not None
    for number in range(5):
        talk.write(talk.frame(Ping, {"t": 1}, session=talk.session ^ 0xFF, seq=number + 1))
    until_s = talk.heard.at_s + FIRST_LEAST_S - 0.05
    for frame in talk.listen(max(0.0, until_s - talk.now_s())):
        check(not isinstance(frame.message, Hello), f"no HELLO within {FIRST_LEAST_S:.2f} s", frame, frame)


@case("5.2/6", COORDINATOR, SHOULD, NEW, slow_s=DEAD_S)
def silence(talk: CoordinatorTalk) -> None:
    """Ten seconds of silence are followed by the HELLO of a new session."""
    talk.fresh()
    talk.fence()
    quiet_s = talk.now_s()
    talk.hear_hello(DEAD_S + PATIENCE_S, f"a HELLO after {DEAD_S:.0f} s of silence")
    assert talk.heard is not None
    check(talk.heard.at_s - quiet_s > DEAD_S / 2, "no HELLO long before", f"{talk.heard.at_s - quiet_s:.1f} s")
    talk.answer()
    talk.fence()


@case("5.4/3", COORDINATOR, MUST, "Frames of session 0 are numbered apart, and a receiver MUST NOT check the numbers")
def numbers_of_session_zero(talk: CoordinatorTalk) -> None:
    """A HELLO_REQ with a high number and one with number 1 behind it are both heard."""
    talk.fresh()
    for number in (500, 1):
        talk.listen(RESYNC_EVERY_S + 0.1)
        talk.request_session(number)
        talk.hear_hello(PATIENCE_S, f"a HELLO after a HELLO_REQ with seq {number}")
        talk.answer()
        talk.fence()


@case(
    "5.5/4",
    COORDINATOR,
    SHOULD,
    "The agent answers with HELLO_REQ (why 1), the coordinator with a HELLO, each at most once a second",
    slow_s=RESYNC_EVERY_S,
)
def foreign_frames_open_a_session(talk: CoordinatorTalk) -> None:
    """Five frames of a foreign session have one HELLO."""
    talk.fresh()
    talk.listen(RESYNC_EVERY_S + 0.1)
    for number in range(5):
        talk.write(talk.frame(Ping, {"t": 1}, session=talk.session ^ 0xFF, seq=number + 1))
    talk.hear_hello(PATIENCE_S, "a HELLO after frames of a foreign session")
    for frame in talk.listen(MARGIN_S):
        check(not isinstance(frame.message, Hello), "one HELLO within a second", frame, frame)


@case("5.5/5", COORDINATOR, MUST, "neither does after a BYE", slow_s=RESYNC_EVERY_S)
def quiet_after_bye(talk: CoordinatorTalk) -> None:
    """A late frame of a session that has ended by BYE brings no HELLO at once."""
    talk.fresh()
    talk.listen(RESYNC_EVERY_S + 0.1)
    talk.leave()
    talk.write(talk.frame(Ping, {"t": 1}))
    for frame in talk.listen(2 * MARGIN_S):
        check(not isinstance(frame.message, Hello), "no HELLO at once", frame, frame)


@case(
    "5.6/5",
    COORDINATOR,
    MUST,
    "A message of the right session that the state below does not expect MUST be dropped and counted, without an "
    "ERROR.",
)
def too_early(talk: CoordinatorTalk) -> None:
    """REPORT, PING and EVENT before the HELLO_ACK are dropped without an ERROR, and the session opens all the same."""
    talk.greeted()
    talk.calm()
    token = talk.token()
    talk.report()
    talk.write(talk.frame(Ping, {"t": token}))
    talk.write(talk.frame(Report, {"bt": "wrong"}))
    talk.answer()
    for frame in talk.fence():
        early = isinstance(frame.message, Pong) and frame.message.token == token
        check(not early and not isinstance(frame.message, ErrorMessage), "no answer to what is too early", frame, frame)


@case("5.8/4", COORDINATOR, SHOULD, "The coordinator SHOULD send PING when it has sent nothing for 2 s.", slow_s=4.0)
def heartbeat(talk: CoordinatorTalk) -> None:
    """A coordinator that has nothing to say sends PING after two seconds, and again."""
    talk.fresh()
    talk.fence()
    for _ in range(2):
        frame = talk.find(Ping, "a PING after 2 s", within_s=QUIET_WITHIN_S)
        apart_s = frame.at_s - max(other.at_s for other in talk.came if other.at_s < frame.at_s)
        in_time = HEARTBEAT_S / 2 < apart_s < HEARTBEAT_S + 1.0
        check(in_time, f"a PING {HEARTBEAT_S:.0f} s after the frame before it", f"{apart_s:.1f} s", frame)
        assert isinstance(frame.message, Ping)
        talk.say(Pong(re=frame.seq, token=frame.message.token, boottime_ms=talk.boottime_ms()))


def _leaves(talk: CoordinatorTalk) -> None:
    """ERROR 4 (fatal) and BYE 5."""
    error: Frame = talk.find(ErrorMessage, "an ERROR 4 to a major that was not offered")
    assert isinstance(error.message, ErrorMessage)
    check(error.message.code == 4 and error.message.fatal, "ERROR 4, fatal", error, error)
    bye = talk.find(Bye, "a BYE behind the ERROR 4")
    check(isinstance(bye.message, Bye) and bye.message.why == 5, "BYE 5", bye, bye)


@case("12.1/3", COORDINATOR, MUST, "A coordinator answers a major that it did not offer likewise.", (LINE,))
def major_not_offered(talk: CoordinatorTalk) -> None:
    """A HELLO_ACK with a major above those of the HELLO has ERROR 4 (fatal) and BYE 5."""
    hello = talk.greeted()
    talk.calm()
    talk.say(talk.ack(major=hello.major_range[1] + 1))
    _leaves(talk)


@case("12.2/2", COORDINATOR, MUST, "A receiver MUST take a HELLO or HELLO_ACK of a higher minor.")
def higher_minor(talk: CoordinatorTalk) -> None:
    """A HELLO_ACK of minor 9 with unknown keys, flags, limits and capabilities opens a session that works."""
    from ballonet_protocol._codec import encode_message

    from .wire import pack, plain

    talk.greeted()
    talk.calm()
    ack = talk.ack(minor=9, capabilities=("psi", "later", "x-example.numa"))
    values = dict(plain(encode_message(ack)))
    values["lim"] = {**dict(values["lim"]), "later": 1}
    talk.write(talk.frame(HelloAck, pack({**values, "zone": {"a": [1, True]}}), flags=0x0082))
    talk.is_open = True
    talk.unanswered(talk.frame(0x31, {"later": 1}, flags=0), what="no answer to a later minor's type")
    talk.report()
    talk.unanswered(talk.frame(Report, {"bt": talk.boottime_ms(), "mem": _MEMORY, "later": 1, "psi": {"later": 2}}))


_MEMORY = {"total": 1 << 30, "free": 1 << 29, "avail": 1 << 29, "committed": 1 << 27, "later": 5}


@case("12.4/4", COORDINATOR, MUST, "An unknown name MUST be ignored.")
def unknown_capabilities(talk: CoordinatorTalk) -> None:
    """Sixty capabilities that nobody knows change nothing."""
    talk.greeted()
    talk.answer(capabilities=tuple(f"x-example.{number}" for number in range(60)))
    talk.fence("a PONG in a session with unknown capabilities")
    talk.unanswered(talk.frame(0xC5, {"a": 1}, flags=0))
