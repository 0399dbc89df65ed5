"""Hyper-V's Dynamic Memory, reconstructed: demand first, then the buffer, by weight and commit pressure. Pure.

Each second, a guest that has less than its demand is lifted to it, the heaviest and then the shortest first; in a
second pass guests are lifted to demand plus buffer. What the host does not have free is taken from the lightest and
then the most comfortable: what they hold above demand plus buffer, and only for a guest short of its demand also what
they hold above demand. Surplus is not taken back until somebody needs it.

**Variant "passes by weight"**: the product is closed and its order of service inferred; a variant that equalises commit
pressure among guests of one weight fits what is public equally well and is not built. Commit pressure is demand over
size; with demand = committed memory, which no data set holds: what the machine says it uses stands for it. The host's
own reserve is outside the budget. A balloon that answered in part counts at the size it reached, and is not
asked again before it moves.

Sizes in KiB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ballonet_host_coord.simulate.vm import Vm

from .sight import ARRIVED_KIB, all_arrived
from .ticks import Ticks

PERIOD_S = 1.0
BUFFER_RATIO = 0.2
# A guest this close to demand plus buffer is served.
SLACK = 0.995


@dataclass(slots=True)
class Guest:
    """One guest: `size_kib` is what it holds, and what it shall hold afterwards."""

    name: str
    weight: int
    size_kib: int
    need_kib: int
    """Its demand within its minimum and maximum."""
    ideal_kib: int
    """Demand plus buffer, within the same."""
    pays: bool = True
    """Its balloon gives; one that stopped short of its target does not."""
    commit_ratio: float = 0.0

    def __post_init__(self) -> None:
        self.commit_ratio = self.need_kib / max(1, self.size_kib)


def share(pool_kib: int, guests: Sequence[Guest]) -> None:
    """Changes the guests' sizes; their sum grows by at most `pool_kib`."""
    served = sorted(guests, key=lambda guest: (-guest.weight, -guest.commit_ratio))
    payers = sorted([guest for guest in guests if guest.pays], key=lambda guest: (guest.weight, guest.commit_ratio))
    above_ideal = _Purse(payers, lambda guest: guest.ideal_kib)
    above_need = _Purse(payers, lambda guest: guest.need_kib)
    for guest in served:
        pool_kib = _lift(guest, guest.need_kib, pool_kib, (above_ideal, above_need))
    for guest in served:
        pool_kib = _lift(guest, guest.ideal_kib, pool_kib, (above_ideal,))


def _lift(guest: Guest, size_kib: int, pool_kib: int, purses: Sequence[_Purse]) -> int:
    """Lifts one guest as far as pool and purses reach; what is left of the pool."""
    lack = size_kib - guest.size_kib
    if lack <= 0:
        return pool_kib
    given = min(lack, pool_kib)
    guest.size_kib += given
    lack -= given
    for purse in purses:
        if lack > 0:
            taken = purse.take(lack)
            guest.size_kib += taken
            lack -= taken
    return pool_kib - given


class _Purse:
    """What guests hold above a level, taken in order. A guest below a level of its own never gets above one here."""

    def __init__(self, payers: Sequence[Guest], level_kib: Callable[[Guest], int]) -> None:
        self._payers = payers
        self._level_kib = level_kib
        self._first = 0

    def take(self, lack_kib: int) -> int:
        taken = 0
        while taken < lack_kib and self._first < len(self._payers):
            payer = self._payers[self._first]
            part = min(lack_kib - taken, payer.size_kib - self._level_kib(payer))
            if part > 0:
                payer.size_kib -= part
                taken += part
            if taken < lack_kib:
                self._first += 1
        return taken


class HyperV:
    """The balancer's turn each second, on the reports of that second."""

    name = "hyperv"
    buffer_ratio = BUFFER_RATIO

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._budget_kib = budget_kib
        self._ticks = Ticks(PERIOD_S)
        self._last_kib: dict[str, float] = {}

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        self._ticks.take(now_s)
        late = self._late(vms)
        sizes = [int(vm.assigned_kib) if vm.name in late else vm.target_kib for vm in vms]
        if sum(sizes) > self._budget_kib:  # what the late do not give, others cannot have got
            sizes = [min(size, int(vm.assigned_kib)) for vm, size in zip(vms, sizes, strict=True)]
        guests = []
        short = False
        for vm, size in zip(vms, sizes, strict=True):
            if vm.silent:
                continue
            need = max(vm.minimum_kib, min(vm.shows_kib, vm.maximum_kib))
            ideal = max(vm.minimum_kib, min(int(vm.shows_kib * (1 + BUFFER_RATIO)), vm.maximum_kib))
            short |= size < need or size < SLACK * ideal
            guests.append(Guest(vm.name, vm.weight, size, need, ideal, vm.name not in late))
        told = {}
        if short:
            share(max(0, self._budget_kib - sum(sizes)), guests)
            shared_kib = {guest.name: guest.size_kib for guest in guests}
            for vm, size in zip(vms, sizes, strict=True):
                told_kib = shared_kib.get(vm.name, size)
                if told_kib != (size if vm.name in late or vm.silent else vm.target_kib):
                    told[vm.name] = told_kib
        self._last_kib = {vm.name: vm.assigned_kib for vm in vms}
        self._ticks.asleep = not told and all_arrived(vms)
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        return self._ticks.next_s(now_s, changed)

    def _late(self, vms: Sequence[Vm]) -> set[str]:
        """Those whose balloon stopped above its target since the last turn."""
        return {
            vm.name
            for vm in vms
            if vm.assigned_kib > vm.target_kib + ARRIVED_KIB
            and abs(vm.assigned_kib - self._last_kib.get(vm.name, -1.0)) <= ARRIVED_KIB
        }
