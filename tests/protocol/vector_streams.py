"""streams.json: what a receiver makes of a byte stream that is cut, joined, repeated and noisy."""

from __future__ import annotations

from typing import Any

from .vector_bytes import LEAST, NONCE, OTHER_SESSION, SESSION, body, frame, plain, wire

RULES = {
    "Chunks": "the line may cut and join frames anywhere",
    "Resync": "a zero closes whatever half frame there was; the next frame is taken",
    "Counting": "a damaged frame is counted as crc and never answered",
    "Oversize": "no more than one frame's length is held; a longer run is counted as over, once",
    "Seq": "seq goes from 1 by 1; not greater than the last is repeated, what is missing is a gap",
    "StaleSession": "a frame of any other session is dropped before its payload is parsed, and counted",
    "NewSession": "an agent follows a HELLO in every state; its numbers begin anew, a repeated HELLO's go on",
    "Unexpected": "a message of the session that the state does not expect is dropped and counted",
    "Echo": "a message that only the other role may send is answered by ERROR 11 and does not touch the numbers",
    "SessionZero": "session 0 is no session; its numbers are not checked",
    "Errors": "one wrong frame is answered and gone; the next is taken",
}
NONE = {"crc": 0, "over": 0, "gap": 0, "stale": 0, "repeated": 0, "unexpected": 0}
HELLO_2 = {**LEAST["HELLO"], "nonce": NONCE[::-1]}


def ping(t: int, seq: int, session: int = SESSION) -> bytes:
    return frame("PING", {"t": t}, seq=seq, session=session)


def got(t: int, seq: int) -> dict[str, Any]:
    return {"message": "PING", "seq": seq, "payload": {"t": t}}


def said(kind: str, seq: int, payload: Any = None) -> dict[str, Any]:
    return {"message": kind, "seq": seq, "payload": plain(LEAST[kind] if payload is None else payload)}


class Streams:
    """Collects vectors; ids are unique."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, Any]] = {}

    def add(
        self, name: str, comment: str, flags: str, result: str, chunks: list[bytes], events: list[Any],
        to: str = "agent", state: str = "ACTIVE", or_: list[Any] | None = None, **counters: int,
    ) -> None:  # fmt: skip
        assert name not in self.all, name
        permitted = [{"events": events, "counters": {**NONE, **counters}}]
        self.all[name] = {
            "id": name, "comment": comment, "flags": flags.split(), "result": result,
            "reason": "; ".join(RULES[flag] for flag in flags.split()), "to": to, "state": state,
            "chunks": [chunk.hex() for chunk in chunks], "permitted": permitted + (or_ or []),
        }  # fmt: skip


def stream_vectors() -> list[dict[str, Any]]:
    """All of them."""
    streams = Streams()
    for part in (chunks, damage, oversize, numbers, sessions):
        part(streams)
    return list(streams.all.values())


def chunks(streams: Streams) -> None:
    """Good bytes, however they come."""
    add = streams.add
    three = [ping(1, 2), ping(2, 3), ping(3, 4)]
    events = [got(1, 2), got(2, 3), got(3, 4)]
    whole = b"".join(three)
    add("one-frame-per-chunk", "three frames, one in each chunk", "Chunks", "valid", three, events)
    add("all-in-one", "three frames in one chunk", "Chunks", "valid", [whole], events)
    add("byte-by-byte", "three frames, byte by byte", "Chunks", "valid", [bytes([byte]) for byte in whole], events)
    add("two-and-a-half", "cut in the middle of the second frame", "Chunks", "valid", [whole[:40], whole[40:]], events)
    add("cut-before-last-zero", "the last zero comes alone", "Chunks", "valid", [whole[:-1], whole[-1:]], events)
    add("cut-behind-first-zero", "the first zero comes alone", "Chunks", "valid", [whole[:1], whole[1:]], events)
    add("empty-chunks", "reads that bring nothing", "Chunks", "valid", [b"", whole[:30], b"", whole[30:], b""], events)
    shared = three[0][:-1] + three[1][:-1] + three[2]
    add("shared-zeros", "one zero between frames: it ends one and begins the next", "Chunks Resync", "acceptable",
        [shared],
        events)  # fmt: skip
    add("zero-runs", "hundreds of zeros between frames", "Resync", "valid", [bytes(300),
        *[f + bytes(300) for f in three]],
        events)  # fmt: skip
    add("zero-run-4200", "more zeros than a frame is long", "Resync Oversize", "valid", [bytes(4200), whole], events)
    add("nothing", "no byte", "Chunks", "valid", [], [])
    long_text = {"re": 1, "code": 2, "msg": "m" * 128, "fatal": False}
    add("long-and-short", "a long frame and a short one, in chunks of 7", "Chunks", "valid",
        sevens(frame("ERROR", long_text) + ping(1, 3)), [said("ERROR", 2, long_text), got(1, 3)])  # fmt: skip


def sevens(data: bytes) -> list[bytes]:
    return [data[start : start + 7] for start in range(0, len(data), 7)]


def damage(streams: Streams) -> None:
    """Bytes that are missing, or too many."""
    add = streams.add
    good, after = ping(1, 2), ping(2, 3)
    for start in (1, 2, 5, 12, len(good) - 2):
        lost = {} if start == 1 else {"crc": 1, "gap": 1}
        add(f"start-{start}", f"the first {start} bytes of the first frame are missing", "Resync Counting",
            "valid" if start == 1 else "invalid", [good[start:], after],
            [got(1, 2), got(2, 3)] if start == 1 else [got(2, 3)], **lost)  # fmt: skip
    for end in (2, 3, 10, len(good) - 2):
        add(f"cut-{end}", f"only the first {end} bytes of the first frame, then the next one", "Resync Counting",
            "invalid",
            [good[:end], after], [got(2, 3)], crc=1, gap=1)  # fmt: skip
    add("cut-last-zero", "the last zero is missing; that of the next frame does for it", "Resync", "acceptable",
        [good[:-1], after], [got(1, 2), got(2, 3)])  # fmt: skip
    add("hole", "the middle of two frames is missing", "Resync Counting", "invalid", [good[:9] + after[14:], ping(3,
        4)],
        [got(3, 4)], crc=1, gap=2)  # fmt: skip
    add("three-cuts", "three half frames in a row", "Resync Counting", "invalid",
        [good[:12], after[:9], ping(3, 4)[:20], ping(4, 5)], [got(4, 5)], crc=3, gap=3)  # fmt: skip
    add(
        "still-open",
        "a half frame that waits for its rest is not lost",
        "Resync",
        "valid",
        [good, after[:12]],
        [got(1, 2)],
    )
    flipped = bytearray(good)
    flipped[20] ^= 0x10
    add(
        "bit",
        "one bit of the payload is another",
        "Counting",
        "invalid",
        [bytes(flipped), after],
        [got(2, 3)],
        crc=1,
        gap=1,
    )
    zeroed = bytearray(good)
    zeroed[20] = 0
    add("byte-to-zero", "a byte becomes zero: two pieces, neither a frame", "Counting", "invalid", [bytes(zeroed),
        after],
        [got(2, 3)], crc=2, gap=1)  # fmt: skip
    joined = good[:-1] + after[1:]
    add("zeros-lost", "both zeros between two frames are missing: neither survives", "Counting", "invalid",
        [joined, ping(3, 4)], [got(3, 4)], crc=1, gap=2)  # fmt: skip
    add("noise", "bytes of another protocol", "Counting", "invalid", [b"login: \r\n", good, b'{"execute":"qmp"}\n',
        after],
        [got(1, 2), got(2, 3)], crc=2)  # fmt: skip
    inner = ping(9, 9)
    text = b"\x82\xa1t\x00\xa2zz" + bytes([0xC4, len(inner)]) + inner
    outer = wire(body(4, text, 1))
    add("fake-frame", "a bin that holds a whole frame", "Resync", "valid", [outer, after], [got(0, 2), got(2, 3)])
    for cut in (20, 30, 34, 40):
        add(f"fake-frame-cut-{cut}", f"the same without its first {cut} bytes: the frame inside must not be taken",
            "Resync Counting", "invalid", [outer[cut:], after], [got(2, 3)], crc=1, gap=1)  # fmt: skip
    bad = frame("PING", b"\x81\xa1t\xc0", seq=2)
    add("bad-then-good", "a wrong payload, then a good frame", "Errors", "invalid", [bad + after],
        [{"error": 2, "re": 2}, got(2, 3)])  # fmt: skip
    add("bad-between-good", "an unknown type and one that nobody has to know", "Errors", "invalid",
        [good, wire(body(0x7F, b"\x80", 1, 3)), wire(body(0x7F, b"\x80", 0, 4)), ping(4, 5)],
        [got(1, 2), {"error": 5, "re": 3}, got(4, 5)])  # fmt: skip


def oversize(streams: Streams) -> None:
    """Runs without an end."""
    add = streams.add
    good = ping(1, 2)
    add("run-5000", "5000 bytes without a zero, then a good frame", "Oversize Resync", "invalid", [b"\x07" * 5000,
        good],
        [got(1, 2)], over=1)  # fmt: skip
    add("run-5000-in-pieces", "the same, in chunks of 500", "Oversize Resync", "invalid", [*[b"\x07" * 500] * 10, good],
        [got(1, 2)], over=1)  # fmt: skip
    add("run-20000", "five times a frame's length is one frame that is too long", "Oversize", "invalid",
        [*[b"\x07" * 4000] * 5, good], [got(1, 2)], over=1)  # fmt: skip
    add("two-runs", "two runs with a zero between them", "Oversize", "invalid",
        [b"\x07" * 5000 + b"\0" + b"\x07" * 5000, good],
        [got(1, 2)], over=2)  # fmt: skip
    add("run-then-half", "a run, and the tail of a frame behind it", "Oversize", "invalid",
        [b"\x07" * 5000, good[1:], ping(2, 3)], [got(2, 3)], over=1, gap=1)  # fmt: skip
    add("run-between-good", "good, run, good", "Oversize Resync", "invalid", [good + b"\x07" * 4100 + ping(2, 3)],
        [got(1, 2), got(2, 3)], over=1)  # fmt: skip


def numbers(streams: Streams) -> None:
    """seq."""
    add = streams.add
    add("seq-repeat", "the same frame twice", "Seq", "invalid", [ping(1, 2), ping(1, 2), ping(2, 3)],
        [got(1, 2), got(2, 3)], repeated=1)  # fmt: skip
    add("seq-repeat-other", "the same number on another frame", "Seq", "invalid", [ping(1, 2), ping(7, 2)], [got(1, 2)],
        repeated=1)  # fmt: skip
    add("seq-gap", "two frames are missing", "Seq", "valid", [ping(1, 2), ping(4, 5)], [got(1, 2), got(4, 5)], gap=2)
    add("seq-first-gap", "the session's second frame is missing", "Seq", "valid", [ping(2, 3)], [got(2, 3)], gap=1)
    add("seq-back", "a frame that comes late", "Seq", "invalid", [ping(3, 4), ping(1, 2), ping(2, 3), ping(4, 5)],
        [got(3, 4), got(4, 5)], gap=2, repeated=2)  # fmt: skip
    add("seq-0", "numbers begin at 1", "Seq", "invalid", [ping(1, 0), ping(2, 2)], [got(2, 2)], repeated=1)
    add(
        "seq-last", "the last number there is", "Seq", "valid", [ping(1, 2**32 - 1)], [got(1, 2**32 - 1)], gap=2**32 - 3
    )
    add("seq-wrap", "numbers do not wrap", "Seq", "invalid", [ping(1, 2**32 - 1), ping(2, 0), ping(3, 1)],
        [got(1, 2**32 - 1)], gap=2**32 - 3, repeated=2)  # fmt: skip
    unknown = wire(body(0x7F, b"\x80", 0, 2))
    add("seq-of-ignored", "an ignored frame has used its number", "Seq", "valid", [unknown, ping(1, 3)], [got(1, 3)])
    bad = frame("PING", b"\x80", seq=2)
    add("seq-of-bad", "a wrong frame has used its number: sent again it is repeated", "Seq Errors", "invalid",
        [bad, bad, ping(1, 3)], [{"error": 2, "re": 2}, got(1, 3)], repeated=1)  # fmt: skip
    foreign = ping(1, 50, OTHER_SESSION)
    add("seq-of-foreign", "numbers of another session count for nothing", "Seq StaleSession", "invalid",
        [foreign, ping(1, 2)], [got(1, 2)], stale=1)  # fmt: skip
    echo = [frame("REPORT", seq=number) for number in (2, 3, 4)]
    add("echo", "an agent hears its own REPORTs: each is refused, none counts", "Echo Seq", "invalid",
        [*echo, ping(1, 2)], [*[{"error": 11, "re": number} for number in (2, 3, 4)], got(1, 2)])  # fmt: skip
    add("echo-to-coordinator", "a coordinator hears its own INFLATE", "Echo", "invalid",
        [frame("INFLATE", seq=2), frame("REPORT", seq=2)], [{"error": 11, "re": 2}, said("REPORT", 2)],
        "coordinator")  # fmt: skip
    add("echo-of-hello", "a coordinator hears its own HELLO before the HELLO_ACK", "Echo", "invalid",
        [frame("HELLO"), frame("HELLO_ACK")], [{"error": 11, "re": 1}, said("HELLO_ACK", 1)], "coordinator",
        "HELLO_SENT")  # fmt: skip
    add("echo-of-hello-req", "an agent hears its own HELLO_REQ, in session 0", "Echo SessionZero", "invalid",
        [frame("HELLO_REQ"), ping(1, 2)], [got(1, 2)], unexpected=1)  # fmt: skip


def sessions(streams: Streams) -> None:
    """Frames of other sessions, new ones, and none."""
    add = streams.add
    add("stale", "frames of a session that is not ours", "StaleSession", "invalid",
        [ping(1, 2, OTHER_SESSION), ping(1, 2), ping(2, 3, OTHER_SESSION)], [got(1, 2)], stale=2)  # fmt: skip
    add("stale-unparsed", "one with a wrong payload is dropped before that is seen", "StaleSession", "invalid",
        [frame("PING", b"\xc1", session=OTHER_SESSION), wire(body(0x7F, b"", 0xFF01, 2, OTHER_SESSION))], [],
        stale=2)  # fmt: skip
    add(
        "session-0-ping",
        "a PING in no session",
        "SessionZero",
        "invalid",
        [ping(1, 2, 0), ping(1, 2)],
        [got(1, 2)],
        stale=1,
    )
    add("session-0-hello", "a HELLO in no session opens none", "SessionZero", "invalid",
        [frame("HELLO", session=0), ping(1, 2)], [got(1, 2)], stale=1)  # fmt: skip
    add("session-0-error", "an ERROR in no session is taken", "SessionZero", "valid",
        [frame("ERROR", {"re": 2, "code": 3, "fatal": False}, session=0, seq=1)],
        [said("ERROR", 1, {"re": 2, "code": 3, "fatal": False})])  # fmt: skip
    request = frame("HELLO_REQ", seq=1)
    add("hello-req-again", "an agent that was restarted counts from 1 again", "SessionZero", "valid",
        [frame("HELLO_REQ", seq=7), request, request],
        [said("HELLO_REQ", 7), said("HELLO_REQ", 1), said("HELLO_REQ", 1)], "coordinator")  # fmt: skip
    add("hello-req-in-session", "a HELLO_REQ inside the session is out of place", "Unexpected SessionZero", "invalid",
        [frame("HELLO_REQ", session=SESSION, seq=2), frame("REPORT", seq=3)], [said("REPORT", 3)], "coordinator",
        unexpected=1)  # fmt: skip
    new = frame("HELLO", HELLO_2, session=OTHER_SESSION)
    hello = said("HELLO", 1, HELLO_2)
    add("new-session", "a HELLO in mid-session; what comes of the old one is stale", "NewSession StaleSession", "valid",
        [ping(1, 2), new, ping(2, 3), ping(3, 2, OTHER_SESSION)], [got(1, 2), hello, got(3, 2)], stale=1)  # fmt: skip
    add("two-hosts", "half a frame of a dead host, then the bytes of a new one", "NewSession Resync Chunks", "invalid",
        [ping(1, 2) + ping(2, 3)[:11] + new + ping(3, 2, OTHER_SESSION)], [got(1, 2), hello, got(3, 2)],
        crc=1)  # fmt: skip
    add("dead-host-first", "an agent starts with the stale input of a dead host", "NewSession StaleSession", "invalid",
        [ping(1, 30)[9:] + ping(2, 31) + new + ping(3, 2, OTHER_SESSION)], [hello, got(3, 2)], state="IDLE", crc=1,
        stale=1)  # fmt: skip
    add("hello-again", "the same HELLO again: the session goes on", "NewSession", "valid",
        [frame("HELLO"), ping(1, 2), frame("HELLO"), ping(2, 3)],
        [said("HELLO", 1), got(1, 2), said("HELLO", 1), got(2, 3)], state="IDLE")  # fmt: skip
    add("three-hellos", "three sessions in a row", "NewSession", "valid",
        [frame("HELLO"), new, frame("HELLO", session=77), ping(1, 2, 77)],
        [said("HELLO", 1), hello, said("HELLO", 1), got(1, 2)], state="IDLE")  # fmt: skip
    add("bye", "after a BYE nothing of that session is taken", "StaleSession", "invalid",
        [frame("BYE", seq=2), ping(1, 3)], [said("BYE", 2)], stale=1)  # fmt: skip
    add("bye-then-hello", "a HELLO follows the BYE", "NewSession", "valid", [frame("BYE", seq=2), new, ping(1, 2,
        OTHER_SESSION)],
        [said("BYE", 2), hello, got(1, 2)])  # fmt: skip
    add("idle-agent", "an agent without a session takes nothing but HELLO", "StaleSession", "invalid",
        [ping(1, 2), frame("INFLATE", seq=3)], [], state="IDLE", stale=2)  # fmt: skip
    report = frame("REPORT", seq=2)
    add("report-before-ack", "the HELLO_ACK was lost: the reports are dropped, no ERROR", "Unexpected", "invalid",
        [report, frame("REPORT", seq=3)], [], "coordinator", "HELLO_SENT", gap=1, unexpected=2)  # fmt: skip
    ack = frame("HELLO_ACK")
    add("ack", "HELLO_ACK, then a REPORT", "NewSession", "valid", [ack + report], [said("HELLO_ACK", 1),
        said("REPORT", 2)],
        "coordinator", "HELLO_SENT")  # fmt: skip
    add("ack-twice", "a second HELLO_ACK is out of place", "Unexpected", "invalid",
        [ack, frame("HELLO_ACK", seq=2), frame("REPORT", seq=3)], [said("HELLO_ACK", 1), said("REPORT", 3)],
        "coordinator",
        "HELLO_SENT", unexpected=1)  # fmt: skip
    wrong = frame("HELLO_ACK", {**LEAST["HELLO_ACK"], "nonce": NONCE[::-1]})
    add("ack-other-nonce", "a HELLO_ACK with another nonce, then the right one", "Unexpected", "invalid",
        [wrong, frame("HELLO_ACK", seq=2)], [said("HELLO_ACK", 2)], "coordinator", "HELLO_SENT",
        unexpected=1)  # fmt: skip
    add("bad-error", "a wrong ERROR is dropped and not answered", "Unexpected Errors", "invalid",
        [frame("ERROR", {"fatal": False}), frame("ERROR", flags=0x0102, seq=3), ping(1, 4)], [got(1, 4)],
        unexpected=2)  # fmt: skip
    add("ordered", "what two ends say in a whole handshake, to the coordinator", "NewSession Chunks", "valid",
        sevens(ack + report + frame("PONG", seq=3) + frame("BYE", seq=4)),
        [said("HELLO_ACK", 1), said("REPORT", 2), said("PONG", 3), said("BYE", 4)], "coordinator",
        "HELLO_SENT")  # fmt: skip
