"""The README's commands and settings exist as they stand there; `tests/vm/test_readme.py` runs them in real guests."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ballonet_host_coord.config import TomlSettings
from ballonet_host_coord.settings_values import DEMAND_KEYS, GUEST_KEYS, HOST_KEYS, LIBVIRT_KEYS

from .host_coord.simulate.recorded import write_recording
from .readme import (
    BY_HAND,
    COORDINATOR,
    ROOT,
    SIMULATE,
    commands,
    libvirt_example,
    lines,
    qemu_options,
    section,
    settings_example,
)  # fmt: skip

BIN = Path(sys.executable).parent
# Debian 12 packages that the README installs. Each was looked up there; a new one wants the same.
PACKAGES = {
    "python3-click", "python3-libvirt", "python3-msgpack", "python3-pip", "python3-setuptools", "python3-venv",
    "python3-wheel",
}  # fmt: skip
# Folders that a fresh Debian 12 has. Into any other one `install` needs -D and the file's whole name.
FOLDERS = {"/etc/systemd/system/", "/etc/udev/rules.d/"}


def _make(words: list[str]) -> None:
    targets = [word for word in words if "=" not in word]
    phony = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    assert set(targets) <= phony
    dry = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr


def _apt_get(words: list[str]) -> None:
    """Our own packages, as files, are looked for where they are described; `tests/packages` looks into them."""
    assert words[:3] == ["install", "-y", "--no-install-recommends"]
    control = (ROOT / "packaging/debian/control").read_text()
    ours = {f"./{name}_*.deb" for name in re.findall(r"^Package: (\S+)$", control, re.MULTILINE)}
    assert set(words[3:]) <= PACKAGES | ours


def _pip(words: list[str]) -> None:
    known = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--help"], capture_output=True, text=True, check=True
    )
    assert words[0] == "install"
    for word in words[1:]:
        assert word in known.stdout if word.startswith("-") else (ROOT / word / "pyproject.toml").is_file()


def _our_command(command: str) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        path = [word for word in words[:1] if not word.startswith("-")]
        done = subprocess.run([str(BIN / command), *path, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", done.stdout), f"{command} {path} does not know {option}"

    return check


def _install(words: list[str]) -> None:
    *options, source, target = words
    mode = "755" if os.access(ROOT / source, os.X_OK) else "644"
    assert options == (["-m", mode] if target in FOLDERS else ["-D", "-m", mode])
    assert (ROOT / source).is_file()
    assert target.startswith("/etc/")


def _python3(words: list[str]) -> None:
    assert words[:2] == ["-m", "venv"]


# Commands of the system's that the README may use as they are.
SYSTEM = {
    "systemd-sysusers": [],
    "systemctl": [
        "daemon-reload", "enable --now ballonet.service", "reload ballonet.service", "restart libvirtd.service",
    ],
    "udevadm": ["control --reload", "trigger --name-match=/dev/virtio-ports/org.ballonet.agent.0 --action=add"],
    "ln": ["-s /opt/ballonet/bin/ballonet /usr/local/bin/ballonet"],
    "mkdir": ["-p /run/vm /etc/ballonet"],
}


def _system(command: str) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        assert " ".join(words) in SYSTEM[command] or not (words or SYSTEM[command])

    return check


def _checked_by_running(words: list[str]) -> None:
    """QEMU's command line: test_qemu_takes_the_readmes_options starts it."""
    assert words == qemu_options()


KNOWN: dict[str, Callable[[list[str]], None]] = {
    "make": _make,
    "apt-get": _apt_get,
    "pip": _pip,
    "/opt/ballonet/bin/pip": _pip,
    "ballonet": _our_command("ballonet"),
    ".venv/bin/ballonet": _our_command("ballonet"),
    "ballonet-agent": _our_command("ballonet-agent"),
    "install": _install,
    "python3": _python3,
    "qemu-system-x86_64": _checked_by_running,
    **{command: _system(command) for command in SYSTEM},
}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_exists_with_its_options(words: list[str]) -> None:
    """Every command in the README is one that there is, with the options and files that it names."""
    program, *rest = words
    assert program in KNOWN, "say in KNOWN how this command is checked"
    KNOWN[program](rest)


def test_the_two_commands_are_there() -> None:
    """The README names the demo and the tests as the first things to run."""
    assert [words[:2] for words in commands()[:2]] == [["make", "demo"], ["make", "test"]]


def test_settings_example_is_twelve_lines_for_two_guests(tmp_path: Path) -> None:
    """The settings example is short and accepted, and its budget is less than what the guests may have together."""
    example = settings_example()
    file = tmp_path / "coordinator.toml"
    file.write_text(example)
    settings = TomlSettings(file)
    loaded = settings.load()
    assert len(example.splitlines()) == 12
    assert settings.warnings == ()
    assert [guest.name for guest in loaded.guests] == ["alpha", "beta"]
    assert loaded.host.budget_kib is not None
    assert loaded.host.budget_kib < sum(guest.maximum_kib for guest in loaded.guests)


def test_the_libvirt_example_is_accepted(tmp_path: Path) -> None:
    """It names no guest, and a minimum and a weight by pattern."""
    file = tmp_path / "coordinator.toml"
    file.write_text(libvirt_example())
    settings = TomlSettings(file).load()
    assert (settings.libvirt_uri, settings.guests) == ("qemu:///system", ())
    assert [name for name, _ in settings.rules.sections] == ["db*"]


def test_every_setting_is_named() -> None:
    """The README's table has every key that the coordinator's settings know, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", section(BY_HAND), re.MULTILINE)
    named = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert named == set(HOST_KEYS) | set(DEMAND_KEYS) | set(LIBVIRT_KEYS) | set(GUEST_KEYS)


@pytest.mark.parametrize("line", lines(section(SIMULATE)))
def test_simulations_run_as_they_stand_there(line: str, tmp_path: Path) -> None:
    """Each ends with a table of what it was asked for, on this host's recording, too."""
    write_recording(tmp_path / "day.ballonet")
    program, *words = shlex.split(line, comments=True)
    done = subprocess.run(
        [str(BIN / program), *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ("ballonet by slider:" if "--slider" in words else "oracle") in done.stdout


@pytest.mark.slow
def test_installing_the_coordinator_gives_a_whole_command(tmp_path: Path) -> None:
    """The README's lines, run in a copy of the tree with no network, make a `ballonet` that has the demo, too."""
    tree, opt = tmp_path / "tree", tmp_path / "opt"
    (opt / "bin").mkdir(parents=True)
    for member in ("protocol", "guest_agent", "host_coord"):
        ignored = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
        shutil.copytree(ROOT / member, tree / member, ignore=ignored)
    # What pip would fetch is lent by the environment that runs the tests; our three come from the copy all the same.
    lent = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    environment = {
        **os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}", "PYTHONPATH": ":".join(lent), "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_IGNORE_INSTALLED": "1",
    }  # fmt: skip
    ran = []
    for line in lines(section(COORDINATOR)):
        program = shlex.split(line)[0]
        if program in ("python3", "ln") or program.endswith("/pip"):
            here = line.replace("/opt/ballonet", f"{opt}/ballonet").replace("/usr/local/bin", f"{opt}/bin")
            done = subprocess.run(
                ["sh", "-c", here], cwd=tree, env=environment, capture_output=True, text=True, check=False
            )  # fmt: skip
            assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
            ran.append(program)
    assert ran == ["python3", "/opt/ballonet/bin/pip", "ln"]
    (site,) = (opt / "ballonet").glob("lib/python3*/site-packages")
    (tmp_path / "coordinator.toml").write_text(settings_example())
    for words in (["demo", "--help"], ["check", "--settings-only", "--config", str(tmp_path / "coordinator.toml")]):
        done = subprocess.run(
            [str(opt / "bin/ballonet"), *words],
            env={**environment, "PYTHONPATH": ":".join([str(site), *lent])},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert {path.name for path in site.glob("ballonet_*") if path.is_dir() and path.suffix == ""} == {
        "ballonet_protocol", "ballonet_guest_agent", "ballonet_host_coord",
    }  # fmt: skip


def _qmp(path: Path, *requests: str) -> list[dict[str, Any]]:
    """Send commands to a QMP socket and return their replies, without greeting and events."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        stream = client.makefile("rw", encoding="utf-8")
        replies = []
        for request in ("qmp_capabilities", *requests):
            print(json.dumps({"execute": request}), file=stream, flush=True)
            while "return" not in (reply := json.loads(stream.readline())) and "error" not in reply:
                pass
            replies.append(reply)
    return replies[1:]


@pytest.mark.vm
def test_qemu_takes_the_readmes_options(tmp_path: Path) -> None:
    """QEMU starts with the README's options, held before its first instruction, with balloon, port and QMP."""
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        assert os.environ.get("CI") != "true", "qemu-system-x86_64 is missing"
        pytest.skip("apt-get install qemu-system-x86")
    options = [
        word.replace("/run/vm/", f"{tmp_path}/").replace("alpha.img", f"{tmp_path}/alpha.img")
        for word in qemu_options()
    ]
    options[options.index("kvm")] = "tcg"
    (tmp_path / "alpha.img").write_bytes(bytes(1 << 20))
    pidfile = tmp_path / "pid"
    # -daemonize returns when the sockets listen, so nothing waits for them here.
    started = subprocess.run(
        [qemu, *options, "-daemonize", "-pidfile", str(pidfile)], capture_output=True, text=True, check=False
    )
    assert started.returncode == 0, started.stderr
    try:
        balloon, status, ports = _qmp(tmp_path / "alpha.qmp", "query-balloon", "query-status", "query-chardev")
    finally:
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
    assert balloon["return"] == {"actual": 1 << 30}
    assert status["return"]["status"] == "prelaunch"
    assert any(f"{tmp_path}/alpha.agent" in port["filename"] for port in ports["return"])
