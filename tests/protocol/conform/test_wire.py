"""conform/wire.py: every frame is seen with its bytes and its flaw, and no peer fills the kit's memory."""

from __future__ import annotations

import pytest

from ballonet_protocol import MESSAGE_TYPES, Ping
from ballonet_protocol.conform.wire import MOST_BYTES, Ear, body, enclose, long_number, pack, plain
from ballonet_protocol.testing import load_vectors

WHOLE = body(4, pack({"t": 7}), flags=1, seq=3, session=9)


def test_hears_golden_frames() -> None:
    """Each golden frame is heard as the message it is, whatever the portions, with its own bytes."""
    for vector in load_vectors("frames")["frames"]:
        wire = bytes.fromhex(vector["wire"])
        for cut in (1, len(wire) // 2, len(wire)):
            ear = Ear()
            (frame,) = ear.feed(wire[:cut], 0.0) + ear.feed(wire[cut:], 1.0)
            assert (frame.wire, frame.led, frame.flaw) == (wire, True, "")
            assert MESSAGE_TYPES[frame.type_code] is type(frame.message)


@pytest.mark.parametrize(
    ("wire", "flaw"),
    [
        (b"\0\x09ab\0", "not COBS"),
        (enclose(b"short"), "not COBS, or shorter"),
        (enclose(WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])), "CRC"),
        (enclose(body(4, pack({"t": 7}), flags=1, seq=3, session=9, version=2)), "wire version 2"),
        (enclose(body(4, pack({"t": "7"}), flags=1, seq=3, session=9)), "BAD_MESSAGE"),
        (b"\0" + b"x" * 5000 + b"\0", "longer than a frame"),
    ],
)
def test_says_what_is_wrong(wire: bytes, flaw: str) -> None:
    """What is wrong with a frame is said, and the next one is heard."""
    wrong, good = Ear().feed(wire + enclose(WHOLE), 0.0)
    assert flaw in wrong.flaw
    assert wrong.message is None
    assert good.message == Ping(token=7)


def test_one_zero_for_two_frames() -> None:
    """A frame that has no zero of its own before it is heard, and noticed."""
    first, second = Ear().feed(enclose(WHOLE) + enclose(WHOLE)[1:], 0.0)
    assert (first.led, second.led) == (True, False)


def test_memory_is_bounded() -> None:
    """Of bytes without an end only some are kept."""
    ear = Ear()
    for _ in range(100):
        assert ear.feed(b"x" * 4096, 0.0) == []
    (frame,) = ear.feed(b"\0", 0.0)
    assert len(frame.wire) <= MOST_BYTES + 2


def test_payloads() -> None:
    """Maps come back as pairs, text and bin apart, and what is not msgpack is a ValueError."""
    assert plain(pack({"a": b"x", "b": ["y"]})) == [("a", b"x"), ("b", ["y"])]
    assert plain(long_number(5)) == 5
    with pytest.raises(ValueError, match="not msgpack"):
        plain(b"\xc1")
