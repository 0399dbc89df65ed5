"""The vectors: what the generator makes, well-formed, and what this library does with every frame and every stream."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ballonet_protocol import ProtocolError, RemoteProtocolError, _codec, _connection, _framing
from ballonet_protocol.testing import SESSION, load_vectors, make_receiver, replay_frame, replay_stream

from . import make_vectors
from .vector_bytes import TYPES, body, cobs, frame, pack, uncobs, unplain, wire

FRAMES = load_vectors("frames")
CASES = FRAMES["cases"]
STREAMS = load_vectors("streams")["streams"]
RESULTS = {"valid", "acceptable", "invalid"}


# --- the files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", make_vectors.FILES)
def test_committed_files_are_what_the_generator_makes(name: str) -> None:
    """Regenerating changes nothing: what is committed was made by the committed generator."""
    assert (make_vectors.FOLDER / name).read_text() == make_vectors.FILES[name]()


def test_changed_golden_frames_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One other digit in a golden frame, and the generator refuses to go on."""
    text = (make_vectors.FOLDER / "frames.json").read_text()
    (tmp_path / "frames.json").write_text(text.replace('"t": 0', '"t": 1', 1))
    monkeypatch.setattr(make_vectors, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="have changed"):
        make_vectors.frozen_frames()


@pytest.mark.parametrize("vector", FRAMES["frames"], ids=lambda vector: vector["id"])
def test_hand_made_bytes_agree_with_the_golden_frames(vector: dict[str, Any]) -> None:
    """The generator's own encoder, which shares nothing with the library's, writes every golden frame."""
    header = vector["header"]
    session = int(header["session"], 16)
    made = body(header["type"], pack(unplain(vector["payload"])), header["flags"], header["seq"], session)
    assert (made.hex(), wire(made).hex()) == (vector["body"], vector["wire"])
    assert TYPES[vector["type"]][:2] == (header["type"], header["flags"])


def test_the_generator_knows_nothing_of_the_library() -> None:
    """No module that makes vectors imports the library or msgpack."""
    for path in [*Path(__file__).parent.glob("vector_*.py"), Path(make_vectors.__file__)]:
        imports = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in imports if "ballonet" in line or "msgpack" in line]


@pytest.mark.parametrize("length", [0, 1, 253, 254, 255, 508, 509, 1000])
def test_hand_made_cobs(length: int) -> None:
    """The generator's COBS goes there and back around runs of 254."""
    for data in (b"x" * length, b"\0" + b"x" * length, b"x" * length + b"\0", bytes(length)):
        assert uncobs(cobs(data)) == data
        assert 0 not in cobs(data)


def test_vectors_are_complete() -> None:
    """Ids are unique, every flag is explained and used; each vector has a comment, a result and a reason."""
    for vectors, legend in ((CASES, FRAMES["case_flags"]), (STREAMS, load_vectors("streams")["flags"])):
        assert max(Counter(vector["id"] for vector in vectors).values()) == 1
        assert {flag for vector in vectors for flag in vector["flags"]} == set(legend)
        for vector in vectors:
            assert vector["comment"]
            assert vector["reason"]
            assert vector["result"] in RESULTS
            assert vector["permitted"]
    assert {case["result"] for case in CASES} == {stream["result"] for stream in STREAMS} == RESULTS


@pytest.mark.parametrize("flag", sorted(set(FRAMES["case_flags"]) - {"Unclear"}))
def test_each_rule_is_kept_and_broken(flag: str) -> None:
    """A rule of frames and values has an example that is taken and, unless it only permits, one that is refused."""
    results = {case["result"] for case in CASES if flag in case["flags"]}
    permissive = {"LowFlag", "OpenNumber"}
    refusing = {"Bool", "NoSuchKind", "DuplicateKey", "Crc", "Direction", "NoErrorToError", "CriticalFlag"}
    refusing |= {"Mandatory", "WholePayload"}
    assert flag in permissive or "invalid" in results
    assert flag in refusing or results & {"valid", "acceptable"}


def test_there_are_enough_of_every_result() -> None:
    """Hundreds in all, and of each result a good number."""
    results = Counter(vector["result"] for vector in CASES + STREAMS)
    assert sum(results.values()) >= 400
    assert min(results.values()) >= 30


# --- the library -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_frames(case: dict[str, Any]) -> None:
    """Every case has an outcome that its vector permits."""
    assert replay_frame(case) in case["permitted"], case["comment"]


@pytest.mark.parametrize("vector", STREAMS, ids=lambda vector: vector["id"])
def test_streams(vector: dict[str, Any]) -> None:
    """Every stream gives the messages, refusals and counts that its vector permits."""
    assert replay_stream(vector) in vector["permitted"], vector["comment"]


@pytest.mark.parametrize("vector", STREAMS, ids=lambda vector: vector["id"])
def test_streams_in_other_portions(vector: dict[str, Any]) -> None:
    """How the same bytes are cut into chunks makes no difference."""
    whole = "".join(vector["chunks"])
    for size in (1, 3, 4096):
        chunks = [whole[start : start + 2 * size] for start in range(0, len(whole), 2 * size)]
        assert replay_stream({**vector, "chunks": chunks}) in vector["permitted"]


def test_a_good_frame_follows_every_case() -> None:
    """Whatever a case was, the next good frame of the session is taken."""
    for case in CASES:
        if case["to"] == "agent" and case["state"] == "ACTIVE" and case["permitted"][0].get("message") != "BYE":
            after = frame("PING", {"t": 5}, seq=2**31)
            connection = make_receiver("agent", "ACTIVE")
            connection.receive_data(bytes.fromhex(case["wire"]))
            list(_messages(connection))
            connection.receive_data(after)
            assert [message.token for message in _messages(connection)][-1:] == [5], case["id"]


def _messages(connection: Any) -> Any:
    while True:
        try:
            message = connection.next_message()
        except RemoteProtocolError:
            continue
        if message is None:
            return
        yield message


@pytest.mark.parametrize(
    ("module", "name", "value", "broken"),
    [
        (_framing, "MAX_BODY_BYTES", 5000, {"body-4065", "wire-4096-whole"}),
        (_framing, "MAX_ENCODED_BYTES", 9000, {"endless-open", "wire-4097"}),
        (_framing, "MIN_BODY_BYTES", 19, {"short-body-19-good-crc"}),
        (_framing, "crc32", lambda _data: 0, {"plain", "ping-least"}),
        (_codec, "MAX_DEPTH", 9, {"depth-5-arrays", "depth-5-maps", "depth-5-in-mem"}),
        (_codec, "MAX_BIN", 99, {"bin-unknown-65"}),
        (_codec, "MAX_TEXT", 999, {"text-unknown-129"}),
        (_codec, "MAX_ITEMS", 99, {"map-65", "array-65", "array-unknown-65"}),
        (_codec, "_MAX_KEY", 17, {"key-17"}),
        (_codec, "MAX_INT", 2**64, {"unknown-key-is-2^53"}),
        (_codec, "_check_unknown", lambda *_anything: None, {"key-upper", "key-empty", "unknown-key-is-nil"}),
        (_connection, "CRITICAL_FLAGS", 0, {"critical-0100", "critical-unknown-type"}),
        (_connection, "VERSION", 2, {"plain", "version-2"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_breaks_its_cases(
    module: Any, name: str, value: Any, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of its rules switched off, the library no longer passes the cases that are about it."""
    monkeypatch.setattr(module, name, value)
    failed = {case["id"] for case in CASES if _outcome(case) not in case["permitted"]}
    assert broken <= failed


def _outcome(case: dict[str, Any]) -> Any:
    try:
        return replay_frame(case)
    except (AttributeError, AssertionError, ProtocolError) as error:  # a library so broken opens no session
        return repr(error)


# --- the replayer ----------------------------------------------------------------------------------------------------


def test_receivers_stand_where_they_say() -> None:
    """A receiver is in the state that was asked for, in the vectors' session."""
    assert [make_receiver("agent", "IDLE").state.name, make_receiver("coordinator", "IDLE").state.name] == ["IDLE"] * 2
    assert make_receiver("coordinator", "HELLO_SENT").state.name == "HELLO_SENT"
    for to in ("agent", "coordinator"):
        assert (make_receiver(to, "ACTIVE").state.name, make_receiver(to, "ACTIVE").session) == ("ACTIVE", SESSION)


def test_a_frame_of_several_outcomes_is_told_as_such() -> None:
    """Bytes that make more than one event are not mistaken for one of the outcomes."""
    two = frame("PING", seq=2) + frame("PING", seq=3)
    outcome = replay_frame({"to": "agent", "state": "ACTIVE", "wire": two.hex()})
    assert len(outcome["events"]) == 2
    outcome = replay_frame({"to": "agent", "state": "ACTIVE", "wire": "0005000700" + "07" * 5000})
    assert outcome == {"events": [], "counted": ["crc", "over"]}
