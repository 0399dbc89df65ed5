"""service.py: systemd's words for the unit and the machine, and a system without systemd."""

from __future__ import annotations

from ballonet_guest_agent.service import Unit, ask, hypervisor, look_at_unit

SHOWN = """Result=exit-code
NRestarts=3
MainPID=0
LoadState=loaded
ActiveState=failed
UnitFileState=static
"""


def test_unit() -> None:
    """systemctl's lines, in any order, make a unit."""
    assert look_at_unit(lambda *_: SHOWN) == Unit("loaded", "failed", "static", "exit-code", 0, 3)


def test_no_systemd() -> None:
    """A missing command, an empty answer and rubbish are no unit; a missing program is no exception."""
    for answer in (None, "", "System has not been booted with systemd\n"):
        assert look_at_unit(lambda *_, answer=answer: answer) is None
    assert ask("/no/such/program") is None


def test_hypervisor() -> None:
    """What systemd-detect-virt prints, without its end of line."""
    assert hypervisor(lambda *_: "kvm\n") == "kvm"
    assert hypervisor(lambda *_: "none\n") == "none"
    assert hypervisor(lambda *_: None) is None
