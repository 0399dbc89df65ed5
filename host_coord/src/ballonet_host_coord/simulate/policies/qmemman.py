"""Qubes' qmemman: each guest's preference is 1.3 times its use; spare memory is spread in proportion to that. Pure.

An agent in each guest looks at its use each 0.1 s, swapped memory included, and writes it when it changed enough; a
write triggers a balance over all guests, whose plan is dropped if it would change too little. When the preferences
fit, everything that is left is spread in proportion. When they do not, those above their preference go down to it, and
what is free goes to the others; a donation is handed out in a later round, once it has become free. Moves are issued
in order, donors first, each waiting half a second at most for the memory it needs.

Choices here: the budget is for guests, so no domain stands for the host itself; the lower bound of a preference is
the machine's minimum instead of 200 MiB; starts of machines are the engine's. Real readings never stand still, recorded
ones do: a round that moved something is therefore followed by another 0.1 s later, until one moves nothing. A guest
flagged for lack of progress takes part again once its balloon has moved.

Re-implemented from a description of the rules; none of the original's code was used. Sizes in bytes inside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ballonet_host_coord.simulate.vm import Vm

from .sight import ARRIVED_KIB, within_limits
from .ticks import Ticks

MIB = 1 << 20
PREFERRED_RATIO = 1.3
LEAST_BYTES = 200 * MIB
HOST_BONUS_BYTES = 350 * MIB
# Shares are cut by this, against rounding in the hypervisor.
NEARLY_ALL = 0.999
LEAST_DONATION_BYTES = 10 * MIB
# The agent: a change worth writing, and a growth worth writing if the guest will soon need more than it has.
WRITE_KIB = 30_000
GROWTH_KIB = 15_000
# Around the balance.
HOST_RESERVE_KIB = 50 * 1024
TOLERANCE_KIB = 15 * 1024
WORTH_A_PLAN_KIB = 150 * 1024
LEFT_BY_A_MOVE_KIB = 45 * 1024
LATE_DONOR_KIB = 12.5 * 1024
TICK_S = 0.1
MOST_WAITS = 5
WORTH_ANOTHER_ROUND_KIB = 1024


@dataclass(slots=True)
class Domain:
    """One guest with a reading, bytes."""

    used: int
    assigned: int
    maximum: int
    is_host: bool = False
    least: int = LEAST_BYTES

    @property
    def preferred(self) -> int:
        if self.is_host:
            return int(min(PREFERRED_RATIO * self.used + HOST_BONUS_BYTES, self.maximum))
        return int(max(min(PREFERRED_RATIO * self.used, self.maximum), self.least))


def balance(free: int, domains: Mapping[str, Domain]) -> list[tuple[str, int]]:
    """Moves (name, new size in bytes), those that free memory first. `free` may be negative."""
    preferred = {name: domain.preferred for name, domain in domains.items()}
    spare = free - sum([preferred[name] - domain.assigned for name, domain in domains.items()])
    return _spread(spare, domains, preferred) if spare > 0 else _collect(free, domains, preferred)


def _spread(spare: int, domains: Mapping[str, Domain], preferred: Mapping[str, int]) -> list[tuple[str, int]]:
    """Enough for all: preferences, and the rest in proportion to them."""
    total = sum(preferred.values())
    sizes = {}
    left = open_count = 0
    for name, domain in domains.items():
        size = int(NEARLY_ALL * (preferred[name] + (preferred[name] / total) * spare))
        if size > domain.maximum:
            left += size - domain.maximum
            size = domain.maximum
        else:
            open_count += 1
        sizes[name] = size
    while left > 0 and open_count > 0:
        share = int(NEARLY_ALL * (left / open_count))
        left = 0
        for name, domain in domains.items():
            if sizes[name] >= domain.maximum:
                continue
            if sizes[name] + share >= domain.maximum:
                left += sizes[name] + share - domain.maximum
                sizes[name] = domain.maximum
                open_count -= 1
            else:
                sizes[name] += share
    donors = [(name, size) for name, size in sizes.items() if size < domains[name].assigned]
    return donors + [(name, size) for name, size in sizes.items() if size >= domains[name].assigned]


def _collect(free: int, domains: Mapping[str, Domain], preferred: Mapping[str, int]) -> list[tuple[str, int]]:
    """Not enough: what is above its preference goes down to it; only what is free now is handed out."""
    moves = []
    pot = free
    acceptors = []
    for name, domain in domains.items():
        if preferred[name] >= domain.assigned and domain.assigned < domain.maximum:
            acceptors.append(name)
        elif domain.assigned - preferred[name] >= LEAST_DONATION_BYTES:
            pot -= domain.assigned - preferred[name]
            moves.append((name, preferred[name]))
    if pot < 0:
        return moves
    total = sum([preferred[name] for name in acceptors])
    for name in acceptors:
        domain = domains[name]
        size = int(NEARLY_ALL * (domain.assigned + (preferred[name] / total) * pot))
        moves.append((name, min(size, domain.maximum)))
    return moves


class Qmemman:
    """Agents' writes, the balance they trigger, and the plan being carried out."""

    name = "qmemman"
    buffer_ratio = PREFERRED_RATIO - 1

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._budget_kib = budget_kib
        self._ticks = Ticks(TICK_S)
        self._written_kib: dict[str, int] = {}
        self._stalled_kib: dict[str, float] = {}
        """Size of each guest flagged for lack of progress, when it was flagged."""
        self._plan: deque[tuple[str, int]] = deque()
        self._donors_kib: dict[str, float] = {}
        """Size of the plan's donors when they were told."""
        self._waits = 0
        self._moved_kib = 0.0
        self._due = False

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        self._ticks.take(now_s)
        told: dict[str, int] = {}
        self._due |= self._agents_write(vms)
        if not self._plan and self._due:
            self._due = False
            self._make_plan(vms)
        if self._plan:
            self._carry_out(vms, told)
            if not self._plan and self._moved_kib > WORTH_ANOTHER_ROUND_KIB:
                self._due = True
        self._ticks.asleep = not self._plan and not self._due
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        return self._ticks.next_s(now_s, changed)

    def _agents_write(self, vms: Sequence[Vm]) -> bool:
        wrote = False
        written = self._written_kib
        if len(written) > len(vms):
            here = {vm.name for vm in vms}
            written = self._written_kib = {name: used for name, used in written.items() if name in here}
        for vm in vms:
            used = vm.shows_kib
            last = written.get(vm.name)
            if used == last or vm.silent:
                continue
            if (
                last is None
                or abs(used - last) > WRITE_KIB
                or (used - last > GROWTH_KIB and PREFERRED_RATIO * used > vm.assigned_kib)
            ):
                written[vm.name] = used
                wrote = True
        return wrote

    def _make_plan(self, vms: Sequence[Vm]) -> None:
        self._stalled_kib = {
            vm.name: self._stalled_kib[vm.name]
            for vm in vms
            if vm.name in self._stalled_kib and abs(vm.assigned_kib - self._stalled_kib[vm.name]) <= ARRIVED_KIB
        }
        free_kib = self._budget_kib - HOST_RESERVE_KIB - sum([max(vm.assigned_kib, vm.target_kib) for vm in vms])
        domains = {
            vm.name: Domain(
                self._written_kib[vm.name] * 1024,
                int(max(vm.assigned_kib, vm.target_kib)) * 1024,
                vm.maximum_kib * 1024,
                least=vm.minimum_kib * 1024,
            )
            for vm in vms
            if vm.name in self._written_kib and not vm.silent and vm.name not in self._stalled_kib
        }
        moves = [(name, size // 1024) for name, size in balance(int(free_kib * 1024), domains)]
        self._waits, self._moved_kib, self._donors_kib = 0, 0.0, {}
        if _worth_it(free_kib, moves, {vm.name: vm for vm in vms}, domains):
            self._plan.extend(moves)

    def _carry_out(self, vms: Sequence[Vm], told: dict[str, int]) -> None:
        """Issues what can be issued now; the plan is empty when it is done or given up."""
        by_name = {vm.name: vm for vm in vms}
        free_kib = self._budget_kib - sum([max(vm.assigned_kib, vm.target_kib) for vm in vms])
        while self._plan:
            name, size_kib = self._plan[0]
            vm = by_name.get(name)
            if vm is None or vm.name in told:
                self._plan.popleft()
                continue
            size_kib = within_limits(vm, size_kib)
            growth_kib = size_kib - max(vm.assigned_kib, vm.target_kib)
            if growth_kib > 0 and free_kib - growth_kib < LEFT_BY_A_MOVE_KIB:
                self._waits += 1
                if self._waits <= MOST_WAITS:
                    return
                size_kib = int(size_kib - growth_kib + max(0.0, free_kib - LEFT_BY_A_MOVE_KIB))
                self._plan.clear()
                self._flag_late_donors(by_name)
            else:
                self._waits = 0
                self._plan.popleft()
                free_kib -= max(0.0, growth_kib)
                if growth_kib < 0:
                    self._donors_kib[name] = vm.assigned_kib
            if size_kib != vm.target_kib:
                self._moved_kib += abs(size_kib - vm.target_kib)
                told[name] = size_kib

    def _flag_late_donors(self, by_name: Mapping[str, Vm]) -> None:
        """Those that did not move at all are left out from now on; slow ones are merely slow."""
        for name, told_at_kib in self._donors_kib.items():
            vm = by_name.get(name)
            if (
                vm is not None
                and vm.assigned_kib > vm.target_kib + LATE_DONOR_KIB
                and abs(vm.assigned_kib - told_at_kib) <= ARRIVED_KIB
            ):
                self._stalled_kib[name] = vm.assigned_kib


def _worth_it(
    free_kib: float, moves: Sequence[tuple[str, int]], by_name: Mapping[str, Vm], domains: Mapping[str, Domain]
) -> bool:
    """False for a plan that changes too little; `free_kib` is net of the reserve."""
    if free_kib < -TOLERANCE_KIB:
        return True
    changed_kib = abs(free_kib)
    for name, size_kib in moves:
        gain_kib = size_kib - by_name[name].target_kib
        if gain_kib > TOLERANCE_KIB and by_name[name].target_kib * 1024 < domains[name].preferred:
            return True
        changed_kib += abs(gain_kib)
    return changed_kib > WORTH_A_PLAN_KIB
