"""The demo's plot: two guests boot one after the other, one needs memory, gives it back, then the other needs it.

The same play runs on real and on simulated machines; what differs is the `Actor`. Each ramp goes up in steps. A step is
met when all of it is usable: touched, and not swapped out for it (8 MiB and a 64th may be; see share/workload.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from ballonet_host_coord.coordinator import Coordinator

from .verdict import GuestScore, Judge, Verdict

MIB = 1024

RAM_KIB = 1024 * MIB
MINIMUM_KIB = 256 * MIB
STARTUP_KIB = 512 * MIB
OVERHEAD_KIB = 160 * MIB
"""QEMU's own memory under TCG: 95 to 117 MiB were measured (2026-11-24), and with 128 booked one run that filled the
budget to the page ended 2.4 MiB over it."""
HEADROOM_KIB = 64 * MIB
SLIDER = 50
"""Idle memory goes back to the host, so that one can see it go; by default a guest keeps it until another needs it."""
BUDGET_KIB = STARTUP_KIB + RAM_KIB + 2 * OVERHEAD_KIB + HEADROOM_KIB
"""One guest at its start and one at its most, and not a page more: less than the two maximums together."""

STEPS_KIB = (200 * MIB, 400 * MIB, 600 * MIB)
BETWEEN_STEPS_S = 2.0
HOLD_S = 5.0
STEP_WITHIN_S = 60.0
SHRINKABLE_AFTER_S = 32.0
"""A guest is not shrunk in its first 30 s; the second ramp needs what the first guest has given back by then."""
WATCH_EVERY_S = 0.1

Say = Callable[[str], None]


class Actor(Protocol):
    """A guest with a workload in it."""

    name: str

    async def hold(self, kib: int, within_s: float) -> float | None:
        """Hold `kib`, really touched; the seconds until all of it was usable, None where it was not `within_s`."""

    async def need_kib(self, kib: int) -> int:
        """The size of guest (hypervisor's scale) that a workload of `kib` needs."""

    async def actual_kib(self) -> int:
        """What the guest has, by its own device's word."""

    async def stall_us(self) -> int: ...

    async def oom_kills(self) -> int: ...


async def ramp(actor: Actor, score: GuestScore, say: Say) -> None:
    """Take memory in steps, hold it, give all of it back."""
    stalled_us = await actor.stall_us()
    for kib in STEPS_KIB:
        say(f"{actor.name} now needs {kib // MIB} MiB more than when idle")
        needed_kib = await actor.need_kib(kib)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_shortage, actor, score, needed_kib)
            seconds = await actor.hold(kib, STEP_WITHIN_S)
            nursery.cancel_scope.cancel()
        score.step(seconds)
        say(f"{actor.name} has it after {seconds:.1f} s" if seconds is not None else f"{actor.name} did not get it")
        await trio.sleep(BETWEEN_STEPS_S)
    await trio.sleep(HOLD_S)
    score.stall_us += await actor.stall_us() - stalled_us
    await actor.hold(0, STEP_WITHIN_S)
    say(f"{actor.name} has given its memory back")


async def _watch_shortage(actor: Actor, score: GuestScore, needed_kib: int) -> None:
    while True:
        score.deepest_shortage_kib = max(score.deepest_shortage_kib, needed_kib - await actor.actual_kib())
        await trio.sleep(WATCH_EVERY_S)


async def has_started(coordinator: Coordinator, name: str) -> None:
    """Until the guest has booted and shrunk to its startup size, so that the next one's claim fits."""
    while True:
        snapshot = coordinator.snapshot
        for guest in snapshot.guests if snapshot else ():
            if guest.name == name and guest.demand is not None and guest.booking.assigned_kib <= STARTUP_KIB + 4 * MIB:
                return
        await trio.sleep(WATCH_EVERY_S)


async def may_be_shrunk(coordinator: Coordinator) -> None:
    """Until no guest is in its first half minute."""
    while True:
        snapshot = coordinator.snapshot
        if snapshot and all(snapshot.now_s - g.vm.boot_began_s >= SHRINKABLE_AFTER_S for g in snapshot.guests):
            return
        await trio.sleep(WATCH_EVERY_S)


async def perform(
    actors: Sequence[Actor], coordinator: Coordinator, judge: Judge, simulated: bool, accelerator: str, say: Say
) -> Verdict:
    """Let each actor have its ramp, then judge."""
    scores = [GuestScore(actor.name) for actor in actors]
    killed = [await actor.oom_kills() for actor in actors]
    for actor, score in zip(actors, scores, strict=True):
        await ramp(actor, score, say)
        await may_be_shrunk(coordinator)
    for actor, score, before in zip(actors, scores, killed, strict=True):
        score.oom_kills = await actor.oom_kills() - before
        score.refused = len(judge.refused.get(actor.name, ()))
    return Verdict(
        simulated=simulated,
        accelerator=accelerator,
        budget_kib=judge.budget_kib,
        budget_exceeded_kib=judge.exceeded_kib,
        booked_most_kib=judge.booked_most_kib,
        actual_most_kib=judge.actual_most_kib,
        resident_most_kib=judge.resident_most_kib,
        promised_kib=len(actors) * (RAM_KIB + OVERHEAD_KIB),
        guests=tuple(scores),
    )
