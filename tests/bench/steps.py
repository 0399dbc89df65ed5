"""A program in the guest suddenly needs 400 MiB: seconds until all of it is usable, and what else could have been."""

from __future__ import annotations

import polling
import trio
from figures import Figure
from house import AGENT_UNIT, MIB, RAM_KIB, SQUEEZED_KIB, STEP_KIB, House

NAME = "steps"
STEPS, QUICK_STEPS = 20, 5
THERE = 5
POLLED = {1: 5, 10: 3}
QUICK_POLLED = {1: 2, 10: 1}
GIVE_UP_S = 90.0
QUIET_S = 0.5


async def measure(house: House) -> None:
    count = QUICK_STEPS if house.quick else STEPS
    raw, stepped = [], []
    for index in range(count):
        await house.squeeze()
        raw.append(await house.move_balloon(SQUEEZED_KIB + STEP_KIB))
        await house.move_balloon(SQUEEZED_KIB)
        async with house.served():
            await trio.sleep(QUIET_S)
            stepped.append(await step(house))
        house.say(f"{NAME}: {index + 1} of {count}: {stepped[-1]:.2f} s, raw balloon {raw[-1]:.2f} s")
    there = []
    for _ in range(2 if house.quick else THERE):
        await house.guest.hold(0)
        await house.move_balloon(RAM_KIB)
        there.append(await step(house))
    size = f"{STEP_KIB // MIB} MiB"
    add = house.findings.add
    ours = add(NAME, f"{size} usable, ballonet", "s", stepped)
    balloon = add(NAME, f"{size} of raw balloon", "s", raw)
    touch = add(NAME, f"{size} usable, no balloon in the way", "s", there)
    house.findings.ratio(NAME, "ballonet / raw balloon", ours, balloon)
    house.findings.ratio(NAME, "ballonet / no balloon in the way", ours, touch)
    await _without_agent(house, ours)


async def _without_agent(house: House, ours: Figure) -> None:
    await house.systemctl(f"stop {AGENT_UNIT}")
    try:
        for period_s, count in (QUICK_POLLED if house.quick else POLLED).items():
            samples = []
            for index in range(count):
                samples.append(await _polled_step(house, period_s, (index + 0.5) / count * period_s))
                house.say(f"{NAME}: polled each {period_s} s, {index + 1} of {count}: {samples[-1]:.2f} s")
            figure = house.findings.add(NAME, f"usable, statistics each {period_s} s, no agent", "s", samples)
            house.findings.ratio(NAME, f"statistics each {period_s} s / ballonet", figure, ours)
    finally:
        await house.systemctl(f"start {AGENT_UNIT}")


async def _polled_step(house: House, period_s: int, after_s: float) -> float:
    """One step that begins `after_s` into a period: short and long waits for the next statistics alike."""
    await house.squeeze()
    monitor = house.machine.monitor
    await monitor.balloon_statistics(0)
    await monitor.balloon_statistics(period_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(polling.run, monitor)
        await trio.sleep(after_s)
        seconds = await step(house)
        nursery.cancel_scope.cancel()
    return seconds


async def step(house: House) -> float:
    """Seconds by the guest's clock; `GIVE_UP_S` where it took longer."""
    usable_s = (await house.guest.hold(STEP_KIB // MIB, GIVE_UP_S))["usable_s"]
    return GIVE_UP_S if usable_s is None else float(usable_s)
