"""Payloads: every message there and back, and every way in which an untrusted one can be wrong."""

from __future__ import annotations

import ast
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgpack import ExtType, Timestamp, packb, unpackb

import ballonet_protocol._codec as codec
from ballonet_protocol import (
    MESSAGE_TYPES,
    Bye,
    Demand,
    DemandWhy,
    Drops,
    ErrorCode,
    ErrorMessage,
    Event,
    Hello,
    HelloReq,
    Inflate,
    LocalProtocolError,
    MemoryReport,
    Message,
    Ping,
    RemoteProtocolError,
    Report,
    SetPolicy,
    Severity,
)
from ballonet_protocol._codec import decode_message, encode_message
from ballonet_protocol.testing import load_vectors, make_hello

GOLDEN = load_vectors("frames")["frames"]
MEMORY = MemoryReport(total_bytes=4, free_bytes=3, available_bytes=2, committed_bytes=1)
DEMAND = {"bt": 1, "want": 2, "why": 1, "sev": 1}


def _refusal(message_type: type[Message], payload: Any) -> RemoteProtocolError:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_message(message_type, 5, payload if isinstance(payload, bytes) else packb(payload))
    assert caught.value.re == 5
    return caught.value


def _is_bad(message_type: type[Message], payload: Any) -> None:
    assert _refusal(message_type, payload).code is ErrorCode.BAD_MESSAGE


def _plain(value: Any) -> Any:
    """The vectors' notation as Python values: {"bin": hex} is bytes."""
    if isinstance(value, dict):
        if set(value) == {"bin"}:
            return bytes.fromhex(value["bin"])
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda vector: vector["id"])
def test_golden_payloads(vector: dict[str, Any]) -> None:
    """A golden payload decodes to the values that stand beside it, and they encode to the same bytes."""
    body = bytes.fromhex(vector["body"])
    message = decode_message(MESSAGE_TYPES[vector["code"]], vector["header"]["seq"], body[16:-4])
    assert message.seq == vector["header"]["seq"]
    assert unpackb(encode_message(message)) == _plain(vector["payload"])
    assert encode_message(message) == body[16:-4]


@pytest.mark.parametrize("message_type", MESSAGE_TYPES.values(), ids=lambda kind: kind.TYPE_NAME)
@given(data=st.data())
def test_round_trip(message_type: type[Message], any_record: Any, data: st.DataObject) -> None:
    """Whatever the table allows arrives as it was sent, and encodes to the same bytes again."""
    message = data.draw(any_record(message_type))
    payload = encode_message(message)
    received = decode_message(message_type, 9, payload)
    assert received == message
    assert received.seq == 9
    assert encode_message(received) == payload


def test_absent_is_left_out() -> None:
    """An absent field has no key on the wire, and a missing key is None again; 0 is neither."""
    assert unpackb(encode_message(Report(boottime_ms=0, memory=MEMORY))).keys() == {"bt", "mem"}
    report = decode_message(Report, 1, encode_message(Report(boottime_ms=0, memory=MEMORY, drops=Drops(gap=0))))
    assert (report.psi, report.gen, report.drops) == (None, None, Drops(gap=0))


def test_enums_travel_as_numbers() -> None:
    """An enum's member may be given for a number; what arrives is a plain int, known or not."""
    sent = Demand(boottime_ms=1, want_bytes=2, why=DemandWhy.OOM, severity=Severity.STARVING)
    received = decode_message(Demand, 1, encode_message(sent))
    assert received == sent
    assert type(received.why) is int
    assert decode_message(Bye, 1, packb({"why": 99})).why == 99


# --- untrusted payloads ----------------------------------------------------------------------------------------------


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), 1.0, -1, -(2**63), 2**53, 2**64 - 1, True, None, "1", b"1", [], [1], {}, {"a": 1}],
    ids=repr,
)
def test_no_number(value: Any) -> None:
    """Where a number belongs, everything but an integer of 0..2^53-1 is BAD_MESSAGE."""
    _is_bad(Demand, {**DEMAND, "want": value})
    _is_bad(Report, {"bt": 1, "mem": {"total": 1, "free": 1, "avail": 1, "committed": value}})


@pytest.mark.fault(13)
@pytest.mark.parametrize("packed", ["cc01", "cd0001", "ce00000001", "cf0000000000000001", "d001", "d30000000000000001"])
def test_longer_forms_of_a_number(packed: str) -> None:
    """A number in a longer form than it needs, signed ones too, is that number."""
    assert decode_message(Ping, 1, b"\x81\xa1t" + bytes.fromhex(packed)) == Ping(token=1)


@pytest.mark.parametrize("key", ["bt", "want", "why", "sev"])
def test_missing_key(key: str) -> None:
    """A missing mandatory key is BAD_MESSAGE and named."""
    refusal = _refusal(Demand, {name: value for name, value in DEMAND.items() if name != key})
    assert refusal.code is ErrorCode.BAD_MESSAGE
    assert f"{key} is missing" in refusal.detail


@pytest.mark.parametrize("key", ["total", "free", "avail", "committed"])
def test_report_without_its_memory(key: str) -> None:
    """A REPORT whose `mem` lacks a mandatory key is BAD_MESSAGE; without the optional ones it is good."""
    memory = {"total": 4, "free": 3, "avail": 2, "committed": 1}
    assert decode_message(Report, 1, packb({"bt": 1, "mem": memory})).memory == MEMORY
    del memory[key]
    _is_bad(Report, {"bt": 1, "mem": memory})
    _is_bad(Report, {"bt": 1})


@pytest.mark.parametrize(
    ("message_type", "payload"),
    [
        (Inflate, {"gen": 1, "target": 1, "ttl_ms": 4_999}),
        (Inflate, {"gen": 1, "target": 1, "ttl_ms": 3_600_001}),
        (Inflate, {"gen": 0, "target": 1, "ttl_ms": 30_000}),
        (SetPolicy, {"gen": 1, "rep_ms": 249}),
        (SetPolicy, {"gen": 1, "rep_ms": 60_001}),
        (SetPolicy, {"gen": 1, "psi_full": 10_001}),
        (SetPolicy, {"gen": 1, "psi_some": 0}),
    ],
)
def test_out_of_range(message_type: type[Message], payload: Any) -> None:
    """A number outside its field's own bounds is OUT_OF_RANGE; the bounds themselves are good."""
    assert _refusal(message_type, payload).code is ErrorCode.OUT_OF_RANGE
    for ttl_ms in (5_000, 3_600_000):
        assert decode_message(Inflate, 1, packb({"gen": 1, "target": 0, "ttl_ms": ttl_ms})).ttl_ms == ttl_ms


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "payload",
    [
        b"\x82\xa1t\x00\xa1t\x01",  # known key twice
        b"\x82\xa1t\x00\xc4\x01t\x01",  # once as str, once as bin
        b"\x83\xa1t\x00\xa1z\x01\xa1z\x01",  # unknown key twice
        b"\x82\xa1t\x00\xa1z\x82\xa1a\x01\xa1a\x01",  # inside an unknown map
        b"\x82\x01\x03\xa1t\x00",  # a number as key
        b"\x82\xc0\x03\xa1t\x00",  # nil as key
        b"\x82\x90\x03\xa1t\x00",  # an array as key
        b"\x82\x80\x03\xa1t\x00",  # a map as key
        b"\x82\xa1t\x00\xa0\x01",  # an empty key
        b"\x82\xa1t\x00\xa1A\x01",  # a capital
        b"\x82\xa1t\x00\xa11\x01",  # begins with a digit
        b"\x82\xa1t\x00\xb1" + b"a" * 17 + b"\x01",  # 17 characters
        b"\x82\xa1t\x00\xa1\n\x01",
        b"\x82\xa1t\x00\xa1\xff\x01",
    ],
)
def test_bad_keys(payload: bytes) -> None:
    """Duplicate, numeric, empty, long and strange keys are BAD_MESSAGE, also where the key is unknown."""
    _is_bad(Ping, payload)


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    "value",
    [0, 2**53 - 1, True, "x" * 128, b"\xff" * 64, [1, "a", b"b"], {"a": {"b": [1]}}, [[[]]], {"a": {"b": {}}}],
    ids=repr,
)
def test_unknown_key_is_ignored(value: Any) -> None:
    """A key that a later minor version may send changes nothing, with any value the wire allows."""
    assert decode_message(Ping, 1, packb({"new_key": value, "t": 7})) == Ping(token=7)
    memory = {"total": 4, "free": 3, "avail": 2, "committed": 1, "zswap": value if value != {"a": {"b": [1]}} else 1}
    if not isinstance(value, (list, dict)):
        assert decode_message(Report, 1, packb({"bt": 1, "mem": memory})).memory == MEMORY


@pytest.mark.fault(9, 12)
@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        float("nan"),
        -1,
        2**53,
        "x" * 129,
        "a\nb" * 30,
        b"\xff" * 65,
        list(range(65)),
        {f"k{i}": i for i in range(65)},
        {"a": {"b": [[]]}},
        [[[[]]]],
        {"a": None},
        [None],
        {"A": 1},
        ExtType(1, b""),
        ExtType(5, b"12345"),
        Timestamp(1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_unknown_key_with_a_bad_value(value: Any) -> None:
    """An unknown key does not excuse a value that no version of the wire allows."""
    _is_bad(Ping, {"new_key": value, "t": 7})


@pytest.mark.fault(9, 10)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x80\x80",
        b"\x81",
        b"\x81\xa1t",
        b"\x81\xa1t\x00\x00",
        b"\xc0",
        b"\x00",
        b"\x90",
        b"\xa1t",
        b"\x81\xa1t\xc7\x00\x01",
        b"\x81\xa1t\xd4\x01\x00",
        b"\x81\xa1t\xd6\xff\x00\x00\x00\x00",
        b"\xdf\x05\xf5\xe1\x00",
        b"\x81\xa1t\xdd\x05\xf5\xe1\x00",
        b"\x81\xa1t\xdb\x05\xf5\xe1\x00",
        b"\x81\xa1t\xc6\x05\xf5\xe1\x00",
        b"\x81\xa1t\xc9\x05\xf5\xe1\x00\x01",
        b"\x81\xa1t" + b"\x91" * 1024 + b"\x00",
        b"\x81\xa1t" + b"\x91" * 1025 + b"\x00",
        b"\x81\xa1t" + b"\x91" * 4000 + b"\x00",
        b"\x81\xa1a" * 800 + b"\x00",
        b"\xdc\x0f\xff" * 1300,
    ],
    ids=lambda payload: payload[:12].hex(),
)
def test_no_map(payload: bytes) -> None:
    """What is cut, trailing, no map, an extension, huge by declaration or nested without end is BAD_MESSAGE."""
    _is_bad(Ping, payload)


@pytest.mark.fault(9)
@pytest.mark.parametrize("payload", [b"\xdc\x0f\xff" * 1300, b"\xde\x0f\xff" * 1300, b"\xdd\x05\xf5\xe1\x00" * 800])
def test_declared_lengths_allocate_nothing(payload: bytes) -> None:
    """A payload of nothing but huge declared lengths costs less than a megabyte."""
    tracemalloc.start()
    _is_bad(Ping, b"\x81\xa1t" + payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.fault(10)
def test_depth_four_of_four() -> None:
    """The fourth level is the last: an array in a map in a map in the payload is good, one more is not."""
    assert decode_message(Ping, 1, packb({"t": 1, "a": {"b": {"c": 1}}})) == Ping(token=1)
    assert decode_message(Ping, 1, packb({"t": 1, "a": {"b": {"c": {}}}})) == Ping(token=1)
    _is_bad(Ping, {"t": 1, "a": {"b": {"c": {"d": {}}}}})


@pytest.mark.fault(14)
@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\x7f", "\x1b[2J", "\u202eabc", "é", "x" * 65, b"\xff\xfe"], ids=repr)
def test_text_that_is_not_printable(text: Any) -> None:
    """Control characters, anything beyond ASCII and names over 64 characters never get in."""
    _is_bad(Event, {"ev": text, "bt": 1})
    _is_bad(HelloReq, {"why": 0, "impl": text})
    hello = {"maj": [1, 1], "min": 0, "nonce": bytes(16), "caps": [text]}
    _is_bad(Hello, hello)


@pytest.mark.parametrize(
    "change",
    [
        {"maj": [1]},
        {"maj": [2, 1]},
        {"maj": [1, 1, 1]},
        {"maj": 1},
        {"maj": [1, True]},
        {"maj": [1, 2**53]},
        {"maj": {"a": 1}},
        {"nonce": bytes(15)},
        {"nonce": bytes(17)},
        {"nonce": 1},
        {"caps": "psi"},
        {"caps": [1]},
        {"caps": [""]},
        {"caps": {"psi": 1}},
        {"caps": ["x"] * 65},
        {"vm": b""},
        {"lim": []},
        {"lim": 1},
        {"lim": {"frame": "4096"}},
    ],
    ids=repr,
)
def test_bad_hello(change: dict[str, Any]) -> None:
    """Arrays, bins and records of the wrong shape are BAD_MESSAGE."""
    good = {"maj": [1, 1], "min": 0, "nonce": bytes(16), "caps": ["psi"]}
    assert decode_message(Hello, 1, packb(good)).capabilities == ("psi",)
    _is_bad(Hello, {**good, **change})


def test_bool_is_bool() -> None:
    """`fatal` is true or false; 0 and 1 are numbers."""
    assert decode_message(ErrorMessage, 1, packb({"code": 2, "fatal": True})).fatal is True
    _is_bad(ErrorMessage, {"code": 2, "fatal": 1})


@pytest.mark.fault(12)
def test_text_and_bin_are_taken_for_each_other() -> None:
    """Keys and text may come as bin and bytes as str: decoding makes no text, so it fills no table of strings."""
    assert decode_message(Ping, 1, b"\x81\xc4\x01t\x05") == Ping(token=5)
    nonce = bytes(range(240, 256))
    payload = packb({"maj": [1, 1], "min": 0, "caps": []})[1:]
    assert decode_message(Hello, 1, b"\x84\xa5nonce\xb0" + nonce + payload).nonce == nonce


def test_refusals_hold_no_text_of_the_peer() -> None:
    """What the peer wrote never shows in an error, so it can forge no log line."""
    for payload in ({"t": "sp\nam"}, {"sp\nam": 1}, {"spam": None, "t": 1}, {"t": {"spam": 1}}):
        refusal = _refusal(Ping, payload)
        assert "spam" not in f"{refusal}{refusal.detail}"
        assert "\n" not in str(refusal)


@pytest.mark.fault(8)
@given(st.sampled_from(list(MESSAGE_TYPES.values())), st.binary(max_size=200))
def test_random_payloads(message_type: type[Message], payload: bytes) -> None:
    """Random bytes decode to a message or raise RemoteProtocolError, never anything else."""
    try:
        message = decode_message(message_type, 1, payload)
    except RemoteProtocolError:
        return
    assert decode_message(message_type, 1, encode_message(message)) == message


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats()
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abtz_1A", max_size=3), inner, max_size=4),
)


@pytest.mark.fault(8)
@given(st.sampled_from(GOLDEN), st.data())
def test_mutated_payloads(vector: dict[str, Any], data: st.DataObject) -> None:
    """A golden payload with any values replaced is a message of the table or refused."""
    payload = _plain(vector["payload"])
    for key in data.draw(st.lists(st.sampled_from([*payload, "new_key"]), min_size=1, max_size=3)):
        payload[key] = data.draw(ANYTHING)
    message_type = MESSAGE_TYPES[vector["code"]]
    try:
        message = decode_message(message_type, 1, packb(payload))
    except RemoteProtocolError:
        return
    assert decode_message(message_type, 1, encode_message(message)) == message


# --- sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Ping(token=-1),
        Ping(token=2**53),
        Ping(token=True),
        Ping(token=1.0),  # type: ignore[arg-type]
        Ping(token=None),  # type: ignore[arg-type]
        Inflate(gen=1, target_bytes=1, ttl_ms=4_999),
        Event(event="a\nb", boottime_ms=1),
        Event(event="x" * 65, boottime_ms=1),
        Event(event=b"oom", boottime_ms=1),  # type: ignore[arg-type]
        ErrorMessage(code=2, fatal=1),  # type: ignore[arg-type]
        Report(boottime_ms=1, memory=Drops()),  # type: ignore[arg-type]
        Report(boottime_ms=1, memory={"total": 1}),  # type: ignore[arg-type]
        make_hello(nonce=bytes(15)),
        make_hello(nonce="x" * 16),
        make_hello(major_range=(2, 1)),
        make_hello(major_range=1),
        make_hello(major_range=(1, 2**53)),
        make_hello(capabilities="psi"),
        make_hello(capabilities=("",)),
        make_hello(capabilities=("x",) * 65),
    ],
    ids=lambda message: repr(message)[:60],
)
def test_nothing_wrong_is_sent(message: Message) -> None:
    """A value that the table does not allow is refused at the sender, with the field's name."""
    with pytest.raises(LocalProtocolError, match=rf"{type(message).__name__}\.\w+ (takes|is mandatory)"):
        encode_message(message)


def test_msgpack_is_used_for_whole_payloads_only() -> None:
    """The codec takes two functions from msgpack and nothing else: its stateful reader must not be used again after it
    raised, and here it cannot even be begun."""
    with open(codec.__file__, encoding="utf-8") as file:
        imported = [
            {name.name for name in node.names}
            for node in ast.walk(ast.parse(file.read()))
            if isinstance(node, ast.ImportFrom) and node.module == "msgpack"
        ]
    assert imported == [{"packb", "unpackb"}]
