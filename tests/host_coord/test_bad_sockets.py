"""The whole service over guests whose sockets are not what they should be: a clear line each, the others unaffected."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord import service
from ballonet_host_coord.config import ConfigError, TomlSettings
from ballonet_host_coord.control import request
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings

from .fake_qemu import BALLOON, FakeQemu

MIB = 1024


async def silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


def says(data: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def answer(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await trio.sleep_forever()

    return answer


LISTENERS: dict[str, tuple[Callable[[trio.SocketStream], Awaitable[None]], str]] = {
    "silent": (silent, "no greeting from QEMU; another client holds this monitor, or QEMU hangs"),
    "garbage": (says(b"\x00\xff\x1b[2J\n"), "does not speak QMP"),
    "text": (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not speak QMP"),
    "json": (says(b"[1]\n"), "does not speak QMP"),
    "endless": (says(b"x" * (2 << 20)), "a line of more than 1048576 bytes"),
}


def _stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "no such socket; is the VM started?"),
    "stale": (_stale, "a stale socket, nobody listens there; the VM has ended"),
    "folder": (lambda path: path.mkdir(), "is no socket; is it the path that QEMU was given?"),
    "file": (lambda path: path.write_text("x"), "is no socket; is it the path that QEMU was given?"),
    "pipe": (os.mkfifo, "is no socket; is it the path that QEMU was given?"),
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}


@asynccontextmanager
async def serving(settings: Settings, folder: Path, qemus: list[FakeQemu]) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for path, serve in [
            *((str(folder / name), serve) for name, (serve, _) in LISTENERS.items()),
            *((qemu.path, qemu.serve) for qemu in qemus),
        ]:
            listening = trio.socket.socket(trio.socket.AF_UNIX)
            await listening.bind(path)
            listening.listen()
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await service.serve(settings, on_ready=lambda _: task_status.started())

        await nursery.start(run)
        with trio.fail_after(10):
            while not Path(settings.host.control_path).exists():
                await trio.sleep(0.02)
        yield
        nursery.cancel_scope.cancel()


def test_each_socket_has_its_line_and_the_others_are_served(tmp_path: Path) -> None:
    """Silence, garbage, a stale socket, a folder, a file, a pipe: each guest's line names the path and what is wrong
    with it; a monitor that tells impossible sizes is no QEMU; and the one good guest is read and settled."""
    for name, (make, _) in FILES.items():
        make(tmp_path / name)
    good, liar = FakeQemu(str(tmp_path / "good")), FakeQemu(str(tmp_path / "liar"))
    liar.ram_bytes = 10**400
    names = [*LISTENERS, *FILES, "good", "liar"]
    host = HostSettings(
        budget_kib=1 << 26, control_path=str(tmp_path / "control"), state_path=str(tmp_path / "state.sqlite")
    )
    sizes_kib = (256 * MIB, 512 * MIB, 1024 * MIB)
    guests = tuple(GuestSettings(name, *sizes_kib, qmp_path=str(tmp_path / name)) for name in names)
    said: dict[str, Any] = {}

    async def main() -> None:
        async with serving(Settings(host, guests), tmp_path, [good, liar]):
            with trio.fail_after(20):
                # What a connection complains of is told at once, what is booked with the next turn.
                while (
                    not said
                    or any(words not in said[name]["why"] for name, words in expected.items())
                    or not said["silent"]["booked_kib"]
                ):
                    await trio.sleep(0.1)
                    answer = await request(host.control_path, "status")
                    said.update((guest["name"], guest) for guest in answer["guests"])
                while not good.said("query-balloon"):
                    await trio.sleep(0.1)

    expected = {name: words for name, (_, words) in (*LISTENERS.items(), *FILES.items())}
    expected["liar"] = "has no proper 'base-memory'; is this QEMU's monitor?"
    trio.run(main, strict_exception_groups=True)
    assert all(str(tmp_path / name) in said[name]["why"] for name in (*LISTENERS, *FILES))
    assert said["good"]["state"] not in ("unseen", "unreachable", "absent")
    assert said["good"]["actual_kib"] == good.actual_bytes // 1024
    # Who may hold memory is booked with the most that it may have, who cannot hold any is not.
    assert said["silent"]["booked_kib"] >= 1024 * MIB
    assert said["stale"]["booked_kib"] == 0
    assert good.properties[BALLOON, "guest-stats-polling-interval"] == 1
    assert json.dumps(said).isascii()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept out by becoming somebody else")
def test_a_socket_of_another_user_says_whose_it_is(tmp_path: Path) -> None:
    """The line names the owner; who cannot be asked stays booked."""
    path = tmp_path / "qmp"
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0o600)
        program = (
            "import sys, trio\nfrom ballonet_host_coord.qmp import QmpClient\ntrio.run(QmpClient.connect, sys.argv[1])"
        )
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", program, str(path)],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert "QmpClosed" in done.stderr
    assert "permission denied; the socket belongs to user 0" in done.stderr


def test_two_guests_with_one_socket_are_a_fault_of_the_settings(tmp_path: Path) -> None:
    """Under two spellings too, and the fault names both."""
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "c.toml").write_text(
        f'[defaults]\nminimum = "1G"\nmaximum = "1G"\n[host]\nbudget = "9G"\n'
        f'[guest.web]\nqmp = "{tmp_path}/a"\n[guest."db 1"]\nqmp = "{tmp_path}/link/../link/a"\n'
    )
    with pytest.raises(ConfigError) as caught:
        TomlSettings(tmp_path / "c.toml").load()
    (fault,) = caught.value.faults
    assert '[guest."db 1"] qmp' in str(fault)
    assert "is the socket of [guest.web] qmp already" in str(fault)
