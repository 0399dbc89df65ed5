"""The host's end of an agent's channel: QEMU's Unix socket, ours alone, its other end checked.

QEMU serves one client per socket and lets a second one in without serving it; what that one wrote is delivered later
as if it were fresh. So before connecting we take a lock, one file per socket, that a second coordinator would take
too. The stream is only ever closed, never shut down in one direction: QEMU would drop the whole connection.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterable

import trio

from .ports import PortError
from .qmp import denied, peer_credentials, refused

CONNECT_TIMEOUT_S = 3.0
"""The kernel connects at once, unless the listener's queue is full of clients that QEMU does not serve."""


class ChannelStream:
    """A `ports.ByteStream`. The lock is held until it is closed."""

    def __init__(self, stream: trio.SocketStream, lock: SocketLock) -> None:
        self._stream = stream
        self._lock = lock

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            return await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise PortError("the channel is closed") from error

    async def aclose(self) -> None:
        self._lock.release()
        await self._stream.aclose()


class SocketLock:
    """A lock file for one socket, in `directory`. The kernel releases it when its process ends."""

    def __init__(self, directory: str, socket_path: str) -> None:
        """Take the lock. Raises PortError that names the holder."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(socket_path))).hexdigest()[:24]
        path = os.path.join(directory, f"channel-{name}.lock")
        self._fd = -1
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever is refused reads who holds it. The file stays: removing it could take another's lock away.
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.read(self._fd, 100).decode("ascii", "replace").strip()
            self.release()
            raise PortError(f"{socket_path}: process {holder or '(unknown)'} uses this channel ({path})") from error
        except OSError as error:
            self.release()
            raise PortError(f"{path}: cannot lock: {error.strerror}") from error

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def open_channel(path: str, lock_directory: str) -> ChannelStream:
    """Connect to the channel at `path`. Raises PortError where it is not there, not free or not trustworthy."""
    lock = SocketLock(lock_directory, path)
    try:
        stream = await _connect(path)
    except BaseException:
        lock.release()
        raise
    return ChannelStream(stream, lock)


async def _connect(path: str) -> trio.SocketStream:
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            stream = await trio.open_unix_socket(path)
        owner = os.stat(path).st_uid
    except FileNotFoundError as error:
        raise PortError(f"{path}: no such socket; is the VM started with this channel?") from error
    except ConnectionRefusedError as error:
        raise PortError(f"{path}: {refused(path, 'the VM has ended')}") from error
    except PermissionError as error:
        raise PortError(f"{path}: {denied(path)}") from error
    except OSError as error:
        raise PortError(f"{path}: {error.strerror or error}") from error
    except trio.TooSlowError as error:
        raise PortError(f"{path}: nobody lets us in; QEMU hangs, or other clients wait there") from error
    _, uid = peer_credentials(stream.socket)
    # Root, ourselves, or whoever owns the socket in the file system: QEMU runs as one of these.
    if uid not in (0, os.geteuid(), owner):
        await stream.aclose()
        raise PortError(f"{path}: user {uid} listens there, and neither root nor the socket's owner (user {owner})")
    return stream


def lock_directory(candidates: Iterable[str]) -> str:
    """The first directory that we may write to, made where it is missing. Raises PortError where there is none."""
    tried = []
    for directory in candidates:
        tried.append(directory)
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
                raise PortError(f"{directory}: {error.strerror}") from error
            continue
        if os.access(directory, os.W_OK | os.X_OK):
            return directory
    raise PortError(f"no directory for lock files: {', '.join(tried)} cannot be written to")
