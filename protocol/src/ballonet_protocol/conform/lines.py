"""The lines to a peer: a Unix socket in either direction, a terminal, a program's standard input and output.

One interface for all: `receive(until_s)` gives what has come, None when the time is up, b"" when the line has ended.
`now_s` belongs to the line, so that a test can have a line on which waiting takes no time.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import stat
import subprocess
import termios
import time
import tty
from typing import Protocol

READ_BYTES = 4096
CONNECT_S = 10.0
#: How long a coordinator may take until it connects again.
ACCEPT_S = 30.0


class Unreachable(Exception):
    """There is no peer at the other end."""


class Line(Protocol):
    """What the kit needs of a line."""

    can_reconnect: bool

    def now_s(self) -> float: ...
    def send(self, data: bytes) -> None: ...
    def receive(self, until_s: float) -> bytes | None: ...
    def reconnect(self) -> None: ...
    def close(self) -> None: ...


class _Descriptors:
    """A line over two descriptors, which may be the same."""

    can_reconnect = False

    def __init__(self) -> None:
        self._in = self._out = -1

    def now_s(self) -> float:
        """The kernel's monotonic clock."""
        return time.monotonic()

    def send(self, data: bytes) -> None:
        """All of it. A peer that has left swallows it: the next `receive` says so."""
        left = memoryview(data)
        end_s = self.now_s() + CONNECT_S
        while left:
            if not select.select([], [self._out], [], max(0.0, end_s - self.now_s()))[1]:
                raise Unreachable(f"the peer has taken no byte for {CONNECT_S:.0f} s")
            try:
                left = left[os.write(self._out, left) :]
            except (BrokenPipeError, ConnectionResetError):
                return

    def receive(self, until_s: float) -> bytes | None:
        """What has come; waits for it until then."""
        wait_s = max(0.0, until_s - self.now_s())
        if not select.select([self._in], [], [], wait_s)[0]:
            return None
        try:
            return os.read(self._in, READ_BYTES)
        except OSError:  # EIO: the other end of a terminal was closed
            return b""

    def reconnect(self) -> None:
        """Only a socket can."""
        raise Unreachable("this line cannot be opened again")

    def close(self) -> None:
        """Let go."""
        for fd in {self._in, self._out} - {-1}:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._in = self._out = -1


class UnixClient(_Descriptors):
    """Connects to where an agent, or a VM's chardev, listens."""

    can_reconnect = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self.reconnect()

    def reconnect(self) -> None:
        """Leave and come again."""
        self.close()
        end_s = self.now_s() + CONNECT_S
        while True:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(self._path)
            except OSError as error:
                client.close()
                if self.now_s() >= end_s or isinstance(error, (FileNotFoundError, PermissionError)):
                    raise Unreachable(f"{self._path}: {error.strerror or error}") from error
                time.sleep(0.05)
                continue
            self._in = self._out = client.detach()
            return


class UnixServer(_Descriptors):
    """Listens, as QEMU's chardev does, and serves the coordinator that connects."""

    can_reconnect = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.stat(path).st_mode):
                    raise Unreachable(f"{path} is there and is no socket")
                os.unlink(path)
            self._listener = socket.socket(socket.AF_UNIX)
            try:
                self._listener.bind(path)
            except OSError:
                self._listener.close()
                raise
        except OSError as error:
            raise Unreachable(f"{path}: {error.strerror or error}") from error
        self._listener.listen(1)

    def reconnect(self) -> None:
        """Leave the coordinator that is there, and take the next."""
        super().close()
        if not select.select([self._listener], [], [], ACCEPT_S)[0]:
            raise Unreachable(f"{self._path}: no coordinator has connected for {ACCEPT_S:.0f} s")
        client, _ = self._listener.accept()
        self._in = self._out = client.detach()

    def close(self) -> None:
        """Stop listening, too."""
        super().close()
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)


class Terminal(_Descriptors):
    """A serial line or a pseudo-terminal, opened raw."""

    def __init__(self, path: str) -> None:
        super().__init__()
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
            self._in = self._out = fd
            tty.setraw(fd)
            termios.tcflush(fd, termios.TCIOFLUSH)
        except (OSError, termios.error) as error:
            self.close()
            raise Unreachable(f"{path}: {error}") from error


class Program(_Descriptors):
    """A program that speaks on its standard input and output; its standard error is ours."""

    def __init__(self, command: str) -> None:
        super().__init__()
        try:
            self._process = subprocess.Popen(
                shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except (OSError, ValueError, IndexError) as error:
            raise Unreachable(f"{command}: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = os.dup(self._process.stdout.fileno()), os.dup(self._process.stdin.fileno())
        self._process.stdin.close()
        self._process.stdout.close()

    def close(self) -> None:
        """Its input ends; it has a moment to leave by itself."""
        super().close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def connect(address: str) -> Line:
    """The line to an agent: `unix:PATH`, `pty:PATH` or `exec:COMMAND`. Raises ValueError for another address."""
    kinds = {"unix": UnixClient, "pty": Terminal, "exec": Program}
    kind, colon, rest = address.partition(":")
    if not colon or kind not in kinds or not rest:
        raise ValueError(f"{address!r} is not unix:PATH, pty:PATH or exec:COMMAND")
    return kinds[kind](rest)


def listen(address: str) -> UnixServer:
    """The line that a coordinator connects to: `unix:PATH`. Raises ValueError for another address."""
    kind, colon, path = address.partition(":")
    if not colon or kind != "unix" or not path:
        raise ValueError(f"{address!r} is not unix:PATH")
    return UnixServer(path)
