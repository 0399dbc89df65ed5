"""The agent on a Unix socket: it listens, as QEMU does for a virtio port, and serves one coordinator at a time.

A second coordinator waits in the listener's queue until the first has left. For development, tests and simulated
guests. `_socket` instead of `socket`: the wrapper loads selectors too.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat

from ballonet_guest_agent.port import AWAY, READ_BYTES, WRITE_BYTES


class UnixPort:
    """A listening Unix socket with at most one client. `fileno` is -1 while there is none."""

    hint = "the directory must exist and be writable, and no other agent may listen there"

    def __init__(self, path: str) -> None:
        self.name = "unix:" + path
        self._path = path
        self._listener: _socket.socket | None = None
        self._client = -1
        self._ours: tuple[int, int] | None = None

    def open(self) -> None:
        """Listen. A socket that an agent left is replaced; one that is served, or no socket at all, is EADDRINUSE."""
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            try:
                listener.bind(self._path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not self._is_left_over():
                    raise
                os.unlink(self._path)
                listener.bind(self._path)
            listener.listen(1)
            self._ours = self._file()
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def _is_left_over(self) -> bool:
        if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
            return False
        probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            probe.connect(self._path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        finally:
            probe.close()
        return False

    def _file(self) -> tuple[int, int]:
        status = os.lstat(self._path)
        return status.st_dev, status.st_ino

    def fileno(self) -> int:
        """The client's descriptor."""
        return self._client

    def listener_fileno(self) -> int:
        """The listener, while there is no client; -1 while there is: the next one has to wait."""
        return -1 if self._listener is None or self._client >= 0 else self._listener.fileno()

    def accept(self) -> None:
        """Take the next client, if one still waits."""
        if self._listener is None or self._client >= 0:
            return
        try:
            self._client, _ = self._listener._accept()  # type: ignore[attr-defined]
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        os.set_blocking(self._client, False)

    def read(self) -> bytes | None:
        """Bytes, None when there are none now, AWAY when the client has left."""
        try:
            return os.read(self._client, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionResetError:
            return AWAY

    def write(self, data: bytes) -> int:
        """How many bytes were taken, possibly 0. One that has left takes all: the next read says that it is away."""
        try:
            return os.write(self._client, data[:WRITE_BYTES])
        except (BlockingIOError, InterruptedError):
            return 0
        except (BrokenPipeError, ConnectionResetError):
            return len(data)

    def host_left(self) -> None:
        """Let the client go, so that the next can come."""
        if self._client >= 0:
            os.close(self._client)
            self._client = -1

    def close(self) -> None:
        """Stop listening and take the socket file away, unless another stands there now."""
        self.host_left()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            try:
                if self._file() == self._ours:
                    os.unlink(self._path)
            except OSError:
                return
