"""check.py: each thing that is missing is named with how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_guest_agent.check import HINT, OK, PROBLEM, Facts, findings, look
from ballonet_guest_agent.config import AgentSettings
from ballonet_guest_agent.sample import Sample

WITHOUT_MEMINFO = Sample.from_texts("", "balloon_inflate 0\nballoon_deflate 0\n", "some total=1\n", True)


def facts(guest, **changes: object) -> Facts:
    good = {
        "port": "org.ballonet.agent.0",
        "port_path": "/dev/vport1p1",
        "port_error": None,
        "port_busy": False,
        "sample": guest.sample(),
        "psi_error": None,
        "has_sys_resource": True,
    }
    return Facts(**{**good, **changes})


def worst(found: list) -> list[tuple[str, str]]:
    return [(finding.name, finding.level) for finding in found if finding.level != OK]


def test_good_guest(make_guest) -> None:
    """A guest that has everything has no complaint, and five things were looked at."""
    found = findings(facts(make_guest()))
    assert worst(found) == []
    assert [finding.name for finding in found] == ["port", "memory", "psi", "swap", "balloon"]


@pytest.mark.parametrize(
    ("changes", "name", "mend"),
    [
        ({"port_path": None}, "port", "virtserialport"),
        ({"port_error": "Permission denied"}, "port", "_ballonet-agent"),
        ({"psi_error": "Invalid argument", "has_sys_resource": False}, "psi", "CAP_SYS_RESOURCE"),
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


def test_look_at_an_empty_machine(tmp_path: Path) -> None:
    """Where nothing is there, everything is named and nothing raised."""
    root = str(tmp_path)
    settings = AgentSettings(proc_root=root, sys_root=root, dev_root=root)
    found = findings(look(settings, "org.ballonet.agent.0", []))
    assert [name for name, level in worst(found) if level == PROBLEM] == ["port", "memory", "psi", "balloon"]


def test_look_at_a_unix_port(tmp_path: Path) -> None:
    """For a Unix socket the directory must be writable."""
    settings = AgentSettings()
    assert look(settings, f"unix:{tmp_path}/agent.sock", []).port_error is None
    assert "not a directory" in str(look(settings, f"unix:{tmp_path}/missing/agent.sock", []).port_error)
