"""Recordings on disk: appended, readable at once, whole again after a full disk, one writer at a time."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ballonet_host_coord.ports import PortError
from ballonet_host_coord.recorder import FileRecorder, read_recording
from ballonet_host_coord.recording import HEADER, Entry

WALL_S = 1795000000.125


def entry(number: int) -> Entry:
    return Entry("turn", float(number), WALL_S, {"number": number})


def recorder_at(path: str, sync: bool = False) -> FileRecorder:
    return FileRecorder(path, sync=sync, wall=lambda: WALL_S)


def record(recorder: FileRecorder, number: int) -> None:
    recorder.record("turn", float(number), {"number": number})


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "new" / "recording")


@pytest.mark.parametrize("sync", [False, True])
def test_values_come_back_in_their_order_over_restarts(path: str, sync: bool) -> None:
    """Each value can be read as soon as it is recorded, and a later recorder appends."""
    for start in (0, 2):
        recorder = recorder_at(path, sync)
        for number in (start, start + 1):
            record(recorder, number)
            assert list(read_recording(path))[-1] == entry(number)
        recorder.close()
    assert list(read_recording(path)) == [entry(number) for number in range(4)]
    assert Path(path).read_bytes().count(HEADER) == 1


@pytest.mark.parametrize("tail", [b"\xb1KEY", b"\0\0\0\0", b"torn", HEADER])
def test_torn_tail_costs_itself_only(path: str, tail: bytes) -> None:
    """A frame that ended early neither hides the others nor spoils the next one."""
    recorder = recorder_at(path)
    record(recorder, 1)
    recorder.close()
    with open(path, "ab") as file:
        file.write(tail)
    recorder = recorder_at(path)
    record(recorder, 2)
    recorder.close()
    reading = read_recording(path)
    assert list(reading) == [entry(1), entry(2)]
    assert reading.lost_bytes == len(tail)


def test_header_that_was_torn_is_written_again(path: str) -> None:
    """A recorder that was killed in its first write leaves a file that can be used."""
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(HEADER[:7])
    recorder = recorder_at(path)
    record(recorder, 1)
    recorder.close()
    assert list(read_recording(path)) == [entry(1)]


def test_full_disk_is_said_once_and_stops_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full, wholly or in the midst of a frame, never raises; what fits afterwards is whole."""
    recorder = recorder_at(path)
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
        record(recorder, 5)
    recorder.close()
    assert list(read_recording(path)) == [entry(1), entry(4), entry(5)]
    assert [line.levelname for line in caplog.records] == ["ERROR", "WARNING"]


def test_place_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    """An operator who asked for a recording learns at the start that there will be none."""
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match="cannot record"):
        FileRecorder(str(tmp_path / "file" / "recording"))


def test_another_file_is_left_as_it_is(path: str) -> None:
    """What is there and is no recording is not appended to."""
    os.makedirs(os.path.dirname(path))
    Path(path).write_text("a letter\n")
    with pytest.raises(PortError, match="no recording of this version"):
        FileRecorder(path)
    assert Path(path).read_text() == "a letter\n"


def test_one_writer_at_a_time(path: str) -> None:
    """A second recorder of the same file is refused, and may when the first has ended."""
    first = recorder_at(path)
    with pytest.raises(PortError, match="another process records there"):
        FileRecorder(path)
    first.close()
    recorder_at(path).close()


def test_what_cannot_be_read_is_said(path: str) -> None:
    """A recording that is not there, or of another version, is an error with its path."""
    with pytest.raises(PortError, match="No such file"):
        read_recording(path)
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"ballonet recording 9\n")
    with pytest.raises(PortError, match="version 9; this ballonet reads 1"):
        read_recording(path)


@pytest.mark.parametrize("sync", [False, True])
def test_disk_is_waited_for_where_it_was_asked(path: str, sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `sync` each turn is on the disk when it is recorded; without it nothing waits for a disk."""
    waited: list[int] = []
    monkeypatch.setattr(os, "fdatasync", waited.append)
    recorder = recorder_at(path, sync)
    for number in range(3):
        record(recorder, number)
    recorder.close()
    assert len(waited) == 3 * sync
