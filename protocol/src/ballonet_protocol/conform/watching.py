"""Rules that hold for every frame of a peer, checked on all that comes during all cases."""

from __future__ import annotations

from typing import Any, NamedTuple

from ballonet_protocol import (
    AGENT,
    COORDINATOR,
    MAX_WIRE_BYTES,
    MESSAGE_TYPES,
    Bye,
    Deflate,
    Demand,
    ErrorMessage,
    Event,
    Hello,
    HelloAck,
    HelloReq,
    Inflate,
    Pong,
    Role,
    SetPolicy,
)
from ballonet_protocol._messages import REQ, RSP
from ballonet_protocol._records import BIN, TEXT, TEXTS
from ballonet_protocol.limits import DEMANDS_PER_S, ERROR_EVERY_S, FRAMES_BURST, FRAMES_PER_S

from .table import BOTH, CASES, MUST, watch
from .wire import Frame, plain

#: Two clocks and a line lie between the peer's pause and what is seen of it.
JITTER_S = 0.1


class Broken(NamedTuple):
    """The first frame that broke a rule, and how."""

    how: str
    frame: Frame


class Seen:
    """What was seen of the peer so far, for the rules; and what they found."""

    def __init__(self, peer: Role) -> None:
        self.peer = peer
        self.applied: dict[str, int] = {}
        self.broken: dict[str, Broken] = {}
        self.last_seq: dict[int, int] = {}
        self.left: set[int] = set()
        self.capabilities: frozenset[str] | None = None
        self.most_bytes = MAX_WIRE_BYTES
        self.session = 0
        self.error_s = float("-inf")
        self.demands_s: list[float] = []
        self.tokens: float = FRAMES_BURST
        self.at_s: float | None = None
        self.gen = 0
        self.policy_gen = 0
        self.may_skip = False

    def line_reopened(self) -> None:
        """What the peer said while there was no line is lost: its numbers may have gone on."""
        self.may_skip = True

    def opened(self, session: int, capabilities: frozenset[str] | None, most_bytes: int = MAX_WIRE_BYTES) -> None:
        """A session begins; its commands are counted anew."""
        if session != self.session:
            self.gen = self.policy_gen = 0
        self.session = session
        self.capabilities, self.most_bytes = capabilities, most_bytes

    def frame(self, frame: Frame) -> None:
        """Let every rule look at one frame, and then remember it."""
        for one in CASES:
            if one.rule is None:
                continue
            how = one.rule(frame, self)
            if how is None:
                continue
            self.applied[one.id] = self.applied.get(one.id, 0) + 1
            if how and one.id not in self.broken:
                self.broken[one.id] = Broken(how, frame)
        self._remember(frame)

    def _remember(self, frame: Frame) -> None:
        message = frame.message
        if frame.type_code >= 0 and frame.session:
            self.last_seq[frame.session] = max(frame.seq, self.last_seq.get(frame.session, 0))
        if isinstance(message, Bye):
            self.left.add(frame.session)
        elif isinstance(message, ErrorMessage):
            self.error_s = frame.at_s
        elif isinstance(message, Demand):
            self.demands_s = [*self.demands_s[-DEMANDS_PER_S:], frame.at_s]
        elif isinstance(message, Hello):
            self.opened(frame.session, None)
        elif isinstance(message, (Inflate, Deflate)) and frame.session == self.session:
            self.gen = max(self.gen, message.gen)
        elif isinstance(message, SetPolicy) and frame.session == self.session:
            self.policy_gen = max(self.policy_gen, message.gen)


# A rule gives None where it says nothing about a frame, "" where the frame keeps it, and how it is broken otherwise.


@watch("3.2/2", BOTH, MUST, "A sender MUST NOT exceed them, nor the peer's `lim.frame`.")
def no_longer_than_we_take(frame: Frame, seen: Seen) -> str | None:
    """No frame is longer than the kit's `lim.frame`."""
    # What was written before the limit was read may still be under way.
    most = seen.most_bytes if frame.session == seen.session else MAX_WIRE_BYTES
    return f"a frame of {len(frame.wire)} bytes, where {most} are allowed" if len(frame.wire) > most else ""


@watch("3.3/1", BOTH, MUST, "A sender MUST put the zero before the frame as well as the one behind it")
def zeros_on_both_sides(frame: Frame, seen: Seen) -> str | None:
    """Each frame has a zero of its own before it."""
    return "" if frame.led else "a frame without a zero of its own before it"


@watch("3.1/1", BOTH, MUST, "crc     = CRC-32/ISO-HDLC (the one of zlib and Ethernet) of header and payload")
def whole_frames(frame: Frame, seen: Seen) -> str | None:
    """What comes between two zeros is a frame with the right CRC and wire version 1."""
    return frame.flaw if frame.type_code < 0 or frame.flaw.startswith("wire version") else ""


@watch("3.5/1", BOTH, MUST, "A sender MUST set REQ and RSP as the headings of section 6 say.")
def flags_as_the_headings_say(frame: Frame, seen: Seen) -> str | None:
    """REQ and RSP are those of the type; an ERROR has RSP when it has `re`."""
    if frame.message is None:
        return None
    wanted = MESSAGE_TYPES[frame.type_code].FLAGS
    if isinstance(frame.message, ErrorMessage) and frame.message.re is None:
        wanted = 0
    has = frame.flags & (REQ | RSP)
    return "" if has == wanted else f"{frame.name} with flags {frame.flags:#06x}, where {wanted:#06x} is right"


@watch("3.5/4", BOTH, MUST, "| 0xff00 | critical | none is defined in version 1 |")
def no_critical_flags(frame: Frame, seen: Seen) -> str | None:
    """No frame has a flag of the high byte."""
    return f"flags {frame.flags:#06x}" if frame.flags & 0xFF00 else ""


@watch("4.2/2", BOTH, MUST, "Keys are `[a-z][a-z0-9_]{0,15}`, as msgpack str. No key stands twice in a map.")
def keys_are_str(frame: Frame, seen: Seen) -> str | None:
    """Keys are str, nowhere bin, and none stands twice."""
    try:
        wrong = _wrong_key(plain(frame.payload))
    except ValueError as error:
        return None if frame.type_code < 0 else f"{frame.name} with a payload that is not msgpack: {error}"
    return "" if not wrong else f"{frame.name} with {wrong}"


def _wrong_key(value: Any) -> str:
    if not isinstance(value, list):
        return ""
    keys = [item[0] for item in value if isinstance(item, tuple)]
    for key in keys:
        if not isinstance(key, str):
            return f"the key {key!r}, which is no str"
        if keys.count(key) > 1:
            return f"the key {key!r} twice"
    return next(filter(None, (_wrong_key(item[1] if isinstance(item, tuple) else item) for item in value)), "")


@watch("4.3/11", BOTH, MUST, "a sender MUST NOT make use of it.")
def text_is_str_and_bytes_are_bin(frame: Frame, seen: Seen) -> str | None:
    """Text fields are str, `nonce`, `vm` and `boot` are bin."""
    if frame.message is None:
        return None
    try:
        pairs = plain(frame.payload)
    except ValueError:
        return None
    has = dict(pairs)
    for field in MESSAGE_TYPES[frame.type_code].FIELDS:
        kind = _PYTHON.get(field.kind)
        value = has.get(field.key)
        if kind is None or value is None:
            continue
        if not all(isinstance(item, kind) for item in (value if field.kind == TEXTS else [value])):
            return f"{frame.name}.{field.key} is {type(value).__name__}"
    return ""


_PYTHON = {BIN: bytes, TEXT: str, TEXTS: str}


@watch("6/1", BOTH, MUST, '"must" marks mandatory keys.')
def payloads_hold(frame: Frame, seen: Seen) -> str | None:
    """Every payload has its mandatory keys, and every value the kind and bounds of its field."""
    if frame.type_code not in MESSAGE_TYPES or frame.flaw.startswith("wire version"):
        return None
    return frame.flaw


@watch("5.3/1", BOTH, MUST, "`seq` counts the frames of one direction in one session, from 1, by 1.")
def numbers_count_by_one(frame: Frame, seen: Seen) -> str | None:
    """Each frame of a session has the number after the last one's."""
    if frame.type_code < 0 or frame.session == 0:
        return None
    last = seen.last_seq.get(frame.session, 0)
    skipped = frame.seq > last + 1 and last > 0 and seen.may_skip
    seen.may_skip = seen.may_skip and not skipped
    return "" if frame.seq == last + 1 or skipped else f"seq {frame.seq} behind {last}"


@watch("5.4/1", BOTH, MUST, "HELLO_REQ MUST travel in it, and so does ERROR where there is no session")
def session_zero(frame: Frame, seen: Seen) -> str | None:
    """HELLO_REQ and an ERROR without `re` travel in session 0, and nothing else does but ERROR."""
    message = frame.message
    nameless = isinstance(message, ErrorMessage) and (message.re is None or message.code == 3)
    if isinstance(message, HelloReq) or nameless:
        return f"{frame.name} in session {frame.session:016x}" if frame.session else ""
    if frame.session or isinstance(message, ErrorMessage):
        return None if frame.session else ""
    return None if frame.type_code < 0 else f"{frame.name} in session 0"


@watch("5.6/6", BOTH, MUST, "A message that only the other role may send is answered by ERROR 11")
def only_what_its_role_says(frame: Frame, seen: Seen) -> str | None:
    """The peer says what its role says, and no type that SPEC.md does not have but experiments."""
    if frame.type_code < 0:
        return None
    if frame.type_code in MESSAGE_TYPES:
        return "" if seen.peer in MESSAGE_TYPES[frame.type_code].SENDERS else f"{frame.name} from the {seen.peer.value}"
    return "" if frame.type_code >= 0xC0 else f"a message of {frame.name}"


@watch("5.7/1", BOTH, MUST, "BYE ends a session: its sender MUST send nothing of that session after it")
def nothing_after_bye(frame: Frame, seen: Seen) -> str | None:
    """After its BYE the peer says nothing of that session."""
    if not seen.left or frame.type_code < 0:
        return None
    return f"{frame.name} in a session that it has left" if frame.session in seen.left else ""


@watch("10.3/1", BOTH, MUST, "A side MUST NOT send more than one ERROR per second.")
def errors_are_scarce(frame: Frame, seen: Seen) -> str | None:
    """ERRORs are a second apart; the one that ends a session may come at once."""
    if not isinstance(frame.message, ErrorMessage):
        return None
    apart_s = frame.at_s - seen.error_s
    if apart_s < ERROR_EVERY_S - JITTER_S and not frame.message.fatal:
        return f"a second ERROR after {apart_s:.2f} s"
    return ""


@watch("11/1", BOTH, MUST, "A side MUST NOT send more frames than the table says, nor keep more unanswered requests.")
def within_the_rate(frame: Frame, seen: Seen) -> str | None:
    """At most 60 frames at once, and 20 per second."""
    passed_s = 0.0 if seen.at_s is None else frame.at_s - seen.at_s
    seen.at_s = frame.at_s
    # A frame or two more than the bucket holds may have been under way.
    seen.tokens = min(FRAMES_BURST, seen.tokens + passed_s * FRAMES_PER_S) - 1
    return f"more than {FRAMES_BURST} frames at once or {FRAMES_PER_S} per second" if seen.tokens < -2 else ""


@watch("11/2", AGENT, MUST, "| DEMANDs, at most | 4 per second | DEMANDS_PER_S |")
def demands_are_few(frame: Frame, seen: Seen) -> str | None:
    """At most four DEMANDs per second."""
    if not isinstance(frame.message, Demand):
        return "" if isinstance(frame.message, HelloAck) else None
    recent = [then_s for then_s in seen.demands_s if frame.at_s - then_s < 1.0 - JITTER_S]
    return f"the DEMAND number {len(recent) + 1} within a second" if len(recent) >= DEMANDS_PER_S else ""


@watch("12.4/1", AGENT, MUST, "| `events` | EVENT is sent; without it an agent MUST NOT send it |")
def events_only_where_wanted(frame: Frame, seen: Seen) -> str | None:
    """No EVENT without the capability."""
    if seen.capabilities is None or frame.session != seen.session or "events" in seen.capabilities:
        return None
    return f"{frame.name} without the capability events" if isinstance(frame.message, Event) else ""


@watch("9.6/8", COORDINATOR, MUST, "INFLATE and DEFLATE share one strictly increasing `gen`, from 1, per session")
def gens_only_grow(frame: Frame, seen: Seen) -> str | None:
    """No command has a lower gen than one before it in its session."""
    if not isinstance(frame.message, (Inflate, Deflate)) or frame.session != seen.session:
        return "" if isinstance(frame.message, Hello) else None
    return f"gen {frame.message.gen} behind {seen.gen}" if frame.message.gen < seen.gen else ""


@watch("6.5/1", COORDINATOR, MUST, "guest's CLOCK_BOOTTIME; an agent sends it, a coordinator does not")
def no_boottime_from_a_host(frame: Frame, seen: Seen) -> str | None:
    """A coordinator's PONG has no `bt`."""
    if not isinstance(frame.message, Pong):
        return None
    return "" if frame.message.boottime_ms is None else "a PONG with bt"
