"""check.py: each thing that is missing is named with how to mend it."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.check import HINT, OK, PROBLEM, findings
from ballonet_guest_agent.look import Access, Account, Facts
from ballonet_guest_agent.sample import Sample

WITHOUT_MEMINFO = Sample.from_texts("", "balloon_inflate 0\nballoon_deflate 0\n", "some total=1\n", True)


def facts(guest, **changes: object) -> Facts:
    good = {
        "port": "org.ballonet.agent.0",
        "port_path": "/dev/vport1p1",
        "port_access": Access(0, 900, 0o660),
        "port_error": None,
        "port_busy": False,
        "sample": guest.sample(),
        "psi_access": Access(0, 0, 0o666),
        "psi_error": None,
        "account": Account(900, (900,)),
        "caller_is_root": True,
    }
    return Facts(**{**good, **changes})


def worst(found: list) -> list[tuple[str, str]]:
    return [(finding.name, finding.level) for finding in found if finding.level != OK]


def test_good_guest(make_guest) -> None:
    """A guest that has everything has no complaint, and six things were looked at."""
    found = findings(facts(make_guest()))
    assert worst(found) == []
    assert [finding.name for finding in found] == ["user", "port", "memory", "psi", "swap", "balloon"]


@pytest.mark.parametrize(
    ("changes", "name", "mend"),
    [
        ({"port_path": None}, "port", "virtserialport"),
        ({"port_error": "No such device"}, "port", "right port"),
        ({"port_access": Access(0, 0, 0o600)}, "port", "udev rule"),
        ({"port_access": Access(0, 0, 0o600), "port_error": "Permission denied"}, "port", "udev rule"),
        ({"port": "uart:/dev/ttyS1", "serial_error": "pyserial is not installed"}, "port", "python3-serial"),
        ({"account": None}, "user", "systemd-sysusers"),
        ({"psi_access": Access(0, 0, 0o444)}, "psi", "newer kernel"),
        ({"agent_capabilities": 0x4000}, "psi", "CAP_SYS_RESOURCE"),
        ({"psi_error": "Invalid argument"}, "psi", "may be written"),
        ({"config_problems": ("x.conf line 2: ...",)}, "settings", "correct that line"),
        ({"sample": WITHOUT_MEMINFO}, "memory", "3.14"),
    ],
)
def test_problems(make_guest, changes: dict[str, object], name: str, mend: str) -> None:
    """Each problem has its name and a way out."""
    found = [finding for finding in findings(facts(make_guest(), **changes)) if finding.level == PROBLEM]
    assert [finding.name for finding in found] == [name]
    assert mend in found[0].mend


def test_guest_problems(make_guest) -> None:
    """No PSI, no balloon, deflate-on-oom off are problems; no swap is a hint."""
    guest = make_guest()
    guest.has_psi = False
    assert worst(findings(facts(guest))) == [("psi", PROBLEM)]
    guest = make_guest()
    guest.has_balloon = False
    assert worst(findings(facts(guest))) == [("balloon", PROBLEM)]
    guest = make_guest()
    guest.deflate_on_oom = False
    assert worst(findings(facts(guest))) == [("balloon", PROBLEM)]
    guest.deflate_on_oom = None
    assert worst(findings(facts(guest))) == [("balloon", PROBLEM)]
    guest = make_guest()
    guest.swap_total_kib = 0
    assert worst(findings(facts(guest))) == [("swap", HINT)]


def test_busy_port_is_the_agents(make_guest) -> None:
    """A port that another process has open is well: that is the running agent."""
    assert worst(findings(facts(make_guest(), port_error="Device or resource busy", port_busy=True))) == []


def test_ordinary_caller_is_not_the_agent(make_guest) -> None:
    """Who may not open the port or arm a trigger learns whether the agent may, and that root would see more."""
    mine = {"caller_is_root": False, "port_error": "Permission denied", "psi_error": "Invalid argument"}
    assert worst(findings(facts(make_guest(), **mine))) == [("caller", HINT)]
    shut = {**mine, "port_access": Access(0, 0, 0o600)}
    assert worst(findings(facts(make_guest(), **shut))) == [("caller", HINT), ("port", PROBLEM)]


def test_unix_socket_needs_no_user(make_guest) -> None:
    """For development: whoever starts the agent serves, and permissions are his."""
    changes = {"port": "unix:/x/agent.sock", "account": None, "port_access": Access(0, 0, 0o600)}
    assert worst(findings(facts(make_guest(), **changes))) == []


def test_running_agent_with_its_capability(make_guest) -> None:
    """CapEff as the service gives it is well."""
    assert worst(findings(facts(make_guest(), agent_capabilities=1 << 24 | 1 << 14))) == []
