"""Machines whose balloons follow at once or at a speed, and a clock that gives a policy the turns it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from ballonet_host_coord.simulate.vm import Policy, Vm

MIB = 1 << 10
GIB = 1 << 20


def make_vm(name: str, size: float, used: float, maximum: float = 16, minimum: float = 0.25, weight: int = 5000) -> Vm:
    """A machine at rest; all sizes in GiB."""
    size_kib = int(size * GIB)
    vm = Vm(name, int(minimum * GIB), int(maximum * GIB), weight, assigned_kib=float(size_kib), target_kib=size_kib)
    use(vm, used)
    return vm


def use(vm: Vm, used: float) -> None:
    """From now on it uses so many GiB, and says so unless it is silent."""
    vm.used_kib = int(used * GIB)
    vm.demand_kib = min(vm.maximum_kib, max(vm.used_kib, vm.minimum_kib))
    if not vm.silent:
        vm.shows_kib = vm.demand_kib


class Stepping:
    """Runs one policy. `log` holds what it commanded: (time, targets that differ from those before)."""

    def __init__(
        self,
        policy: Policy,
        budget: float,
        vms: Sequence[Vm],
        gib_per_s: float = inf,
        hold: Callable[[], None] = lambda: None,
        awake: bool = False,
        capped: bool = False,
    ) -> None:
        """`hold` runs after each movement of memory; `capped`: only free memory is given, by order of machines.

        An `awake` policy is told of a change at each turn.
        """
        self.policy, self.vms, self.now_s = policy, list(vms), 0.0
        self.log: list[tuple[float, dict[str, int]]] = []
        self.turns = 0
        self._gib_per_s, self._hold, self._awake = gib_per_s, hold, awake
        self._most_kib = budget * GIB if capped else inf
        policy.begin(0.0, int(budget * GIB), self.vms)
        self._turn_s = policy.next_turn_s(0.0, True)

    def run(self, until_s: float) -> None:
        """All turns up to and with `until_s`."""
        while self._turn_s <= until_s:
            self._move(self._turn_s - self.now_s)
            self.now_s = self._turn_s
            told = self.policy.turn(self.now_s, self.vms)
            self.turns += 1
            self._obey(told)
            self._turn_s = self.policy.next_turn_s(self.now_s, self._awake)
            assert self._turn_s > self.now_s
        self._move(until_s - self.now_s)
        self.now_s = until_s

    def change(self, *changes: tuple[Vm, float]) -> None:
        """Machines use so many GiB from now on; one that was not there comes."""
        for vm, used in changes:
            use(vm, used)
            if vm not in self.vms:
                self.vms.append(vm)
        self._turn_s = self.policy.next_turn_s(self.now_s, True)

    def first_s(self, reached: Callable[[], bool], step_s: float = 1.0, within_s: float = 1000.0) -> float:
        """How long from now until `reached()`."""
        start_s = self.now_s
        while not reached():
            assert self.now_s - start_s < within_s, "never"
            self.run(self.now_s + step_s)
        return self.now_s - start_s

    def _obey(self, told: Mapping[str, int]) -> None:
        by_name = {vm.name: vm for vm in self.vms}
        new = {name: size for name, size in told.items() if size != by_name[name].target_kib}
        for name, size in new.items():
            by_name[name].target_kib = size
        if new:
            self.log.append((self.now_s, new))
        self._move(0.0)

    def _move(self, lasted_s: float) -> None:
        reach_kib = inf if self._gib_per_s == inf else self._gib_per_s * GIB * lasted_s
        for vm in sorted(self.vms, key=lambda vm: vm.assigned_kib < vm.target_kib):
            if vm.follows:
                free_kib = max(0.0, self._most_kib - sum(vm.assigned_kib for vm in self.vms))
                way = vm.target_kib - vm.assigned_kib
                vm.assigned_kib += max(-reach_kib, min(reach_kib, way, free_kib))
        self._hold()
