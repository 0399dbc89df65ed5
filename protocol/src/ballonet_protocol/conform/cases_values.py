"""Cases of section 4: what a payload may hold. They are tried on a PING, which both roles take."""

from __future__ import annotations

from collections.abc import Sequence

from ballonet_protocol import Ping, Pong

from .table import BOTH, MUST, case, check
from .talk import Talk
from .wire import long_number, pack

BROKEN = (
    "A receiver MUST answer ERROR 2 to a payload that breaks 4.1 or 4.2, that lacks a mandatory key, whose value is of "
    "another kind than its field, whose range (`maj`) runs backwards, that has an empty name in `caps`, or that has "
    "bytes behind the map"
)
UNKNOWN = "The rules hold inside keys that the receiver does not know, too"


def _t(token: int) -> bytes:
    return b"\xa1t" + long_number(token)


def _broken(talk: Talk, payloads: Sequence[bytes], what: str) -> None:
    """The first of these PINGs has an ERROR 2, and none a PONG."""
    talk.active()
    first = talk.frame(Ping, payloads[0])
    talk.refused(first, 2, talk.seq, what)
    # No second ERROR may follow within the second. So that these are refused shows by the PONG that does not come.
    for payload in payloads[1:]:
        talk.write(talk.frame(Ping, payload))
    for frame in talk.fence():
        check(not isinstance(frame.message, Pong), f"no PONG to {what}", frame, frame)


@case("4.2/1", BOTH, MUST, "A sender MAY write keys in any order, and a receiver MUST take any.")
def any_order(talk: Talk) -> None:
    """A PING whose mandatory key stands last, behind unknown ones, is taken."""
    talk.active()
    token = talk.token()
    talk.write(talk.frame(Ping, {"z": 1, "a": 2, "t": token}))
    talk.pong(token, "a PONG to a PING with its keys in another order")


@case("4.3/1", BOTH, MUST, BROKEN)
def missing_key(talk: Talk) -> None:
    """A PING without `t`, and what is no map at all."""
    _broken(talk, [b"\x80", pack([1]), pack(7), b""], "a PING that lacks a mandatory key")


@case("4.3/2", BOTH, MUST, BROKEN)
def wrong_kind(talk: Talk) -> None:
    """A PING whose `t` is a bool, a text, a float, nil, negative, an array or over 2^53-1."""
    values: list[object] = [True, "1", 1.0, None, -1, [1], {"t": 1}, 2**53, 2**64 - 1]
    _broken(talk, [pack({"t": value}) for value in values], "a PING whose t is no number of 0..2^53-1")


@case("4.3/3", BOTH, MUST, BROKEN)
def key_twice(talk: Talk) -> None:
    """A PING with a key that stands twice, known or not."""
    payloads = [b"\x82" + _t(7) + _t(7), b"\x83" + _t(7) + b"\xa1x\x01\xa1x\x01"]
    _broken(talk, payloads, "a PING with a key twice")


@case("4.3/4", BOTH, MUST, BROKEN)
def bytes_behind(talk: Talk) -> None:
    """A PING with bytes behind the map, or with a map that is cut short."""
    _broken(talk, [b"\x81" + _t(7) + b"\x01", b"\x82" + _t(7), b"\xc1", b"\x81" + _t(7)[:-1]], "bytes behind the map")


@case("4.3/5", BOTH, MUST, BROKEN)
def wrong_keys(talk: Talk) -> None:
    """A PING with a key that is no such name, or no text."""
    keys: list[object] = ["Upper", "a-b", "", "1a", "a" * 17, "a\0", 1, True]
    _broken(talk, [pack({"t": 7, key: 1}) for key in keys], "a PING with a key that is no name")


@case("4.3/6", BOTH, MUST, UNKNOWN)
def too_deep(talk: Talk) -> None:
    """A PING with an unknown key whose value is nested deeper than four."""
    deep: object = 1
    for _ in range(4):
        deep = [deep]
    deeper = {"a": {"b": {"c": {"d": 1}}}}
    very = b"\x82" + _t(7) + b"\xa1x" + b"\x91" * 1030 + b"\x01"
    _broken(talk, [pack({"t": 7, "x": deep}), pack({"t": 7, "x": deeper}), very], "a PING nested five deep")


@case("4.3/7", BOTH, MUST, UNKNOWN)
def strangers(talk: Talk) -> None:
    """A PING with an unknown key that holds a float, nil, a negative or too large number, or an extension."""
    values: list[object] = [1.5, None, -1, 2**53, {"x": 1.0}, [None]]
    payloads = [pack({"t": 7, "x": value}) for value in values]
    extension = b"\x82" + _t(7) + b"\xa1x"
    payloads += [extension + b"\xd4\x01\x00", extension + b"\xc7\x00\x01"]
    _broken(talk, payloads, "a value that is not on the wire")


@case("4.3/8", BOTH, MUST, UNKNOWN)
def too_much(talk: Talk) -> None:
    """A PING with an unknown key that holds 65 items or keys, too long a text or bin, or unprintable text."""
    values: list[object] = [
        [1] * 65, {f"k{number}": 1 for number in range(65)}, "x" * 129, "a\nb" * 25, b"\xff" * 65, "\u202e" * 33,
    ]  # fmt: skip
    _broken(talk, [pack({"t": 7, "x": value}) for value in values], "a PING with a value that is too long")


@case("4.3/9", BOTH, MUST, "Such a frame MUST have no other effect.")
def huge_lengths(talk: Talk) -> None:
    """Five bytes that declare 2^32-1 items, keys or characters cost nothing, and what follows is answered."""
    heads = (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
    _broken(talk, [b"\x82" + _t(7) + b"\xa1x" + head for head in heads], "a declared length of 2^32-1")


@case("4.3/10", BOTH, MUST, "A receiver MUST take numbers in a longer form than they need.")
def longer_numbers(talk: Talk) -> None:
    """A PING whose `t` is written in more bytes than it needs is taken, as a signed number too."""
    talk.active()
    for number in (b"\xcf" + (5).to_bytes(8, "big"), b"\xd3" + (6).to_bytes(8, "big"), b"\xcd\x00\x07", b"\xd0\x08"):
        talk.write(talk.frame(Ping, b"\x81\xa1t" + number))
        talk.pong(number[-1], f"a PONG to a PING with t {number.hex()}")


@case("4.4/1", BOTH, MUST, "A receiver MUST ignore keys that it does not know.")
def unknown_keys(talk: Talk) -> None:
    """A PING with unknown keys of every kind is taken."""
    talk.active()
    more: dict[str, object] = {
        "num": 2**53 - 1, "flag": True, "text": "~" * 128, "bytes": b"\xff" * 64, "list": [1, "a", [2]],
        "map": {"a": {"b": 1}, "c": [True]}, "a234567890123456": 0, "empty": {},
    }  # fmt: skip
    talk.pong(talk.ping(more), "a PONG to a PING with unknown keys")
