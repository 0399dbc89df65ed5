"""daemon.py and __main__.py: the real process, on a Unix socket and a stand-in for /proc."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ballonet_guest_agent.__main__ import interpreter_options, search_path
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.daemon import EXIT_USAGE, load_settings, main, make_port
from ballonet_guest_agent.port import VirtioPort
from ballonet_protocol import COORDINATOR, Bye, Connection, Hello, Report

FIXTURES = Path(__file__).parent / "fixtures/linux-6.1"

#: What the daemon's process must never load: each costs more than the whole agent.
FORBIDDEN = frozenset(
    (
        *("asyncio", "trio", "psutil", "click", "serial", "typing", "dataclasses", "logging", "pathlib", "argparse"),
        *("re", "inspect", "selectors", "socket", "importlib.metadata", "importlib.util", "runpy", "contextlib"),
        *("tomllib", "json", "ctypes", "site", "signal", "ballonet_guest_agent.cli"),
    )
)


class Daemon:
    """`python3 -m ballonet_guest_agent` in a directory of its own."""

    def __init__(self, folder: Path, code: str | None = None, more: str = "report_ms = x\n") -> None:
        proc = folder / "proc"
        (proc / "pressure").mkdir(parents=True)
        for name in ("meminfo", "vmstat"):
            (proc / name).write_text((FIXTURES / name).read_text())
        self.path = folder / "agent.sock"
        (folder / "agent.conf").write_text(
            f"port = unix:{self.path}\nproc_root = {proc}\nsys_root = {folder}\nreport_ms = 250\n{more}"
        )
        start = ["-m", "ballonet_guest_agent"] if code is None else ["-S", "-c", code]
        self.process = subprocess.Popen(
            [sys.executable, *start, "--config", str(folder / "agent.conf")],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if "is open" in line:
                break

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.said += self.process.stderr.readlines()
        self.process.stderr.close()
        return self.process.wait(10)

    def wake_ups(self) -> int:
        """How often the process has gone to sleep and been woken."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    if daemon.process.poll() is None:
        daemon.stop()


def converse(path: Path, reports: int) -> tuple[socket.socket, Connection]:
    """Open a session and read until so many REPORTs have come."""
    client, host = socket.socket(socket.AF_UNIX), Connection(COORDINATOR)
    client.settimeout(10)
    client.connect(str(path))
    client.sendall(host.open_session(1, Hello(major_range=(1, 1), minor=0, nonce=bytes(16), capabilities=())))
    while reports:
        host.receive_data(client.recv(4096))
        while (message := host.next_message()) is not None:
            reports -= isinstance(message, Report)
    return client, host


def test_serves_and_says_goodbye(daemon: Daemon) -> None:
    """A session, a report, on SIGTERM a BYE and exit code 0; the settings' bad line and the lack of PSI were named."""
    client, host = converse(daemon.path, reports=1)
    assert daemon.stop() == 0
    heard = []
    while data := client.recv(4096):
        host.receive_data(data)
        while (message := host.next_message()) is not None:
            heard.append(message)
    client.close()
    assert isinstance(heard[-1], Bye)
    assert any("agent.conf line 5: report_ms" in line for line in daemon.said)
    assert any("no PSI trigger" in line and "PSI is absent" in line for line in daemon.said)
    assert not daemon.path.exists()


@pytest.mark.slow
def test_no_host_no_work(daemon: Daemon) -> None:
    """Without a coordinator the process sleeps, also after one has come and gone: nothing wakes it but its slow timer.

    Wake-ups are counted, since time on a processor says as much of the machine; `tests/vm/test_agent_cost.py` has that.
    """
    converse(daemon.path, reports=1)[0].close()
    before = -1
    while (woken := daemon.wake_ups()) != before:  # what the leaving causes; then comes the quiet
        before = woken
        select.select([], [], [], 1.0)
    select.select([], [], [], 6)
    assert daemon.wake_ups() - before <= 1


def test_loads_nothing_dear(tmp_path: Path) -> None:
    """What a serving daemon has loaded: the standard library's cheap part, msgpack, and nothing else."""
    code = (
        "import sys, ballonet_guest_agent.loop as loop, ballonet_guest_agent.daemon as daemon\n"
        "stop = loop.Loop._stop\n"
        "loop.Loop._stop = lambda self: (print('\\n'.join(sys.modules), file=sys.stderr), stop(self))\n"
        "sys.exit(daemon.main(sys.argv[1:]))"
    )
    daemon = Daemon(tmp_path, f"import sys; sys.path[:] = {sys.path!r}; " + code.replace("\n", "; ", 1))
    converse(daemon.path, reports=2)[0].close()
    assert daemon.stop() == 0
    loaded = {line.strip() for line in daemon.said}
    assert "msgpack" in loaded
    assert sorted(loaded & FORBIDDEN) == []


def test_second_start_keeps_the_options() -> None:
    """What stood between the interpreter and `-m` goes along; another kind of start is left alone."""
    assert interpreter_options(["python3", "-I", "-W", "error", "-m", "ballonet_guest_agent", "-m"]) == [
        "-I",
        "-W",
        "error",
    ]
    assert interpreter_options(["python3", "script.py"]) is None
    assert interpreter_options([]) is None


def test_the_second_start_finds_what_the_first_found() -> None:
    """Without `site` the packages are still found, wherever this installation keeps them."""
    code = "import sys; sys.path[:] = sys.argv[1:]; import ballonet_guest_agent.daemon, msgpack"
    subprocess.run([sys.executable, "-S", "-c", code, *search_path()], check=True)


@pytest.mark.skipif(not hasattr(sys, "orig_argv"), reason="Python 3.9 does not keep the words it was started with")
def test_one_process_only(daemon: Daemon) -> None:
    """Starting over keeps the process: the service manager's MainPID serves, without runpy in its command line."""
    words = Path(f"/proc/{daemon.process.pid}/cmdline").read_bytes().split(b"\0")
    assert b"-m" not in words
    assert any(b"ballonet_guest_agent.daemon" in word for word in words)


@pytest.mark.parametrize(
    "arguments", [["--colour"], ["--port"], ["--port", "a/b"], ["--port=unix:relative"], ["stray"]]
)
def test_wrong_arguments(arguments: list[str], capsys) -> None:
    """A wrong word ends with code 2 and what is allowed."""
    assert main(arguments) == EXIT_USAGE
    assert "virtio port" in capsys.readouterr().err


def test_help(capsys) -> None:
    """--help prints the usage and ends well."""
    assert main(["--help"]) == 0
    assert "--port PORT" in capsys.readouterr().out


def test_settings_file(tmp_path: Path) -> None:
    """A named file that is missing is a problem; the usual one may be; an unreadable one is a problem with defaults."""
    settings, (problem,) = load_settings(str(tmp_path / "missing.conf"))
    assert settings == AgentSettings()
    assert "no such file" in problem
    assert "Is a directory" in load_settings(str(tmp_path))[1][0]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (bytes(range(256)) * 40, "line 1"),
        (b"\xff\xfe\nreport_ms = \xc3\x28\n", "line 2: report_ms"),
        (b"", None),
        (b"report_ms = 1\r\ncolour = red\r\n", "line 2: unknown key 'colour'"),
    ],
)
def test_any_bytes_leave_the_defaults(tmp_path: Path, content: bytes, named: str | None) -> None:
    """Whatever a settings file holds, the wrong lines are named and the defaults are in force."""
    path = tmp_path / "agent.conf"
    path.write_bytes(content)
    settings, problems = load_settings(str(path))
    assert settings == AgentSettings()
    assert (named is None and not problems) or any(f"agent.conf {named}" in problem for problem in problems)


def test_settings_without_end(monkeypatch) -> None:
    """Of a file that never ends 64 KiB and a byte are read, and it is said."""
    taken = []
    monkeypatch.setattr(os, "read", lambda fd, most, read=os.read: taken.append(read(fd, most)) or taken[-1])
    settings, problems = load_settings("/dev/zero")
    assert settings == AgentSettings()
    assert sum(map(len, taken)) == 65_537
    assert "/dev/zero line 1" in problems[0]
    assert "longer than 65536 bytes" in problems[1]


def test_settings_that_nobody_writes(tmp_path: Path) -> None:
    """A pipe in place of the file does not keep the agent from starting."""
    os.mkfifo(tmp_path / "agent.conf")
    assert load_settings(str(tmp_path / "agent.conf")) == (AgentSettings(), [])


def test_starts_with_rubbish_for_settings(tmp_path: Path) -> None:
    """The real process says which lines are wrong and serves with what is right."""
    daemon = Daemon(tmp_path, more="\x00\x01 rubbish\nfloor = -1\nlock_memory = maybe\n")
    client, _ = converse(daemon.path, reports=1)
    client.close()
    assert daemon.stop() == 0
    for number, word in ((5, "rubbish"), (6, "floor"), (7, "lock_memory")):
        assert any(f"agent.conf line {number}" in line and word in line for line in daemon.said)


def test_ports() -> None:
    """The port's form chooses the transport."""
    names = [make_port(AgentSettings(), port).name for port in ("org.x.0", "unix:/a", "uart:/dev/ttyS1")]
    assert names == ["org.x.0", "unix:/a", "uart:/dev/ttyS1"]
    assert isinstance(make_port(AgentSettings(), "org.x.0"), VirtioPort)
