"""The README by hand: two guests with its QEMU line and its settings, its agent and its service installed by its lines.

What needs the network (apt-get, pip) is not run here. The copy of the tree comes to the guest as a disk.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.readme import AGENT, BY_HAND, COORDINATOR, ROOT, lines, qemu_options, section, settings_example
from tests.vm.monitors import until_it_answers

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.image import Image
from ballonet_host_coord.demo.lines import json_lines
from ballonet_host_coord.demo.machine import DEMO_PORT, Guest, machine_folder

BIN = Path(sys.executable).parent
UNIT = ROOT / "host_coord/src/ballonet_host_coord/share/ballonet.service"
MIB = 1024
UP_WITHIN_S = 400.0
LONG_S = 120.0
"""For what takes ten seconds in an emulated guest while another one boots beside it."""
# What the coordinator imports, for a guest that has no network to fetch it from. The image brings click and msgpack.
LENT = (
    "ballonet-protocol", "ballonet-host-coord",
    "trio", "attrs", "outcome", "sniffio", "sortedcontainers", "psutil", "idna",
)  # fmt: skip
LAUNCHER = """#!/usr/bin/python3
import sys
sys.path.insert(0, "/mnt/opt/ballonet/lib")
from ballonet_host_coord.cli import main
main()
"""
# The image has the agent as a package would have it. Without that and its user it is a guest that never had one.
FORGET_AGENT = """
systemctl stop ballonet-guest-agent
rm /usr/lib/systemd/system/ballonet-guest-agent.service /usr/lib/udev/rules.d/60-ballonet-guest-agent.rules
rm /usr/lib/sysusers.d/ballonet-guest-agent.conf
userdel _ballonet-agent
"""
# What the README's lines of a section begin with, of those that need the network.
NETWORK = ("apt-get ", "pip ", "/opt/ballonet/bin/pip ", "python3 -m venv ")


class Host:
    """A folder in place of the README's, and processes that end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "etc" / "coordinator.toml"
        (folder / "etc" / "coordinator.d").mkdir(parents=True)
        (folder / "vm").mkdir()
        self.config.write_text(self.here(settings_example()))
        # Where the service would have its folders the test has none.
        places = f'[host]\ncontrol = "{folder}/control.sock"\nstate = "{folder}/state.sqlite"\n'
        (folder / "etc" / "coordinator.d" / "places.toml").write_text(places)
        self.environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "BALLONET_CONFIG": str(self.config)}
        self._processes: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        return text.replace("/run/vm/", f"{self.folder}/vm/")

    def line(self, beginning: str) -> list[str]:
        """The README's one line that begins so, as words."""
        (found,) = [line for line in lines(section(BY_HAND)) if line.startswith(beginning)]
        return shlex.split(found, comments=True)

    def start(self, words: list[str], log: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        # The kernel ends them with this thread, as a test that is killed cannot.
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *prefix, *words],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment,
            )  # fmt: skip
        self._processes.append(process)
        return process

    def boot(self, name: str, image: Image, accelerator: str, disk: Path) -> None:
        """The README's line for one guest; added is what its disk would bring with it: kernel, console, swap."""
        options = [self.here(word).replace("alpha", name) for word in qemu_options()]
        options[options.index("kvm")] = accelerator
        options = [word.replace(f"file={name}.img", f"file={image.disk}") for word in options]
        more = [
            "-snapshot", "-kernel", str(image.kernel), "-initrd", str(image.initrd),
            "-append", "console=ttyS0 root=/dev/vda rw quiet mitigations=off no_timer_check systemd.show_status=no",
            "-drive", f"file={image.swap},format=raw,if=virtio", "-drive", f"file={disk},format=raw,if=virtio",
            "-chardev", f"socket,id=demo,path={self.folder}/{name}.demo,server=on,wait=off",
            "-device", f"virtserialport,id=demo,chardev=demo,name={DEMO_PORT}",
            "-serial", f"file:{self.folder}/{name}.console", "-net", "none",
        ]  # fmt: skip
        self.start(["qemu-system-x86_64", *options, *more], f"{name}.log")

    def command(self, *words: str) -> str:
        done = subprocess.run(
            list(words), env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """The coordinator's answer, with its guests by name; empty while nobody answers."""
        with contextlib.suppress(AssertionError):
            answer = json.loads(self.command("ballonet", "status", "--json"))
            return {"host": answer["host"], **{guest["name"]: guest for guest in answer["guests"]}}
        return {}

    async def until(self, holds: Callable[[dict[str, Any]], bool], within_s: float) -> dict[str, Any]:
        status: dict[str, Any] = {}
        with trio.move_on_after(within_s):
            while not ((status := await trio.to_thread.run_sync(self.status)) and holds(status)):
                await trio.sleep(0.5)
            return status
        pytest.fail(f"not within {within_s} s: {status}\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
            for pattern in ("*.log", "*.console")
            for path in sorted(self.folder.glob(pattern))
        )

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def a_host() -> Iterator[Host]:
    with machine_folder() as folder:
        host = Host(folder)
        try:
            yield host
        finally:
            host.close()


def units_capabilities() -> tuple[str, ...]:
    """What takes every capability away but those that the service's unit leaves; nothing where we have none."""
    if os.geteuid() != 0:
        return ()
    (kept,) = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    names = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in kept.split())
    return ("setpriv", f"--bounding-set=-all,{names}", "--inh-caps=-all")


def tree_disk(folder: Path) -> Path:
    """A disk with what the README calls a copy of this tree, and the coordinator where pip would have put it."""
    root = folder / "tree"
    lib = root / "opt/ballonet/lib"
    for name in LENT:
        distribution = importlib.metadata.distribution(name)
        package = name.replace("-", "_")
        if package.startswith("ballonet"):
            # Installed from the source beside it, which a list of files does not show.
            member = package.removeprefix("ballonet_")
            shutil.copytree(ROOT / member / "src" / package, lib / package)
            information = lib / f"{package}-{distribution.version}.dist-info"
            information.mkdir()
            (information / "METADATA").write_text(distribution.read_text("METADATA") or "")
            continue
        if distribution.files is None:
            # Debian's own, which the environment sees: its metadata lists modules alone.
            for module in (distribution.read_text("top_level.txt") or package).split():
                shutil.copytree(str(distribution.locate_file(module)), lib / module)
        for file in distribution.files or ():
            if ".." not in file.parts and "tests" not in file.parts:
                (lib / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), lib / file)
    launcher = root / "opt/ballonet/bin/ballonet"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    for line in [*lines(section(AGENT)), *lines(section(COORDINATOR))]:
        if line.startswith("install "):
            source = shlex.split(line)[-2]
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, root / source)
    disk = folder / "tree.ext4"
    program = requirements.program("mke2fs")
    assert program is not None
    options = ["-q", "-t", "ext4", "-O", "^has_journal", "-d", str(root)]
    subprocess.run([program, *options, str(disk), "128M"], check=True, stdout=subprocess.DEVNULL)
    return disk


async def both_are_installed_by_hand(guest: Guest) -> None:
    """Run the README's lines for the coordinator and the agent in a copy of the tree.

    Those for the network are left out. A line of both sections is run once, where it stands last.
    """
    found = [*lines(section(COORDINATOR)), *lines(section(AGENT))]
    local = [line for line in found if not line.startswith(NETWORK)]
    once = [line for place, line in enumerate(local) if line not in local[place + 1 :]]
    await guest.run("set -ex; mount -o ro /dev/vdc /mnt; ln -s /mnt/opt/ballonet /opt/ballonet" + FORGET_AGENT, LONG_S)
    await guest.run("set -ex; cd /mnt\n" + "\n".join(once), LONG_S)


async def the_agent_runs(guest: Guest) -> None:
    """The guest runs the agent from /etc, as its own user, though nobody enabled it."""
    await guest.run("until systemctl is-active --quiet ballonet-guest-agent; do sleep 0.2; done", LONG_S)
    shown = await guest.run("systemctl show -P FragmentPath -P User ballonet-guest-agent.service")
    assert set(shown.split()) == {"/etc/systemd/system/ballonet-guest-agent.service", "_ballonet-agent"}


async def the_service_runs(guest: Guest) -> None:
    """The coordinator's unit starts under systemd with the README's settings, says ready, answers, stops cleanly."""
    text = base64.b64encode(settings_example().encode()).decode()
    (folders,) = [line for line in lines(section(BY_HAND)) if line.startswith("mkdir ")]
    await guest.run(f"{folders} && echo {text} | base64 -d >/etc/ballonet/coordinator.toml")
    enable, reload = [line for line in lines(section(BY_HAND)) if line.startswith("systemctl ")]
    # Type=notify: it returns when the coordinator has said that it serves.
    await guest.run(f"{enable} || {{ journalctl --no-pager -o cat -u ballonet.service | tail -n 40; exit 1; }}", LONG_S)
    status = json.loads(await guest.run("ballonet status --json", LONG_S))
    assert [line["state"] for line in status["guests"]] == ["absent", "absent"]
    stat = await guest.run("stat -c '%a %U %G %n' /run/ballonet /run/ballonet/control.sock /var/lib/ballonet")
    assert stat.splitlines() == [
        "755 root root /run/ballonet", "660 root ballonet /run/ballonet/control.sock",
        "700 root root /var/lib/ballonet",
    ]  # fmt: skip
    await guest.run(reload, LONG_S)
    assert json.loads(await guest.run("ballonet status --json", LONG_S))["host"]["settings_fault"] == ""
    # Without its socket the service is not started again by who asks.
    await guest.run("systemctl stop ballonet.socket", LONG_S)
    assert set((await guest.run("systemctl show -P Result -P NRestarts ballonet.service")).split()) == {"success", "0"}


def test_two_guests_by_hand(image, accelerator, play):
    """The README's lines boot two guests under its settings, and install agent and service where they say."""

    async def scenario(host: Host) -> None:
        disk = tree_disk(host.folder)
        for name in ("alpha", "beta"):
            host.boot(name, image, accelerator, disk)
        for name in ("alpha", "beta"):
            await until_it_answers(f"{host.folder}/vm/{name}.qmp")
        host.command(*host.line("ballonet check"))
        observing = host.start(host.line("ballonet serve --observe"), "observe.log", units_capabilities())
        seen = await host.until(lambda status: status["beta"]["state"] != "absent", within_s=60)
        assert seen["host"]["observe"]
        observing.send_signal(signal.SIGINT)
        assert observing.wait(timeout=30) == 0
        serving = host.start(["ballonet", "serve"], "serve.log", units_capabilities())
        with trio.fail_after(UP_WITHIN_S):
            async with json_lines(host.folder / "alpha.demo") as peer:
                guest = Guest(peer)
                await first_answer(guest)
                # Beta boots meanwhile.
                await both_are_installed_by_hand(guest)
                await the_agent_runs(guest)
                await the_service_runs(guest)
        await host.until(lambda status: all(is_managed(status[name]) for name in ("alpha", "beta")), UP_WITHIN_S)
        assert "beta" in host.command(*host.line("ballonet status"))
        host.command(*host.line("ballonet release alpha"))
        await host.until(lambda status: status["alpha"]["actual_kib"] == 1024 * MIB, within_s=60)
        host.command(*host.line("ballonet resume alpha"))
        await host.until(lambda status: status["alpha"]["state"] != "released", within_s=60)
        host.command(*host.line("ballonet pause alpha"))
        await host.until(lambda status: "paused" in status["alpha"]["why"], within_s=60)
        host.command(*host.line("ballonet resume alpha"))
        host.command(*host.line("ballonet set alpha"))
        status = await host.until(lambda status: status["alpha"]["minimum_kib"] == 512 * MIB, within_s=60)
        assert status["host"]["booked_kib"] <= status["host"]["budget_kib"] == 1920 * MIB
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(timeout=30) == 0

    with a_host() as host:
        play(lambda: scenario(host))


async def first_answer(guest: Guest) -> None:
    while True:
        with trio.move_on_after(1.0):
            await guest.state()
            return


def is_managed(line: dict[str, Any]) -> bool:
    return line["agent"].startswith("ballonet-agent") and line["demand_kib"] is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start QEMU as somebody else")
def test_the_units_capabilities_suffice_for_another_users_guest(image, play):
    """With what the unit leaves it, the service reaches the sockets of QEMU's own user and reads what QEMU holds."""

    async def scenario(host: Host) -> None:
        os.chown(host.folder / "vm", 65534, 65534)
        host.folder.chmod(0o711)
        os.chmod(host.folder / "vm", 0o700)
        options = [host.here(word) for word in qemu_options()]
        options[options.index("kvm")] = "tcg"
        options[options.index("1G")] = "64M"
        del options[options.index("-drive") :]
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig", "KILL")
        host.start(["qemu-system-x86_64", *options], "qemu.log", nobody)
        host.start(["ballonet", "serve", "--observe"], "serve.log", units_capabilities())
        # Nothing has run, so nothing is resident; what could not be read would be None.
        status = await host.until(lambda status: status["alpha"]["resident_kib"] == 0, within_s=60)
        assert status["alpha"]["state"] == "waiting"

    with a_host() as host:
        play(lambda: scenario(host))
