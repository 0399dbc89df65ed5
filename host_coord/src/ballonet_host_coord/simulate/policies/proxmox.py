"""Proxmox VE's automatic ballooning: spread what the host lacks or has to spare by shares, 100 MiB at a time. Pure.

The host's use is held at a target share of its memory. The distance to it, if more than 10 MiB, is handed out to
guests that look tight or taken from guests that look roomy, in proportion to their shares above their minimum; only
when that moves nothing, from or to all of them. No guest moves more than 100 MiB per 10 s, either way. At its target
a host does nothing, however unlike its guests are.

Re-implemented from a description of the rule; none of the original's code was used. Sizes in bytes inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from ballonet_host_coord.simulate.vm import Vm

from .sight import all_arrived, assigned_kib, free_kib
from .ticks import Ticks

PERIOD_S = 10.0
# Guests write their statistics each 2 s, at no fixed moment of the host's 10 s: those read are 1 s old on average.
STATISTICS_AGE_S = 1.0
STEP_BYTES = 100 << 20
DEAD_BAND_BYTES = 10 << 20
ROOMY_FREE_RATIO = 0.25  # free memory over the minimum, above which a guest can give
# Proxmox' usual shares (1000) for ballonet's usual weight (5000).
WEIGHT_PER_SHARE = 5


@dataclass(slots=True)
class Guest:
    """What Proxmox knows of one guest, bytes. `free` is None without statistics."""

    minimum: int
    maximum: int
    assigned: int
    shares: int
    free: int | None

    @property
    def roomy(self) -> bool:
        free = self.free or 0
        return free > 0 and free > ROOMY_FREE_RATIO * self.minimum and self.assigned >= self.minimum


def targets_bytes(goal: int, guests: Mapping[str, Guest]) -> dict[str, int]:
    """New sizes of the guests that one turn reaches; `goal` > 0 hands out, < 0 takes back."""
    eligible = {name: guest for name, guest in guests.items() if guest.shares and guest.minimum}
    sizes: dict[str, int] = {}
    if goal > DEAD_BAND_BYTES:
        tight = {name: guest for name, guest in eligible.items() if not guest.roomy}
        if (rest := _spread(tight, goal, sizes)) >= goal:
            _spread(eligible, rest, sizes)
    elif goal < -DEAD_BAND_BYTES:
        roomy = {name: guest for name, guest in eligible.items() if guest.roomy}
        if (rest := _spread(roomy, goal, sizes)) <= goal:
            _spread(eligible, rest, sizes)
    return sizes


def _spread(guests: Mapping[str, Guest], amount: int, sizes: dict[str, int]) -> int:
    """Moves `sizes` towards shares of `amount`, in passes; what could not be placed is returned."""
    rest = amount
    open_guests = dict(guests)
    while rest != 0 and open_guests:
        pool = sum([sizes.get(name, guest.assigned) - guest.minimum for name, guest in open_guests.items()]) + rest
        per_share = pool / sum([guest.shares for guest in open_guests.values()])
        again = False
        progress = moved = 0
        for name, guest in list(open_guests.items()):
            wanted = guest.minimum + int(per_share * guest.shares)
            if wanted > guest.maximum:
                wanted, again = guest.maximum, True
            elif wanted < guest.minimum:
                wanted, again = guest.minimum, True
            if amount > 0 and wanted > guest.assigned:
                size = min(wanted, guest.assigned + STEP_BYTES)
            elif wanted < guest.assigned:
                size = max(wanted, guest.assigned - STEP_BYTES)
            else:
                del open_guests[name]
                continue
            change = size - sizes.get(name, guest.assigned)
            sizes[name] = size
            if change:
                moved += change
                progress += abs(size - guest.assigned)
                again = True
        rest -= moved
        if not again or progress == 0:
            break
    return rest


class Proxmox:
    """The status daemon's turn each 10 s; the host may use `target_percent` of the budget."""

    buffer_ratio = 0.2  # it knows no buffer: the usual one, so that it does not lose by its first minute

    def __init__(self, name: str, target_percent: int = 80) -> None:
        self.name = name
        self._target_percent = target_percent
        self._ticks = Ticks(PERIOD_S)
        self._statistics = Ticks(PERIOD_S, phase_s=-STATISTICS_AGE_S)

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._target_kib = budget_kib * self._target_percent / 100
        self._free_bytes: dict[str, int] = {}
        self._read(vms)

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        if self._statistics.take(now_s) is not None:
            self._read(vms)
        if self._ticks.take(now_s) is None:
            return {}
        goal = int((self._target_kib - assigned_kib(vms)) * 1024)
        if abs(goal) <= DEAD_BAND_BYTES:
            self._ticks.asleep = self._fresh and all_arrived(vms)
            return {}
        guests = {
            vm.name: Guest(
                vm.minimum_kib * 1024,
                vm.maximum_kib * 1024,
                int(vm.assigned_kib * 1024),
                max(1, vm.weight // WEIGHT_PER_SHARE),
                self._free_bytes.get(vm.name),
            )
            for vm in vms
        }
        sizes = targets_bytes(goal, guests)
        told = {
            vm.name: sizes[vm.name] // 1024
            for vm in vms
            if vm.name in sizes and sizes[vm.name] // 1024 != vm.target_kib
        }
        self._ticks.asleep = not told and self._fresh and all_arrived(vms)
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        if changed:
            self._fresh = False
            if self._ticks.asleep:
                self._statistics.skip(now_s)
        turn_s = self._ticks.next_s(now_s, changed)
        return inf if turn_s == inf else min(turn_s, self._statistics.upcoming_s(now_s))

    def _read(self, vms: Sequence[Vm]) -> None:
        self._fresh = True  # no change since the statistics were read
        self._free_bytes = {vm.name: int(free_kib(vm) * 1024) for vm in vms if not vm.silent}
