"""Frames on a byte stream that may start anywhere, stop anywhere and lose its middle.

    wire = 00 COBS(header payload crc) 00

COBS (Cheshire and Baker, 1999) writes a body without the byte 00, so a 00 is a frame's edge and nothing else: a
receiver that starts in the middle is in step at the next 00, and no text inside a payload can pose as a frame. The
leading 00 closes whatever half frame the peer still holds from a sender that died; without it the first frame after
such a cut would be lost. CRC-32 over header and payload tells damage from content.

A damaged frame is counted and gone. It is never answered: nobody knows who sent it.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

from ._errors import LocalProtocolError

VERSION = 1
HEADER = Struct(">BBHIQ")  # version, type code, flags, seq, session
CRC = Struct(">I")

# One read() of a virtio port, one order-0 allocation in the guest's kernel, one slot of its ring, one chunk of QEMU.
MAX_WIRE_BYTES = 4096
MAX_ENCODED_BYTES = MAX_WIRE_BYTES - 2  # without the two zeros
MAX_BODY_BYTES = 4064  # encodes to at most 4081 bytes
MAX_PAYLOAD_BYTES = MAX_BODY_BYTES - HEADER.size - CRC.size
MIN_BODY_BYTES = HEADER.size + CRC.size

# What may wait unread. 64 whole frames are more than a coordinator takes from one guest in three seconds; a caller that
# feeds on without reading is at fault and hears so.
MAX_UNREAD_BYTES = 256 * 1024

TYPE_CHECKING = False
if TYPE_CHECKING:
    Frame = tuple[int, int, int, int, int, bytes]  # version, type code, flags, seq, session, payload


def cobs_encode(data: bytes) -> bytes:
    """`data` without zeros: each run of non-zero bytes behind its length + 1, runs of 254 behind 255.

    The canonical form: no empty run behind a last full one.
    """
    encoded = bytearray()
    last_full = False
    for run in data.split(b"\0"):
        start = 0
        while len(run) - start >= 254:
            encoded.append(255)
            encoded += run[start : start + 254]
            start += 254
        last_full = start > 0 and start == len(run)
        encoded.append(len(run) - start + 1)
        encoded += run[start:]
    if last_full:
        encoded.pop()
    return bytes(encoded)


def cobs_decode(encoded: bytes) -> bytes | None:
    """What `cobs_encode` was given, or None when `encoded` is no such thing."""
    if 0 in encoded:
        return None
    data = bytearray(encoded)
    end = len(data)
    position = 0
    after_full_runs = []
    while position < end:  # each length byte becomes the zero that it stands for
        length = data[position]
        data[position] = 0
        position += length
        if length == 255 and position < end:
            after_full_runs.append(position)
    if position != end or not end:
        return None
    for position in reversed(after_full_runs):  # no zero stood behind these
        del data[position]
    return bytes(data[1:])


def encode_frame(type_code: int, flags: int, seq: int, session: int, payload: bytes) -> bytes:
    """One whole frame, zeros included.

    Raises LocalProtocolError when the payload is longer than MAX_PAYLOAD_BYTES.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise LocalProtocolError(f"a payload of {len(payload)} bytes is over the limit of {MAX_PAYLOAD_BYTES}")
    body = HEADER.pack(VERSION, type_code, flags, seq, session) + payload
    return b"\0%b\0" % cobs_encode(body + CRC.pack(crc32(body)))


class FrameReader:
    """Takes bytes in any portions, gives back frames whose CRC is right, counts the others.

    `crc` counts damaged frames, `over` those longer than a frame may be. Holds at most one partial frame and what the
    caller has not read yet.
    """

    __slots__ = ("_buffer", "_skipping", "crc", "over")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False  # the bytes up to the next zero belong to a frame that was given up
        self.crc = 0
        self.over = 0

    def feed(self, data: bytes) -> None:
        """Takes what came from the peer. Raises LocalProtocolError when too much waits unread."""
        if len(self._buffer) > MAX_UNREAD_BYTES:
            raise LocalProtocolError("read what came before: next_message until it returns None")
        data = bytes(data)
        while b"\0\0" in data:
            data = data.replace(b"\0\0", b"\0")
        if self._skipping:
            edge = data.find(0)
            if edge < 0:
                return
            data = data[edge:]
            self._skipping = False
        self._buffer += data
        if len(self._buffer) > MAX_ENCODED_BYTES and self._partial_bytes() > MAX_ENCODED_BYTES:
            self.over += 1
            self._skip_partial()

    def next_frame(self) -> Frame | None:
        """The next frame as (version, type code, flags, seq, session, payload), or None when more bytes are needed."""
        buffer = self._buffer
        while (edge := buffer.find(0)) >= 0:
            encoded = bytes(buffer[:edge])
            del buffer[: edge + 1]
            if not encoded:
                continue
            if edge > MAX_ENCODED_BYTES:
                self.over += 1
                continue
            body = cobs_decode(encoded)
            if body is None or len(body) < MIN_BODY_BYTES:
                self.crc += 1
            elif len(body) > MAX_BODY_BYTES:
                self.over += 1
            elif crc32(body[:-4]) != CRC.unpack_from(body, len(body) - 4)[0]:
                self.crc += 1
            else:
                return (*HEADER.unpack_from(body), body[16:-4])
        return None

    @property
    def has_partial(self) -> bool:
        """True while the first part of a frame waits for the rest."""
        return self._partial_bytes() > 0

    def discard_partial(self) -> None:
        """Gives up the frame that has begun and not ended; counted as damaged. What still comes of it is dropped."""
        if self._partial_bytes():
            self.crc += 1
            self._skip_partial()

    def _partial_bytes(self) -> int:
        return len(self._buffer) - 1 - self._buffer.rfind(0)

    def _skip_partial(self) -> None:
        del self._buffer[self._buffer.rfind(0) + 1 :]
        self._skipping = True
