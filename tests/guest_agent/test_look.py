"""look.py: facts of a machine, be it empty, and permissions as the kernel judges them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.check import findings
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.finding import OK, PROBLEM
from ballonet_guest_agent.look import Access, Account, Machine, access_of, find_account, look, look_at_machine

from .test_processes import process


def test_empty_machine(tmp_path: Path) -> None:
    """Where nothing is there, everything is named and nothing raised."""
    root = str(tmp_path)
    settings = AgentSettings(proc_root=root, sys_root=root, dev_root=root)
    facts = look(settings, "org.ballonet.agent.0", [])
    found = [finding.name for finding in findings(facts) if finding.level == PROBLEM and finding.name != "user"]
    assert found == ["port", "memory", "psi", "balloon"]
    assert (facts.port_access, facts.psi_access, facts.agents) == (None, None, ())


def test_unix_port(tmp_path: Path) -> None:
    """For a Unix socket the directory must be writable."""
    settings = AgentSettings()
    assert look(settings, f"unix:{tmp_path}/agent.sock", []).port_error is None
    assert "not a directory" in str(look(settings, f"unix:{tmp_path}/missing/agent.sock", []).port_error)


def test_uart_needs_pyserial(tmp_path: Path, monkeypatch) -> None:
    """Without pyserial the agent cannot serve a line, and check says so."""
    monkeypatch.setitem(sys.modules, "serial", None)
    facts = look(AgentSettings(), f"uart:{tmp_path}/ttyS1", [])
    assert "pyserial is not installed" in str(facts.serial_error)
    assert any("python3-serial" in finding.mend for finding in findings(facts) if finding.level != OK)


@pytest.mark.parametrize(
    ("access", "lets"),
    [
        (Access(0, 0, 0o666), True),
        (Access(0, 0, 0o660), False),
        (Access(0, 7, 0o660), True),
        (Access(0, 7, 0o640), False),
        (Access(0, 7, 0o606), False),
        (Access(5, 0, 0o600), True),
        (Access(5, 7, 0o066), False),
    ],
)
def test_access(access: Access, lets: bool) -> None:
    """Owner, else group, else others; root whatever the bits."""
    assert access.lets(Account(5, (6, 7))) == lets
    assert access.lets(Account(0, ()))


def test_access_of(tmp_path: Path) -> None:
    """The bits of a file as they are."""
    path = tmp_path / "port"
    path.touch()
    path.chmod(0o640)
    assert access_of(str(path)) == Access(os.getuid(), path.stat().st_gid, 0o640)


def test_find_account() -> None:
    """A user that exists, and one that does not."""
    root = find_account("root")
    assert root is not None
    assert root.uid == 0
    assert find_account("nobody-of-that-name") is None


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """/proc and /sys of a guest with qemu-guest-agent's port, a balloon without reporting, and zram."""
    proc, sys_ = tmp_path / "proc", tmp_path / "sys"
    write(proc / "meminfo", "MemTotal: 1000000 kB\nHugePages_Total:      64\nHugepagesize:       2048 kB\n")
    write(proc / "swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n")
    write(proc / "sys/kernel/osrelease", "5.10.0-28-amd64\n")
    write(proc / "sys/vm/overcommit_memory", "2\n")
    write(proc / "uptime", "12.50 40.00\n")
    write(proc / "pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    write(sys_ / "class/virtio-ports/vport1p1/name", "org.qemu.guest_agent.0\n")
    write(sys_ / "bus/virtio/devices/virtio1/device", "0x0003\n")
    write(sys_ / "bus/virtio/devices/virtio2/device", "0x0005\n")
    write(sys_ / "bus/virtio/devices/virtio2/features", "111000" + "0" * 58 + "\n")
    (sys_ / "bus/virtio/devices/virtio2/driver").symlink_to(sys_)
    return proc, sys_


def test_machine(roots: tuple[Path, Path]) -> None:
    """Each fact is read from where the kernel says it."""
    machine = look_at_machine(*map(str, roots))
    assert machine == Machine(
        port_names=("org.qemu.guest_agent.0",),
        console_device=True,
        console_driver=False,
        kernel=(5, 10),
        psi_refused=None,
        balloon_features="111000" + "0" * 58,
        balloon_driver=True,
        swap_names=("/dev/zram0",),
        overcommit=2,
        huge_kib=131072,
        hypervisor=None,
        uptime_s=12.5,
    )


def test_machine_of_nothing(tmp_path: Path) -> None:
    """Where nothing can be read everything is unknown."""
    root = str(tmp_path)
    assert look_at_machine(root, root) == Machine(None, False, False, None, None, None, False)


def test_psi_that_cannot_be_read(roots: tuple[Path, Path]) -> None:
    """A file that is there and refuses to be read is PSI switched off, with the system's words."""
    proc, sys_ = roots
    (proc / "pressure/memory").unlink()
    (proc / "pressure/memory").mkdir()
    assert look_at_machine(str(proc), str(sys_)).psi_refused == "Is a directory"


def test_busy_port_has_its_holder(tmp_path: Path, monkeypatch) -> None:
    """When the port cannot be opened because somebody has it, it is looked up who."""
    port = tmp_path / "dev/virtio-ports/org.x.0"
    write(port, "")
    opened = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if path == str(port):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return opened(path, flags, *more)

    process(tmp_path, 77, b"socat", "socat", {"5": port})
    monkeypatch.setattr(os, "open", refuse)
    facts = look(
        AgentSettings(proc_root=str(tmp_path), sys_root=str(tmp_path), dev_root=f"{tmp_path}/dev"), "org.x.0", []
    )
    assert facts.port_busy
    assert [(holder.pid, holder.command) for holder in facts.port_holders or ()] == [(77, "socat")]
