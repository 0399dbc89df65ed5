"""Turns of the past: files that `explain` saved, recordings at a time, and how people write times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ballonet_host_coord import explaining
from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.ports import PortError
from ballonet_host_coord.recorder import FileRecorder
from ballonet_host_coord.snapshot import decision_to_json, snapshot_to_json

from .builders import MIB, make_guest, make_snapshot

BEGAN_UNIX_S = 1795529000.0


def turn_of(actual_mib: int) -> dict[str, Any]:
    snapshot = make_snapshot(make_guest(actual_kib=actual_mib * MIB))
    return {"snapshot": snapshot_to_json(snapshot), "decision": decision_to_json(one_iteration(snapshot))}


@pytest.fixture
def recording(tmp_path: Path) -> str:
    """Ten turns, a second apart, of a guest that grows by 10 MiB each."""
    path, now_s = str(tmp_path / "recording"), 0.0
    recorder = FileRecorder(path, wall=lambda: BEGAN_UNIX_S + now_s)
    for number in range(10):
        now_s = float(number)
        recorder.record("turn", 100 + now_s, turn_of(500 + 10 * number))
    recorder.close()
    return path


@pytest.mark.parametrize(("at", "actual_mib"), [(None, 590), ("+0", 500), ("+3.5s", 530), ("+1h", 590)])
def test_turn_in_force_at_a_time_is_found(recording: str, at: str | None, actual_mib: int) -> None:
    """The last turn at or before the time is explained; without a time it is the last of all."""
    turn, said = explaining.recorded(recording, at)
    assert turn == turn_of(actual_mib)
    assert said == f"as of {explaining.moment(BEGAN_UNIX_S + (actual_mib - 500) / 10)}"


def test_wall_time_finds_its_turn(recording: str) -> None:
    """The time that `moment` writes is read again as that time, with its date and without."""
    text = explaining.moment(BEGAN_UNIX_S + 4)
    for at in (text, text[:19], text[11:19], text[:10] + "T" + text[11:]):
        assert explaining.recorded(recording, at)[0] == turn_of(540)


def test_time_before_midnight_belongs_to_the_next_day() -> None:
    """A time of day before the beginning of the recording is that of the day after."""
    began = explaining.parse_time_unix_s("2026-11-24 23:30:00", 0.0)
    assert explaining.parse_time_unix_s("00:10", began) == began + 40 * 60
    assert explaining.parse_time_unix_s("23:30", began) == began


def test_time_before_the_recording_is_refused(recording: str) -> None:
    """What happened before is not there, and the beginning is said."""
    with pytest.raises(ValueError, match="the recording begins at"):
        explaining.recorded(recording, "2001-01-01 00:00")


@pytest.mark.parametrize("text", ["", "soon", "25:00", "+", "+5 weeks", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """A text that is no time is refused with examples of what is, or as a duration."""
    with pytest.raises(ValueError, match=r"is no (time|duration) such as"):
        explaining.parse_time_unix_s(text, BEGAN_UNIX_S)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    """A number is seconds, and its unit may be said."""
    assert explaining.parse_duration_s(text) == seconds


def test_damage_is_said_with_the_turn(recording: str) -> None:
    """A recording of which something is lost is explained from what is left."""
    data = Path(recording).read_bytes()
    Path(recording).write_bytes(data[:-5])
    turn, said = explaining.recorded(recording, None)
    assert turn == turn_of(580)
    assert "damaged" in said
    Path(recording).write_bytes(data[:40])
    with pytest.raises(PortError, match=r"holds no turn; .* damaged"):
        explaining.recorded(recording, None)


def test_saved_turn_is_explained_as_it_was(tmp_path: Path) -> None:
    """What is saved and read again gives the same explanation, to the letter."""
    path = str(tmp_path / "turn.json")
    explaining.save(turn_of(512), path)
    turn = explaining.saved(path)
    assert turn == turn_of(512)
    assert explaining.as_text(turn, None, 80) == explaining.as_text(turn_of(512), None, 80)
    (alpha,) = json.loads(explaining.as_json(turn, "alpha"))["guests"]
    assert (alpha["name"], alpha["target_kib"], alpha["rule"]) == ("alpha", 480 * MIB, "buffer")


@pytest.mark.parametrize(("text", "said"), [("", "no JSON"), ("[]", "no snapshot"), ('{"a":1}', "no snapshot")])
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    """A file that holds something else is refused by name."""
    path = tmp_path / "turn.json"
    path.write_text(text)
    with pytest.raises(PortError, match=said):
        explaining.saved(str(path))
    with pytest.raises(PortError, match="No such file"):
        explaining.saved(str(tmp_path / "nothing"))
    with pytest.raises(PortError, match="No such file"):
        explaining.save({}, str(tmp_path / "no" / "folder"))
