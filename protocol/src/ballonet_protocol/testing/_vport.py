"""A virtio port in pure Python, with the host's end, QEMU and the VM in the test's hands.

    guest: write -> [ring: 128 elements] -> QEMU -> [socket] -> FakeHost.recv
    guest: read  <- [ring: 128 buffers of 4 KiB] <- QEMU <- [socket] <- FakeHost.send

The fake has the parts of the real thing and no table of symptoms: capacities, short reads, lost edges and stale input
come out of the two rings, the two sockets, and what guest and QEMU each believe about the other. Measured on Linux
6.1.192 and QEMU 7.2 (virtserialport on a socket chardev, server=on); MEASURED holds what a real port showed.

QEMU is immediate here: what can move has moved when a call returns. A real one takes a moment, so bytes sent close
together may share a buffer there, and host bytes sent just before `close` may be lost where QEMU sees the end first.
"""

from __future__ import annotations

import errno
import os
from collections import deque

from ._socketbuffer import LIMIT_BYTES, SocketBuffer

#: The kernel's numbers for `poll`.
POLLIN, POLLOUT, POLLHUP = 0x001, 0x004, 0x010
#: The driver's ring for each direction: QEMU makes it this long.
RING_SLOTS = 128
#: The driver's buffers, and QEMU's own when it reads the socket.
BUFFER_BYTES = 4096
#: The driver takes no more from one write (port_fops_write).
WRITE_BYTES = 32 * 1024


class FakeHost:
    """One client of the port's socket, made by `FakeVport.connect`; non-blocking."""

    def __init__(self, vport: FakeVport, limit_bytes: int) -> None:
        self._vport = vport
        self._closed = False
        self.to_guest, self.from_guest = SocketBuffer(limit_bytes), SocketBuffer(limit_bytes)

    def send(self, data: bytes) -> int:
        """How many bytes the socket took. Raises BlockingIOError where none, OSError EBADF after `close`."""
        self._check()
        taken = 0
        while taken < len(data):
            more = self.to_guest.put(data[taken:])
            if not more:
                break
            taken += more
            self._vport._run()
        if data and not taken:
            raise _error(errno.EAGAIN)
        return taken

    def recv(self, most: int = 65536) -> bytes:
        """At most that many bytes. Raises BlockingIOError where there are none, OSError EBADF after `close`."""
        self._check()
        data = self.from_guest.take(most)
        if not data:
            raise _error(errno.EAGAIN)
        self._vport._run()
        return data

    def recv_all(self) -> bytes:
        """Everything that comes while we read: what waited behind a full socket too. b"" where there is nothing."""
        data = b""
        try:
            while True:
                data += self.recv()
        except BlockingIOError:
            return data

    def close(self) -> None:
        """Leave. What the guest sent and we did not read is gone, what we sent and QEMU did not read too."""
        self._closed = True
        self._vport._host_left(self)

    @property
    def closed(self) -> bool:
        return self._closed

    def _check(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)


class FakeVport:
    """One port of one VM. `open`, `read`, `write`, `poll` and `close` are the guest's os.* on it, always O_NONBLOCK.

    The descriptor of `open` is a real one for epoll: it shows EPOLLIN at registration and for each edge of the port
    (connect, data, disconnect, a write that the host has taken, unplug), and what happened is asked of `poll`. Use
    EPOLLET; read and write through this object only.
    """

    def __init__(self, socket_bytes: int = LIMIT_BYTES) -> None:
        """`socket_bytes`: SO_SNDBUF of the host's socket, in each direction."""
        self._socket_bytes = socket_bytes
        self._nudges: dict[int, int] = {}
        self._opener = -1
        self._edged = False
        self._plugged = self._running = True
        self._asleep = False
        self._input: deque[bytes] = deque()
        self._output: deque[bytes] = deque()
        self._slots = RING_SLOTS
        self._full = False  # the driver's outvq_full
        self._throttled = False  # QEMU sends no more until its socket is writable
        self._watching = False  # and it would notice
        self._host: FakeHost | None = None
        self._waiting: deque[FakeHost] = deque()
        self._told_guest = self._told_qemu = False  # that a host is there
        self._faults: deque[int] = deque()

    # ---- the guest's end ---------------------------------------------------------------------------------------

    def open(self) -> int:
        """A descriptor. Raises OSError: ENOENT unplugged, EBUSY while it is open, by whomever."""
        if not self._plugged:
            raise _error(errno.ENOENT)
        if self._opener >= 0:
            raise _error(errno.EBUSY)
        fd, self._nudges[fd] = os.pipe()
        os.write(self._nudges[fd], b"!")
        self._opener, self._edged = fd, True
        self._run()
        return fd

    def read(self, fd: int, most: int) -> bytes:
        """At most one host buffer; b"" where no host is there. Raises BlockingIOError, OSError ENODEV, EBADF."""
        self._check(fd)
        if not self._input:
            if not self._told_guest:
                return b""
            raise _error(errno.EAGAIN)
        data = self._input.popleft()
        if len(data) > most:
            self._input.appendleft(data[most:])
        self._run()
        return data[:most]

    def write(self, fd: int, data: bytes) -> int:
        """How many bytes were taken, at most 32 KiB. Raises BlockingIOError, OSError ENODEV, EBADF, or as planned."""
        self._check(fd)
        if not data:
            return 0
        if self._full or not self._told_guest:
            raise _error(errno.EAGAIN)
        if self._faults:
            code = self._faults.popleft()
            if code:
                raise _error(code)
            return 0
        if len(self._output) >= self._slots:
            return 0
        self._output.append(bytes(data[:WRITE_BYTES]))
        self._full = len(self._output) >= self._slots
        taken = len(self._output[-1])
        self._run()
        return taken

    def poll(self, fd: int) -> int:
        """POLLIN, POLLOUT and POLLHUP as they are now; POLLHUP alone when unplugged. Raises OSError EBADF."""
        if fd not in self._nudges:
            raise _error(errno.EBADF)
        if fd != self._opener:
            return POLLHUP
        flags = 0 if self._told_guest else POLLHUP
        if self._input or not self._told_guest:
            flags |= POLLIN
        if self._told_guest and not self._full:
            flags |= POLLOUT
        return flags

    def edge(self, fd: int) -> int:
        """What an EPOLLET wait says next: the flags of now if anything happened since the last call, else 0."""
        edged, self._edged = self._edged, False
        return self.poll(fd) if edged else 0

    def close(self, fd: int) -> None:
        """Input that the driver holds is thrown away; what was written still goes out. Raises OSError EBADF."""
        if fd not in self._nudges:
            raise _error(errno.EBADF)
        if fd == self._opener:
            self._opener = -1
            self._input.clear()
        os.close(self._nudges.pop(fd))
        os.close(fd)

    def fail_writes(self, *codes: int) -> None:
        """The next writes with room end so: errno.ENOMEM in a guest short of memory; 0: the write returns 0."""
        self._faults.extend(codes)

    # ---- the host's end ----------------------------------------------------------------------------------------

    def connect(self) -> FakeHost:
        """A new client. While another is served it waits unseen, and may already send."""
        host = FakeHost(self, self._socket_bytes)
        self._waiting.append(host)
        self._serve()
        return host

    # ---- the VM ------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """QMP `stop`. QEMU looks at its sockets no more, and never learns which clients came and went meanwhile."""
        self._running = False

    def resume(self) -> None:
        """QMP `cont`. A host that left meanwhile leaves a black hole.

        The guest goes on believing in it: no edge, and writes succeed until the ring is full. If anything was written
        or was waiting, the next host hears nothing of the guest either, until it leaves while the VM runs.
        """
        self._running = True
        self._host_came()
        self._run()

    def suspend(self) -> None:
        """S3. Both rings are dropped. A ring that was full stays full for the driver, until the port is replugged."""
        self._asleep, self._slots = True, RING_SLOTS
        self._drop_rings()
        self._told_guest = False  # without an edge

    def wake(self) -> None:
        """Out of S3. An edge comes only where a host is there."""
        self._asleep = False
        if self._told_qemu:
            self._told_guest = True
            self._edge()
        self._run()

    def reset(self) -> None:
        """The guest boots anew: its descriptors are closed, the rings are empty, the host stays and notices nothing."""
        for fd in list(self._nudges):
            self.close(fd)
        self._drop_rings()
        self._slots, self._full, self._asleep = RING_SLOTS, False, False
        self._told_guest = self._told_qemu

    def unplug(self) -> None:
        """QMP `device_del`. The name goes, an open descriptor has ENODEV from now on; the host's socket stays."""
        self._edge()
        self._plugged, self._opener = False, -1
        self._slots -= self._throttled
        self._drop_rings()

    def plug(self) -> None:
        """The same port again, under the same name."""
        self._plugged, self._full = True, False
        self._told_guest = self._told_qemu = self._host is not None
        self._run()

    def release(self) -> None:
        """Close every descriptor that is still open."""
        for fd in list(self._nudges):
            self.close(fd)

    # ---- QEMU --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Move what can be moved."""
        if not self._running or self._asleep or not self._plugged:
            return
        while self._output and self._send_one():
            self._output.popleft()
            self._full = False
            self._edge()
        while self._host and self._opener >= 0 and len(self._input) < RING_SLOTS and self._host.to_guest:
            self._input.append(self._host.to_guest.take(BUFFER_BYTES))
            self._edge()

    def _send_one(self) -> bool:
        """Whether the first element is done with."""
        if self._throttled and not (self._host and self._watching and self._host.from_guest.writable):
            return False
        data = self._output[0]
        taken = self._host.from_guest.put(data) if self._host else 0
        self._output[0] = data[taken:]
        self._throttled, self._watching = taken < len(data), self._host is not None
        return not self._throttled

    def _serve(self) -> None:
        """Accept the next client if none is served; one that has left meanwhile is read to its end first."""
        while self._host is None and self._waiting:
            self._host = self._waiting.popleft()
            self._host_came()
            self._run()
            if self._host.closed:
                self._host_left(self._host)

    def _host_came(self) -> None:
        if self._host is None or self._told_qemu or not self._running or not self._plugged:
            return
        self._told_qemu = True
        if not self._asleep:
            self._told_guest = True
            self._edge()

    def _host_left(self, host: FakeHost) -> None:
        if host is not self._host:
            return
        self._host = None
        if self._running and self._plugged:
            # The element that was being sent is dropped without giving it back: the ring is one slot shorter for good.
            self._slots -= self._throttled
            self._full = self._full and len(self._output) <= self._throttled
            self._output.clear()
            self._throttled = False
            self._told_qemu = self._told_guest = False
            if not self._asleep:
                self._edge()
        self._watching = False
        self._serve()

    def _drop_rings(self) -> None:
        self._input.clear()
        self._output.clear()
        self._throttled = False

    def _edge(self) -> None:
        """One byte in the pipe, new each time: an edge now, and readiness for who registers later."""
        if self._opener >= 0:
            self._edged = True
            os.read(self._opener, 1)
            os.write(self._nudges[self._opener], b"!")

    def _check(self, fd: int) -> None:
        if fd not in self._nudges:
            raise _error(errno.EBADF)
        if fd != self._opener:
            raise _error(errno.ENODEV)


def _error(code: int) -> OSError:
    """As the kernel would: EAGAIN makes a BlockingIOError."""
    return OSError(code, os.strerror(code))
