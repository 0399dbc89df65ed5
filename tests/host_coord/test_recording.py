"""The format of a recording: everything returns, and damage costs no more than its stretch."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.recording import (
    DELTA_MAGIC,
    FRAME,
    HEADER,
    KEY_EVERY_S,
    KEY_MAGIC,
    Encoder,
    Entry,
    Reading,
    checksum,
    is_recording,
    other_version,
)
from ballonet_host_coord.snapshot import decision_to_json, snapshot_from_json, snapshot_to_json

from .test_snapshot import SNAPSHOTS
from .world import GIB, Character, World

LEAVES = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.dictionaries(st.sampled_from("abcd"), LEAVES)
STEPS_S = st.sampled_from([0.05, 1.0, 1.0, 25.0, KEY_EVERY_S, -5.0])


def entries(values: list[Any], steps_s: list[float]) -> list[Entry]:
    now_s, found = 100.0, []
    for value, step_s in zip(values, steps_s, strict=False):
        now_s += step_s
        found.append(Entry("turn", now_s, 1e9 + now_s, value))
    return found


def frames(turns: list[Entry], run: int = 1) -> list[bytes]:
    encoder = Encoder(run)
    return [encoder.frame(turn) for turn in turns]


TURNS = st.builds(entries, st.lists(JSON, min_size=1, max_size=8), st.lists(STEPS_S, min_size=1, max_size=8))


def world_turns(count: int) -> list[Entry]:
    """What three guests and their coordinator do, once a second."""
    world = World(3 * GIB, [Character(), Character(has_agent=False), Character(refuses=True)])
    found = []
    for number in range(count):
        world.turn()
        if number % 50 == 40:
            world["alpha"].use_kib = 700 * 1024 if number % 100 == 40 else 200 * 1024
        assert world.snapshot is not None
        assert world.decision is not None
        value = {"snapshot": snapshot_to_json(world.snapshot), "decision": decision_to_json(world.decision)}
        found.append(Entry("turn", world.now_s, 1e9 + world.now_s, value))
    return found


@given(st.lists(SNAPSHOTS, min_size=1, max_size=5), st.lists(STEPS_S, min_size=5, max_size=5))
@settings(max_examples=50)
def test_snapshots_return_as_they_were(snapshots: list[Any], steps_s: list[float]) -> None:
    """Any sequence of snapshots, however unlike each other, is read as it was written."""
    turns = entries([snapshot_to_json(snapshot) for snapshot in snapshots], steps_s)
    reading = Reading(HEADER + b"".join(frames(turns)))
    assert [snapshot_from_json(entry.value) for entry in reading] == snapshots
    assert (reading.lost, reading.turns) == ("", len(snapshots))


def test_recorded_turns_replay_to_their_decisions() -> None:
    """What a world decided in minutes of booting, growing and shrinking is decided again from its recording."""
    turns = world_turns(200)
    for entry in Reading(HEADER + b"".join(frames(turns))):
        decision = one_iteration(snapshot_from_json(entry.value["snapshot"]))
        assert decision_to_json(decision) == entry.value["decision"]


@given(TURNS)
@settings(max_examples=30)
def test_cut_at_every_byte_lacks_the_frame_that_was_cut(turns: list[Entry]) -> None:
    """Wherever a file ends, it gives every turn that was whole, in order, and nothing else."""
    parts = frames(turns)
    data = HEADER + b"".join(parts)
    ends = [len(HEADER) + sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)
        assert list(Reading(data[:cut])) == turns[:whole]


@given(TURNS, st.data())
@settings(max_examples=60)
def test_broken_byte_costs_the_rest_of_its_block(turns: list[Entry], data: st.DataObject) -> None:
    """With one byte changed, every turn before its frame and from the next key frame on is there, and it is said."""
    parts = frames(turns)
    broken = bytearray(HEADER + b"".join(parts))
    at = data.draw(st.integers(0, len(broken) - 1))
    broken[at] ^= data.draw(st.integers(1, 255))
    number, end = -1, len(HEADER)
    while at >= end:
        number += 1
        end += len(parts[number])
    if number < 0:
        expected = turns
    else:
        keys = [index for index, part in enumerate(parts) if part.startswith(KEY_MAGIC)]
        after = min((index for index in keys if index > number), default=len(turns))
        expected = turns[:number] + turns[after:]
        lost_turns = after - number
    reading = Reading(broken)
    assert list(reading) == expected
    assert reading.lost_bytes > 0
    if number >= 0 and expected and expected[-1] is turns[-1] and number:
        assert reading.lost_turns == lost_turns


@given(TURNS, st.data())
@settings(max_examples=60)
def test_missing_stretch_is_passed_over(turns: list[Entry], data: st.DataObject) -> None:
    """Without any stretch of its bytes, even whole frames, a file gives only turns that were written, in order."""
    whole = HEADER + b"".join(frames(turns))
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    rest = iter(turns)
    assert all(entry in rest for entry in Reading(whole[:begin] + whole[end:]))


PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([KEY_MAGIC, DELTA_MAGIC, HEADER, FRAME.pack(KEY_MAGIC, 1, 9, 0)]),
    st.sampled_from(frames(entries([{"a": 1}, {"a": 2}, {"b": 1}], [1.0, 1.0, KEY_EVERY_S]))),
)


@given(st.lists(PIECES, max_size=12))
def test_junk_is_counted_and_never_raises(pieces: list[bytes]) -> None:
    """Whatever stands in a file, reading ends, and each byte is in a turn or counted as lost."""
    data = b"".join(pieces)
    reading = Reading(data)
    count = len(list(reading))
    assert (reading.turns, 0 <= reading.lost_bytes <= len(data)) == (count, True)
    if data and not count and data != HEADER:
        assert reading.lost_bytes >= len(data) - len(HEADER)
        assert bool(reading.lost) == bool(reading.lost_bytes)


WRONG = [b"[1]", b"7", b'{"kind":"turn"}', b'{"kind":1,"now_s":1,"unix_s":1,"value":1}', b"\xff"]


@pytest.mark.parametrize("content", WRONG)
def test_whole_frame_with_wrong_content_is_lost(content: bytes) -> None:
    """A frame whose checksum holds and whose content is no turn is passed over like a broken one."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    payload = deflate.compress(content) + deflate.flush(zlib.Z_SYNC_FLUSH)
    wrong = FRAME.pack(KEY_MAGIC, 1, len(payload), checksum(KEY_MAGIC, 1, payload)) + payload
    turns = entries([{"a": 1}], [1.0])
    reading = Reading(HEADER + wrong + frames(turns)[0])
    assert (list(reading), reading.lost_bytes) == (turns, len(wrong))


def test_two_writers_after_each_other() -> None:
    """A later run begins with a key frame; a turn number that it has too does not join the runs."""
    first, second = entries([{"a": 1}, {"a": 2}], [1.0, 1.0]), entries([{"a": 7}, {"a": 8}], [1.0, 1.0])
    torn = frames(first)[1][:-3]
    reading = Reading(HEADER + frames(first)[0] + torn + b"".join(frames(second, run=2)))
    assert list(reading) == [first[0], *second]
    assert (reading.lost_bytes, reading.lost_turns) == (len(torn), 0)


def test_unchanged_turns_are_small() -> None:
    """A quiet minute of three guests takes less than a twentieth of its JSON."""
    turns = world_turns(110)[50:]
    written = sum(map(len, frames(turns)))
    assert written < len("".join(repr(turn.value) for turn in turns)) / 20


def test_what_may_be_appended_to() -> None:
    """A recording may, whole, torn in its header or without its beginning; another file and another version may not."""
    frame = frames(entries([{}], [1.0]))[0]
    assert all(is_recording(beginning) for beginning in (b"", HEADER[:5], HEADER, HEADER + frame, b"..." + frame))
    assert not any(is_recording(beginning) for beginning in (b'{"kind":"turn"}\n', b"\0" * 99))
    newer = b"ballonet recording 2\n"
    assert (other_version(newer), other_version(HEADER), other_version(b"x\n")) == ("2", "", "")
    assert not is_recording(newer)
    assert other_version(newer + frame) == ""


def test_whole_frame_that_is_missing_ends_its_block() -> None:
    """Where a frame is gone without a trace, those that depend on it are not guessed; the next block is there."""
    steps_s = [1.0, 1.0, 1.0, 1.0, KEY_EVERY_S, 1.0]
    turns = entries([{"a": 10}, {"a": 20}, {"a": 30}, {"a": 40}, {"a": 50}, {"a": 60}], steps_s)
    parts = frames(turns)
    reading = Reading(HEADER + b"".join(parts[:1] + parts[2:]))
    assert list(reading) == turns[:1] + turns[4:]
    assert reading.lost_turns == 3
    # A turn in which nothing changed refers to nothing: only its number tells that it does not belong here.
    turns = entries([{"a": 10}, {"a": 20}, {"a": 20}], [1.0, 1.0, 0.0])
    parts = frames(turns)
    assert list(Reading(HEADER + parts[0] + parts[2])) == turns[:1]


def test_turns_are_counted_as_lost_within_one_run_only() -> None:
    """Where one run ends and the beginning of the next is broken, nobody knows how many turns lie between."""
    first = entries([{"a": 1}], [1.0])
    second = frames(entries([{"a": 1}, {"a": 2}, {"a": 3}], [1.0, 1.0, KEY_EVERY_S]), run=2)
    reading = Reading(HEADER + frames(first)[0] + second[0][:-1] + b"".join(second[1:]))
    assert len(list(reading)) == 2
    assert (reading.lost_turns, reading.lost_bytes > 0) == (0, True)
