"""How fast need becomes a command: in the guest up to the DEMAND's write, on the host up to QMP."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import trio
from answers import HostStamps, ask
from house import AGENT_UNIT, GUEST_FOLDER, MIB, STEP_KIB, House
from steps import GIVE_UP_S

NAME = "latency"
STEPS, QUICK_STEPS = 6, 2
SHORTAGES, QUICK_SHORTAGES = 12, 3
SWEEPS, QUICK_SWEEPS = 3, 1
"""Of DEMANDs from the scripted agent, some hundred in each."""
THRASH_FOR_S, QUICK_THRASH_FOR_S = 90.0, 10.0
"""More is written all the time than there is: some three triggers a second, so that there are 200 for a p99."""
SHORT_FOR_S = 3.0
"""A shortage that nobody answers goes on: each window of the trigger fires again, under the worst conditions."""
QUIET_S = 1.5
SAME_STALL_NS = 500_000_000
"""Stalls closer together than the trigger's window are one."""

Noted = list[tuple[int, int]]
Trigger = tuple[int, int | None, list[int]]


async def measure(house: House) -> None:
    count, shortages = (QUICK_STEPS, QUICK_SHORTAGES) if house.quick else (STEPS, SHORTAGES)
    probe, stalls = await house.put("probe.py"), await house.put("stalls.py")
    await house.systemctl(f"stop {AGENT_UNIT}")
    # As the service runs it: what protects the agent's answer in a shortage is part of what is measured.
    start = "systemd-run --quiet --collect --property=OOMScoreAdjust=-900"
    await house.guest.run(f"{start} --unit=bench-agent python3 {probe} {GUEST_FOLDER}/probe.json")
    await house.guest.run(f"{start} --unit=bench-stalls python3 {stalls} {GUEST_FOLDER}/stalls.json")
    held_ns = []
    try:
        for index in range(count):
            await house.squeeze()
            async with house.served():
                await trio.sleep(QUIET_S)
                held_ns.append(await _hold(house, GIVE_UP_S))
            house.say(f"{NAME}: answered step {index + 1} of {count}")
        await house.squeeze()
        async with house.served(observe=True):
            for index in range(shortages):
                await trio.sleep(QUIET_S)
                held_ns.append(await _hold(house, SHORT_FOR_S))
                await house.guest.hold(0)
                house.say(f"{NAME}: observed shortage {index + 1} of {shortages}")
            thrashed_ns, swapped_mib = await _thrash(house)
    finally:
        await house.systemctl("stop bench-agent bench-stalls")
    try:
        await _add_host_figures(house)
    finally:
        await house.systemctl(f"start {AGENT_UNIT}")
    stamped = await house.fetch("probe.json")
    noted = [(at, total) for at, total in await house.fetch("stalls.json")]
    _add_guest_figures(house, held_ns, stamped, noted)
    _add_thrash_figures(house, thrashed_ns, swapped_mib, stamped["triggers"], stamped["demands"])


async def _add_host_figures(house: House) -> None:
    """The guest's balloon under a scripted agent's DEMANDs; nothing in the guest speaks meanwhile."""
    stamps = HostStamps()
    asked = 0
    sweeps = QUICK_SWEEPS if house.quick else SWEEPS
    for index in range(sweeps):
        await house.squeeze()
        path = house.folder / f"scripted-{index}.sock"
        asked += await ask(house.settings, str(path), house.machine.monitor.actual_kib, stamps)
        house.say(f"{NAME}: {asked} scripted DEMANDs, {len(stamps.samples)} commands")
    add = house.findings.add
    add(
        NAME,
        "DEMAND in -> QMP balloon command out",
        "ms",
        [s * 1e3 for s in stamps.samples],
        f"none of {asked} DEMANDs led to a command that the stamps saw",
    )
    add(NAME, "DEMANDs that led to no command", "count", [asked - len(stamps.samples)])


async def _hold(house: House, give_up_s: float) -> tuple[float, float]:
    """Beginning and end by the guest's clock, in ns."""
    answer = await house.guest.hold(STEP_KIB // MIB, give_up_s)
    return answer["start_s"] * 1e9, answer["end_s"] * 1e9


async def _thrash(house: House) -> tuple[tuple[float, float], float]:
    """A program writes all of its memory over and over, and much of that is in swap. When, and MiB read back per s."""
    await trio.sleep(QUIET_S)
    before = await house.guest.counters()
    held_ns = await _hold(house, QUICK_THRASH_FOR_S if house.quick else THRASH_FOR_S)
    after = await house.guest.counters()
    await house.guest.hold(0)
    house.say(f"{NAME}: thrashed")
    pages = after["vmstat"]["pswpin"] - before["vmstat"]["pswpin"]
    return held_ns, pages * 4096 / 2**20 / (after["monotonic_s"] - before["monotonic_s"])


def _add_thrash_figures(
    house: House, thrashed_ns: tuple[float, float], swapped_mib: float, triggers: list[Trigger], demands: Noted
) -> None:
    """What the agent's way took while its guest did little but swap, and whether it waited for pages of its own."""
    add = house.findings.add
    began, ended = thrashed_ns
    within = [(at, then, faults) for at, then, faults in triggers if began <= at <= ended]
    waits = [(then - at) / 1e6 for at, then, _ in within if then is not None]
    add(NAME, "thrashing: PSI trigger -> DEMAND written", "ms", waits, "no trigger fired")
    add(NAME, "thrashing: triggers without a DEMAND of their own", "count", [len(within) - len(waits)])
    nexts = [min((then for then, _ in demands if then >= at), default=None) for at, _, _ in within]
    late = [(then - at) / 1e6 for (at, _, _), then in zip(within, nexts, strict=True) if then is not None]
    add(NAME, "thrashing: PSI trigger -> next DEMAND written", "ms", late, "no DEMAND followed")
    add(NAME, "thrashing: swap read back", "MiB/s", [swapped_mib])
    for kind, index in (("major", 0), ("minor", 1)):
        seen = [float(faults[index]) for _, _, faults in triggers]
        add(NAME, f"{kind} faults between trigger and write, all triggers", "count", [sum(seen)])


def _add_guest_figures(house: House, held_ns: list[tuple[float, float]], stamped: dict[str, Any], noted: Noted) -> None:
    add = house.findings.add
    triggers = stamped["triggers"]
    written = [(at, then) for at, then, _ in triggers if then is not None]
    missing = f"none of {len(triggers)} triggers led to a DEMAND at once"
    add(NAME, "PSI trigger -> DEMAND written", "ms", [(then - at) / 1e6 for at, then in written], missing)
    add(NAME, "triggers held back (four DEMANDs a second)", "count", [len(triggers) - len(written)])
    waits: list[float] = []
    costs: list[float] = []
    warned = calm = 0
    for began, ended in held_ns:
        demands = [at for at, _ in stamped["demands"] if began <= at <= ended]
        onset = next((at for at in onsets(noted) if began <= at <= ended), None)
        if onset is None or (demands and demands[0] < onset):
            warned += bool(demands)
            calm += not demands
        elif demands:
            waits.append((demands[0] - onset) / 1e6)
            costs.append((total_at(noted, demands[0]) - total_at(noted, onset)) / 1e3)
    add(NAME, "stall onset -> first DEMAND written", "ms", waits, "no step stalled before its first DEMAND")
    add(NAME, "time stalled between the two", "ms", costs, "no step stalled before its first DEMAND")
    add(NAME, "steps whose DEMAND came before any stall", "count", [warned])
    add(NAME, "steps with neither", "count", [calm])


def onsets(noted: Noted) -> Iterator[float]:
    """When stalls began after quiet: the counter's rise at the first look that saw one, taken back from there."""
    risen_ns = float("-inf")
    for (before, total), (at, now) in itertools.pairwise(noted):
        if now > total:
            if before - risen_ns >= SAME_STALL_NS:
                yield max(before, at - (now - total) * 1000)
            risen_ns = at


def total_at(noted: Noted, at: float) -> float:
    """The counter at a moment, between two looks in proportion."""
    place = bisect_right(noted, (at, float("inf")))
    if place in (0, len(noted)):
        return noted[max(0, place - 1)][1]
    (t0, v0), (t1, v1) = noted[place - 1], noted[place]
    return v0 + (v1 - v0) * (at - t0) / (t1 - t0)
