"""oVirt MOM's balloon rules, in libvirt mode and in vdsm mode. Pure.

MOM has no budget. Each policy turn compares the host's mean free share H with 20 %. Below it every guest may lose up to
5 % of its size until its own free share is H (so the guests hold back as much as the host lacks; at 5 % and below
the wanted share is negative and guests are made to swap). Otherwise every guest may grow to what keeps its own share
of free memory at 20 % (vdsm: at H). All guests follow the same rule at the same moment and overshoot together. The
means, over 10 samples, are the only damping on growth.

**`-full`**: the threshold is a reserve of the fifth part of the host, and a baseline must not lose by that alone. The
rule keeps its shape on a host of budget / (1 - 0.20), so that "20 % free" means that the budget is exhausted. No
memory exists behind the budget for MOM to overshoot into, so here the host counts what is promised (a guest that waits
for its target counts at the target): otherwise H could never fall below 20 % and MOM would never shrink anything.

Re-implemented from a description of the rules; none of the original's code was used. Sizes in KiB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ballonet_host_coord.simulate.vm import Vm

from .sight import all_arrived, assigned_kib, free_kib, promised_kib
from .ticks import Ticks

# Below this share of free host memory MOM shrinks guests; also the share that a guest shall keep free.
SHORT_RATIO = 0.20
# At or below this share it makes guests swap.
CRITICAL_RATIO = 0.05
# Largest step down, least step up, and the smallest change worth a command, all of the present size.
SHRINK_AT_MOST = 0.95
GROW_AT_LEAST = 1.05
WORTH_A_COMMAND = 0.0025
HISTORY = 10


@dataclass(frozen=True, slots=True)
class Rules:
    """One of MOM's two shipped sets of rules, with its clock."""

    sample_period_s: float
    policy_period_s: float
    grow_to_host_share: bool
    """Growing guests keep the host's free share free (vdsm) instead of 20 % (libvirt)."""
    lift_to_minimum: bool
    stale_statistics_stand: bool
    """A silent guest's last reading is used on (libvirt); otherwise the guest is left alone (vdsm)."""


LIBVIRT = Rules(5.0, 10.0, grow_to_host_share=False, lift_to_minimum=False, stale_statistics_stand=True)
VDSM = Rules(15.0, 15.0, grow_to_host_share=True, lift_to_minimum=True, stale_statistics_stand=False)


def target_kib(
    rules: Rules, host_free_ratio: float, size_kib: float, used_kib: float, minimum_kib: float, maximum_kib: float
) -> float | None:
    """The size one guest is told to take, None for no command. `host_free_ratio` and `used_kib` are means."""
    share = host_free_ratio - CRITICAL_RATIO if host_free_ratio <= CRITICAL_RATIO else host_free_ratio
    told: float | None = None
    if host_free_ratio < SHORT_RATIO:
        size = max(SHRINK_AT_MOST * size_kib, max(minimum_kib, used_kib + share * size_kib))
        if size <= size_kib and abs(size - size_kib) > WORTH_A_COMMAND * size_kib:
            told = size
    elif size_kib < maximum_kib:
        spare = share if rules.grow_to_host_share else SHORT_RATIO
        size = min(maximum_kib, max(GROW_AT_LEAST * size_kib, max(minimum_kib, used_kib + spare * size_kib)))
        if abs(size - size_kib) > WORTH_A_COMMAND * size_kib:
            told = size
    if rules.lift_to_minimum and size_kib < minimum_kib:
        told = minimum_kib
    return told


class _History:
    """The last samples of one guest, with their sums. Whole KiB, so that the sums stay exact."""

    __slots__ = ("free_kib", "fresh", "samples", "size_kib", "sum_free_kib", "sum_size_kib")

    def __init__(self) -> None:
        self.samples: deque[tuple[int, int]] = deque()
        self.size_kib = self.free_kib = self.sum_size_kib = self.sum_free_kib = 0
        self.fresh = False

    def add(self, size_kib: int, free_kib: int) -> bool:
        """True if the sample is the same as the one before it."""
        samples = self.samples
        if len(samples) == HISTORY:
            old_size, old_free = samples.popleft()
            self.sum_size_kib -= old_size
            self.sum_free_kib -= old_free
        samples.append((size_kib, free_kib))
        self.sum_size_kib += size_kib
        self.sum_free_kib += free_kib
        same = size_kib == self.size_kib and free_kib == self.free_kib
        self.size_kib, self.free_kib = size_kib, free_kib
        return same

    def mean_used_kib(self) -> float:
        return (self.sum_size_kib - self.sum_free_kib) / len(self.samples)


class Mom:
    """MOM around its rules: samples, ten of history, and a policy turn at every other sample or at each."""

    buffer_ratio = 0.25  # 20 % of a guest's size free is 25 % over what it uses

    def __init__(self, name: str, rules: Rules, full: bool = False) -> None:
        self.name = name
        self._rules = rules
        self._full = full
        self._ticks = Ticks(rules.sample_period_s)
        self._samples_per_policy = round(rules.policy_period_s / rules.sample_period_s)

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._host_kib = budget_kib / (1 - SHORT_RATIO) if self._full else float(budget_kib)
        self._host_free: deque[int] = deque(maxlen=HISTORY)
        self._histories: dict[str, _History] = {}
        self._same_samples = 0

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        tick = self._ticks.take(now_s)
        if tick is None:
            return {}
        self._same_samples = self._same_samples + 1 if self._sample(vms) else 0
        if len(self._host_free) == 1 or tick % self._samples_per_policy:  # a period passes before the first decision
            return {}
        targets = self._decide(vms)
        self._ticks.asleep = not targets and self._same_samples >= HISTORY and all_arrived(vms)
        return targets

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        return self._ticks.next_s(now_s, changed)

    def _sample(self, vms: Sequence[Vm]) -> bool:
        """True if every reading is the same as at the last sample."""
        histories = self._histories
        if len(histories) > len(vms):
            here = {vm.name for vm in vms}
            self._histories = histories = {name: kept for name, kept in histories.items() if name in here}
        same = True
        for vm in vms:
            history = histories.get(vm.name)
            if history is None:
                history = histories[vm.name] = _History()
            size = int(vm.assigned_kib)
            if not vm.silent:
                history.fresh = True
                same &= history.add(size, int(free_kib(vm)))
            elif self._rules.stale_statistics_stand and history.samples:
                same &= history.add(size, history.free_kib)
            else:
                history.fresh = False
        used = promised_kib(vms) if self._full else assigned_kib(vms)
        free = int(self._host_kib - used)
        same &= bool(self._host_free) and self._host_free[-1] == free
        self._host_free.append(free)
        return same

    def _decide(self, vms: Sequence[Vm]) -> dict[str, int]:
        host_free_ratio = sum(self._host_free) / len(self._host_free) / self._host_kib
        targets = {}
        for vm in vms:
            history = self._histories[vm.name]
            if not history.fresh:
                continue
            told = target_kib(
                self._rules, host_free_ratio, history.size_kib, history.mean_used_kib(), vm.minimum_kib, vm.maximum_kib
            )
            if told is not None and int(told) != vm.target_kib:
                targets[vm.name] = int(told)
        return targets
