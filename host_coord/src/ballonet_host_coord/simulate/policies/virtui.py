"""virtui: grow a guest by 30 % when it is 65 % full, shrink it by 10 % when it is 55 % full, each alone. Pure.

It polls each 2 s a statistic that each guest renews each 5 s and that is 5 s old when it can be read. Each new sample
may grow a guest by one hop; a shrink follows the last move of that guest by 10 s at least. A sample taken before a hop
took effect calls for another hop, and a hop of 30 % ends below the band's lower edge, so it hunts. There is no host
budget: the engine enforces it.

Choices here: use is total less what could be had without swapping (free memory and page cache), so a guest that swaps
looks 100 % full at most; the minimum is the machine's, for the original's global 8 GiB is more than most recorded
machines have; the grace of 20 s after a boot is for machines that come during the run, those there at the start run.

Re-implemented from a description of the rule; none of the original's code was used. Sizes in KiB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf

from ballonet_host_coord.simulate.vm import Vm

from .sight import all_arrived, apparent_used_kib, within_limits
from .ticks import Ticks

POLL_PERIOD_S = 2.0
SAMPLE_PERIOD_S = 5.0
SAMPLE_AGE_S = 5.0
FULL_RATIO = 0.65
ROOMY_RATIO = 0.55
GROW = 1.30
SHRINK = 0.90
SHRINK_PERIOD_S = 10.0
BOOT_GRACE_S = 20.0
# So many samples alike outlast the grace and the wait before a shrink: nothing more happens by itself.
SETTLED_SAMPLES = 6
# A change smaller than a page is none.
PAGE_KIB = 4


def step(used_ratio: float, since_move_s: float) -> float:
    """The factor on a guest's size after a new sample; 1 to leave it."""
    if used_ratio >= FULL_RATIO:
        return GROW
    if used_ratio <= ROOMY_RATIO and since_move_s >= SHRINK_PERIOD_S:
        return SHRINK
    return 1.0


class Virtui:
    """The poll each 2 s, the samples on their way to it, and each guest's last move."""

    name = "virtui"
    buffer_ratio = 1 / ((FULL_RATIO + ROOMY_RATIO) / 2) - 1  # the middle of the band

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._polls = Ticks(POLL_PERIOD_S)
        self._samplings = Ticks(SAMPLE_PERIOD_S)
        self._samples: deque[tuple[float, dict[str, float]]] = deque()
        """Used ratios with the moment from which they can be read."""
        self._last_sample: dict[str, float] = {}
        self._alike = 0
        self._born_s = dict.fromkeys([vm.name for vm in vms], -inf)
        self._moved_s: dict[str, float] = {}

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        told: dict[str, int] = {}
        if self._samplings.take(now_s) is not None:
            self._sample(now_s, vms)
        if self._polls.take(now_s) is not None:
            sample: dict[str, float] = {}
            while self._samples and self._samples[0][0] <= now_s:
                sample = self._samples.popleft()[1]
            told = self._step(now_s, vms, sample)
        if told:
            self._alike = 0
        self._samplings.asleep = self._alike >= SETTLED_SAMPLES and all_arrived(vms)
        return told

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        if changed:
            self._alike = 0
        sampling_s = self._samplings.next_s(now_s, changed)
        return min(sampling_s, self._polls.upcoming_s(max(now_s, self._samples[0][0])) if self._samples else inf)

    def _sample(self, now_s: float, vms: Sequence[Vm]) -> None:
        sample = {vm.name: apparent_used_kib(vm) / max(1.0, vm.assigned_kib) for vm in vms if not vm.silent}
        self._alike = self._alike + 1 if sample == self._last_sample else 0
        self._last_sample = sample
        self._samples.append((now_s + SAMPLE_AGE_S, sample))
        if len(self._born_s) != len(vms) or any(vm.name not in self._born_s for vm in vms):
            self._born_s = {vm.name: self._born_s.get(vm.name, now_s) for vm in vms}
            self._moved_s = {name: moved_s for name, moved_s in self._moved_s.items() if name in self._born_s}

    def _step(self, now_s: float, vms: Sequence[Vm], sample: Mapping[str, float]) -> dict[str, int]:
        told = {}
        for vm in vms:
            used_ratio = sample.get(vm.name)
            if used_ratio is None or now_s - self._born_s.get(vm.name, now_s) < BOOT_GRACE_S:
                continue
            factor = step(used_ratio, now_s - self._moved_s.get(vm.name, -inf))
            if factor == 1.0:
                continue
            size = within_limits(vm, factor * vm.assigned_kib)
            if abs(size - vm.target_kib) >= PAGE_KIB:
                told[vm.name] = size
                self._moved_s[vm.name] = now_s
        return told
