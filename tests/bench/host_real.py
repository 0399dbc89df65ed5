"""Three real guests behind a real libvirtd, served through libvirt and then through QMP: calls, cost, and answers.

The guests are the tiny ones of tests/libvirt, with a kernel, a balloon and no Python; their agents are scripted
(answers.py), tell what the real balloons are, and speak through Unix sockets in QEMU's place. The same machines serve
both ports: each has two QMP monitors more, one for the coordinator and one for this module.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import trio
from answers import ScriptedAgent
from figures import Findings
from host_many import Served, busy_s, served
from host_table import Table

from ballonet_host_coord.demo import requirements
from ballonet_host_coord.demo.image import ImageError, build_image
from ballonet_host_coord.qmp import QmpClient

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.libvirt import rig as rigs

NAME = "real"
MIB = 1024
RAM_MIB = 1024
NAMES = ("b0", "b1", "b2")
MINIMUM_KIB = 256 * MIB
REPORT_EVERY_S = 4.0
STEP_KIB = 6 * MIB
APART_S = 0.1
CALM_WITHIN_S = 120.0
UP_WITHIN_S = 120.0


class CannotMeasure(Exception):
    """The text says what to install."""


def measure(findings: Findings, quick: bool, say: Callable[[str], None], ports: tuple[str, ...]) -> None:
    try:
        trio.run(_measure, findings, quick, say, ports, strict_exception_groups=True)
    except CannotMeasure as why:
        findings.add(NAME, "everything", "", [], str(why))


async def _measure(findings: Findings, quick: bool, say: Callable[[str], None], ports: tuple[str, ...]) -> None:
    if lacking := rigs.missing():
        raise CannotMeasure(f"libvirt's guests need {', '.join(lacking)}; as root: apt-get install {rigs.PACKAGES}")
    try:
        import libvirt

        image = build_image(lambda line: print(line, file=sys.stderr))
    except (ImportError, ImageError, requirements.RequirementsError) as why:
        raise CannotMeasure(str(why)) from None
    with rigs.running(image) as rig:
        say("three domains boot")
        connection = await _operator(libvirt, rig.uri)
        for name in NAMES:
            connection.defineXML(_xml(rig, name)).create()
        connection.close()
        async with AsyncExitStack() as stack:
            monitors = []
            for name in NAMES:
                monitors.append(await QmpClient.connect(str(rig.folder / f"{name}.look")))
                stack.push_async_callback(monitors[-1].aclose)
            await _up(monitors)
            for port in ports:
                say(f"one of three guests, {port}")
                alone = await _run(rig, port, NAMES[:1], monitors, 0.0, False)
                say(f"three guests, {port}")
                course = await _run(rig, port, NAMES, monitors, 5.0 if quick else 60.0, True)
                _add(findings, port, alone, course)


async def _operator(libvirt: Any, uri: str) -> Any:
    """A connection as soon as there is one: a daemon's socket is there before it listens."""
    for _ in range(100):
        with contextlib.suppress(libvirt.libvirtError):
            return libvirt.open(uri)
        await trio.sleep(0.1)
    return libvirt.open(uri)


def _xml(rig: rigs.Rig, name: str) -> str:
    """The rig's domain with two monitors of ours."""
    folder = rig.folder
    more = "".join(
        f"<qemu:arg value='-qmp'/><qemu:arg value='unix:{folder}/{name}.{kind},server=on,wait=off'/>"
        for kind in ("qmp", "look")
    )
    text = rig.xml(name, memory_mib=RAM_MIB)
    text = text.replace("<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' ", 1)
    return text.replace("</domain>", f"<qemu:commandline>{more}</qemu:commandline></domain>")


async def _actual_kib(monitor: QmpClient) -> int:
    return int((await monitor.command("query-balloon"))["actual"]) // 1024


async def _up(monitors: list[QmpClient]) -> None:
    """A balloon that follows has a driver."""
    with trio.fail_after(UP_WITHIN_S):
        for monitor in monitors:
            await monitor.command("balloon", {"value": 960 << 20})
            while await _actual_kib(monitor) > 961 * MIB:
                await trio.sleep(0.2)


async def _run(
    rig: rigs.Rig, port: str, names: tuple[str, ...], monitors: list[QmpClient], seconds: float, load: bool
) -> dict[str, Any]:
    """One coordinator, from its start to its end; what it said after its beginning, after `seconds` of rest, and after
    one guest's DEMANDs."""
    folder = Path(tempfile.mkdtemp(prefix="bn-", dir="/tmp"))
    try:
        spec = _spec(rig, folder, port, names)
        table = Table(folder / "table", len(names))
        agents = [_Agent(monitor) for monitor in monitors[: len(names)]]
        async with trio.open_nursery() as nursery:
            for number, agent in enumerate(agents):
                await nursery.start(agent.serve, f"{folder}/{number}.agent")
            with served(spec) as coordinator:
                await trio.to_thread.run_sync(coordinator.until_live, len(names))
                for agent in agents:
                    nursery.start_soon(agent.report_for_ever)
                course = await _watch(rig, coordinator, table, agents, seconds, load)
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder)
    return course


class _Agent(ScriptedAgent):
    def __init__(self, monitor: QmpClient) -> None:
        super().__init__(RAM_MIB * MIB, lambda: _actual_kib(monitor))

    async def report_for_ever(self) -> None:
        while True:
            # As a real one: four times a second while its balloon moves, else by the coordinator's period.
            before_kib = await self._actual_kib()
            with trio.move_on_after(REPORT_EVERY_S):
                while await self._actual_kib() == before_kib:
                    await trio.sleep(0.25)
            await self.report()


async def _watch(
    rig: rigs.Rig, coordinator: Served, table: Table, agents: list[_Agent], seconds: float, load: bool
) -> dict[str, Any]:
    with trio.move_on_after(CALM_WITHIN_S):
        while max([await agent._actual_kib() for agent in agents]) > MINIMUM_KIB + 32 * MIB:
            await trio.sleep(0.5)
    await trio.sleep(3)
    daemon = psutil.Process(rig.libvirtd_pid())

    async def ask() -> dict[str, Any]:
        answer = await trio.to_thread.run_sync(coordinator.ask)
        used = daemon.cpu_times()
        return {**answer, "daemon_s": used.user + used.system, "busy_s": busy_s()}

    first = await ask()
    await trio.sleep(seconds)
    rested = await ask()
    asked = 0
    if load:
        for want_kib in range(await agents[0]._actual_kib() + STEP_KIB, RAM_MIB * MIB, STEP_KIB):
            table.demanded_ns[0] = time.monotonic_ns()
            await agents[0].demand(want_kib)
            asked += 1
            await trio.sleep(APART_S)
        await trio.sleep(1)
    return {"first": first, "rested": rested, "loaded": await ask(), "asked": asked}


def _spec(rig: rigs.Rig, folder: Path, port: str, names: tuple[str, ...]) -> Path:
    channels = {name: f"{folder}/{number}.agent" for number, name in enumerate(names)}
    guest = {"minimum_kib": MINIMUM_KIB, "startup_kib": MINIMUM_KIB, "maximum_kib": RAM_MIB * MIB, "buffer_percent": 0}
    guests = [
        {"name": name, "qmp_path": f"{rig.folder}/{name}.qmp", "channel_path": channels[name], **guest}
        for name in names
    ]
    spec = {
        "folder": str(folder), "count": len(names), "names": names, "channels": channels,
        "host": {
            "budget_kib": 4 * RAM_MIB * MIB, "slider": 50, "control_path": f"{folder}/control",
            "state_path": f"{folder}/state",
        },
        "guests": guests if port == "qmp" else [],
        "defaults": {} if port == "qmp" else guest,
        "uri": None if port == "qmp" else rig.uri,
        "domains": names,
        "run_folder": f"{rig.runtime}/libvirt/qemu/run",
    }  # fmt: skip
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def _add(findings: Findings, port: str, alone: dict[str, Any], course: dict[str, Any]) -> None:
    first, rested, loaded = course["first"], course["rested"], course["loaded"]
    n = f"{len(NAMES)} guests, {port}"
    for words, before, after in (("idle", first, rested), ("one asks ten times a second", rested, loaded)):
        seconds = after["now_s"] - before["now_s"]
        guest_seconds = seconds * len(NAMES)
        calls = {name: times - before["calls"].get(name, 0) for name, times in after["calls"].items()}
        calls.pop("qmp (writes)", None)
        findings.add(NAME, f"{n}, {words}: calls per guest-second", "count", [sum(calls.values()) / guest_seconds])
        for name, times in sorted(calls.items(), key=lambda entry: -entry[1]):
            if times:
                findings.add(NAME, f"{n}, {words}: calls: {name}", "1/s", [times / seconds])
        for what, key in (("coordinator's CPU", "cpu_s"), ("libvirtd's CPU", "daemon_s")):
            used_us = (after[key] - before[key]) / guest_seconds * 1e6
            findings.add(NAME, f"{n}, {words}: {what} per guest-second", "us", [used_us])
        busy_ratio = (after["busy_s"] - before["busy_s"]) / seconds / (os.cpu_count() or 1)
        findings.add(NAME, f"{n}, {words}: the machine's processors busy", "%", [busy_ratio * 100])
    for name in ("domainListGetStats", "memoryStats", "setMemoryFlags"):
        if times_s := [*rested["samples"].get(f"call {name}", []), *loaded["samples"].get(f"call {name}", [])]:
            findings.add(NAME, f"{n}: a call of {name}", "ms", [second * 1e3 for second in times_s])
    samples = [sample * 1e3 for sample in loaded["samples"].get("at_once", [])]
    findings.add(NAME, f"{n}: DEMAND -> balloon command", "ms", samples)
    heard = loaded["demands"] - rested["demands"]
    findings.add(NAME, f"{n}: DEMANDs written and not heard", "count", [course["asked"] - heard])
    findings.add(NAME, f"{n}: resident", "MiB", [loaded["rss_kib"] / MIB])
    slope_kib = (first["pss_kib"] - alone["first"]["pss_kib"]) / (len(NAMES) - 1)
    findings.add(NAME, f"memory per guest, {port}", "KiB", [slope_kib])
