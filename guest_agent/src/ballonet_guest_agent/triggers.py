"""PSI triggers: the kernel says within a tenth of a window when tasks stall on memory.

Arming a window of 500 ms needs CAP_SYS_RESOURCE; without it, or without PSI, `arm` says so and the agent reads the
stall counter instead.
"""

from __future__ import annotations

import os

from ballonet_guest_agent.actions import PSI_WINDOW_US

#: What the kernel answers where the right is missing: EINVAL to the short window; EPERM, EACCES by a security module.
REFUSED = (22, 1, 13)
NEEDED = f"a window of {PSI_WINDOW_US // 1000} ms needs CAP_SYS_RESOURCE"


class PsiTriggers:
    """Two descriptors, `some` and `full`, that become urgent (EPOLLPRI) when the stall time is exceeded."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.fds: dict[int, str] = {}

    def arm(self, some_us: int, full_us: int) -> str | None:
        """Arm both, in place of those before. None when it worked, else the reason; then none is armed."""
        self.close()
        try:
            for kind, stall_us in (("some", some_us), ("full", full_us)):
                fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self.fds[fd] = kind
                os.write(fd, f"{kind} {stall_us} {PSI_WINDOW_US}\0".encode())
        except OSError as error:
            self.close()
            reason = error.strerror or str(error)
            return f"{reason}; {NEEDED}" if error.errno in REFUSED else reason
        return None

    def close(self) -> None:
        """Disarm."""
        for fd in self.fds:
            os.close(fd)
        self.fds = {}
