"""The agent's channel on the host: one client, locked, from a trustworthy listener, closed and never half shut."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from ballonet_host_coord import channel_socket
from ballonet_host_coord.channel_socket import SocketLock, lock_directory, open_channel
from ballonet_host_coord.ports import PortError


def with_listener(folder: Path, test: Callable[[str, trio.SocketListener], Awaitable[None]]) -> None:
    """Run `test` with the path of a listening socket, as QEMU makes it, and its listener."""

    async def main() -> None:
        path = str(folder / "agent")
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            await listening.bind(path)
            listening.listen()
            with trio.fail_after(60):
                await test(path, trio.SocketListener(listening))

    trio.run(main, strict_exception_groups=True)


def test_bytes_go_both_ways_until_either_end_closes(tmp_path: Path) -> None:
    """The channel carries bytes; the listener's end reads as b'', and writing to it is a PortError."""

    async def test(path: str, listener: trio.SocketListener) -> None:
        channel = await open_channel(path, str(tmp_path))
        guest = await listener.accept()
        await channel.send_all(b"down")
        assert await guest.receive_some() == b"down"
        await guest.send_all(b"up")
        assert await channel.receive_some() == b"up"
        await guest.aclose()
        assert await channel.receive_some() == b""
        with pytest.raises(PortError, match="closed"):
            await channel.send_all(b"anybody?")
        await channel.aclose()
        assert await channel.receive_some() == b""

    with_listener(tmp_path, test)


def test_a_full_disk_keeps_a_channel_closed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that cannot be written is a PortError, and the lock is given back."""

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(PortError, match="No space left"):
            SocketLock(str(tmp_path), "/run/agent")
    SocketLock(str(tmp_path), "/run/agent").release()


def test_second_coordinator_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    """While a channel is open nobody else with the same lock directory opens it; afterwards they may."""

    async def test(path: str, listener: trio.SocketListener) -> None:
        first = await open_channel(path, str(tmp_path / "locks"))
        (tmp_path / "alias").symlink_to(tmp_path)
        with pytest.raises(PortError, match=f"process {os.getpid()} uses this channel"):
            await open_channel(str(tmp_path / "alias" / "agent"), str(tmp_path / "locks"))
        await first.aclose()
        await (await open_channel(path, str(tmp_path / "locks"))).aclose()

    with_listener(tmp_path, test)


def test_failed_connection_leaves_no_lock(tmp_path: Path) -> None:
    """A channel that is not there yet can be tried again, with the reason each time."""

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(PortError, match="no such socket"):
                await open_channel(str(tmp_path / "agent"), str(tmp_path))
        with trio.socket.socket(trio.socket.AF_UNIX) as dead:
            await dead.bind(str(tmp_path / "agent"))
        with pytest.raises(PortError, match="nobody listens"):
            await open_channel(str(tmp_path / "agent"), str(tmp_path))

    trio.run(main)


def test_stranger_that_listens_is_not_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that is neither root, nor we, nor the owner of the socket gets not a byte."""
    monkeypatch.setattr(channel_socket, "peer_credentials", lambda sock: (1, 54321))

    async def test(path: str, listener: trio.SocketListener) -> None:
        with pytest.raises(PortError, match="user 54321 listens there"):
            await open_channel(path, str(tmp_path))
        stranger = await listener.accept()
        assert await stranger.receive_some() == b""
        await stranger.aclose()

    with_listener(tmp_path, test)


def test_owner_of_the_socket_may_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU under a user of its own is trusted when the socket belongs to that user."""
    monkeypatch.setattr(channel_socket, "peer_credentials", lambda sock: (1, os.getuid()))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)

    async def test(path: str, listener: trio.SocketListener) -> None:
        await (await open_channel(path, str(tmp_path))).aclose()

    with_listener(tmp_path, test)


def test_lock_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    """A directory that is none, and a lock file that is somebody's link, are refused with the path."""
    (tmp_path / "file").touch()
    with pytest.raises(PortError, match=f"{tmp_path}/file"):
        SocketLock(str(tmp_path / "file"), "/run/vm/agent")
    SocketLock(str(tmp_path), "/run/vm/agent").release()
    (lock,) = tmp_path.glob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "file")
    with pytest.raises(PortError, match="cannot lock"):
        SocketLock(str(tmp_path), "/run/vm/agent")


def test_first_directory_that_can_be_used_holds_the_locks(tmp_path: Path) -> None:
    """Candidates are tried in order; without a usable one the error names them all."""
    (tmp_path / "file").touch()
    usable = str(tmp_path / "run" / "ballonet")
    assert lock_directory([f"{tmp_path}/file/x", usable, str(tmp_path)]) == usable
    with pytest.raises(PortError, match=f"{tmp_path}/file/x, {tmp_path}/file/y"):
        lock_directory([f"{tmp_path}/file/x", f"{tmp_path}/file/y"])
