"""What the agent costs the guest that it runs in, beside Debian's qemu-guest-agent in the same guest."""

from __future__ import annotations

import trio
from house import AGENT_UNIT, House

NAME = "footprint"
WATCHED_S = 60.0
AGENTS = {"ballonet agent": AGENT_UNIT, "qemu-guest-agent": "qemu-guest-agent"}
SETTLE_S = 5.0
"""A connection's own work is not the minute that is measured."""
NOT_THERE = "it does not run in the guest"


async def measure(house: House) -> None:
    """RSS and private dirty at the end of 60 s at one report a second in an idle guest; CPU time over them."""
    watched_s = 15.0 if house.quick else WATCHED_S
    # Without a client of its own the other agent looks for one ten times a second.
    async with await trio.open_unix_socket(str(house.machine.folder / "compared.sock")), house.served():
        pids = {name: await _pid(house, unit) for name, unit in AGENTS.items()}
        house.say(f"{NAME}: idle for {watched_s:.0f} s, one report a second")
        percent = await _cpu_percent(house, pids, watched_s)
        rolled = {name: await _rollup(house, pid) for name, pid in pids.items()}
    house.say(f"{NAME}: idle for {watched_s:.0f} s, no host")
    alone = await _cpu_percent(house, pids, watched_s)
    add = house.findings.add
    for name, sizes in rolled.items():
        add(NAME, f"{name}: resident", "MiB", _mib(sizes, "Rss"), NOT_THERE)
        add(NAME, f"{name}: private dirty", "MiB", _mib(sizes, "Private_Dirty"), NOT_THERE)
        add(NAME, f"{name}: CPU over {watched_s:.0f} s", "%", percent[name], NOT_THERE)
        add(NAME, f"{name}: the same, no host", "%", alone[name], NOT_THERE)


async def _cpu_percent(house: House, pids: dict[str, int], watched_s: float) -> dict[str, list[float]]:
    await trio.sleep(SETTLE_S)
    before = {name: await _cpu_ns(house, pid) for name, pid in pids.items()}
    began_s = trio.current_time()
    await trio.sleep(watched_s)
    after = {name: await _cpu_ns(house, pid) for name, pid in pids.items()}
    passed_s = trio.current_time() - began_s
    return {name: [(after[name] - before[name]) / passed_s / 1e7] if pid else [] for name, pid in pids.items()}


def _mib(sizes: dict[str, int], name: str) -> list[float]:
    return [sizes[name] / 1024] if name in sizes else []


async def _pid(house: House, unit: str) -> int:
    return int((await house.systemctl(f"show -p MainPID --value {unit}")).strip() or 0)


async def _cpu_ns(house: House, pid: int) -> int:
    """On a processor so far, all threads, by the scheduler's own count (a tick is too coarse for an idle minute)."""
    if not pid:
        return 0
    lines = (await house.guest.run(f"cat /proc/{pid}/task/*/schedstat")).splitlines()
    return sum(int(line.split()[0]) for line in lines)


async def _rollup(house: House, pid: int) -> dict[str, int]:
    """KiB by name."""
    if not pid:
        return {}
    lines = (await house.guest.run(f"cat /proc/{pid}/smaps_rollup")).splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
