"""The real service without guests: what systemd hears of it, what it refuses to begin with, and its unit."""

from __future__ import annotations

import configparser
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ballonet_host_coord import cli, service
from ballonet_host_coord.config import ConfigError, Fault
from ballonet_host_coord.control import ControlError, request
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.ports import PortError, SettingsSource

MIB = 1024
GIB = 1024 * MIB
UNIT = Path(service.__file__).parent / "share" / "ballonet.service"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One guest that is not there."""
    guest = GuestSettings("web", 256 * MIB, 512 * MIB, 1024 * MIB, qmp_path=str(tmp_path / "web.qmp"))
    host = HostSettings(
        budget_kib=2048 * MIB, control_path=str(tmp_path / "control"), state_path=str(tmp_path / "state.sqlite")
    )
    return Settings(host, (guest,))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where the service's notes to systemd arrive."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def serve(
    settings: Settings,
    while_it_runs: Callable[[Coordinator], Awaitable[None]],
    source: SettingsSource | None = None,
) -> None:
    async def run(task_status: trio.TaskStatus[Coordinator]) -> None:
        await service.serve(settings, source=source, on_ready=task_status.started)

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                await while_it_runs(await nursery.start(run))
                nursery.cancel_scope.cancel()

    trio.run(main, strict_exception_groups=True)


def hear(listener: socket.socket) -> Callable[[], Awaitable[str]]:
    async def note() -> str:
        return (await trio.to_thread.run_sync(listener.recv, 1000)).decode()

    return note


def test_ready_is_said_when_it_answers(settings: Settings, systemd: socket.socket) -> None:
    """Whoever waits for READY=1 finds a control socket that answers, though the guest is not there."""

    async def check(_: Coordinator) -> None:
        assert await hear(systemd)() == "READY=1"
        answer = await request(settings.host.control_path, "status")
        assert {guest["state"] for guest in answer["guests"]} <= {"unseen", "absent"}

    serve(settings, check)
    assert systemd.recv(1000) == b"STOPPING=1"


def test_the_watchdog_is_fed_by_decisions_alone(
    settings: Settings, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that stands still is not kept alive by the task that tells systemd."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    async def check(coordinator: Coordinator) -> None:
        note = hear(systemd)
        assert await note() == "READY=1"
        fed = await note()
        assert fed.startswith("WATCHDOG=1\nSTATUS=booked 0 of 2048 MiB, 1 guests")
        coordinator.turn = lambda now_s: []  # type: ignore[method-assign]
        systemd.setblocking(False)
        await trio.sleep(0.5)
        while True:
            try:
                systemd.recv(1000)
            except BlockingIOError:
                break
        # Two and a half times what systemd would allow.
        await trio.sleep(0.5)
        with pytest.raises(BlockingIOError):
            systemd.recv(1000)

    serve(settings, check)


@pytest.mark.parametrize(("where", "error"), [("state_path", PortError), ("control_path", ControlError)])
def test_what_cannot_be_had_is_refused_before_any_guest(
    settings: Settings, tmp_path: Path, where: str, error: type[Exception]
) -> None:
    """Without its state or its control socket the service ends with a reason, and no guest was connected to."""
    (tmp_path / "file").write_text("")
    place = {where: str(tmp_path / "file" / "x")}
    host = HostSettings(**{
        "budget_kib": 2048 * MIB, "control_path": settings.host.control_path, "state_path": settings.host.state_path,
        **place,
    })  # fmt: skip
    begun: list[Coordinator] = []

    async def main() -> None:
        await service.serve(Settings(host, settings.guests), on_ready=begun.append)

    caught: list[Exception] = []
    try:
        trio.run(main, strict_exception_groups=True)
    except* error as group:
        caught.extend(group.exceptions)
    assert len(caught) == 1
    assert all(coordinator.snapshot is None for coordinator in begun)


class Files:
    """A settings source that gives what the test put there last."""

    def __init__(self, settings: Settings | ConfigError) -> None:
        self.next = settings

    def load(self) -> Settings:
        if isinstance(self.next, ConfigError):
            raise self.next
        return self.next


def test_sighup_reads_the_settings_again(settings: Settings, systemd: socket.socket) -> None:
    """systemd hears of it; guests come, change and go; what needs a start is said; a faulty file changes nothing and is
    shown until a good one is read."""
    path = settings.host.control_path

    async def status() -> dict[str, Any]:
        return await request(path, "status")  # type: ignore[no-any-return]

    async def hang_up(note: Callable[[], Awaitable[str]]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await note()).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await note() == "READY=1"
        return await status()

    async def check(coordinator: Coordinator) -> None:
        note = hear(systemd)
        assert await note() == "READY=1"
        (web,) = settings.guests
        other = replace(web, name="other", qmp_path="/nonexistent/other")
        files.next = Settings(replace(settings.host, budget_kib=3 * GIB), (replace(web, weight=7), other))
        answer = await hang_up(note)
        assert [guest["name"] for guest in answer["guests"]] == ["web", "other"]
        assert answer["host"]["budget_kib"] == 3 * GIB
        assert coordinator.guests["web"].record.settings.weight == 7
        files.next = ConfigError([Fault("c.toml", "[host] slider", "200", "allowed is"), Fault("c.toml", "x", "", "y")])
        answer = await hang_up(note)
        assert answer["host"]["settings_fault"] == "c.toml: [host] slider = 200: allowed is (and 1 more)"
        assert len(answer["guests"]) == 2
        files.next = Settings(settings.host, (other,))
        answer = await hang_up(note)
        assert [guest["name"] for guest in answer["guests"]] == ["other"]
        assert answer["host"]["settings_fault"] == ""

    files = Files(settings)
    serve(settings, check, source=files)


def test_open_files_are_as_many_as_the_kernel_lets_us(settings: Settings) -> None:
    """The soft limit that a service begins with would end at some 340 guests."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))

    async def look(coordinator: Coordinator) -> None:
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)

    try:
        serve(settings, look)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_session_numbers_come_from_the_kernel() -> None:
    """Numbers are in the wire's range and do not repeat; jitter spreads by a fifth."""
    random = service.HostRandomness()
    numbers = [random.session_id() for _ in range(100)]
    assert len(set(numbers)) == 100
    assert all(1 <= number < 2**64 for number in numbers)
    assert len(random.nonce()) == 16
    assert 0.8 <= random.jitter() <= 1.2


# --- the unit ---------------------------------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser["Service"]


def test_the_unit_gives_the_folders_that_the_settings_default_to(unit: configparser.SectionProxy) -> None:
    """systemd makes the folders of the control socket and of the state; nothing else makes them with their modes."""
    defaults = HostSettings()
    assert os.path.dirname(defaults.control_path) == f"/run/{unit['RuntimeDirectory']}"
    assert os.path.dirname(defaults.state_path) == f"/var/lib/{unit['StateDirectory']}"


def test_the_unit_does_not_repeat_what_cannot_succeed(unit: configparser.SectionProxy) -> None:
    """Any end is answered by a start, except that of faulty settings, which have a code of their own."""
    assert unit["Restart"] == "always"
    assert unit["RestartPreventExitStatus"] == str(cli.MISUSED)


def test_the_unit_waits_for_what_the_service_says(unit: configparser.SectionProxy) -> None:
    """systemd knows the service by its notes, and expects decisions within a time that is some turns long."""
    assert unit["Type"] == "notify"
    assert float(unit["WatchdogSec"]) >= 10


def test_the_unit_sets_no_limit_of_memory(unit: configparser.SectionProxy) -> None:
    """The coordinator takes its own cgroup's limit for the host's: a small one would shrink every guest."""
    assert not [key for key in unit if key.startswith("Memory") and key != "MemoryDenyWriteExecute"]


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds no fault in the unit, once its command is one that is installed."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("apt-get install systemd")
    command = Path(sys.executable).with_name("ballonet")
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "\nExecStart=ballonet serve\n" in text
    copy.write_text(text.replace("ExecStart=ballonet", f"ExecStart={command}"))
    # The man pages that it names are made when a package is built; tests/packages looks for them.
    command_line = ["systemd-analyze", "verify", "--man=no", str(copy)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
