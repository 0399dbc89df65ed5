"""Frames as the kit makes and sees them: right or wrong on purpose, and with all their bytes.

The library refuses to send what SPEC.md forbids, and drops what arrives damaged. The kit has to do the one and to see
the other, so it packs its own payloads and splits the stream itself. What a payload must hold is still read by the
library's codec: the kit tries peers against the one table.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from zlib import crc32

from msgpack import packb, unpackb

from ballonet_protocol import MAX_WIRE_BYTES, MESSAGE_TYPES, Message, RemoteProtocolError
from ballonet_protocol._codec import decode_message
from ballonet_protocol._framing import (
    CRC,
    HEADER,
    MAX_ENCODED_BYTES,
    MIN_BODY_BYTES,
    VERSION,
    cobs_decode,
    cobs_encode,
)

#: Of a frame that does not end so much is kept; it is too long by far, and said to be.
MOST_BYTES = 4 * MAX_WIRE_BYTES
KNOWN = frozenset(MESSAGE_TYPES)


class Frame(NamedTuple):
    """One frame as it arrived. `flaw` says what is wrong with it; a frame without its header has type code -1."""

    at_s: float
    wire: bytes
    led: bool
    type_code: int
    flags: int
    seq: int
    session: int
    payload: bytes
    message: Message | None
    flaw: str

    @property
    def name(self) -> str:
        """The message's name, or what there is of it."""
        if self.type_code in KNOWN:
            return MESSAGE_TYPES[self.type_code].TYPE_NAME
        return "no frame" if self.type_code < 0 else f"type {self.type_code:#04x}"

    def __str__(self) -> str:
        said = repr(self.message) if self.message is not None else f"{self.name}, {self.flaw}"
        return f"{said} (seq {self.seq}, session {self.session:016x})"


class Ear:
    """Splits a stream into frames, the broken ones included."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._zeros = 0

    def feed(self, data: bytes, at_s: float) -> list[Frame]:
        """The frames that end in `data`."""
        frames = []
        for piece in data.split(b"\0")[:-1] if b"\0" in data else ():
            self._buffer += piece[: MOST_BYTES - len(self._buffer)]
            if self._buffer:
                frames.append(_read(bytes(self._buffer), self._zeros > 0, at_s))
                self._buffer.clear()
                self._zeros = 0
            else:
                self._zeros += 1
        self._buffer += data.rpartition(b"\0")[2][: MOST_BYTES - len(self._buffer)]
        return frames


def _read(encoded: bytes, led: bool, at_s: float) -> Frame:
    wire = (b"\0" if led else b"") + encoded + b"\0"
    body = cobs_decode(encoded)
    if body is None or len(body) < MIN_BODY_BYTES or len(encoded) > MAX_ENCODED_BYTES:
        return Frame(at_s, wire, led, -1, 0, 0, 0, b"", None, "not COBS, or shorter or longer than a frame")
    version, code, flags, seq, session = HEADER.unpack_from(body)
    payload = body[HEADER.size : -CRC.size]
    flaw, message = "", None
    if crc32(body[: -CRC.size]) != CRC.unpack_from(body, len(body) - CRC.size)[0]:
        return Frame(at_s, wire, led, -1, 0, 0, 0, b"", None, "its CRC is wrong")
    if version != VERSION:
        flaw = f"wire version {version}"
    elif code in KNOWN:
        try:
            message = decode_message(MESSAGE_TYPES[code], seq, payload)
        except RemoteProtocolError as error:
            flaw = str(error)
    return Frame(at_s, wire, led, code, flags, seq, session, payload, message, flaw)


def pack(values: object) -> bytes:
    """msgpack, with no rules but its own."""
    packed: bytes = packb(values, use_bin_type=True)
    return packed


def plain(payload: bytes) -> Any:
    """What a payload holds, text and bin told apart, maps as lists of pairs. Raises ValueError."""
    try:
        return unpackb(payload, raw=False, strict_map_key=False, object_pairs_hook=list)
    except Exception as error:  # a pure function of whatever came, with a dozen ways to object
        raise ValueError("not msgpack") from error


def body(type_code: int, payload: bytes, *, flags: int, seq: int, session: int, version: int = VERSION) -> bytes:
    """A frame before COBS, its CRC behind it."""
    head = HEADER.pack(version, type_code, flags, seq, session) + payload
    return head + CRC.pack(crc32(head))


def enclose(whole_body: bytes) -> bytes:
    """A body as it goes over the line."""
    return b"\0" + cobs_encode(whole_body) + b"\0"


def long_number(number: int) -> bytes:
    """A number in nine bytes, whatever it needs."""
    return b"\xcf" + number.to_bytes(8, "big")
