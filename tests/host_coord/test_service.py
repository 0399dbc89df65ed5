"""The real service without guests: what systemd hears of it, what it refuses to begin with, and its unit."""

from __future__ import annotations

import configparser
import json
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
import trio.testing

from ballonet_host_coord import attendant, cli, control, coordinator, service
from ballonet_host_coord.config import ConfigError, Fault
from ballonet_host_coord.control import ControlError, Unreachable, request
from ballonet_host_coord.coordinator import Coordinator
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings
from ballonet_host_coord.ports import PortError, SettingsSource

MIB = 1024
GIB = 1024 * MIB
SHARE = Path(service.__file__).parent / "share"
UNIT = SHARE / "ballonet.service"


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

    async def check(running: Coordinator) -> None:
        note = hear(systemd)
        assert await note() == "READY=1"
        fed = await note()
        assert fed.startswith("WATCHDOG=1\nSTATUS=booked 0 of 2048 MiB, 1 guests")
        running.turn = lambda now_s: []  # type: ignore[method-assign]
        systemd.setblocking(False)
        for _ in range(2):  # by the second one at the latest, it has told of what was decided before
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
    assert all(each.snapshot is None for each in begun)


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

    async def check(running: Coordinator) -> None:
        note = hear(systemd)
        assert await note() == "READY=1"
        (web,) = settings.guests
        other = replace(web, name="other", qmp_path="/nonexistent/other")
        files.next = Settings(replace(settings.host, budget_kib=3 * GIB), (replace(web, weight=7), other))
        answer = await hang_up(note)
        assert [guest["name"] for guest in answer["guests"]] == ["web", "other"]
        assert answer["host"]["budget_kib"] == 3 * GIB
        assert running.guests["web"].record.settings.weight == 7
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


def parse(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(SHARE / name)
    return parser


@pytest.fixture
def unit() -> configparser.SectionProxy:
    return parse("ballonet.service")["Service"]


@pytest.fixture
def socket_unit() -> configparser.SectionProxy:
    return parse("ballonet.socket")["Socket"]


def test_the_units_give_the_places_that_the_settings_default_to(
    unit: configparser.SectionProxy, socket_unit: configparser.SectionProxy
) -> None:
    """systemd makes the control socket and the folder of the state; nothing else makes them with their modes. A
    RuntimeDirectory would take the socket away with each end of the service."""
    defaults = HostSettings()
    assert socket_unit["ListenStream"] == defaults.control_path
    assert os.path.dirname(defaults.state_path) == f"/var/lib/{unit['StateDirectory']}"
    assert "RuntimeDirectory" not in unit


def test_the_socket_belongs_to_a_group_that_the_package_makes(socket_unit: configparser.SectionProxy) -> None:
    """Only root and the group's members get in, and sysusers.d makes that group."""
    assert socket_unit["SocketMode"] == "0660"
    groups = [line.split()[1] for line in (SHARE / "ballonet.sysusers").read_text().splitlines() if line[0] == "g"]
    assert groups == [socket_unit["SocketGroup"]]


def test_the_socket_outlives_each_end_of_the_service(socket_unit: configparser.SectionProxy) -> None:
    """The service pulls the socket in, and nothing of the service's stops it; whoever waited is let go, since a service
    with faulty settings would be started for them again and again; and systemd never gives the socket up."""
    service_unit = parse("ballonet.service")
    assert service_unit["Unit"]["Requires"] == "ballonet.socket"
    assert "ballonet.socket" in service_unit["Unit"]["After"].split()
    assert service_unit["Install"]["Also"] == "ballonet.socket"
    assert not {"PartOf", "BindsTo"} & set(parse("ballonet.socket")["Unit"])
    assert socket_unit["FlushPending"] == "yes"
    assert socket_unit["TriggerLimitIntervalSec"] == "0"
    assert service_unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_the_unit_does_not_repeat_what_cannot_succeed(unit: configparser.SectionProxy) -> None:
    """Any end is answered by a start, except that of faulty settings, which have a code of their own."""
    assert unit["Restart"] == "always"
    assert unit["RestartPreventExitStatus"] == str(cli.MISUSED)


def test_the_unit_waits_for_what_the_service_says(unit: configparser.SectionProxy) -> None:
    """systemd knows the service by its notes, and expects decisions within a time that is some turns long. A command
    has the patience that the watchdog has."""
    assert unit["Type"] == "notify"
    assert 10 <= float(unit["WatchdogSec"]) <= control.ANSWER_TIMEOUT_S


def test_the_unit_lets_a_stop_end(unit: configparser.SectionProxy) -> None:
    """Deflating, leaving guests and leaving libvirt have their time, and systemd waits longer than all of them."""
    longest_s = coordinator.STOP_WITHIN_S + attendant.LEAVE_WITHIN_S + service.LIBVIRT_LEAVE_S
    assert float(unit["TimeoutStopSec"]) >= 2 * longest_s


def test_the_unit_sets_no_limit_of_memory(unit: configparser.SectionProxy) -> None:
    """The coordinator takes its own cgroup's limit for the host's: a small one would shrink every guest."""
    assert not [key for key in unit if key.startswith("Memory") and key != "MemoryDenyWriteExecute"]


def test_the_unit_leaves_what_the_service_reads(unit: configparser.SectionProxy) -> None:
    """QEMU's processes and the host's files in /proc are seen, and sockets in /tmp and /home; what SQLite may not do is
    refused instead of killed for."""
    assert not {"ProtectProc", "ProcSubset", "PrivateTmp", "PrivateUsers", "PrivatePIDs"} & set(unit)
    assert unit["ProtectHome"] == "read-only"
    assert unit["SystemCallErrorNumber"] == "EPERM"


def with_command(folder: Path) -> Path:
    """The units, with the command that is installed here."""
    command = Path(sys.executable).with_name("ballonet")
    text = UNIT.read_text()
    assert "\nExecStart=ballonet serve\n" in text
    (folder / "ballonet.socket").write_text((SHARE / "ballonet.socket").read_text())
    copy = folder / "ballonet.service"
    copy.write_text(text.replace("ExecStart=ballonet", f"ExecStart={command}"))
    return copy


def analyze(*words: str) -> tuple[int, str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("apt-get install systemd")
    done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    """systemd-analyze finds no fault in them, once their command is one that is installed."""
    copy = with_command(tmp_path)
    # The man pages that they name are made when a package is built; tests/packages looks for them.
    assert analyze("verify", "--man=no", str(copy), str(copy.with_suffix(".socket"))) == (0, "")


# Each is one of DESIGN.md section 7: root and its two capabilities, and what must be seen or reached.
EXPOSED = {
    "UserOrDynamicUser", "CapabilityBoundingSet_CAP_DAC_FOWNER_IPC_OWNER", "CapabilityBoundingSet_CAP_SYS_PTRACE",
    "RestrictAddressFamilies_AF_UNIX", "ProtectProc", "ProcSubset", "PrivateTmp", "ProtectHome", "ProtectSystem",
    "PrivateUsers", "RootDirectoryOrRootImage", "DeviceAllow",
}  # fmt: skip


def test_the_unit_is_exposed_where_it_must_be_and_nowhere_else(tmp_path: Path) -> None:
    """systemd's own judgement finds what the service needs and nothing more, 1.7 of 10."""
    code, text = analyze("security", "--offline=true", "--json=short", "--threshold=17", str(with_command(tmp_path)))
    exposed = {entry["json_field"] for entry in json.loads(text) if float(entry["exposure"] or 0) > 0}
    assert exposed == EXPOSED
    assert code == 0, text


# --- under systemd's socket -------------------------------------------------------------------------------

WITH_SOCKET = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="ballonet.socket")
os.execv(sys.argv[2], sys.argv[2:])
"""


def start(held: socket.socket, config: Path) -> subprocess.Popen[bytes]:
    """The service as systemd starts it, with the socket that systemd holds."""
    os.set_inheritable(held.fileno(), True)
    return subprocess.Popen(
        [
            sys.executable, "-c", WITH_SOCKET, str(held.fileno()),
            sys.executable, "-m", "ballonet_host_coord", "serve", "--config", str(config),
        ],
        pass_fds=[held.fileno()],
    )  # fmt: skip


@pytest.fixture
def held(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "control"))
        made.listen(32)
        yield made


def test_a_question_before_the_start_waits_and_one_after_a_kill_too(tmp_path: Path, held: socket.socket) -> None:
    """The socket is there before the service, and after its death; each question has its answer."""
    path = str(tmp_path / "control")
    config = tmp_path / "c.toml"
    config.write_text(
        f'[host]\nbudget = "2G"\ncontrol = "{path}"\nstate = "{tmp_path}/state.sqlite"\n'
        f'[guest.web]\nqmp = "{tmp_path}/web.qmp"\nminimum = "256M"\nmaximum = "1G"\n'
    )

    async def ask() -> None:
        assert [guest["name"] for guest in (await request(path, "status"))["guests"]] == ["web"]

    async def main() -> list[subprocess.Popen[bytes]]:
        ran = []
        with trio.fail_after(120):
            for end in (signal.SIGKILL, signal.SIGTERM):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    await trio.testing.wait_all_tasks_blocked()
                    ran.append(start(held, config))
                await ask()
                ran[-1].send_signal(end)
                await trio.to_thread.run_sync(ran[-1].wait)
        return ran

    killed, stopped = trio.run(main, strict_exception_groups=True)
    assert killed.returncode == -signal.SIGKILL
    assert stopped.returncode == 0
    assert os.path.exists(path)


@pytest.mark.parametrize(
    ("settings_text", "code", "words"),
    [
        ('[host]\nslider = 200\n', 2, r"c\.toml: \[host\] slider = 200"),
        ('[host]\nbudget = "2G"\nstate = "/proc/nowhere/state.sqlite"\n', 1, "cannot keep state"),
    ],
)  # fmt: skip
def test_who_asks_a_service_that_cannot_start_hears_why(
    settings_text: str, code: int, words: str, tmp_path: Path, held: socket.socket
) -> None:
    """Whoever waits while it fails has the fault at once, and not a connection that hangs."""
    config = tmp_path / "c.toml"
    config.write_text(settings_text)

    async def main() -> int:
        async def ask() -> None:
            with pytest.raises(Unreachable, match=f"^the coordinator does not start: .*{words}"):
                await request(str(tmp_path / "control"), "status")

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                service_process = start(held, config)
            return await trio.to_thread.run_sync(service_process.wait)

    assert trio.run(main, strict_exception_groups=True) == code
