"""The agent on a serial line, for guests without virtio ports: the only module that needs pyserial.

A line has no end that comes and goes: the host counts as connected from open to close, writes to nobody succeed and
vanish, and whether a coordinator listens is decided by its frames alone.
"""

from __future__ import annotations

import os

from ballonet_guest_agent.port import READ_BYTES, WRITE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BAUD = 115200


def load_serial() -> Any:
    """pyserial, loaded only where a serial line is used. OSError when it is not installed."""
    try:
        import serial
    except ImportError as error:
        raise OSError(f"pyserial is not installed ({error})") from error
    return serial


class UartPort:
    """A tty opened by pyserial and driven through its descriptor."""

    hint = "the device must exist and be readable and writable, and pyserial installed"

    def __init__(self, path: str) -> None:
        self.name = "uart:" + path
        self._path = path
        self._serial: Any = None

    def open(self) -> None:
        """Open in raw mode, exclusively, and drop what was said before. OSError when that cannot be."""
        self._serial = load_serial().Serial(
            self._path, BAUD, timeout=0, write_timeout=0, exclusive=True, xonxoff=False, rtscts=False
        )
        self._serial.reset_input_buffer()

    def fileno(self) -> int:
        """The descriptor to wait for data on."""
        return -1 if self._serial is None else int(self._serial.fileno())

    def listener_fileno(self) -> int:
        """A line has no listener."""
        return -1

    def accept(self) -> None:
        """Nothing to accept."""

    def read(self) -> bytes | None:
        """Bytes, or None: an empty read is a silent line, never a host that left."""
        try:
            return os.read(self.fileno(), READ_BYTES) or None
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, data: bytes) -> int:
        """How many bytes were taken, possibly 0."""
        try:
            return os.write(self.fileno(), data[:WRITE_BYTES])
        except (BlockingIOError, InterruptedError):
            return 0

    def host_left(self) -> None:
        """Cannot be seen on a line."""

    def close(self) -> None:
        """Give the line back."""
        if self._serial is not None:
            self._serial.close()
            self._serial = None
