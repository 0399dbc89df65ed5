"""What an operator does to a Debian guest with our packages, in three boots of one disk; what was seen is kept.

Nothing is judged here: test_debian_packages.py reads the answers.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from ballonet_host_coord.demo.image import Image
from ballonet_host_coord.demo.machine import Machine, MachineError, MachineSpec, open_machine
from ballonet_protocol import Bye, HelloAck, HelloReq, Report

from .plain_guest import Answer, Shell, open_host, open_shell, plug, unplug
from .plain_image import MIRROR_AT

UNIT = "ballonet-guest-agent.service"
OURS = "ballonet-guest-agent python3-ballonet-protocol"
RAM_KIB = 512 * 1024
KILLS = 6
SESSION_WITHIN_S = 120.0
APT_WITHIN_S = 300.0
BOOT_WITHIN_S = 300.0
SILENCE_S = 4.0
"""Longer than an answer takes to come, shorter than a watchdog."""
WATCHDOG_S = 5
"""In the place of the unit's 30 s, for as long as its bite is waited for."""
CONFIG = "/etc/ballonet/agent.conf"
EDIT = "report_ms = 500"
RUNNING = "grep -l '[b]allonet_guest' /proc/[0-9]*/cmdline 2>/dev/null"
FILES = "find / -xdev -path /tmp -prune -o -path /var/tmp -prune -o -print | sort"


@dataclass
class Unit:
    """The agent's service as systemd knows it."""

    active: str
    result: str
    state: str
    pid: int
    restarts: int


@dataclass
class Heard:
    """A session: how the agent opened it, its first report, and who served."""

    ack: HelloAck
    report: Report
    pid: int


@dataclass
class Seen:
    """Answers of commands, states of the unit and sessions, by what had just been done."""

    version: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    sessions: dict[str, Heard] = field(default_factory=dict)
    pids: list[int] = field(default_factory=list)
    host_pids: list[int] = field(default_factory=list)
    """The coordinator's processes, one after the other, while somebody asked without a pause."""
    answered: list[bool] = field(default_factory=list)
    """A PING before SIGSTOP, after it, and after SIGCONT."""
    bye: Bye | None = None
    hello_req: HelloReq | None = None
    bye_of_reboot: Bye | None = None
    broken: dict[str, str] = field(default_factory=dict)
    """Step -> why it could not be played to its end."""

    def output(self, name: str) -> str:
        return self.answers[name].output


class Course:
    """One boot of the guest: its shell, its machine, and the notes of all boots."""

    def __init__(self, machine: Machine, shell: Shell, seen: Seen) -> None:
        self.machine = machine
        self.shell = shell
        self.seen = seen

    async def play(self, *steps: Callable[[Course], Awaitable[None]]) -> None:
        """One after the other. A step that fails is noted, and the next ones show what they can."""
        for step in steps:
            began_s = trio.current_time()
            try:
                await step(self)
            except* (AssertionError, MachineError, OSError, trio.BrokenResourceError, trio.TooSlowError) as errors:
                self.seen.broken[step.__name__] = "; ".join(map(repr, errors.exceptions))
            print(f"{step.__name__}: {trio.current_time() - began_s:.1f} s", file=sys.stderr, flush=True)

    async def note(self, name: str, command: str, timeout_s: float = 120.0) -> Answer:
        self.seen.answers[name] = await self.shell.ask(command, timeout_s)
        return self.seen.answers[name]

    async def note_unit(self, name: str) -> Unit:
        shown = await self.shell.run(f"systemctl show -p ActiveState,Result,UnitFileState,MainPID,NRestarts {UNIT}")
        said = dict(line.split("=", 1) for line in shown.splitlines())
        unit = Unit(
            said["ActiveState"], said["Result"], said["UnitFileState"], int(said["MainPID"]), int(said["NRestarts"])
        )
        self.seen.units[name] = unit
        return unit

    async def until_active(self) -> None:
        """READY=1 was said. What the journal says of a failure comes with it."""
        wait = f"for i in $(seq 400); do systemctl is-active -q {UNIT} && exit; sleep 0.1; done"
        await self.shell.run(f"{wait}; systemctl status --no-pager {UNIT}; journalctl -n 30 --no-pager; exit 1", 120)

    async def note_session(self, name: str) -> Heard:
        """Come as a host, hear one report, leave without a word."""
        await self.until_active()
        with trio.fail_after(SESSION_WITHIN_S):
            async with open_host(self.machine.agent_path, RAM_KIB) as host:
                ack = await host.open_session()
                report = await host.next(Report)
        pid = int(await self.shell.run(f"systemctl show -P MainPID {UNIT}"))
        self.seen.sessions[name] = Heard(ack, report, pid)
        return self.seen.sessions[name]


Step = Callable[[Course], Awaitable[None]]


async def play(
    image: Image, mirror: Path, folder: Path, accelerator: str, seen: Seen, first_of_all: Sequence[Step] = ()
) -> None:  # fmt: skip
    """All of it, on a disk of its own. What comes `first_of_all` leaves the guest as it was."""
    first = MachineSpec(
        "first", RAM_KIB, waiting=False, swap=False, agent_port=False, keep_writes=True, more_disks=(mirror,)
    )
    async with open_machine(first, image, accelerator, folder) as machine, open_shell(machine) as shell:
        course = Course(machine, shell, seen)
        await course.play(*first_of_all)
        await course.play(install, plug_in, unplug_and_plug, stop_and_continue, kill_often, upgrade)
        await course.play(fill_the_disk, make_root_read_only, reboot)
        # The answer to this is lost with the guest.
        with trio.move_on_after(1):
            await shell.ask("systemctl poweroff")
        with trio.move_on_after(BOOT_WITHIN_S):
            await machine.gone()
    second = replace(first, name="second", agent_port=True, kernel_arguments="psi=0")
    async with open_machine(second, image, accelerator, folder) as machine, open_shell(machine) as shell:
        course = Course(machine, shell, seen)
        await course.play(run_without_psi, remove, install_with_the_port_there, purge)


async def install(course: Course) -> None:
    """As a person does who knows apt; no port is there yet."""
    await course.note("files before", FILES)
    await course.note("users before", "cat /etc/passwd /etc/group")
    await course.note("apt update", "apt-get update")
    await course.note("apt install", "apt-get install -y ballonet-guest-agent", APT_WITHIN_S)
    await course.note_unit("installed")
    await course.note("failed after install", "systemctl --failed --no-legend --plain")
    await course.note("jobs after install", "systemctl list-jobs --no-legend")
    await course.note("contents", f"dpkg -L {OURS}")
    await course.note("missing", f"dpkg -L {OURS} | while read -r path; do test -e $path || echo $path; done")
    await course.note("conffiles", f"dpkg-query -W -f '${{Conffiles}}\\n' {OURS}")
    await course.note("versions", f"dpkg-query -W -f '${{Version}}\\n' {OURS}")
    await course.note("verify", f"systemd-analyze verify --man=no {UNIT}")
    await course.note("check without port", "ballonet-agent check")


async def plug_in(course: Course) -> None:
    await plug(course.machine)
    session = await course.note_session("plugged")
    await course.note_unit("plugged")
    pid = session.pid
    await course.note("process", f"cat /proc/{pid}/status")
    await course.note("oom score", f"cat /proc/{pid}/oom_score_adj")
    await course.note("triggers", f"find /proc/{pid}/fd -lname /proc/pressure/memory -perm -200")
    await course.note("owner", f"stat -c %U /proc/{pid}")
    await course.note("status", f"systemctl status --no-pager --full {UNIT}")
    await course.note("check", "ballonet-agent check")
    await course.note("journal plugged", f"journalctl --no-pager -o cat -u {UNIT}")
    await course.note("denied", "journalctl --no-pager -k -o cat | grep -E 'type=1326|DENIED|segfault' || true")


async def unplug_and_plug(course: Course) -> None:
    await unplug(course.machine)
    await course.shell.until(f"systemctl show -P ActiveState {UNIT} | grep -E 'inactive|failed'")
    # RestartSec=2 and Restart=always: what would come back has come back by then.
    await course.note("waited", "sleep 4")
    await course.note_unit("unplugged")
    await course.note("journal unplugged", f"journalctl --no-pager -o cat -u {UNIT}")
    await course.note("failed after unplugging", "systemctl --failed --no-legend --plain")
    await plug(course.machine)
    await course.note_session("plugged again")


async def stop_and_continue(course: Course) -> None:
    """Stopped for a moment, then for longer than its watchdog bears, which has less patience for this."""
    pid = (await course.note_unit("before stop")).pid
    with trio.fail_after(SESSION_WITHIN_S):
        async with open_host(course.machine.agent_path, RAM_KIB) as host:
            await host.open_session()
            course.seen.answered.append(await host.is_answered(SESSION_WITHIN_S))
            await course.shell.run(f"kill -STOP {pid}")
            course.seen.answered.append(await host.is_answered(SILENCE_S))
            await course.shell.run(f"kill -CONT {pid}")
            course.seen.answered.append(await host.is_answered(SESSION_WITHIN_S))
            await host.next(Report)
    await course.note_unit("continued")
    dropin = f"/run/systemd/system/{UNIT}.d"
    await course.shell.run(
        f"mkdir -p {dropin} && printf '[Service]\\nWatchdogSec={WATCHDOG_S}\\n' >{dropin}/watchdog.conf"
        f" && systemctl daemon-reload && systemctl restart {UNIT}"
    )
    await course.until_active()
    pid = (await course.note_unit("watched")).pid
    await course.shell.run(f"kill -STOP {pid}")
    await course.shell.until(f"! test -e /proc/{pid}")
    await course.shell.run(f"rm -r {dropin} && systemctl daemon-reload")
    await course.note_session("bitten")
    await course.note_unit("bitten")
    await course.note("journal bitten", f"journalctl --no-pager -o cat -u {UNIT} | tail -20")


async def kill_often(course: Course) -> None:
    """As soon as systemd has started it again, before it is ready: nothing comes faster."""
    await course.note(
        "start limit", f"systemctl show -p StartLimitIntervalUSec -p StartLimitBurst -p RestartUSec {UNIT}"
    )
    for _ in range(KILLS):
        last = course.seen.pids[-1] if course.seen.pids else 0
        pid = await course.shell.run(
            f"for i in $(seq 600); do pid=$(systemctl show -P MainPID {UNIT});"
            f" [ $pid != 0 ] && [ $pid != {last} ] && kill -9 $pid && echo $pid && exit; sleep 0.1; done; exit 1"
        )
        course.seen.pids.append(int(pid))
    await course.note_session("killed")
    await course.note_unit("killed")


async def upgrade(course: Course) -> None:
    """While a host is connected, with an edited conffile."""
    await course.shell.run(f"mkdir -p /etc/ballonet; printf '{EDIT}\\n' >>{CONFIG}; sha256sum {CONFIG} >/root/edited")
    await course.shell.run(
        f"echo 'deb [trusted=yes] file:{MIRROR_AT}/newer ./' >>/etc/apt/sources.list && apt-get update"
    )
    await course.note_unit("before upgrade")
    with trio.fail_after(APT_WITHIN_S):
        async with open_host(course.machine.agent_path, RAM_KIB) as host:
            await host.open_session()
            await host.next(Report)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(course.note, "apt upgrade", "apt-get upgrade -y", APT_WITHIN_S)
                course.seen.bye = await host.next(Bye)
                course.seen.hello_req = await host.next(HelloReq)
                ack = await host.open_session()
                report = await host.next(Report)
    unit = await course.note_unit("upgraded")
    course.seen.sessions["upgraded"] = Heard(ack, report, unit.pid)
    await course.note("edit kept", f"sha256sum -c /root/edited && ls -A {CONFIG.rpartition('/')[0]}")
    await course.note("versions upgraded", f"dpkg-query -W -f '${{Version}}\\n' {OURS}")


async def fill_the_disk(course: Course) -> None:
    """Root's reserve too, and to the last block."""
    await course.shell.run(
        "for size in 256M 32M 4M 512K 64K 4K; do for n in $(seq 40); do"
        " fallocate -l $size /filler.$size.$n || break; done; done 2>/dev/null;"
        " dd if=/dev/zero of=/filler.dd bs=4k 2>/dev/null; sync"
    )
    await course.note("full", "echo x >/root/more")
    await course.note_session("full")
    await course.note("restart full", f"systemctl restart {UNIT}")
    await course.note_session("restarted full")
    await course.note("failed when full", "systemctl --failed --no-legend --plain")
    await course.shell.run("rm -f /filler.* /root/more")


async def make_root_read_only(course: Course) -> None:
    await course.shell.run("sync; mount -o remount,ro /")
    await course.note("read-only", "echo x >/root/more")
    await course.note("restart read-only", f"systemctl restart {UNIT}")
    await course.note_session("read-only")
    await course.shell.run("mount -o remount,rw /")


async def reboot(course: Course) -> None:
    """By the guest itself, with a host that listens."""
    with trio.fail_after(BOOT_WITHIN_S):
        async with open_host(course.machine.agent_path, RAM_KIB) as host:
            await host.open_session()
            with trio.move_on_after(1):
                await course.shell.ask("systemctl reboot")
            course.seen.bye_of_reboot = await host.next(Bye)
            await host.next(HelloReq)
    await course.shell.there()
    await course.note_session("rebooted")
    await course.note("uptime", "cat /proc/uptime")
    await course.note("failed after reboot", "systemctl --failed --no-legend --plain")


async def run_without_psi(course: Course) -> None:
    await course.note("pressure", "ls /proc/pressure")
    await course.note_session("without psi")
    await course.note("journal without psi", f"journalctl --no-pager -o cat -u {UNIT}")
    await course.note("check without psi", "ballonet-agent check")


async def remove(course: Course) -> None:
    await course.note("apt remove", "apt-get remove -y ballonet-guest-agent", APT_WITHIN_S)
    await course.note("agent after remove", RUNNING)
    await course.note("port after remove", "udevadm settle; stat -L -c %U:%G:%a /dev/virtio-ports/org.ballonet.agent.0")
    await course.note("unit after remove", f"systemctl cat {UNIT}")
    await course.note(
        "files after remove", f"{FILES.replace('-print', '-path /var -prune -o -print')} | grep -i ballonet"
    )
    await course.note("failed after remove", "systemctl --failed --no-legend --plain")


async def install_with_the_port_there(course: Course) -> None:
    """The removal left the edited settings."""
    await course.note("apt install again", "apt-get install -y ballonet-guest-agent", APT_WITHIN_S)
    await course.note_session("installed with the port there")
    await course.note("settings after install again", f"cat {CONFIG}")


async def purge(course: Course) -> None:
    await course.note(
        "apt purge", "apt-get purge -y ballonet-guest-agent && apt-get autoremove -y --purge", APT_WITHIN_S
    )
    await course.note("files after", FILES)
    await course.note("users after", "cat /etc/passwd /etc/group")
    await course.note("agent after purge", RUNNING)
    await course.note("failed after purge", "systemctl --failed --no-legend --plain")
    await course.note("units after purge", "systemctl list-units --all --no-legend --plain '*ballonet-guest*'")
