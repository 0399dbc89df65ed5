"""The Debian packages in a real Debian 12 guest: installed with apt, started by a port, and mistreated."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tempfile
from pathlib import Path

import pytest
import trio
from tests.real_parts import cannot

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.accelerator import choose_accelerator
from ballonet_host_coord.demo.image import cache_folder
from ballonet_host_coord.demo.machine import machine_folder
from ballonet_protocol import ByeWhy, HelloReqWhy

from . import debian_course as course
from . import host_course
from .packages import NEWER, build_mirror
from .plain_image import build_plain_image, run

# Ten minutes without KVM on two busy cores (2026-11-25). What has to be built first is not in it.
LONGEST_COURSE_S = 2700.0
pytestmark = pytest.mark.timeout(3600)  # a first run builds packages and an image, too
CAP_IPC_LOCK, CAP_SYS_RESOURCE = 1 << 14, 1 << 24
# What apt, dpkg, systemd and the kernel keep for themselves, whoever was installed.
NOT_OURS = re.compile(
    r"/(var/(cache|log)/|var/lib/(apt|dpkg|systemd|debconf|ucf|misc)/|root/|etc/(passwd|group|shadow|gshadow|subuid|subgid)-"
    r"|etc/\.pwd\.lock|etc/ld\.so\.cache|usr/lib/udev/hwdb\.bin)"
)


@pytest.fixture(scope="module")
def seen() -> course.Seen:
    if lacking := requirements.missing(requirements.TO_RUN):
        cannot(f"real guests need {', '.join(lacking)}; as root: {requirements.apt_line(lacking)}")
    seen = course.Seen()
    with machine_folder() as folder, tempfile.TemporaryDirectory() as work:
        mirror, disk = folder / "mirror.ext4", folder / "disk.ext4"
        try:
            plain = build_plain_image(cache_folder(), lambda line: print(line, file=sys.stderr))
            seen.version = build_mirror(mirror, plain.debian, Path(work))
        except requirements.RequirementsError as why:
            cannot(str(why))
        run(["cp", "--sparse=always", str(plain.image.disk), str(disk)])
        image = dataclasses.replace(plain.image, disk=disk)

        async def limited() -> None:
            with trio.move_on_after(LONGEST_COURSE_S) as scope:
                await course.play(image, mirror, folder, choose_accelerator(image.kernel), seen, host_course.SCENES)
            if scope.cancelled_caught:
                seen.broken["the whole course"] = f"not over after {LONGEST_COURSE_S:.0f} s"

        trio.run(limited, strict_exception_groups=True)
    return seen


def complaints(output: str) -> list[str]:
    """Lines of apt and dpkg that say something went wrong, and those of ours that only hint at it."""
    return [
        line
        for line in output.splitlines()
        # deb-systemd-invoke says this of every unit that a device starts.
        if not re.search(r"is a disabled or a static unit\b.*, not starting it\.$", line)
        if re.match(r"(W|E|dpkg|dpkg-\w+): ", line)
        or ("ballonet" in line and re.search(r"warn|fail|error|unable|not ", line, re.IGNORECASE))
    ]


def test_every_scene_was_played(seen):
    """What the other tests read was seen; where a scene broke off, this says why."""
    assert seen.broken == {}


def test_apt_installs_the_agent(seen):
    """One apt-get install brings both packages in this tree's version, and neither it nor systemd complains."""
    assert seen.answers["apt update"].code == 0, seen.output("apt update")
    assert seen.answers["apt install"].code == 0, seen.output("apt install")
    assert complaints(seen.output("apt install")) == []
    assert seen.output("versions").splitlines() == [seen.version, seen.version]
    assert seen.output("failed after install") == ""
    assert seen.output("jobs after install") == ""


def test_an_agent_without_a_port_is_not_started(seen):
    """Where no port is there is nothing to run: the unit waits for udev, is not enabled and did not try."""
    unit = seen.units["installed"]
    assert (unit.state, unit.active, unit.pid, unit.restarts) == ("static", "inactive", 0, 0)
    assert seen.answers["check without port"].code != 0
    assert "org.ballonet.agent.0" in seen.output("check without port")


def test_the_packages_are_all_there(seen):
    """Each file that dpkg lists exists: code, command, unit, rule, user, manuals, completions and settings."""
    assert seen.output("missing") == ""
    for part in (
        "/usr/bin/ballonet-agent$", "systemd/system/ballonet-guest-agent.service$", "udev/rules.d/.*ballonet.*rules$",
        "/usr/lib/sysusers.d/", "/usr/share/man/man[18]/ballonet-agent", "/usr/share/bash-completion/completions/",
        "zsh/.*/_ballonet-agent$", "fish/.*/ballonet-agent.fish$", f"{course.CONFIG}$",
    ):  # fmt: skip
        assert re.search(part, seen.output("contents"), re.MULTILINE), part
    assert course.CONFIG in seen.output("conffiles")


def test_systemd_takes_the_unit_as_it_is(seen):
    """systemd-analyze verify in the guest has nothing to say."""
    assert seen.answers["verify"].code == 0
    assert course.UNIT not in seen.output("verify")


def test_a_port_that_is_plugged_in_starts_the_agent(seen):
    """Into the running guest, and nobody does anything in it; a session opens and the report tells of this guest."""
    heard = seen.sessions["plugged"]
    assert seen.units["plugged"].active == "active"
    assert heard.ack.implementation_version in seen.version
    assert course.RAM_KIB * 1024 * 3 // 4 < heard.report.memory.total_bytes < course.RAM_KIB * 1024
    assert 0 < heard.report.memory.available_bytes < heard.report.memory.total_bytes


def test_the_agent_is_who_its_unit_says(seen):
    """Own user, two capabilities and no more, first to be spared by the OOM killer, locked pages, both PSI triggers."""
    status = dict(line.split(":", 1) for line in seen.output("process").splitlines())
    assert seen.output("owner") == "_ballonet-agent"
    assert int(status["CapEff"], 16) == CAP_IPC_LOCK | CAP_SYS_RESOURCE == int(status["CapBnd"], 16)
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert seen.output("oom score") == "-900"
    assert int(status["VmLck"].split()[0]) > 0
    assert len(seen.output("triggers").splitlines()) == 2
    assert "psi" in seen.sessions["plugged"].ack.capabilities
    assert seen.sessions["plugged"].report.psi is not None


def test_hardening_denies_the_agent_nothing_it_needs(seen):
    """Neither the kernel nor the journal tells of a call that was refused."""
    assert seen.output("denied") == ""
    assert not re.search(r"denied|not permitted|not locked|no PSI trigger|Traceback", seen.output("journal plugged"))
    assert seen.answers["status"].code == 0
    assert "Warning" not in seen.output("status")


def test_check_is_content_with_a_guest_that_is_well(seen):
    """With port, PSI and balloon there, nothing must be mended."""
    assert seen.answers["check"].code == 0, seen.output("check")
    assert not re.search(r"^problem", seen.output("check"), re.MULTILINE)


@pytest.mark.fault(36)
def test_a_port_that_is_unplugged_stops_the_agent(seen):
    """It ends well, is not tried again while there is no port, and starts again with the next one."""
    before, after = seen.units["plugged"], seen.units["unplugged"]
    assert (after.active, after.result, after.pid) == ("inactive", "success", 0)
    assert after.restarts == before.restarts
    assert seen.output("failed after unplugging") == ""
    assert "Traceback" not in seen.output("journal unplugged")
    assert seen.sessions["plugged again"].pid != seen.sessions["plugged"].pid


def test_an_agent_that_was_stopped_goes_on(seen):
    """SIGSTOP makes it silent; SIGCONT before its watchdog bites makes the same process report again."""
    assert seen.answered == [True, False, True]
    assert seen.units["continued"].pid == seen.units["before stop"].pid
    assert seen.units["continued"].restarts == seen.units["before stop"].restarts


def test_an_agent_that_stays_stopped_is_replaced(seen):
    """The watchdog ends it, though it is stopped, and another one serves."""
    assert seen.units["bitten"].restarts == seen.units["watched"].restarts + 1
    assert seen.sessions["bitten"].pid not in (0, seen.units["watched"].pid)
    assert "watchdog" in seen.output("journal bitten").lower()


def test_an_agent_that_is_killed_comes_back_each_time(seen):
    """Killed as fast as systemd starts it, more often than its default limit allows: it is never given up."""
    assert len(set(seen.pids)) == course.KILLS
    assert seen.units["killed"].active == "active"
    assert seen.sessions["killed"].pid not in seen.pids
    said = dict(line.split("=") for line in seen.output("start limit").splitlines())
    assert said["StartLimitIntervalUSec"] == "0", said


def test_an_upgrade_while_connected_changes_the_agent_and_keeps_the_session_going(seen):
    """The old one says BYE, the new one asks for a session and gets one; no question, and edited settings stay."""
    assert seen.answers["apt upgrade"].code == 0, seen.output("apt upgrade")
    assert complaints(seen.output("apt upgrade")) == []
    assert seen.output("versions upgraded").splitlines() == [NEWER, NEWER]
    assert seen.bye is not None
    assert seen.bye.why == ByeWhy.STOP
    assert seen.hello_req is not None
    assert seen.hello_req.why == HelloReqWhy.START
    assert seen.sessions["upgraded"].ack.implementation_version == NEWER
    assert seen.sessions["upgraded"].pid not in (0, seen.units["before upgrade"].pid)
    assert seen.answers["edit kept"].code == 0, seen.output("edit kept")
    assert "dpkg-" not in seen.output("edit kept")


def test_a_full_disk_is_nothing_to_the_agent(seen):
    """It goes on, and it can be started there."""
    assert "No space left" in seen.output("full")
    assert seen.sessions["full"].pid == seen.units["upgraded"].pid
    assert seen.answers["restart full"].code == 0, seen.output("restart full")
    assert seen.sessions["restarted full"].pid not in (0, seen.sessions["full"].pid)
    assert course.UNIT not in seen.output("failed when full")


def test_a_read_only_root_is_nothing_to_the_agent(seen):
    """It can be started there, and reports."""
    assert "Read-only" in seen.output("read-only")
    assert seen.answers["restart read-only"].code == 0, seen.output("restart read-only")
    assert seen.sessions["read-only"].pid not in (0, seen.sessions["restarted full"].pid)


def test_a_reboot_ends_the_session_and_the_next_boot_asks_for_one(seen):
    """BYE when the guest goes down; then the agent starts with the port and says that this is another boot."""
    before, after = seen.sessions["read-only"], seen.sessions["rebooted"]
    assert seen.bye_of_reboot is not None
    assert seen.bye_of_reboot.why == ByeWhy.STOP
    assert after.ack.boot_id != before.ack.boot_id
    assert after.report.boottime_ms < before.report.boottime_ms
    assert after.ack.boottime_ms / 1000 < float(seen.output("uptime").split()[0])
    assert seen.output("failed after reboot") == ""


def test_without_psi_the_agent_serves_and_says_so_once(seen):
    """No PSI in reports and capabilities; one line in the journal and one of `check` say so and what it means."""
    heard = seen.sessions["without psi"]
    assert seen.answers["pressure"].code != 0
    assert heard.report.psi is None
    assert "psi" not in heard.ack.capabilities
    lines = [line for line in seen.output("journal without psi").splitlines() if "psi" in line.lower()]
    assert len(lines) == 1, lines
    assert "stall" in lines[0]
    assert re.search(r"psi .*stalls", seen.output("check without psi"))
    assert "psi=1" in seen.output("check without psi")
    assert "Traceback" not in seen.output("journal without psi")


def test_remove_stops_the_agent_and_leaves_the_settings(seen):
    """Nothing runs, the unit and every file are gone, but the settings are left as they were edited."""
    assert seen.answers["apt remove"].code == 0, seen.output("apt remove")
    assert complaints(seen.output("apt remove")) == []
    assert seen.output("agent after remove") == ""
    assert seen.answers["unit after remove"].code != 0
    assert seen.output("failed after remove") == ""
    assert seen.output("port after remove").strip() == "root:root:600", "the port is root's again"
    left = [path for path in seen.output("files after remove").splitlines() if not protocols_own(path)]
    assert left == [course.CONFIG.rpartition("/")[0], course.CONFIG]


def protocols_own(path: str) -> bool:
    """The protocol's package stays until autoremove; the shell and the mirror are the test's."""
    return "ballonet_protocol" in path or "ballonet-protocol" in path or "ballonet-conform" in path or "-test" in path


def test_an_installation_with_the_port_there_starts_the_agent(seen):
    """Nobody has to reboot or unplug; and the settings that a removal left are in force."""
    assert seen.answers["apt install again"].code == 0, seen.output("apt install again")
    assert complaints(seen.output("apt install again")) == []
    assert seen.sessions["installed with the port there"].ack.implementation_version == NEWER
    assert course.EDIT in seen.output("settings after install again").splitlines()


def test_purge_leaves_nothing(seen):
    """The files of / are those from before the installation, and nothing of ours runs or is known to systemd."""
    assert seen.answers["apt purge"].code == 0, seen.output("apt purge")
    assert complaints(seen.output("apt purge")) == []
    before, after = (
        {path for path in seen.output(name).splitlines() if not NOT_OURS.match(path)}
        for name in ("files before", "files after")
    )
    assert before
    assert sorted(after - before) == []
    assert sorted(before - after) == []
    # Nor among what others keep; apt's lists are of the mirror, and the shell is the test's.
    ours = [path for path in seen.output("files after").splitlines() if "ballonet" in path and "-test" not in path]
    assert [path for path in ours if not path.startswith("/var/lib/apt/lists/")] == []
    assert "ballonet" not in seen.output("users after")
    assert seen.output("agent after purge") == ""
    assert seen.output("failed after purge") == ""
    assert seen.output("units after purge") == ""


# --- the coordinator's package ----------------------------------------------------------------------------


def test_the_coordinator_is_installed_and_waits_for_its_settings(seen):
    """Neither service nor socket is enabled or runs, nothing failed, and each file is there."""
    assert seen.answers["host: install"].code == 0, seen.output("host: install")
    assert seen.output("host: units installed").split() == ["disabled", "disabled", "inactive", "inactive"]
    assert seen.output("host: failed") == seen.output("host: missing") == ""


def test_members_of_the_group_may_ask_and_others_may_not(seen):
    """Enabling the service brings the socket, which is root's and the group's; a member needs no root."""
    assert seen.answers["host: enable"].code == 0, seen.output("host: enable")
    assert seen.output("host: socket").splitlines() == ["660 root ballonet", "700 root"]
    guests = json.loads(seen.output("host: asked by a member"))["guests"]
    assert {guest["name"] for guest in guests} == {"web", "mute"}
    assert seen.answers["host: asked by another"].code == 3
    assert "permission denied" in seen.output("host: asked by another")


def test_the_coordinator_has_two_capabilities(seen):
    """CAP_DAC_OVERRIDE and CAP_SYS_PTRACE of root's, and nothing that it does was refused by the kernel's filter."""
    status = dict(line.split(":", 1) for line in seen.output("host: process").splitlines())
    assert int(status["CapEff"], 16) == 1 << 1 | 1 << 19 == int(status["CapBnd"], 16)
    assert status["Seccomp"].strip() == "2"
    assert seen.output("host: denied") == ""


def test_a_reload_with_a_fault_keeps_the_settings_and_says_so(seen):
    """systemctl reload, in the same process; a good file is taken, and the fault is no longer shown."""
    assert seen.answers["host: reload with a fault"].code == 0, seen.output("host: reload with a fault")
    host = json.loads(seen.output("host: status with a fault"))["host"]
    assert host["budget_kib"] == 3 << 20
    assert "slider = 200" in host["settings_fault"]
    assert seen.answers["host: reload"].code == 0, seen.output("host: reload")
    host = json.loads(seen.output("host: status reloaded"))["host"]
    assert (host["budget_kib"], host["settings_fault"]) == (4 << 20, "")


def test_nobody_who_asks_is_refused_whatever_happens_to_the_coordinator(seen):
    """Killed twice, restarted, stopped until the watchdog bites, upgraded: each question has its answer."""
    assert len(set(seen.host_pids)) == 6
    assert "watchdog" in seen.output("host: journal bitten").lower()
    assert seen.answers["host: upgrade"].code == 0, seen.output("host: upgrade")
    assert re.fullmatch(r"answered \d+\ncode 0", seen.output("host: asked meanwhile"))
    assert seen.output("host: same socket") == "active"


def test_faulty_settings_are_told_to_who_asks(seen):
    """The service fails, its socket stays; a question is answered with the fault, and starts a mended service."""
    assert seen.answers["host: start with a fault"].code != 0
    assert seen.answers["host: asked with a fault"].code == 3
    assert "slider = 200" in seen.output("host: asked with a fault")
    assert seen.output("host: units with a fault").split() == ["failed", "active"]
    assert seen.answers["host: asked before it runs"].code == 0, seen.output("host: asked before it runs")
    assert seen.output("host: started by a question") == "active"


def test_a_stop_that_deflates_is_not_cut_off(seen):
    """One machine answers after seconds, one never: the first has its memory, the stop is clean, the socket gone."""
    assert seen.answers["host: stop"].code == 0, seen.output("host: stop")
    assert seen.output("host: deflated") == "1024"
    assert seen.output("host: stopped").split() == ["success", "inactive"]
    assert "Traceback" not in seen.output("host: journal")


def test_the_coordinators_purge_leaves_nothing(seen):
    """A removal stops socket and service and leaves the settings; a purge takes them, the state and the group."""
    assert seen.answers["host: remove"].code == 0, seen.output("host: remove")
    assert seen.output("host: after remove").split()[:2] == ["inactive", "inactive"]
    assert host_course.CONFIG in seen.output("host: after remove").splitlines()
    assert seen.output("host: failed after remove") == ""
    assert seen.answers["host: purge"].code == 0, seen.output("host: purge")
    before, after = (
        {path for path in seen.output(name).splitlines() if not NOT_OURS.match(path)}
        for name in ("host: files before", "host: files after")
    )
    assert sorted(after - before) == []
    assert "ballonet" not in seen.output("host: left")
