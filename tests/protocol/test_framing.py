"""Frames on a stream that starts anywhere, stops anywhere and is damaged anywhere."""

from __future__ import annotations

import random
import tracemalloc
from zlib import crc32

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ballonet_protocol import LocalProtocolError
from ballonet_protocol._framing import (
    HEADER,
    MAX_BODY_BYTES,
    MAX_ENCODED_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_UNREAD_BYTES,
    MAX_WIRE_BYTES,
    FrameReader,
    cobs_decode,
    cobs_encode,
    encode_frame,
)
from ballonet_protocol.testing import SESSION, load_vectors

GOLDEN = {vector["id"]: bytes.fromhex(vector["wire"]) for vector in load_vectors("frames")["frames"]}
NEXT = encode_frame(0x30, 0, 77, SESSION, b"next")


def _frames(reader: FrameReader) -> list[tuple[int, int, int, int, int, bytes]]:
    return list(iter(reader.next_frame, None))


def _fed(*parts: bytes) -> tuple[FrameReader, list[tuple[int, int, int, int, int, bytes]]]:
    reader = FrameReader()
    frames = []
    for part in parts:
        reader.feed(part)
        frames += _frames(reader)
    return reader, frames


@given(st.binary(max_size=1100) | st.integers(0, 1100).map(lambda length: b"x" * length))
@example(b"")
@example(b"\0")
@example(b"x" * 253)
@example(b"x" * 254)
@example(b"x" * 255)
@example(b"x" * 254 + b"\0")
@example(b"\0" + b"x" * 508)
def test_cobs_round_trip(data: bytes) -> None:
    """Encoding leaves no zero, adds one byte per 254 begun, and decoding gives back the data."""
    encoded = cobs_encode(data)
    assert 0 not in encoded
    assert len(data) + 1 <= len(encoded) <= len(data) + 1 + len(data) // 254
    assert cobs_decode(encoded) == data


@pytest.mark.parametrize(
    ("data", "encoded"),
    [
        (b"", b"\x01"),
        (b"\0", b"\x01\x01"),
        (b"\x11\x22\0\x33", b"\x03\x11\x22\x02\x33"),
        (b"x" * 254, b"\xff" + b"x" * 254),
        (b"x" * 254 + b"\0", b"\xff" + b"x" * 254 + b"\x01\x01"),
        (b"x" * 255, b"\xff" + b"x" * 254 + b"\x02x"),
    ],
)
def test_cobs_known_answers(data: bytes, encoded: bytes) -> None:
    """The encoder writes the canonical form of COBS."""
    assert cobs_encode(data) == encoded


@given(st.binary(max_size=600))
def test_cobs_decode_takes_anything(encoded: bytes) -> None:
    """Any bytes decode to None or to data without the length bytes; nothing raises, nothing hangs."""
    data = cobs_decode(encoded)
    assert data is None or len(data) < len(encoded)


@pytest.mark.parametrize("encoded", [b"", b"\x05\x01\x02\x03", b"\x02", b"\x03a\0", b"\0"])
def test_cobs_decode_refuses(encoded: bytes) -> None:
    """A length that points past the end, a zero inside and an empty string are not COBS."""
    assert cobs_decode(encoded) is None


@pytest.mark.fault(1)
@pytest.mark.parametrize("name", GOLDEN)
def test_every_split(name: str) -> None:
    """A golden frame arrives once, whole, however it is cut in two, and byte by byte."""
    wire = GOLDEN[name]
    expected = _fed(wire)[1]
    assert len(expected) == 1
    for place in range(len(wire)):
        assert _fed(wire[:place], wire[place:])[1] == expected
    assert _fed(*(bytes([byte]) for byte in wire))[1] == expected


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", GOLDEN)
def test_start_at_every_offset(name: str) -> None:
    """A receiver that starts inside a frame loses that frame alone, and counts it once.

    Behind the leading zero nothing is lost: that zero serves the frame before.
    """
    wire = GOLDEN[name]
    assert _fed(wire[1:])[1] == _fed(wire)[1]
    for offset in range(2, len(wire)):
        reader, frames = _fed(wire[offset:] + NEXT)
        assert frames == _fed(NEXT)[1]
        assert (reader.crc, reader.over) == (0 if offset == len(wire) - 1 else 1, 0)


@pytest.mark.fault(3)
@pytest.mark.parametrize("name", GOLDEN)
def test_cut_at_every_byte(name: str) -> None:
    """When a frame is cut short the next one arrives at once, on a quiet line too."""
    wire = GOLDEN[name]
    for length in range(2, len(wire) - 1):
        reader, frames = _fed(wire[:length], NEXT)
        assert frames == _fed(NEXT)[1]
        assert reader.crc == 1


@pytest.mark.fault(4)
@pytest.mark.parametrize("name", GOLDEN)
def test_no_single_bit_flip_is_accepted(name: str) -> None:
    """A frame with one bit turned over is no frame; the two outer zeros alone may be hurt without harm."""
    wire = GOLDEN[name]
    original = _fed(wire)[1]
    for bit in range(8 * len(wire)):
        damaged = bytearray(wire)
        damaged[bit // 8] ^= 1 << bit % 8
        frames = _fed(bytes(damaged), b"\0")[1]
        assert frames == [] or (frames == original and bit // 8 in (0, len(wire) - 1))


@pytest.mark.fault(5)
@pytest.mark.parametrize("length", [MAX_ENCODED_BYTES + 1, MAX_WIRE_BYTES + 1, 20_000])
@pytest.mark.parametrize("chunk", [1, 4096, 65536])
def test_overlong_run(length: int, chunk: int) -> None:
    """A run without a zero that is too long counts once as `over`, and the next frame arrives."""
    run = b"\x01" * length
    reader, frames = _fed(*(run[i : i + chunk] for i in range(0, length, chunk)), NEXT)
    assert frames == _fed(NEXT)[1]
    assert (reader.over, reader.crc) == (1, 0)


def test_longest_run_that_may_be_a_frame() -> None:
    """4094 bytes between the zeros are still looked at: damaged, not overlong."""
    reader, frames = _fed(b"\xfe" * MAX_ENCODED_BYTES + b"\0" + NEXT)
    assert len(frames) == 1
    assert (reader.over, reader.crc) == (0, 1)


def test_body_over_the_limit() -> None:
    """A body that is whole and longer than 4064 bytes is `over`, though its frame fits."""
    body = HEADER.pack(1, 4, 1, 1, SESSION) + b"x" * (MAX_PAYLOAD_BYTES + 1)
    wire = b"\0" + cobs_encode(body + crc32(body).to_bytes(4, "big")) + b"\0"
    assert len(wire) <= MAX_WIRE_BYTES
    reader, frames = _fed(wire)
    assert frames == []
    assert (reader.over, reader.crc) == (1, 0)


def test_largest_frame() -> None:
    """The largest payload makes a frame that fits and arrives; one byte more is refused at the sender."""
    payload = b"x" * MAX_PAYLOAD_BYTES
    wire = encode_frame(4, 1, 1, SESSION, payload)
    assert len(wire) <= MAX_WIRE_BYTES
    assert _fed(wire)[1] == [(1, 4, 1, 1, SESSION, payload)]
    assert MAX_BODY_BYTES == 4064
    with pytest.raises(LocalProtocolError, match="over the limit"):
        encode_frame(4, 1, 1, SESSION, payload + b"x")


@pytest.mark.fault(5)
def test_endless_run_in_bounded_memory() -> None:
    """Sixteen megabytes without a zero, then as many zeros, are never held."""
    reader = FrameReader()
    for byte in (b"\x01", b"\0"):
        chunk = byte * 65536
        tracemalloc.start()
        for _ in range(256):
            reader.feed(chunk)
            assert reader.next_frame() is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 65536
    reader.feed(NEXT)
    assert len(_frames(reader)) == 1


@pytest.mark.fault(7)
def test_runs_of_zeros() -> None:
    """Zeros between frames, few or many, are nothing."""
    reader, frames = _fed(b"\0" * 10_000 + NEXT + b"\0" * 3 + NEXT + b"\0" * 10_000)
    assert len(frames) == 2
    assert (reader.crc, reader.over) == (0, 0)
    for _ in range(8):
        reader.feed(b"\0" * MAX_UNREAD_BYTES)  # nothing, so nothing waits unread
    assert _frames(reader) == []


def test_unread_frames_have_a_limit() -> None:
    """A caller that feeds without reading is told so, before anything is lost, and can read on."""
    reader = FrameReader()
    most = MAX_UNREAD_BYTES // len(NEXT) + 1
    for _ in range(most):
        reader.feed(NEXT)
    with pytest.raises(LocalProtocolError, match="next_message"):
        reader.feed(NEXT)
    assert len(_frames(reader)) == most
    reader.feed(NEXT)
    assert len(_frames(reader)) == 1


@pytest.mark.fault(6)
def test_embedded_frame_is_not_smuggled() -> None:
    """A frame inside another frame's payload is never accepted, wherever the outer one is cut."""
    fake = encode_frame(0x21, 1, 9, SESSION, b"fake")
    outer = encode_frame(0x30, 0, 1, SESSION, b"before" + fake + b"behind")
    expected = _fed(outer)[1]
    for offset in range(len(outer)):
        for frames in (_fed(outer[offset:], NEXT)[1], _fed(outer[:offset], outer[offset:], NEXT)[1]):
            assert [frame for frame in frames if frame[5] == b"fake"] == []
            assert frames[-1:] == _fed(NEXT)[1]
            assert frames[:-1] in ([], expected)


def test_partial_is_seen_and_discarded() -> None:
    """Half a frame shows; discarded it counts once as damaged, its late rest is dropped, and the next frame arrives."""
    wire = GOLDEN["report-full"]
    reader, frames = _fed(wire[:100])
    assert frames == []
    assert reader.has_partial
    reader.discard_partial()
    assert not reader.has_partial
    reader.feed(wire[100:200])
    assert not reader.has_partial
    reader.feed(wire[200:] + NEXT)
    assert _frames(reader) == _fed(NEXT)[1]
    assert (reader.crc, reader.over) == (1, 0)


def test_discard_without_partial() -> None:
    """Discarding when nothing is half there changes nothing, not even for frames that wait unread."""
    reader = FrameReader()
    reader.feed(NEXT)
    reader.discard_partial()
    assert not reader.has_partial
    assert len(_frames(reader)) == 1
    assert reader.crc == 0


@pytest.mark.fault(8)
@given(st.lists(st.sampled_from(sorted(GOLDEN)) | st.binary(max_size=60), max_size=12), st.integers(1, 97))
def test_garbage_between_frames(pieces: list[str | bytes], chunk: int) -> None:
    """Whatever stands between them, every golden frame that is whole arrives, in order, in any portions."""
    stream = b"".join(GOLDEN[piece] if isinstance(piece, str) else piece for piece in pieces)
    expected = [_fed(GOLDEN[piece])[1][0] for piece in pieces if isinstance(piece, str)]
    assert _fed(*(stream[i : i + chunk] for i in range(0, len(stream), chunk)))[1] == expected


@pytest.mark.fault(8)
def test_mutated_corpus() -> None:
    """Frames with random bytes changed, dropped or doubled are refused or equal to a golden one."""
    draw = random.Random(7)
    golden = {frame for wire in GOLDEN.values() for frame in _fed(wire)[1]}
    for _ in range(3000):
        wire = bytearray(draw.choice(list(GOLDEN.values())))
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(wire))
            wire[place : place + draw.choice((0, 1, 1, 3))] = draw.randbytes(draw.choice((0, 1, 1, 3)))
            wire = wire or bytearray(1)
        assert set(_fed(bytes(wire))[1]) <= golden
