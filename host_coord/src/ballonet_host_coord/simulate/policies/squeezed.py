"""XAPI's squeezed: every guest holds the same fraction of its dynamic range, whatever it needs. Pure.

The host keeps 72 MiB free. What is left above all minimums is divided so that each guest gets the same fraction gamma
of its range (maximum - minimum). A turn that must take anything from anybody only takes; giving waits for a later
iteration, 1 s apart. A guest that makes no progress towards its target for 5 s is stuck: it keeps what it has and the
others share the rest. Need inside the guest is not looked at, by design.

Here minimum and maximum are the machine's; a new machine is noticed at the next balance (the original balances at each
request for memory too, but the engine starts machines itself). Flags without effect on the sharing are left out.

Re-implemented from a description of the rule; none of the original's code was used. Sizes in KiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from ballonet_host_coord.simulate.vm import Vm

from .sight import assigned_kib
from .ticks import Ticks

BALANCE_PERIOD_S = 10.0
ITERATION_PERIOD_S = 1.0
STUCK_AFTER_S = 5.0
INACCURACY_KIB = 4
# Not counted as takeable from a guest: a balloon does not reach its minimum exactly.
UNREACHABLE_KIB = 8
HOST_FREE_KIB = (64 + 8) * 1024


@dataclass(slots=True)
class Domain:
    """One guest: its dynamic range, its size, where it was told to go, and whether it gets there."""

    minimum_kib: int
    maximum_kib: int
    actual_kib: float
    target_kib: int
    moved_s: float = 0.0
    stuck: bool = False

    def observe(self, now_s: float, actual_kib: float, target_kib: int) -> None:
        """A new look at it: did it move the way that its target lies? With no way to go it is not late either."""
        before, self.actual_kib, self.target_kib = self.actual_kib, actual_kib, target_kib
        way = 0 if self.arrived else (1 if target_kib > actual_kib else -1)
        if way == 0 or (actual_kib - before) * way > 0:
            self.stuck = self.stuck and way == 0
            self.moved_s = now_s
        elif now_s - self.moved_s > STUCK_AFTER_S:
            self.stuck = True

    @property
    def arrived(self) -> bool:
        return abs(self.actual_kib - self.target_kib) <= INACCURACY_KIB


def wants_kib(host_free_kib: float, host_target_kib: float, active: Sequence[Domain]) -> list[int]:
    """The size of each active guest at the common fraction of all ranges."""
    takeable = sum([max(0.0, domain.actual_kib - domain.minimum_kib - UNREACHABLE_KIB) for domain in active])
    surplus = max(0.0, host_free_kib + takeable - host_target_kib)
    ranges = sum([domain.maximum_kib - domain.minimum_kib for domain in active])
    gamma = min(1.0, surplus / ranges) if ranges else 0.0
    return [domain.minimum_kib + int(gamma * (domain.maximum_kib - domain.minimum_kib)) for domain in active]


def iteration(host_free_kib: float, host_target_kib: float, domains: Mapping[str, Domain]) -> dict[str, int]:
    """New targets of one iteration: only those that free memory, if there are any."""
    active = {name: domain for name, domain in domains.items() if not domain.stuck}
    wants = dict(zip(active, wants_kib(host_free_kib, host_target_kib, list(active.values())), strict=True))
    freeing = {name: want for name, want in wants.items() if want < active[name].actual_kib - INACCURACY_KIB}
    return {
        name: want for name, want in (freeing or wants).items() if abs(want - active[name].target_kib) > INACCURACY_KIB
    }


def waiting(domains: Iterable[Domain]) -> bool:
    """True if a guest that is not stuck is still on its way."""
    return any(not domain.stuck and not domain.arrived for domain in domains)


class Squeezed:
    """A balance each 10 s, in iterations 1 s apart until all that can move have moved."""

    name = "squeezed"
    buffer_ratio = 0.2  # it knows no buffer: the usual one until its first balance

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._budget_kib = budget_kib
        self._balances = Ticks(BALANCE_PERIOD_S)
        self._iterations = Ticks(ITERATION_PERIOD_S)
        self._unfinished = False
        self._domains: dict[str, Domain] = {}

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        self._balances.take(now_s)
        self._iterations.take(now_s)
        domains = {}
        for vm in vms:
            domain = self._domains.get(vm.name)
            if domain is None:
                domain = Domain(vm.minimum_kib, vm.maximum_kib, vm.assigned_kib, vm.target_kib, now_s)
            domain.minimum_kib, domain.maximum_kib = vm.minimum_kib, vm.maximum_kib
            domain.observe(now_s, vm.assigned_kib, vm.target_kib)
            domains[vm.name] = domain
        self._domains = domains
        told = iteration(self._budget_kib - assigned_kib(vms), HOST_FREE_KIB, domains)
        self._unfinished = bool(told) or waiting(domains.values())
        self._balances.asleep = not told and all(domain.arrived for domain in domains.values())
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        balance_s = self._balances.next_s(now_s, changed)
        return min(balance_s, self._iterations.upcoming_s(now_s) if self._unfinished else inf)
