"""`ballonet check` on real QEMUs: each misconfigured one is named, and nobody's monitor is disturbed.

They are started with `-S` and never run: what check looks at is there before the first instruction.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.real_parts import cannot
from tests.vm.monitors import until_it_answers

from ballonet_host_coord.demo.machine import machine_folder

GOOD = "deflate-on-oom=on,free-page-reporting=on"
PORT = ("-device", "virtio-serial-pci", "-chardev", "socket,id=c,path=NAME.agent,server=on,wait=off", "-device",
        "virtserialport,chardev=c,name=org.ballonet.agent.0")  # fmt: skip
BOUND = "memory-backend-memfd,id=m,size=160M,policy=bind,host-nodes=0"
GUESTS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    # name: the balloon's options or none, more arguments, finding -> level
    "good": (GOOD, PORT, {}),
    "no-balloon": ("none", PORT, {"balloon": "problem"}),
    "no-deflate": ("free-page-reporting=on", PORT, {"deflate-on-oom": "problem"}),
    "no-reporting": ("deflate-on-oom=on", PORT, {"free-page-reporting": "hint"}),
    "no-port": (GOOD, (), {"agent": "hint"}),
    "bound": (GOOD, (*PORT, "-object", BOUND, "-machine", "memory-backend=m"), {"pinned": "ok"}),
}
PATIENCE_S = 30.0
Run = Callable[..., "subprocess.CompletedProcess[str]"]


class House:
    """The QEMUs, and the command beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        guests = ""
        for name, (_, more, _) in GUESTS.items():
            guests += f'[guest.{name}]\nqmp = "{folder}/{name}.qmp"\n'
            if more:
                guests += f'channel = "{folder}/{name}.agent"\n'
        self.config = folder / "coordinator.toml"
        self.config.write_text(
            f'[host]\nbudget = "2400M"\nreserve = "128M"\nheadroom = "64M"\ncontrol = "{folder}/control"\n'
            f'state = "{folder}/state.sqlite"\n[defaults]\nminimum = "128M"\nmaximum = "160M"\n{guests}'
        )
        self.environment = {**os.environ, "BALLONET_CONFIG": str(self.config)}

    def boot(self, name: str) -> None:
        balloon, more, _ = GUESTS[name]
        words = ["qemu-system-x86_64", "-S", "-accel", "tcg", "-m", "160M", "-display", "none", "-nodefaults",
                 "-qmp", f"unix:{self.folder}/{name}.qmp,server=on,wait=off"]  # fmt: skip
        if balloon != "none":
            words += ["-device", f"virtio-balloon-pci,{balloon}"]
        words += [word.replace("NAME", f"{self.folder}/{name}") for word in more]
        self.start(words, f"{name}.log")
        self.wait_for(self.folder / f"{name}.qmp")

    def start(self, words: list[str], log: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *words], stdout=output, stderr=output,
                                       stdin=subprocess.DEVNULL, env=self.environment)  # fmt: skip
        self.processes.append(process)
        return process

    def wait_for(self, path: Path) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not path.exists():
            said = "\n".join(log.read_text() for log in self.folder.glob("*.log"))
            assert time.monotonic() < until_s, said
            time.sleep(0.02)

    def run(self, *words: str, become: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        command = [*become, sys.executable, "-m", "ballonet_host_coord", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def check(self, *words: str, **how: Any) -> tuple[int, dict[str, dict[str, str]], dict[str, Any]]:
        """Exit code, levels by guest and finding without those that are well, and the whole answer."""
        done = self.run("check", "--json", *words, **how)
        assert done.stderr == ""
        answer = json.loads(done.stdout)
        assert answer["exit_code"] == done.returncode
        levels: dict[str, dict[str, str]] = {name: {} for name in GUESTS}
        for row in answer["findings"]:
            if row["guest"] in levels and (row["level"] != "ok" or row["name"] == "pinned"):
                levels[row["guest"]][row["name"]] = row["level"]
        return done.returncode, levels, answer


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    if shutil.which("qemu-system-x86_64") is None:
        cannot("a real QEMU is looked at; as root: apt-get install qemu-system-x86")
    with machine_folder() as folder:
        house = House(folder)
        try:
            for name in GUESTS:
                house.boot(name)
            for name in GUESTS:
                trio.run(until_it_answers, f"{folder}/{name}.qmp")
            yield house
        finally:
            for process in house.processes:
                process.kill()
                process.wait()


def expected() -> dict[str, dict[str, str]]:
    return {name: levels for name, (_, _, levels) in GUESTS.items()}


def test_each_misconfigured_guest_is_named(house: House) -> None:
    """Without a coordinator the monitors tell; what is well has no finding, and a second look finds them free."""
    for _ in range(2):
        code, levels, answer = house.check()
        assert (code, answer["verdict"]) == (1, "mend")
        assert levels == expected(), answer
    pinned = {row["guest"]: row["text"] for row in answer["findings"] if row["name"] == "pinned"}
    assert pinned["bound"] == "left alone: its memory is bound to one NUMA node"
    table = house.run("check")
    assert table.returncode == 1
    assert "problem  no-deflate" in table.stdout
    assert all(line.isprintable() for line in table.stdout.split("\n"))


def test_a_running_coordinator_keeps_its_monitors(house: House) -> None:
    """Beside it the same is found, but for what only an agent or a monitor tells; it loses no guest meanwhile."""
    service = house.start([sys.executable, "-m", "ballonet_host_coord", "serve", "--observe"], "serve.log")
    try:
        house.wait_for(house.folder / "control")
        until_s = time.monotonic() + PATIENCE_S
        while any(guest["state"] in ("unseen", "absent") for guest in status(house)):
            assert time.monotonic() < until_s, status(house)
            time.sleep(0.1)
        before = [(guest["name"], guest["state"]) for guest in status(house)]
        for _ in range(3):
            code, levels, _ = house.check()
        assert code == 1
        for name in ("no-balloon", "no-deflate"):
            assert "problem" in levels[name].values(), levels
        for name in ("no-reporting", "no-port", "bound"):
            assert expected()[name].items() <= levels[name].items(), levels
        assert [(guest["name"], guest["state"]) for guest in status(house)] == before
        log = (house.folder / "serve.log").read_text()
        assert "closed the connection" not in log
        assert log.count("WARNING") <= 1, log  # the guest without a balloon, once
    finally:
        service.terminate()
        assert service.wait(20) == 0


def status(house: House) -> list[dict[str, Any]]:
    return json.loads(house.run("status", "--json").stdout)["guests"]  # type: ignore[no-any-return]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_look_is_unsure_and_says_so(house: House) -> None:
    """Not as root, with sockets of root's: code 3 and no guest is called faulty."""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    house.folder.chmod(0o755)
    for path in house.folder.glob("*.qmp"):
        path.chmod(0o600)
    code, levels, answer = house.check(become=nobody)
    assert (code, answer["verdict"]) == (3, "unsure")
    assert all(level == "hint" for found in levels.values() for level in found.values())
    assert any("permission denied; the socket belongs to user 0" in row["text"] for row in answer["findings"])


def test_exit_codes_of_a_well_host_and_of_wrong_settings(house: House, tmp_path: Path) -> None:
    """0 where everything is well, and 2 where the settings have faults: no guest is looked at then."""
    good = house.folder / "good.toml"
    text = house.config.read_text()
    good.write_text(text[: text.index("[guest.no-balloon]")])
    code, levels, _ = house.check("--config", str(good))
    assert (code, levels["good"]) == (0, {})
    (tmp_path / "wrong.toml").write_text("[host]\nbugdet = 1\n")
    done = house.run("check", "--config", str(tmp_path / "wrong.toml"))
    assert done.returncode == 2
    assert "did you mean budget?" in done.stderr
