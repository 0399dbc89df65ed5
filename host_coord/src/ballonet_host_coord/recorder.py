"""The recorder port over a file of JSON lines: one value each, appended, there as soon as it is written.

A line may end early where the disk was full or the machine went down. It stays as it is: the next line begins on a
new one, and the reader passes over what is no whole line. So a recording is never rewritten and never unreadable.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from .ports import PortError

log = logging.getLogger(__name__)


class JsonLinesRecorder:
    def __init__(self, path: str) -> None:
        """Open for appending. Raises PortError."""
        self._path = path
        self._failing = False
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._torn = _last_byte(self._fd) not in (b"", b"\n")
        except OSError as error:
            raise PortError(f"{path}: cannot record: {error.strerror}") from error

    def record(self, kind: str, now_s: float, value: dict[str, Any]) -> None:
        line = json.dumps({"kind": kind, "now_s": now_s, "value": value}, separators=(",", ":"), allow_nan=False)
        data = (b"\n" if self._torn else b"") + line.encode() + b"\n"
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            self._say(f"recording stopped: {error.strerror}")
            return
        self._torn = written < len(data)
        if self._torn:
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


def read_recording(path: str) -> Iterator[dict[str, Any]]:
    """The values in their order: {"kind", "now_s", "value"}. Passes over lines that are not whole. Raises OSError."""
    with open(path, "rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and {"kind", "now_s", "value"} <= entry.keys():
                yield entry


def _last_byte(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, 1, size - 1) if size else b""
