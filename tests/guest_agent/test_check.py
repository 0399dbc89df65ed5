"""check.py: each thing that is missing is named with how to mend it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from ballonet_guest_agent.check import MEND, UNSURE, WELL, channel_lines, exit_code, findings
from ballonet_guest_agent.finding import HINT, OK, PROBLEM
from ballonet_guest_agent.look import Access, Account, Facts, Machine
from ballonet_guest_agent.processes import Process
from ballonet_guest_agent.sample import Sample
from ballonet_guest_agent.service import Unit

AGENT = Process(pid=40, command="python3", is_agent=True, capabilities=0x1004000, locked_kib=9000, oom_score_adj=-900)
OTHER = Process(pid=41, command="socat")
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
        ({"agents": (Process(40, "python3", True, 0x4000, 9000, -900),)}, "psi", "CAP_SYS_RESOURCE"),
        ({"agents": (AGENT, AGENT)}, "agent", "MainPID"),
        ({"port_busy": True, "port_holders": (OTHER,)}, "port", "stop it"),
        ({"port_busy": True, "port_holders": (AGENT, OTHER)}, "port", "stop it"),
        ({"port_busy": True, "port_holders": ()}, "port", "containers"),
        ({"unit": Unit("not-found", "inactive")}, "service", "install the package"),
        ({"unit": Unit("masked", "inactive", "masked")}, "service", "unmask"),
        ({"unit": Unit("loaded", "failed", "static", "exit-code")}, "service", "journalctl"),
        ({"unit": Unit("loaded", "inactive", "static")}, "service", "udevadm trigger"),
        ({"machine": Machine(hypervisor="none")}, "vm", "in the guests"),
        ({"machine": Machine(psi_refused="Operation not supported")}, "psi", "psi=0"),
        ({"machine": Machine(balloon_features="111001", balloon_driver=False)}, "balloon", "modprobe virtio_balloon"),
        ({"port_path": None, "machine": Machine(None, console_device=False)}, "port", "virtio-serial-pci"),
        ({"port_path": None, "machine": Machine(None, console_driver=False)}, "port", "modprobe virtio_console"),
        ({"port_path": None, "machine": Machine(("org.ballonet.agent.1",))}, "port", "port = org.ballonet.agent.1"),
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


@pytest.mark.parametrize(
    ("changes", "name", "word"),
    [
        ({"agents": (Process(40, "python3", True, 1 << 24, 0, -900),)}, "agent", "not locked"),
        ({"agents": (Process(40, "python3", True, 1 << 24, 9000, 0),)}, "agent", "oom_score_adj is 0"),
        ({"unit": Unit("loaded", "active", "enabled")}, "service", "is enabled"),
        ({"unit": Unit("loaded", "activating", "static", restarts=7)}, "service", "7 times"),
        ({"unit": Unit("not-found", "inactive"), "agents": (AGENT,)}, "service", "no unit"),
        ({"machine": Machine(kernel=(5, 1))}, "psi", "no PSI triggers"),
        ({"machine": Machine(balloon_features="111000")}, "reporting", "no free page reporting"),
        ({"machine": Machine(balloon_features="101001")}, "statistics", "no balloon statistics"),
        ({"machine": Machine(huge_kib=1 << 19)}, "hugepages", "512 MiB"),
        ({"machine": Machine(overcommit=2)}, "overcommit", "commit limit"),
        ({"killers": (Process(9, "earlyoom"),)}, "killer", "earlyoom"),
    ],
)
def test_hints(make_guest, changes: dict[str, object], name: str, word: str) -> None:
    """What makes things worse without stopping them is a hint with a way out, and all is well for a script."""
    found = findings(facts(make_guest(), **changes))
    assert worst(found) == [(name, HINT)]
    (hint,) = [finding for finding in found if finding.level == HINT]
    assert word in hint.text
    assert hint.mend
    assert exit_code(found) == WELL


def test_full_swap(make_guest) -> None:
    """Swap of which nothing is left is as good as none; zram alone is swap with a remark."""
    guest = make_guest()
    guest.swap_free_kib = 0
    assert worst(findings(facts(guest))) == [("swap", HINT)]
    zram = findings(facts(make_guest(), machine=Machine(swap_names=("/dev/zram0",))))
    assert worst(zram) == []
    assert any("compressed" in finding.text for finding in zram)


def test_kernel_before_psi(make_guest) -> None:
    """A kernel without PSI is told from one that has it switched off."""
    guest = make_guest()
    guest.has_psi = False
    (old,) = [f for f in findings(facts(guest, machine=Machine(kernel=(4, 19)))) if f.level == PROBLEM]
    (off,) = [f for f in findings(facts(guest, machine=Machine(kernel=(6, 1)))) if f.level == PROBLEM]
    assert "Linux 4.19 has no PSI" in old.text
    assert "psi=1" in off.mend


def test_the_lines_to_paste(make_guest) -> None:
    """Without a channel the four lines of XML stand there with the port's own name, ready to paste."""
    (finding,) = [f for f in findings(facts(make_guest(), port="org.x.0", port_path=None)) if f.level == PROBLEM]
    lines = finding.mend.splitlines()
    xml = "".join(lines[lines.index("<channel type='unix'>") :][:4])
    channel = ElementTree.fromstring(xml)
    assert [child.tag for child in channel] == ["source", "target"]
    assert channel.find("target").attrib == {"type": "virtio", "name": "org.x.0"}
    assert "virtserialport,chardev=ballonet,name=org.x.0" in channel_lines("org.x.0")


def test_other_ports_are_listed(make_guest) -> None:
    """A VM that has ports of other names says which."""
    machine = Machine(("org.qemu.guest_agent.0", "com.redhat.spice.0"))
    (finding,) = [f for f in findings(facts(make_guest(), port_path=None, machine=machine)) if f.level == PROBLEM]
    assert "there is org.qemu.guest_agent.0, com.redhat.spice.0" in finding.text


def test_who_has_the_port_is_named(make_guest) -> None:
    """The stranger's name and number are in the sentence, the agent's are not."""
    changes = {"port_busy": True, "port_holders": (AGENT, OTHER)}
    (finding,) = [f for f in findings(facts(make_guest(), **changes)) if f.level == PROBLEM]
    assert "socat (pid 41)" in finding.text
    assert "40" not in finding.text


@pytest.mark.parametrize(
    "changes",
    [
        {"port_holders": (AGENT,), "agents": (AGENT,)},
        {"port_holders": None, "agents": (AGENT,)},
    ],
)
def test_busy_port_is_the_agents(make_guest, changes: dict[str, object]) -> None:
    """A port that the running agent has open is well, also where the holder cannot be seen."""
    assert worst(findings(facts(make_guest(), port_error="Device or resource busy", port_busy=True, **changes))) == []


def test_exit_codes(make_guest) -> None:
    """A problem goes before doubt, doubt before well."""
    assert exit_code(findings(facts(make_guest()))) == WELL
    assert exit_code(findings(facts(make_guest(), caller_is_root=False))) == UNSURE
    assert exit_code(findings(facts(make_guest(), caller_is_root=False, port_path=None))) == MEND


def test_settling_is_said(make_guest) -> None:
    """Soon after boot one learns why nothing moves yet; later there is nothing to say."""
    young = findings(facts(make_guest(), settling_s=30, machine=Machine(uptime_s=10.0)))
    assert [f.text for f in young if f.name == "settling"] == [
        "the guest has just booted: it is not made smaller for another 20 s"
    ]
    assert "settling" not in [
        f.name for f in findings(facts(make_guest(), settling_s=30, machine=Machine(uptime_s=31.0)))
    ]


def test_a_host_needs_no_service(make_guest) -> None:
    """On a machine that is no VM the unit is not complained about as well: it is meant not to start."""
    machine = Machine(hypervisor="none")
    found = findings(facts(make_guest(), machine=machine, unit=Unit("loaded", "inactive", "static")))
    assert worst(found) == [("vm", PROBLEM)]


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


def test_running_agent_as_the_service_starts_it(make_guest) -> None:
    """Capabilities, locked memory and OOM score as the unit gives them are well."""
    found = findings(facts(make_guest(), agents=(AGENT,), unit=Unit("loaded", "active", "static")))
    assert worst(found) == []
    assert [f.text for f in found if f.name in ("agent", "service")] == ["the service runs", "the agent runs (pid 40)"]
