"""What is done to the coordinator's package in a plain guest: installed, asked, killed, stopped, upgraded and purged.

It comes before the agent's course (debian_course.py) in the same boot, and leaves the guest as it was. Its machine is a
QEMU that has only a monitor (in_guest/slow_qemu.py), of another user. Who asks is `nobody`, in the group or not.
"""

from __future__ import annotations

import base64
from pathlib import Path

from .debian_course import APT_WITHIN_S, FILES, Course
from .plain_image import MIRROR_AT

SERVICE, SOCKET = "ballonet.service", "ballonet.socket"
UNITS = f"{SERVICE} {SOCKET}"
PATH = "/run/ballonet/control.sock"
CONFIG = "/etc/ballonet/coordinator.toml"
PACKAGE = "ballonet-host-coord"
SETTINGS = """
[host]
budget = "3G"
stop_policy = "deflate"
[guest.web]
qmp = "/run/vm/web.qmp"
minimum = "256M"
startup = "512M"
maximum = "1G"
[guest.mute]
qmp = "/run/vm/mute.qmp"
minimum = "256M"
startup = "512M"
maximum = "1G"
"""
WATCHDOG_S = 8
"""In the place of the unit's 30 s; less is what an emulated guest may need for a turn."""
AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
AS_MEMBER = "setpriv --reuid=65534 --regid=65534 --groups=$(getent group ballonet | cut -d: -f3)"
SLOW_QEMU = Path(__file__).parent / "in_guest" / "slow_qemu.py"
FAKE_QEMU = Path(__file__).parents[1] / "host_coord" / "fake_qemu.py"
ASKER = """
import os, sys, time, trio
from ballonet_host_coord import control
control.ANSWER_TIMEOUT_S = 180.0  # what an emulated guest needs for a start, and not the product's patience
answered = 0
while not os.path.exists(sys.argv[1]):
    trio.run(control.request, sys.argv[2], "status")
    answered += 1
    time.sleep(0.1)
print("answered", answered)
"""
NEWER_LIST = "/etc/apt/sources.list.d/newer.list"
ENOUGH = "/run/vm/enough"


def write(path: str, text: str) -> str:
    """A command that writes a file."""
    return f"echo {base64.b64encode(text.encode()).decode()} | base64 -d >{path}"


async def install_host(course: Course) -> None:
    await course.note("host: files before", FILES)
    await course.shell.run("apt-get update", APT_WITHIN_S)
    await course.note("host: install", f"apt-get install -y --no-install-recommends {PACKAGE}", APT_WITHIN_S)
    await course.note("host: units installed", f"systemctl is-enabled {UNITS}; systemctl is-active {UNITS}")
    await course.note("host: failed", "systemctl --failed --no-legend --plain")
    await course.note("host: missing", f"dpkg -L {PACKAGE} | while read -r path; do test -e $path || echo $path; done")


async def start_host(course: Course) -> None:
    """With machines of another user, whose sockets only that user may open."""
    run = course.shell.run
    await run(f"install -d -m 700 -o nobody -g nogroup /run/vm && mkdir -p {CONFIG.rpartition('/')[0]}")
    for file in (FAKE_QEMU, SLOW_QEMU):
        await run(write(f"/run/vm/{file.name}", file.read_text()))
    await run("systemd-run -q --unit=slow-qemu -p User=nobody -p Group=nogroup python3 /run/vm/slow_qemu.py /run/vm")
    await run(write(CONFIG, SETTINGS))
    await course.shell.until("test -S /run/vm/web.qmp")
    await course.note("host: enable", f"systemctl enable --now {SERVICE}")
    await course.note("host: socket", f"stat -c '%a %U %G' {PATH} && stat -c '%a %U' /var/lib/ballonet")
    await course.note("host: asked by a member", f"{AS_MEMBER} ballonet status --json")
    await course.note("host: asked by another", f"{AS_NOBODY} ballonet status --json")
    await course.note("host: process", f"cat /proc/$(systemctl show -P MainPID {SERVICE})/status")


async def reload_host(course: Course) -> None:
    """A file with a fault, and then a good one, in the same process."""
    pid = await course.shell.run(f"systemctl show -P MainPID {SERVICE}")
    await course.shell.run(write(CONFIG, SETTINGS.replace('budget = "3G"', "slider = 200")))
    await course.note("host: reload with a fault", f"systemctl reload {SERVICE}")
    await course.note("host: status with a fault", "ballonet status --json")
    await course.shell.run(write(CONFIG, SETTINGS.replace("3G", "4G")))
    await course.note("host: reload", f"systemctl reload {SERVICE} && kill -0 {pid}")
    await course.note("host: status reloaded", "ballonet status --json")


async def mistreat_host(course: Course) -> None:
    """While somebody asks without a pause: killed, stopped for good, restarted, upgraded."""
    run = course.shell.run
    await run(write("/run/vm/asker.py", ASKER))
    await run(f"stat -c %i {PATH} >/run/vm/inode")
    await run(
        f"{{ {AS_MEMBER} python3 /run/vm/asker.py {ENOUGH} {PATH} >/run/asked 2>&1; echo code $? >>/run/asked; }}"
        " </dev/null >/dev/null 2>&1 & "
    )
    pids = [await run(f"systemctl show -P MainPID {SERVICE}")]
    for _ in range(2):
        await run(f"kill -9 {pids[-1]}")
        pids.append(await _other_than(course, pids[-1]))
    dropin = f"/run/systemd/system/{SERVICE}.d"
    await run(
        f"mkdir -p {dropin} && printf '[Service]\\nWatchdogSec={WATCHDOG_S}\\n' >{dropin}/watchdog.conf"
        f" && systemctl daemon-reload && systemctl restart {SERVICE}", 120,
    )  # fmt: skip
    pids.append(await _other_than(course, pids[-1]))
    await run(f"kill -STOP {pids[-1]}")
    pids.append(await _other_than(course, pids[-1]))
    await course.note("host: journal bitten", f"journalctl --no-pager -o cat -u {SERVICE} | tail -20")
    await run(f"rm -r {dropin} && systemctl daemon-reload")
    await run(f"echo 'deb [trusted=yes] file:{MIRROR_AT}/newer ./' >{NEWER_LIST} && apt-get update", APT_WITHIN_S)
    await course.note("host: upgrade", f"apt-get install -y --no-install-recommends {PACKAGE}", APT_WITHIN_S)
    pids.append(await _other_than(course, pids[-1]))
    await run(f"touch {ENOUGH}")
    await course.shell.until("grep -q code /run/asked")
    await course.note("host: asked meanwhile", "cat /run/asked")
    await course.note("host: same socket", f"stat -c %i {PATH} | cmp - /run/vm/inode && systemctl is-active {SOCKET}")
    course.seen.host_pids = [int(pid) for pid in pids]


async def _other_than(course: Course, pid: str) -> str:
    """The process that serves after this one, once it is ready."""
    show = f"systemctl show -P MainPID {SERVICE}"
    there = f"systemctl is-active -q {SERVICE} && [ $({show}) != {pid} ]"
    wait = f"for i in $(seq 900); do {there} && exec {show}; sleep 0.2; done"
    return await course.shell.run(f"{wait}; systemctl status --no-pager {UNITS}; exit 1", 240)


async def break_host(course: Course) -> None:
    """Started with faulty settings; then with good ones, by nothing but a question."""
    await course.shell.run(write(CONFIG, SETTINGS.replace('budget = "3G"', "slider = 200")))
    await course.note("host: start with a fault", f"systemctl restart {SERVICE}")
    await course.note("host: asked with a fault", f"{AS_MEMBER} ballonet status")
    await course.note("host: units with a fault", f"systemctl is-active {UNITS}")
    await course.shell.run(write(CONFIG, SETTINGS))
    await course.note("host: asked before it runs", f"{AS_MEMBER} ballonet status --json")
    await course.note("host: started by a question", f"systemctl is-active {SERVICE}")


async def stop_host(course: Course) -> None:
    """The socket's end is the service's: one machine takes seconds for its answer, the other gives none."""
    # Seen, of whatever size: the upgrade's stop has deflated them before.
    await course.shell.until("test $(ballonet status --json | grep -c '\"actual_kib\": [0-9]') = 2")
    await course.shell.run("rm -f /run/vm/deflated")
    await course.note("host: stop", f"systemctl stop {SOCKET}", 120)
    await course.note("host: deflated", "cat /run/vm/deflated")
    await course.note("host: stopped", f"systemctl show -P Result -P ActiveState {SERVICE}; ls -A /run/ballonet")
    await course.note("host: journal", f"journalctl --no-pager -o cat -u {SERVICE}")
    await course.note("host: denied", "journalctl --no-pager -k -o cat | grep -E 'type=1326|DENIED|segfault' || true")


async def purge_host(course: Course) -> None:
    """Removed while it runs."""
    await course.shell.run(f"systemctl start {SERVICE}")
    await course.note("host: remove", f"apt-get remove -y {PACKAGE}", APT_WITHIN_S)
    await course.note("host: after remove", f"systemctl is-active {UNITS}; ls -d {PATH} {CONFIG}")
    await course.note("host: failed after remove", "systemctl --failed --no-legend --plain")
    await course.note("host: purge", f"apt-get purge -y {PACKAGE} && apt-get autoremove -y --purge", APT_WITHIN_S)
    await course.shell.run(f"systemctl stop slow-qemu; rm -r /run/vm /run/asked {NEWER_LIST}")
    await course.shell.run("apt-get update", APT_WITHIN_S)
    await course.note("host: files after", FILES)
    units = "systemctl list-units --all --no-legend --plain 'ballonet.*'"
    await course.note("host: left", f"getent group ballonet; {units}; ls -A /run/ballonet")


SCENES = (install_host, start_host, reload_host, mistreat_host, break_host, stop_host, purge_host)
