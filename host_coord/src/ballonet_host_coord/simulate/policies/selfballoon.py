"""Xen's selfballooning: each guest steers its own balloon to what it has committed, and nobody arbitrates. Pure.

Each 5 s the guest's driver compares its size with committed memory plus 10 % of its RAM: above it goes down by an
eighth of the distance, below it goes up at once, never under a floor of its own. The host is not asked; the budget is
the engine's to enforce.

Choices here: committed memory is not in the data, the true use stands for it (the driver reads its own kernel, so a lie
or a silence towards the host does not concern it); RAM is the present size, as the guest sees it; the kernel's own
reserve and swapped pages held outside the guest are 0; all guests' timers tick together.

Re-implemented from a description of the rule; none of the original's code was used. Sizes in KiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ballonet_host_coord.simulate.vm import Vm

from .sight import all_arrived, within_limits
from .ticks import Ticks

PERIOD_S = 5.0
RAM_PER_RESERVE = 10
DOWN_DIVISOR = 8
PAGE_KIB = 4
MIB_KIB = 1024
# The driver's floor: below a size (MiB), so much (MiB) and one part in so many of what is above the size before it.
FLOORS = ((16, 0, 0, 1), (64, 16, 16, 2), (512, 40, 40, 8))
FLOOR_ABOVE = (99, 99, 32)


def floor_kib(ram_kib: float) -> float:
    """The least size of a guest of `ram_kib`, with no memory reserved by its kernel."""
    ram = ram_kib / MIB_KIB
    for below, base, offset, divisor in FLOORS:
        if ram < below:
            return MIB_KIB * (base + (ram - offset) / divisor) if base else 0.0
    base, offset, divisor = FLOOR_ABOVE
    return MIB_KIB * (base + (ram - offset) / divisor)


def next_kib(size_kib: float, committed_kib: float) -> float:
    """The size after one tick; whole pages downwards, so that it comes to rest."""
    goal = committed_kib + size_kib / RAM_PER_RESERVE
    if size_kib > goal:
        goal = size_kib - (size_kib - goal) // PAGE_KIB // DOWN_DIVISOR * PAGE_KIB
    return max(goal, floor_kib(size_kib))


class Selfballoon:
    """All guests' drivers, each by itself."""

    name = "selfballoon"
    buffer_ratio = 1 / (1 - 1 / RAM_PER_RESERVE) - 1

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._ticks = Ticks(PERIOD_S)

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        self._ticks.take(now_s)
        told = {}
        for vm in vms:
            size = within_limits(vm, next_kib(vm.assigned_kib, vm.demand_kib))
            if abs(size - vm.target_kib) >= PAGE_KIB:
                told[vm.name] = size
        self._ticks.asleep = not told and all_arrived(vms)
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        return self._ticks.next_s(now_s, changed)
