"""look.py: facts of a machine, be it empty, and permissions as the kernel judges them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ballonet_guest_agent.check import OK, PROBLEM, findings
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.look import Access, Account, access_of, agent_capabilities, find_account, look


def test_empty_machine(tmp_path: Path) -> None:
    """Where nothing is there, everything is named and nothing raised."""
    root = str(tmp_path)
    settings = AgentSettings(proc_root=root, sys_root=root, dev_root=root)
    facts = look(settings, "org.ballonet.agent.0", [])
    found = [finding.name for finding in findings(facts) if finding.level == PROBLEM and finding.name != "user"]
    assert found == ["port", "memory", "psi", "balloon"]
    assert (facts.port_access, facts.psi_access, facts.agent_capabilities) == (None, None, None)


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


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([b"/usr/bin/python3", b"-m", b"ballonet_guest_agent"], True),
        ([b"python3", b"-S", b"-c", b"import sys; from ballonet_guest_agent.daemon import main; x"], True),
        ([b"/usr/bin/python3", b"/usr/bin/ballonet-agent", b"run"], True),
        ([b"/usr/bin/python3", b"/usr/bin/ballonet-agent", b"check"], False),
        ([b"vi", b"ballonet_guest_agent/run"], False),
        ([b""], False),
    ],
)
def test_running_agent(tmp_path: Path, words: list[bytes], found: bool) -> None:
    """The agent is known by how it is started; its capabilities are those in force."""
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "cmdline").write_bytes(b"\0".join(words))
    (folder / "status").write_text("Name:\tpython3\nCapPrm:\t0000000000000000\nCapEff:\t0000000001004000\n")
    assert agent_capabilities(str(tmp_path)) == (0x1004000 if found else None)
