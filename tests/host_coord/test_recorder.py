"""Recordings: appended, at once on disk, readable whatever cut them short."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ballonet_host_coord.ports import PortError
from ballonet_host_coord.recorder import JsonLinesRecorder, read_recording


def entry(number: int) -> dict[str, object]:
    return {"kind": "decision", "now_s": float(number), "value": {"number": number}}


def record(recorder: JsonLinesRecorder, number: int) -> None:
    recorder.record("decision", float(number), {"number": number})


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "recording")


def test_values_come_back_in_their_order_over_restarts(path: str) -> None:
    """Each value can be read as soon as it is recorded, and a later recorder appends."""
    for start in (0, 2):
        recorder = JsonLinesRecorder(path)
        for number in (start, start + 1):
            record(recorder, number)
            assert list(read_recording(path))[-1] == entry(number)
        recorder.close()
    assert list(read_recording(path)) == [entry(number) for number in range(4)]


@pytest.mark.parametrize("tail", ['{"kind": "deci', "\0\0\0\0", "[1]\n", '{"kind": 1}\n', "{}"])
def test_torn_tail_costs_itself_only(path: str, tail: str) -> None:
    """A line that ended early neither hides the others nor spoils the next one."""
    recorder = JsonLinesRecorder(path)
    record(recorder, 1)
    recorder.close()
    with open(path, "a") as file:
        file.write(tail)
    assert list(read_recording(path)) == [entry(1)]
    recorder = JsonLinesRecorder(path)
    record(recorder, 2)
    recorder.close()
    assert list(read_recording(path)) == [entry(1), entry(2)]


def test_full_disk_is_said_once_and_stops_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full, wholly or in the midst of a line, never raises; what fits afterwards is whole."""
    recorder = JsonLinesRecorder(path)
    really_write = os.write
    record(recorder, 1)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    record(recorder, 2)
    monkeypatch.setattr(os, "write", lambda fd, data: really_write(fd, data[:10]))
    record(recorder, 3)
    monkeypatch.setattr(os, "write", really_write)
    with caplog.at_level(logging.WARNING):
        record(recorder, 4)
    recorder.close()
    assert list(read_recording(path)) == [entry(1), entry(4)]
    assert [line.levelname for line in caplog.records] == ["ERROR", "WARNING"]


def test_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """An operator who asked for a recording learns at the start that there will be none."""
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match="cannot record"):
        JsonLinesRecorder(str(tmp_path / "file" / "recording"))
