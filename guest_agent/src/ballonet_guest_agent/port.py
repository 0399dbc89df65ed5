"""The virtio port: found by name, opened without blocking, read until it is empty, never waited for.

What the guest sees of the host's end, and what it is here:

    read gives bytes     the host is there
    read gives EAGAIN    the host is there and silent: None
    read gives nothing   no host has the port open: AWAY. Not the end; the descriptor stays good
    ENODEV, ENXIO        the port was unplugged: OSError, the caller closes and looks for the name again

A write to a port without host gives EAGAIN, never EPIPE; a write may be short. While the host is away a level-triggered
wait would return at once for ever, so the loop waits for edges.
"""

from __future__ import annotations

import errno
import os
import stat

#: One read brings at most one host buffer, and that is 4 KiB.
READ_BYTES = 4096
#: One write never more than this: the driver allocates what it is given, and 4 KiB is what a guest short of memory has.
WRITE_BYTES = 4096
AWAY = b""


class PortNotFound(OSError):
    """There is no port of that name now."""


class VirtioPort:
    """The data port of one name. `fileno` is -1 while it is closed."""

    #: What the loop says when the port cannot be opened, and how a person mends it.
    hint = "add a virtserialport with this name to the VM (see `ballonet-agent check`)"

    def __init__(self, name: str, sys_root: str = "/sys", dev_root: str = "/dev") -> None:
        self.name = name
        self._sys_root = sys_root
        self._dev_root = dev_root
        self._fd = -1

    def open(self) -> None:
        """Open the port. OSError says why not: PortNotFound, EBUSY (another process has it), EACCES."""
        path = find_port(self.name, self._sys_root, self._dev_root)
        if path is None:
            raise PortNotFound(errno.ENOENT, "no virtio port of this name", self.name)
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.ENODEV, "not a character device", path)
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor to wait for data on."""
        return self._fd

    def listener_fileno(self) -> int:
        """Descriptor to wait for a host on, where that is another one; -1 here."""
        return -1

    def accept(self) -> None:
        """A host knocked on the listener; a virtio port has none."""

    def read(self) -> bytes | None:
        """Bytes, None when there are none now, AWAY when no host is there. OSError: the port is gone."""
        try:
            return os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None

    def write(self, data: bytes) -> int:
        """How many bytes were taken, possibly 0. OSError: the port is gone."""
        try:
            return os.write(self._fd, data[:WRITE_BYTES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            # A guest short of memory cannot copy the frame just now; it will.
            if error.errno == errno.ENOMEM:
                return 0
            raise

    def host_left(self) -> None:
        """The host went away; a virtio port stays open for the next."""

    def close(self) -> None:
        """Close; `open` looks for the name anew."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def find_port(name: str, sys_root: str = "/sys", dev_root: str = "/dev") -> str | None:
    """The device path of a port name: udev's link, else by the names in sysfs (guests without udev)."""
    link = f"{dev_root}/virtio-ports/{name}"
    if os.path.exists(link):
        return link
    ports = f"{sys_root}/class/virtio-ports"
    try:
        devices = sorted(os.listdir(ports))
    except OSError:
        return None
    for device in devices:
        try:
            with open(f"{ports}/{device}/name", encoding="latin-1") as file:
                found = file.read().strip()
        except OSError:
            continue
        if found == name:
            return f"{dev_root}/{device}"
    return None
