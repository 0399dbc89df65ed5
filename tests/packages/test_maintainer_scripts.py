"""The packages' maintainer scripts, with the programs that they call replaced by ones that write down what was asked.

What they do to a running guest is tried in one by the tests of real guests.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from .conftest import BINARIES

AGENT, HOST = "ballonet-guest-agent", "ballonet-host-coord"
UNIT = "ballonet-guest-agent.service"
TRIGGER = "udevadm trigger --name-match=/dev/virtio-ports/org.ballonet.agent.0 --action=add"
WATCHED = ("systemctl", "udevadm", "deb-systemd-invoke", "userdel", "groupdel", "rm", "rmdir", "chown", "chmod")
QUIET = ("systemd-sysusers", "deb-systemd-helper", "py3compile", "pypy3compile", "py3clean", "getent")
LIFE = (
    ["preinst", "install"], ["postinst", "configure", ""], ["prerm", "upgrade", "2"], ["postrm", "upgrade", "2"],
    ["preinst", "upgrade", "0"], ["postinst", "configure", "0"], ["prerm", "remove"], ["postrm", "remove"],
    ["postrm", "purge"],
)  # fmt: skip


class Machine:
    """A machine with or without systemd, udev and the port, as a package's scripts see it."""

    def __init__(self, deb: Path, folder: Path, *, systemd: bool, port: bool = False, knows_rule: bool = False) -> None:
        self.folder = folder
        subprocess.run(["dpkg-deb", "--control", str(deb), str(folder / "control")], check=True)
        (folder / "bin").mkdir()
        self._log = folder / "log"
        # Asked about the port, udev tells what the rule has set, if it has met the port.
        told = "echo SYSTEMD_WANTS=ballonet-guest-agent.service" if knows_rule else "echo DEVNAME=/dev/vport1p1"
        for name in (*WATCHED, *QUIET):
            line = f'echo "{name} $*" >>{self._log}' if name in WATCHED else "exit 0"
            if name == "udevadm":
                line = f'case "$1" in info) {told} ;; *) {line} ;; esac'
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
            (folder / "bin" / name).chmod(0o755)
        if systemd:
            (folder / "system").mkdir()
            with socket.socket(socket.AF_UNIX) as control:
                control.bind(str(folder / "udev"))
        if port:
            (folder / "port").touch()

    def run(self, script: str, *words: str) -> list[str]:
        """What one script asks of the machine, line by line; nothing where the package has no such script."""
        path = self.folder / "control" / script
        if not path.exists():
            return []
        self._log.write_text("")
        text = path.read_text().replace("/run/systemd/system", str(self.folder / "system"))
        text = text.replace("/run/udev/control", str(self.folder / "udev"))
        text = text.replace("/dev/virtio-ports/org.ballonet.agent.0", str(self.folder / "port"))
        done = subprocess.run(
            ["sh", "-euc", text, script, *words], capture_output=True, text=True, check=False,
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == 0, f"{script} {words}: {done.stderr}"
        said = self._log.read_text().replace(str(self.folder / "port"), "/dev/virtio-ports/org.ballonet.agent.0")
        return said.splitlines()


@pytest.mark.parametrize("name", BINARIES)
def test_nothing_is_called_without_systemd(name: str, debs: dict[str, Path], tmp_path: Path) -> None:
    """In a chroot, where neither systemd nor udev runs, every script ends well and asks neither for anything."""
    machine = Machine(debs[name], tmp_path, systemd=False, port=True)
    asked = [line for script, *words in LIFE for line in machine.run(script, *words)]
    assert [line for line in asked if line.split()[0] not in ("userdel", "groupdel", "rm", "rmdir")] == []


def test_a_port_that_is_there_is_shown_to_udev(debs: dict[str, Path], tmp_path: Path) -> None:
    """The first installation triggers udev for the port, so that the rule starts the agent, and no more."""
    asked = Machine(debs[AGENT], tmp_path, systemd=True, port=True).run("postinst", "configure", "")
    assert asked[-2:] == ["udevadm control --reload", TRIGGER]
    # deb-systemd-invoke starts no unit that is not enabled, and this one cannot be.
    assert not [line for line in asked if line.startswith("systemctl") and " start" in line]


def test_without_a_port_nothing_is_triggered(debs: dict[str, Path], tmp_path: Path) -> None:
    """Where there is no port the installation waits for nothing and triggers nothing."""
    asked = Machine(debs[AGENT], tmp_path, systemd=True).run("postinst", "configure", "")
    assert "udevadm control --reload" in asked
    assert TRIGGER not in asked


@pytest.mark.parametrize(("name", "unit"), [(AGENT, UNIT), (HOST, "ballonet.service")])
def test_an_upgrade_restarts_what_runs(name: str, unit: str, debs: dict[str, Path], tmp_path: Path) -> None:
    """An upgrade asks for one restart (which does nothing to what does not run), stops nothing before, and triggers
    nothing: an agent that somebody stopped stays stopped. The control socket is left alone, so nobody is refused."""
    machine = Machine(debs[name], tmp_path, systemd=True, port=True, knows_rule=True)
    assert machine.run("prerm", "upgrade", "2") == []
    assert machine.run("preinst", "upgrade", "0") == []
    asked = machine.run("postinst", "configure", "0")
    assert asked[:2] == ["systemctl --system daemon-reload", f"deb-systemd-invoke restart {unit}"]
    assert TRIGGER not in asked
    assert not [line for line in asked if "ballonet.socket" in line]


@pytest.mark.parametrize(("name", "unit"), [(AGENT, UNIT), (HOST, "ballonet.service")])
def test_a_removal_stops_the_service(name: str, unit: str, debs: dict[str, Path], tmp_path: Path) -> None:
    """Removing stops the service before its files go, and tells systemd afterwards. The coordinator's socket goes
    first: a question must not start the service again."""
    machine = Machine(debs[name], tmp_path, systemd=True, port=True)
    stopped = ["ballonet.socket", unit] if name == HOST else [unit]
    assert machine.run("prerm", "remove") == [f"deb-systemd-invoke stop {each}" for each in stopped]
    assert "systemctl --system daemon-reload" in machine.run("postrm", "remove")


def test_a_removal_gives_the_port_back(debs: dict[str, Path], tmp_path: Path) -> None:
    """With the rule gone udev sees the port anew, so that it starts nothing; that it is root's again udev does not
    see to."""
    port = "/dev/virtio-ports/org.ballonet.agent.0"
    asked = Machine(debs[AGENT], tmp_path, systemd=True, port=True).run("postrm", "remove")
    assert asked[-3:] == [TRIGGER, f"chown root:root {port}", f"chmod 0600 {port}"]


def test_a_purge_takes_the_agents_user(debs: dict[str, Path], unpacked: Path, tmp_path: Path) -> None:
    """The user is removed by a purge and by nothing else; the unit lets it write no file that could be left behind."""
    machine = Machine(debs[AGENT], tmp_path, systemd=True)
    assert [line for line in machine.run("postrm", "remove") if line.startswith("userdel")] == []
    assert "userdel _ballonet-agent" in machine.run("postrm", "purge")
    unit = (unpacked / "lib/systemd/system" / UNIT).read_text().splitlines()
    assert {"ProtectSystem=strict", "PrivateTmp=yes", "ProtectHome=yes"} <= set(unit)
    kept = ("StateDirectory", "CacheDirectory", "LogsDirectory", "ConfigurationDirectory", "ReadWrite")
    assert not [line for line in unit if line.startswith(kept)]


def test_a_purge_takes_the_coordinators_state_and_settings(debs: dict[str, Path], tmp_path: Path) -> None:
    """A purge removes what the service kept, its settings and its group; the folder only if nothing else is in it."""
    machine = Machine(debs[HOST], tmp_path, systemd=True)
    assert set(machine.run("postrm", "remove")) == {"systemctl --system daemon-reload"}
    assert machine.run("postrm", "purge") == [
        "rm -rf /var/lib/ballonet",
        "rm -rf /etc/ballonet/coordinator.toml /etc/ballonet/coordinator.d",
        "rmdir --ignore-fail-on-non-empty /etc/ballonet",
        "groupdel ballonet",
    ]
