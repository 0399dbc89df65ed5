"""`python tests/fuzz/make_corpus.py [FOLDER]`: write the inputs that the fuzzer starts from.

They follow from the golden frames and from the lists below: a new message or a new kind of fault is a line here.
The test run compares what is committed with what this writes.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from struct import pack

from fuzz_frames import ACTIVE, BODY, CLOSED, IDLE, OPENING, PAYLOAD, PORTIONS, RAW, shape
from fuzz_sessions import step
from msgpack import packb
from two_ends import KINDS

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MESSAGE_TYPES,
    Bye,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Limits,
    Message,
    Ping,
    Report,
    Role,
)
from ballonet_protocol._codec import encode_message
from ballonet_protocol._framing import HEADER, FrameReader, encode_frame
from ballonet_protocol.testing import SESSION, load_vectors, make_hello, make_hello_ack

CORPUS = Path(__file__).parent / "corpus"


def map_of(*pairs: tuple[object, object]) -> bytes:
    """A msgpack map with its pairs as they are, also twice the same or of a key that is none."""
    return bytes((0x80 | len(pairs),)) + b"".join(packb(part) for pair in pairs for part in pair)


def nested(depth: int, inside: bytes = b"\x00") -> bytes:
    """Arrays of one item, one in the other."""
    return b"\x91" * depth + inside


# Payloads of a PING, most of them wrong.
PAYLOADS = {
    "empty": b"",
    "no-map": packb(7),
    "nil": map_of(("t", None)),
    "float": map_of(("t", 1.0)),
    "nan": map_of(("t", float("nan"))),
    "true": map_of(("t", True)),
    "negative": map_of(("t", -1)),
    "two-to-53": map_of(("t", 2**53)),
    "two-to-64": map_of(("t", 2**64 - 1)),
    "longer-than-needed": b"\x81\xa1t\xcf" + bytes(7) + b"\x05",
    "twice": map_of(("t", 1), ("t", 2)),
    "twice-unknown": map_of(("t", 1), ("x", {"a": 1}), ("x", 2)),
    "twice-inside": b"\x82\xa1t\x01\xa1x\x82\xa1a\x01\xa1a\x02",
    "key-bin": b"\x81\xc4\x01t\x05",
    "key-int": map_of((1, 1)),
    "key-nil": map_of((None, 1)),
    "key-map": b"\x81\x80\x01",
    "key-array": b"\x81\x90\x01",
    "key-upper": map_of(("t", 1), ("X", 1)),
    "key-long": map_of(("t", 1), ("x" * 17, 1)),
    "unknown-text": map_of(("t", 1), ("x", "new"), ("y", b"\x00\xff"), ("z", [1, "a", False])),
    "unknown-utf8": map_of(("t", 1), ("x", "\u202e" * 40)),
    "bad-utf8": b"\x82\xa1t\x01\xa1x\xa2\xc3\x28",
    "depth-4": b"\x82\xa1t\x01\xa1x" + nested(3),
    "depth-5": b"\x82\xa1t\x01\xa1x" + nested(4),
    "depth-1024": b"\x82\xa1t\x01\xa1x" + nested(1023),
    "depth-1025": nested(1025),
    "huge-array": b"\xdd\xff\xff\xff\xff",
    "huge-map": b"\xdf\xff\xff\xff\xff",
    "huge-str": b"\xdb\xff\xff\xff\xff",
    "huge-bin": b"\xc6\xff\xff\xff\xff",
    "huge-ext": b"\xc9\xff\xff\xff\xff\x01",
    "ext": b"\x82\xa1t\x01\xa1x\xd4\x05\x00",
    "ext-empty": b"\x82\xa1t\x01\xa1x\xc7\x00\x01",
    "timestamp": b"\x82\xa1t\x01\xa1x\xd6\xff\x00\x00\x00\x01",
    "c1": b"\xc1",
    "behind": map_of(("t", 1)) + b"\x00",
    "short": map_of(("t", 1))[:-1],
    "arrays-of-arrays": (b"\xdc\x00\x40" * 30 + b"\x90" * 2000),
    "maps": b"\x82\xa1t\x01\xa1x\xdc\x00\x40" + b"\x80" * 64,
}  # fmt: skip

# Payloads of a HELLO, and of an ERROR, with a value of another kind than the table's.
WRONG_KINDS = {
    "fatal": map_of(("code", 2), ("fatal", 1)),
    "nonce": map_of(("maj", [1, 1]), ("min", 0), ("nonce", b"short"), ("caps", [])),
    "majors": map_of(("maj", [2, 1]), ("min", 0), ("nonce", bytes(16)), ("caps", [])),
    "major": map_of(("maj", 1), ("min", 0), ("nonce", bytes(16)), ("caps", [])),
    "capabilities": map_of(("maj", [1, 1]), ("min", 0), ("nonce", bytes(16)), ("caps", {})),
    "limits": map_of(("maj", [1, 1]), ("min", 0), ("nonce", bytes(16)), ("caps", []), ("lim", [])),
    "limit": map_of(("maj", [1, 1]), ("min", 0), ("nonce", bytes(16)), ("caps", []), ("lim", {"frame": 1})),
}

# Bytes on the line, to an agent in session.
PING = encode_frame(Ping.TYPE_CODE, 1, 2, SESSION, encode_message(Ping(token=7)))
LINES = {
    "zeros": bytes(500),
    "endless": b"\x01" * 4096,
    "overlong-then-ping": b"\x01" * 4095 + PING,
    "cut-then-ping": PING[:20] + PING,
    "middle-then-ping": PING[20:] + PING,
    "twice": PING * 2,
    "full-run": b"\0\xff" + b"x" * 254 + b"\0",
    "full-run-and-empty": b"\0\xff" + b"x" * 254 + b"\x01\0",
    "embedded": encode_frame(0x30, 0, 2, SESSION, PING),
    "largest": encode_frame(4, 1, 2, SESSION, b"x" * 4044),
}

# Headers before a PING's payload: version, type, flags, seq, session.
HEADERS = {
    "version-0": (0, 4, 1, 2, SESSION),
    "version-2": (2, 7, 0, 2, SESSION),
    "critical": (1, 4, 0x0101, 2, SESSION),
    "critical-error": (1, 7, 0x0100, 2, SESSION),
    "critical-error-outside": (1, 7, 0x8000, 2, 0),
    "unknown-type": (1, 0x7F, 0, 2, SESSION),
    "unknown-request": (1, 0xC0, 1, 2, SESSION),
    "seq-0": (1, 4, 1, 0, SESSION),
    "seq-last": (1, 4, 1, 2**32 - 1, SESSION),
    "stale": (1, 4, 1, 2, SESSION + 1),
    "outside": (1, 4, 1, 2, 0),
    "hello-outside": (1, 2, 1, 1, 0),
    "not-yours": (1, 0x10, 0, 2, SESSION),
}


def frame_inputs() -> dict[str, bytes]:
    """Name -> input, for the target over frames."""
    inputs = {}
    vectors = load_vectors("frames")
    groups = [vectors["frames"], vectors["edge"]]  # the other cases walk the same ground once more
    for vector in [vector for group in groups for vector in group if "wire" in vector]:
        wire = bytes.fromhex(vector["wire"])
        reader = FrameReader()
        reader.feed(wire)
        frame = reader.next_frame()
        kind_of_frame = MESSAGE_TYPES.get(frame[1]) if frame else None
        role = AGENT if kind_of_frame is None or COORDINATOR in kind_of_frame.SENDERS else COORDINATOR
        inputs[f"golden-{vector['id']}"] = shape(role, ACTIVE, RAW) + wire
        if frame is not None:
            code, payload = frame[1], frame[5]
            situation = OPENING if code == HelloAck.TYPE_CODE else IDLE if code == HelloReq.TYPE_CODE else ACTIVE
            inputs[f"payload-{vector['id']}"] = shape(role, situation, PAYLOAD, code) + payload
            inputs[f"body-{vector['id']}"] = shape(role, situation, BODY) + HEADER.pack(*frame[:5]) + payload
    for name, payload in PAYLOADS.items():
        inputs[f"value-{name}"] = shape(AGENT, ACTIVE, PAYLOAD, Ping.TYPE_CODE) + payload
    for name, wire in LINES.items():
        inputs[f"line-{name}"] = shape(AGENT, ACTIVE, RAW) + wire
        inputs[f"portions-{name}"] = shape(AGENT, ACTIVE, PORTIONS, 4) + wire
    for name, header in HEADERS.items():
        for role in Role:
            inputs[f"header-{name}-{role.value}"] = (
                shape(role, ACTIVE, BODY) + HEADER.pack(*header) + encode_message(Ping(token=7))
            )
    for code in MESSAGE_TYPES:
        for role in Role:
            inputs[f"empty-{code:02x}-{role.value}"] = shape(role, ACTIVE, PAYLOAD, code) + b"\x80"
    for name, payload in WRONG_KINDS.items():
        kind_of_payload = ErrorMessage if name.startswith("fatal") else Hello
        inputs[f"kind-{name}"] = shape(AGENT, ACTIVE, PAYLOAD, kind_of_payload.TYPE_CODE) + payload
    hello = make_hello(major_range=(2, 9), limits=Limits(frame_bytes=1024))
    many = make_hello(capabilities=tuple(f"x-{number:060}" for number in range(60)))
    inputs["hello-major"] = shape(AGENT, CLOSED, PAYLOAD, Hello.TYPE_CODE) + encode_message(hello)
    inputs["hello-many"] = shape(AGENT, IDLE, PAYLOAD, Hello.TYPE_CODE) + encode_message(many)
    ack = make_hello_ack(make_hello(), re=1)
    inputs["ack-major"] = shape(COORDINATOR, OPENING, PAYLOAD, 3) + encode_message(ack.replace(major=2))
    inputs["ack-nonce"] = shape(COORDINATOR, OPENING, PAYLOAD, 3) + encode_message(ack.replace(nonce=bytes(16)))
    return inputs


def kind(message_type: type) -> int:
    """The number by which a script names a message."""
    return KINDS.index(message_type)


def forge(role: Role, message: Message, numbers: bytes, foreign: int = 0) -> bytes:
    """The step that puts in a frame with `message`. `numbers` are flags and half the seq, as the script has them."""
    payload = encode_message(message)
    return step("forge", role, message.TYPE_CODE, numbers, foreign, len(payload), payload)


OPEN = step("open") + step("exchange", AGENT) + step("say", AGENT, kind(HelloAck)) + step("exchange", COORDINATOR)
REPORTS = step("say", AGENT, kind(Report)) * 4
INFLATES = step("say", COORDINATOR, kind(Inflate)) * 4
ALL = step("exchange", AGENT) + step("exchange", COORDINATOR)
TWO = pack(">H", 40)

SCRIPTS = {
    "nothing": b"",
    "open": OPEN,
    "everything": OPEN + b"".join(step("say", role, number) for number in range(len(KINDS)) for role in Role) + ALL,
    "ask": step("say", AGENT, kind(HelloReq)) + step("exchange", COORDINATOR) + OPEN + ALL,
    "heed": OPEN + REPORTS + step("restart", COORDINATOR) + ALL + step("heed", COORDINATOR)
    + step("restart", AGENT) + INFLATES + ALL + step("heed", AGENT) + ALL,
    "reopen": OPEN + REPORTS + OPEN + ALL,
    "bye-agent": OPEN + REPORTS + step("say", AGENT, kind(Bye)) + ALL + OPEN + REPORTS + ALL,
    "bye-both": OPEN + step("say", AGENT, kind(Bye)) + step("say", COORDINATOR, kind(Bye)) + ALL + OPEN,
    "hello-twice": step("open") + step("double", AGENT, TWO, TWO) * 2 + OPEN + REPORTS + ALL,
    "hello-repeated": step("open") + step("double", AGENT, b"\0\0\x10\0") + step("exchange", AGENT)
    + step("say", AGENT, kind(HelloAck)) * 2 + REPORTS + ALL,
    "hello-lost": step("open") + step("lose", AGENT, b"\0\0", 255) + OPEN + ALL,
    "ack-lost": step("open") + step("exchange", AGENT) + step("say", AGENT, kind(HelloAck))
    + step("lose", COORDINATOR, b"\0\0", 255) * 2 + REPORTS + ALL + OPEN,
    "cut": OPEN + REPORTS + step("lose", COORDINATOR, TWO, 30) + ALL + step("open for sure"),
    "double": OPEN + INFLATES + step("double", AGENT, b"\0\0\x10\0") + ALL,
    "double-inside": OPEN + INFLATES + step("double", AGENT, TWO, TWO) + ALL,
    "swap": OPEN + INFLATES + step("swap", AGENT, b"\0\0", 80) + ALL,
    "flip": OPEN + INFLATES + step("flip", AGENT, TWO, 3) + ALL,
    "dead-host": OPEN + INFLATES + step("restart", COORDINATOR) + OPEN + INFLATES + ALL,
    "dead-host-replayed": OPEN + INFLATES + step("open") + step("double", AGENT, b"\0\0\x10\0") + ALL + OPEN + ALL,
    "agent-killed": OPEN + REPORTS + step("deliver", COORDINATOR, 50) + step("restart", AGENT) + INFLATES + ALL,
    "noise": OPEN + step("noise", AGENT, 7, pack(">H", 5000)) + INFLATES + ALL,
    "zeros": OPEN + step("noise", AGENT, 0, pack(">H", 5000)) + INFLATES + ALL,
    "byte-by-byte": step("open") + (step("deliver", AGENT, 1) + step("read", AGENT)) * 120,
    "give-up": step("open") + step("deliver", AGENT, 20) + step("give up", AGENT) + OPEN + ALL,
    "unread": OPEN + INFLATES * 3 + step("deliver", AGENT, 255) * 3 + step("open") + step("read", AGENT) * 9 + ALL,
    "forge-hello": OPEN + forge(AGENT, make_hello(), b"\0\0\0\1", foreign=1) + ALL,
    "forge-hello-major": OPEN + forge(AGENT, make_hello(major_range=(2, 9)), b"\0\0\0\1", foreign=1) + ALL
    + step("say", AGENT, kind(HelloAck)) + step("say", AGENT, kind(ErrorMessage)) + ALL + OPEN + ALL,
    "forge-event": OPEN + forge(COORDINATOR, Event(event="x", boottime_ms=1), b"\0\0\0\0") + ALL,
    "forge-critical-error": OPEN + forge(AGENT, ErrorMessage(code=2, fatal=False), b"\1\0\0\1") + ALL,
    "forge-last-seq": OPEN + forge(COORDINATOR, Ping(token=5), b"\0\1\xff\xff") + ALL + REPORTS + ALL,
}  # fmt: skip


def write(folder: Path) -> None:
    """Writes both corpora. Inputs that are equal are written once."""
    for target, inputs in (("frames", frame_inputs()), ("sessions", SCRIPTS)):
        (folder / target).mkdir(parents=True, exist_ok=True)
        seen = set()
        for name, data in inputs.items():
            digest = hashlib.sha256(data).digest()
            if digest not in seen:
                seen.add(digest)
                (folder / target / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS)
