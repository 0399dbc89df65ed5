"""The agent's port interface over the protocol's fake virtio port."""

from __future__ import annotations

import errno

from ballonet_guest_agent.port import WRITE_BYTES
from ballonet_protocol.testing import FakeVport


class FakePort:
    """What loop.Port asks for, as port.VirtioPort does it on a real one."""

    name, hint = "fake", "ask the test"

    def __init__(self, vport: FakeVport) -> None:
        self.vport = vport
        self.opened = 0
        self._fd = -1

    def open(self) -> None:
        self._fd = self.vport.open()
        self.opened += 1

    def fileno(self) -> int:
        return self._fd

    def listener_fileno(self) -> int:
        return -1

    def accept(self) -> None:
        return

    def read(self) -> bytes | None:
        try:
            return self.vport.read(self._fd, 4096)
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, data: bytes) -> int:
        try:
            return self.vport.write(self._fd, data[:WRITE_BYTES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            if error.errno == errno.ENOMEM:
                return 0
            raise

    def host_left(self) -> None:
        return

    def close(self) -> None:
        if self._fd >= 0:
            self.vport.close(self._fd)
            self._fd = -1
