"""Guests that run no agent, through libvirt and through plain QMP: judged by the balloon's statistics, cautiously; and
one that gets its channel while the service runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from ballonet_host_coord.demo.machine import BALLOON

from .rig import Rig
from .serving import MIB, Guests, Served, bounds_kept, hold, never_overdrawn, of_guest, serving

RAM_KIB = 384 * MIB
MINIMUM_KIB = 64 * MIB
NAMES = ("stumm", "spaet", "roh")
"""The second is adopted in the end; the third is reached through a QMP monitor of its own."""
TOO_TIGHT_MIB, WIDE_MIB = 500, 1500
"""Less than use + 25 % of all three with QEMU's own part, and more than all that they can have."""


@pytest.fixture(scope="module")
def operator(rig: Rig) -> Iterator[Any]:
    import libvirt

    connection = libvirt.open(rig.uri)
    for name in NAMES[:2]:
        connection.defineXML(rig.xml(name, memory_mib=384, agent=True, channel=False)).create()
    connection.createXML(rig.xml(NAMES[2], memory_mib=384, agent=True, channel=False, monitor=True))
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def served(rig: Rig, operator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = (
        f'[defaults]\nminimum = "64M"\noverhead = "64M"\n[guest.roh]\nmaximum = "384M"\nqmp = "{rig.folder}/roh.qmp"\n'
    )
    folder = tmp_path_factory.mktemp("served")
    with serving(rig, folder, settings, budget_mib=TOO_TIGHT_MIB, domains='stumm", "spaet') as served:
        yield served
        never_overdrawn(served.turns())
        bounds_kept(served.turns())


def steps_down(turns: list[dict[str, Any]], name: str) -> list[tuple[dict[str, Any], int]]:
    """The guest as it was known when each smaller target was set, and the target."""
    found = []
    for before, after in pairwise(of_guest(turns, name)):
        known_kib = before["hypervisor_target_kib"] or before["vm"]["actual_kib"]
        target_kib = after["hypervisor_target_kib"]
        if target_kib is not None and target_kib < min(known_kib, before["vm"]["actual_kib"]) - MIB:
            found.append((before, target_kib))
    return found


def test_shrunk_by_statistics(served: Served) -> None:
    """Nothing for the first minute; then, whatever the budget lacks, steps of half the pace, each on statistics that
    are newer than the step before, and never below what the guest uses and a quarter more."""

    def least_kib(guest: dict[str, Any]) -> int:
        return max(MINIMUM_KIB, int(guest["use_kib"] * 1.25))

    def there(guests: Guests) -> bool:
        return len(guests) == 3 and all(guest["actual_kib"] <= least_kib(guest) + 16 * MIB for guest in guests.values())

    guests = served.until(there, 200)
    for name in NAMES:
        steps = steps_down(served.turns(), name)
        assert len(steps) >= 4
        assert guests[name]["actual_kib"] >= min(target_kib for _, target_kib in steps) - MIB
        for guest, target_kib in steps:
            report, vm = guest["report"], guest["vm"]
            assert report["kind"] == "statistics"
            pace_kib = max(64 * MIB, vm["actual_kib"] // 8, report["available_kib"] // 2) // 2
            assert vm["actual_kib"] - target_kib <= pace_kib + 4
            assert target_kib >= guest["demand"]["use_kib"] * 1.25 - 4
        arrived = [guest["report"]["arrived_s"] for guest, _ in steps]
        assert arrived == sorted(set(arrived))


def test_grown_again(served: Served, operator: Any) -> None:
    """What the budget allows comes back to them, and what one needs is there for it."""
    served.reload(WIDE_MIB)
    served.until(lambda guests: all(guest["actual_kib"] > 300 * MIB for guest in guests.values()))
    held = hold(operator.lookupByName("roh"), 200)
    assert (held["died"], held["held_kib"]) == (False, 200 * MIB)


def test_the_period_of_statistics_is_set(served: Served, operator: Any) -> None:
    """Both ports ask the guest's driver for statistics once a second: nobody else has asked for them."""
    import libvirt_qemu

    for name in NAMES:
        asked = {"path": BALLOON, "property": "guest-stats-polling-interval"}
        question = json.dumps({"execute": "qom-get", "arguments": asked})
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(operator.lookupByName(name), question, 0))
        assert answer["return"] == 1


def test_adopted_while_the_service_runs(served: Served, rig: Rig) -> None:
    """A domain that had no channel says so; with one, its agent is heard at once and judged by its own word."""

    def agent_of(guests: Guests) -> str:
        return str(guests["spaet"]["agent"])

    assert "ballonet adopt" in agent_of(served.guests)
    command = [sys.executable, "-m", "ballonet_host_coord", "adopt", "spaet", "--uri", rig.uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert (done.stdout, done.returncode) == ("spaet: the channel is plugged in\n", 0)
    served.until(lambda guests: agent_of(guests).startswith("ballonet"))
    assert agent_of(served.guests).startswith("ballonet")
    began = len(served.turns())
    served.reload(TOO_TIGHT_MIB)
    served.until(lambda guests: guests["spaet"]["actual_kib"] < 256 * MIB)
    assert {guest["report"]["kind"] for guest, _ in steps_down(served.turns()[began:], "spaet")} == {"agent"}
