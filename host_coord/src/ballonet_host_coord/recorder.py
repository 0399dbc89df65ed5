"""The recorder port over a file: each turn appended with one write(), in the form of `recording.py`.

A turn is with the kernel when `record` returns, so a process that is killed loses nothing it had recorded, and one that
is killed within a write loses that turn. Power that fails takes what the kernel had not written yet: with `sync`,
which waits for the disk each time, the turn that was being written; without it what is dirty, by default up to 35 s.
The service records without, as nothing that a disk does may hold up a decision; `ballonet record`, once a second,
with it.

A file is never rewritten. A full disk ends a recording and room begins it again, with a whole turn.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from .ports import PortError
from .recording import HEADER, Encoder, Entry, Reading, is_recording, other_version

log = logging.getLogger(__name__)

BEGINNING_BYTES = 1 << 20
"""A minute of a thousand guests is smaller: a key frame is in it."""


class FileRecorder:
    """Appends to `path`; a file that another process records to is left alone."""

    def __init__(self, path: str, *, sync: bool = False, wall: Callable[[], float] = time.time) -> None:
        """Open for appending. Raises PortError."""
        self._path = path
        self._sync = sync
        self._failing = False
        self._wall = wall
        self.written_bytes = 0
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise PortError(f"{path}: cannot record: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            beginning = os.pread(self._fd, BEGINNING_BYTES, 0)
            if not is_recording(beginning):
                raise PortError(f"{path}: cannot record: it is there already and is no recording of this version")
            if not beginning.startswith(HEADER) and HEADER.startswith(beginning):
                os.write(self._fd, HEADER)
        except BlockingIOError as error:
            self.close()
            raise PortError(f"{path}: another process records there") from error
        except OSError as error:
            self.close()
            raise PortError(f"{path}: cannot record: {error.strerror}") from error
        except PortError:
            self.close()
            raise
        self._encoder = Encoder(int(wall() * 1000))

    def record(self, kind: str, now_s: float, value: dict[str, Any]) -> None:
        data = self._encoder.frame(Entry(kind, now_s, round(self._wall(), 3), value))
        try:
            written = os.write(self._fd, data)
            self.written_bytes += written
            if self._sync:
                os.fdatasync(self._fd)
        except OSError as error:
            self._encoder.restart()
            self._say(f"recording stopped: {error.strerror}")
            return
        if written < len(data):
            self._encoder.restart()
            self._say("recording stopped: no space left")
        elif self._failing:
            self._failing = False
            log.warning("%s: recording goes on", self._path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _say(self, what: str) -> None:
        """Once for each time that it begins to fail."""
        if not self._failing:
            self._failing = True
            log.error("%s: %s", self._path, what)


def read_recording(path: str) -> Reading:
    """The entries of the file; what is damaged is passed over and counted. Raises PortError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise PortError(f"{path}: {error.strerror}") from error
    if version := other_version(data):
        raise PortError(f"{path}: a recording of version {version}; this ballonet reads {HEADER.split()[-1].decode()}")
    return Reading(data)
