"""`ballonet serve` as a process of its own over the rig's libvirt, and what the scenes ask of it and of its guests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import trio

from ballonet_host_coord.control import ControlError, request
from ballonet_host_coord.demo.lines import json_lines
from ballonet_host_coord.demo.machine import DEMO_PORT, Guest
from ballonet_host_coord.recording import Reading

from .rig import Domain, Rig

PATIENCE_S = 240.0
MIB = 1024

Guests = dict[str, dict[str, Any]]


class Served:
    """The service: its settings, its process, its journal, and every turn that it recorded."""

    def __init__(
        self, rig: Rig, folder: Path, settings: str, budget_mib: int, domains: str, control: Path | None
    ) -> None:
        self.rig = rig
        self.control = str(control or folder / "control")
        self._record = folder / "turns"
        self._log = folder / "journal"
        self._config = folder / "coordinator.toml"
        self._settings = settings
        self._domains = domains
        self.configure(budget_mib)
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = 0

    def configure(self, budget_mib: int) -> None:
        folder = self._config.parent
        self._config.write_text(
            f'[host]\nbudget = "{budget_mib}M"\nheadroom = "16M"\ncontrol = "{self.control}"\n'
            f'state = "{folder}/state.sqlite"\nrecord = "{self._record}"\n'
            f'[libvirt]\nuri = "{self.rig.service_uri}"\ndomains = ["{self._domains}"]\n{self._settings}\n'
        )

    # --- its process --------------------------------------------------------------------------------------

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self.rig.inside([sys.executable, "-m", "ballonet_host_coord", "serve", "--config", str(self._config)]),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "XDG_RUNTIME_DIR": str(self.rig.runtime)},
            )  # fmt: skip
        self.until(lambda guests: True)

    def kill(self) -> None:
        """As the kernel would: it has no time for anything."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)

    def reload(self, budget_mib: int) -> None:
        assert self._process is not None
        self.configure(budget_mib)
        self._heard = len(self.journal)
        self._process.send_signal(signal.SIGHUP)

    @property
    def journal(self) -> str:
        return self._log.read_text()

    @property
    def said(self) -> str:
        """Its journal since the last `reload`."""
        return self.journal[self._heard :]

    # --- what it says -------------------------------------------------------------------------------------

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = trio.run(request, self.control, operation, arguments)
        return answer

    @property
    def guests(self) -> Guests:
        return {guest["name"]: guest for guest in self.ask("status")["guests"]}

    def until(self, holds: Callable[[Guests], Any], within_s: float = PATIENCE_S) -> Guests:
        """Its guests as soon as they are so."""
        ends_s, guests = time.monotonic() + within_s, None
        while time.monotonic() < ends_s:
            with suppress(ControlError, LookupError, TypeError):  # what is not known yet is not so yet
                guests = self.guests
                if holds(guests):
                    return guests
            time.sleep(0.2)
        raise AssertionError(f"not within {within_s:.0f} s: {guests}\n{self.journal[-3000:]}")

    def until_said(self, text: str, within_s: float = PATIENCE_S) -> str:
        """What the journal has said since the last `reload`, at the very moment in which this is in it."""
        ends_s = time.monotonic() + within_s
        while text not in self.said:
            assert time.monotonic() < ends_s, self.journal[-3000:]
            time.sleep(0.005)
        return self.said

    def turns(self) -> list[dict[str, Any]]:
        """Every turn so far: {"snapshot", "decision"} as recorded."""
        return [entry.value for entry in Reading(self._record.read_bytes()) if entry.kind == "turn"]


def booked_kib(turn: dict[str, Any]) -> int:
    """What the books hold against all guests: the sum over them, and not what the decision says of it."""
    bookings = [guest["booking"] for guest in turn["snapshot"]["guests"]]
    return sum(booking["assigned_kib"] + booking["overhead_kib"] for booking in bookings)


def never_overdrawn(turns: list[dict[str, Any]]) -> None:
    """I1 over a recording, from facts alone: what was promised in a turn fits beside the books of that turn."""
    for before, after in pairwise(turns):
        room_kib = before["snapshot"]["host"]["budget_kib"] - booked_kib(before)
        assigned = {g["settings"]["name"]: g["booking"]["assigned_kib"] for g in before["snapshot"]["guests"]}
        known = targets(before)
        raised = {name: kib for name, kib in targets(after).items() if kib > known.get(name, kib)}
        promised_kib = sum(max(0, kib - assigned[name]) for name, kib in raised.items())
        assert promised_kib <= max(0, room_kib), (before, raised)


def targets(turn: dict[str, Any]) -> dict[str, int]:
    """What is in force at the hypervisor by the coordinator's doing."""
    named = {guest["settings"]["name"]: guest["hypervisor_target_kib"] for guest in turn["snapshot"]["guests"]}
    return {name: kib for name, kib in named.items() if kib is not None}


def bounds_kept(turns: list[dict[str, Any]]) -> None:
    """I2 over a recording: no target below the minimum that holds, none above the maximum."""
    for turn in turns:
        settings = {guest["settings"]["name"]: guest["settings"] for guest in turn["snapshot"]["guests"]}
        for name, kib in targets(turn).items():
            assert settings[name]["minimum_kib"] <= kib <= settings[name]["maximum_kib"], (name, kib)


def of_guest(turns: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The guest's part of each turn that it is in."""
    return [guest for turn in turns for guest in turn["snapshot"]["guests"] if guest["settings"]["name"] == name]


@contextmanager
def serving(
    rig: Rig, folder: Path, settings: str, *, budget_mib: int, domains: str = "*", control: Path | None = None
) -> Iterator[Served]:
    """It runs; whatever happens, it ends, and said nothing that a person could not read."""
    served = Served(rig, folder, settings, budget_mib, domains, control)
    try:
        served.start()
        yield served
    finally:
        served.stop()
    assert "Traceback" not in served.journal, served.journal[-4000:]


# --- what happens in a guest ------------------------------------------------------------------------------


def in_guest(domain: Domain, task: Callable[[Guest], Any]) -> Any:
    """Ask the demo's workload in the domain; `task` is given a `Guest`."""
    channels = fromstring(domain.XMLDesc(0)).iterfind("devices/channel")
    paths = {c.find("target").get("name"): c.find("source").get("path") for c in channels}  # type: ignore[union-attr]

    async def run() -> Any:
        with trio.fail_after(PATIENCE_S):
            async with json_lines(Path(str(paths[DEMO_PORT]))) as peer:
                guest = Guest(peer)
                while True:  # what is said before its port is open may be lost
                    with trio.move_on_after(1.0):
                        await guest.state()
                        break
                return await task(guest)

    return trio.run(run, strict_exception_groups=True)


def hold(domain: Domain, mib: int) -> dict[str, Any]:
    """Have `mib` MiB in use in the domain; comes back when they are."""
    answer: dict[str, Any] = in_guest(domain, lambda guest: guest.hold(mib))
    return answer


def boot_id(domain: Domain) -> str:
    return re.sub(r"\s", "", in_guest(domain, lambda guest: guest.run("cat /proc/sys/kernel/random/boot_id")))
