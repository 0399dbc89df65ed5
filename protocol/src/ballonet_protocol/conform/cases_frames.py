"""Cases of sections 2 and 3: the line and its frames. The same for both roles."""

from __future__ import annotations

from zlib import crc32

from ballonet_protocol import AGENT, MAX_PAYLOAD_BYTES, Ping, Pong
from ballonet_protocol._framing import CRC
from ballonet_protocol.limits import PARTIAL_S

from .as_coordinator import AgentTalk
from .table import BOTH, LINE, MUST, SHOULD, Failed, case, check
from .talk import Talk
from .wire import enclose, pack

NOT_ANSWERED = "It MUST NOT answer such a frame, and MUST take the next good one."


@case(
    "2.1/1",
    AGENT,
    MUST,
    "A receiver MUST NOT take the opening or the end of the line for the beginning or the end of a session.",
    (LINE,),
)
def session_outlives_the_line(talk: AgentTalk) -> None:
    """The session goes on when the line was closed and opened again."""
    talk.fresh()
    talk.fence()
    talk.reopen_line()
    talk.fence("a PONG in the session that was opened on the line before")


@case("2.1/2", BOTH, MUST, "it may start and stop in the middle of a frame, deliver bytes of a dead peer")
def any_portions(talk: Talk) -> None:
    """A frame that comes byte by byte is taken, and two that come at once, behind the end of a dead peer's."""
    talk.active()
    token = talk.token()
    whole = talk.frame(Ping, {"t": token})
    for place in range(len(whole)):
        talk.line.send(whole[place : place + 1])
    talk.pong(token, "a PONG to a PING in portions of one byte")
    tokens = [talk.token(), talk.token()]
    talk.write(b"end of a frame" + b"".join(talk.frame(Ping, {"t": token}) for token in tokens))
    for token in tokens:
        talk.pong(token, "a PONG to each of two PINGs in one write")


def _filled(token: int, length: int) -> bytes:
    """A PING's payload of exactly so many bytes, filled with unknown keys."""
    values: dict[str, object] = {"t": token}
    for number in range(64):
        missing = length - len(pack(values))
        # A key of three letters costs four bytes, a text of 32 to 128 two bytes more than it has.
        if missing < 38 or number == 62:
            break
        text = min(128, missing - 6)
        if 0 < missing - 6 - text < 38:
            text -= 40
        values[f"f{number:02d}"] = "x" * text
    packed = pack(values)
    if len(packed) < length:  # the map's own head has grown from one byte to three on the way
        values["f00"] = str(values["f00"])[: max(32, 128 - (len(packed) - length))]
    return packed


@case("3.2/1", BOTH, MUST, "A receiver MUST take every frame within these sizes.")
def longest_payload(talk: Talk) -> None:
    """The longest payload that the peer takes is taken."""
    talk.active()
    room = talk.max_frame_bytes() - 2
    longest = min(MAX_PAYLOAD_BYTES, room - room // 254 - 1 - 20)
    token = talk.token()
    payload = _filled(token, longest)
    talk.write(talk.frame(Ping, payload))
    talk.pong(token, f"a PONG to a PING with a payload of {len(payload)} bytes")


@case("3.4/1", BOTH, MUST, "Two zeros with nothing between them are nothing.")
def zeros(talk: Talk) -> None:
    """A thousand zeros before, between and behind frames change nothing."""
    talk.active()
    token = talk.token()
    talk.unanswered(bytes(1000))
    talk.write(bytes(100) + talk.frame(Ping, {"t": token}) + bytes(100))
    talk.pong(token, "a PONG to a PING between zeros")


@case("3.4/2", BOTH, MUST, NOT_ANSWERED)
def overlong(talk: Talk) -> None:
    """10,000 bytes without a zero are dropped, and the frame behind them is taken."""
    talk.active()
    talk.unanswered(b"\0" + b"\x41" * 10_000 + b"\0", what="no answer to an overlong frame")


@case("3.4/3", BOTH, MUST, NOT_ANSWERED)
def wrong_crc(talk: Talk) -> None:
    """A PING with a wrong CRC is dropped."""
    talk.active()
    tokens = [talk.token(), talk.token()]
    wires = []
    for token, bit in zip(tokens, (1, 0x80)):
        talk.seq += 1
        whole = bytearray(talk.body(Ping, {"t": token}, seq=talk.seq + 100))
        whole[-1 if bit == 1 else 20] ^= bit
        wires.append(enclose(bytes(whole)))
    talk.unanswered(*wires, tokens=tokens, what="no answer to a PING whose CRC is wrong")


@case("3.4/4", BOTH, MUST, NOT_ANSWERED)
def not_cobs(talk: Talk) -> None:
    """What is not COBS is dropped: a length byte that leads behind the end."""
    talk.active()
    talk.unanswered(b"\0\x20\x01\x02\x03\0", b"\0\xff\0", what="no answer to what is not COBS")


@case("3.4/5", BOTH, MUST, NOT_ANSWERED)
def too_short(talk: Talk) -> None:
    """What is shorter than a header and a CRC is dropped, though its CRC is right."""
    talk.active()
    head = talk.body(Ping, b"")[:15]
    short = [head[:length] + CRC.pack(crc32(head[:length])) for length in (1, 8, 15)]
    talk.unanswered(*map(enclose, short), what="no answer to a frame that is too short")


@case("3.3/2", BOTH, MUST, "the first closes whatever half frame the receiver still holds")
def cut_frames(talk: Talk) -> None:
    """The half of a frame that was cut off is dropped; the whole one right behind it is taken."""
    talk.active()
    whole = talk.frame(Ping, {"t": talk.token(), "x": "cut off here"}, seq=talk.seq + 1)
    for end in (3, len(whole) // 2, len(whole) - 1):
        token = talk.token()
        talk.write(whole[:end] + talk.frame(Ping, {"t": token}))
        talk.pong(token, f"a PONG to the PING behind the first {end} bytes of another frame")


@case("3.4/6", BOTH, SHOULD, "It SHOULD give up a frame whose end does not come within 2 s.", slow_s=PARTIAL_S + 0.7)
def half_frames_grow_old(talk: Talk) -> None:
    """The end of a frame that comes three seconds after its beginning belongs to nothing."""
    talk.active()
    token = talk.token()
    whole = talk.frame(Ping, {"t": token})
    talk.write(whole[:-6])
    talk.wait_until(talk.now_s() + PARTIAL_S + 0.7)
    talk.unanswered(whole[-6:], tokens=[token], what="no PONG to a frame that took longer than 2 s")


@case("3.5/2", BOTH, MUST, "A receiver goes by the type and MUST ignore unknown flags of the low byte.")
def unknown_low_flags(talk: Talk) -> None:
    """A PING with every flag of the low byte is a PING, and so is one with none."""
    talk.active()
    for flags in (0x00FF, 0x0000):
        talk.pong(talk.ping(flags=flags), f"a PONG to a PING with flags {flags:#06x}")


@case(
    "3.5/3",
    BOTH,
    MUST,
    "A receiver MUST NOT act on a frame with a flag of the high byte that it does not know, and answers ERROR 6.",
)
def critical_flags(talk: Talk) -> None:
    """A PING with a critical flag is answered by ERROR 6, and by no PONG."""
    talk.active()
    wire = talk.frame(Ping, {"t": talk.token()}, flags=0x0101)
    talk.refused(wire, 6, talk.seq, "a PING with a critical flag")


@case("5.8/1", BOTH, MUST, "PING MUST be answered by PONG with the same `t`, at once.")
def pong(talk: Talk) -> None:
    """A PING with the least and one with the greatest number come back, with `re` and within a moment."""
    talk.active()
    for token in (0, 2**53 - 1):
        asked_s = talk.now_s()
        talk.write(talk.frame(Ping, {"t": token}))
        frame = talk.pong(token, f"a PONG with t {token}")
        assert isinstance(frame.message, Pong)
        check(frame.message.re == talk.seq, f"re {talk.seq}", frame, frame)
        if talk.now_s() - asked_s > 1.0:
            raise Failed("a PONG at once", f"one after {talk.now_s() - asked_s:.1f} s", frame)
