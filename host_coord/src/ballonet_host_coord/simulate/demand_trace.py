"""Recorded demand of machines over time, and what an ideal host would need for it: the scoring rule's demand. Pure.

A trace is a list of steps; what a step says holds until the next one. Where the provisioned memory of a machine
changes over time (resizes, restarts), each step carries its own, and with it the machine's maximum and floor; what was
used above it is clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import merge
from itertools import pairwise
from statistics import median
from typing import NamedTuple

_MIB_KIB = 1024

# hv_balloon's `compute_balloon_floor` (Linux, drivers/hv/hv_balloon.c): below so many MiB provisioned, the floor is
# so many MiB and one part in so many of the provisioned memory. The last row is for all above.
FLOORS = (
    (128, 8, 2),
    (512, 40, 4),
    (2048, 104, 8),
    (8192, 232, 16),
    (None, 488, 32),
)


@lru_cache(maxsize=4096)
def floor_kib(provisioned_kib: int) -> int:
    """What a machine of this size cannot do without, KiB; never above `provisioned_kib`."""
    for below_mib, base_mib, part in FLOORS:
        if below_mib is None or provisioned_kib < below_mib * _MIB_KIB:
            return min(provisioned_kib, base_mib * _MIB_KIB + provisioned_kib // part)
    raise AssertionError("the last row is for all")


class Step(NamedTuple):
    """From `t_s` on a machine uses `used_kib` and would fill `cached_kib` with page cache (None: not recorded)."""

    t_s: float
    used_kib: int
    cached_kib: int | None
    provisioned_kib: int

    @property
    def demand_kib(self) -> int:
        """What is scored: max(used, floor), never above provisioned."""
        return self.demand_over_kib(floor_kib(self.provisioned_kib))

    def demand_over_kib(self, minimum_kib: int) -> int:
        """The same with a floor that somebody has set."""
        return min(self.provisioned_kib, max(self.used_kib, minimum_kib))


class Sample(NamedTuple):
    """One recorded row; None: not recorded."""

    t_s: float
    used_kib: int | None
    provisioned_kib: int | None
    cached_kib: int | None = None


@dataclass(frozen=True, slots=True)
class DemandTrace:
    """One machine from its first step to `end_s`, when it is gone. Steps differ and their times rise; one at least."""

    name: str
    steps: tuple[Step, ...]
    end_s: float

    @property
    def start_s(self) -> float:
        return self.steps[0].t_s

    @property
    def provisioned_kib(self) -> int:
        """The most that it was ever provisioned with."""
        return max(step.provisioned_kib for step in self.steps)


def trace_of(name: str, steps: Iterable[Step], end_s: float) -> DemandTrace:
    """A trace with each step made valid (used between 0 and provisioned) and repeated ones left out."""
    kept: list[Step] = []
    last: tuple[int, int | None, int] | None = None
    for step in steps:
        t_s, used_kib, cached_kib, provisioned_kib = step
        if not 0 <= used_kib <= provisioned_kib:
            used_kib = max(0, min(used_kib, provisioned_kib))
            step = Step(t_s, used_kib, cached_kib, provisioned_kib)
        says = (used_kib, cached_kib, provisioned_kib)
        if says != last:
            kept.append(step)
            last = says
    return DemandTrace(name, tuple(kept), end_s)


def from_samples(name: str, samples: Sequence[Sample], period_s: float | None = None) -> DemandTrace | None:
    """The demand that samples in order of time show; None when none of them says what was used.

    It ends one period after its last sample: `period_s`, or else the median distance of its samples. A value that is
    missing is the last one; a missing provisioned memory is the largest recorded, or the largest use if none is.
    """
    known = [sample for sample in samples if sample.used_kib is not None]
    if not known:
        return None
    sizes = [sample.provisioned_kib for sample in samples if sample.provisioned_kib is not None]
    peak_kib = max(sizes) if sizes else max(0, max(sample.used_kib or 0 for sample in known))
    if period_s is None:
        period_s = period_of(samples) or 0.0
    steps: list[Step] = []
    cached_kib: int | None = None
    for t_s, used_kib, provisioned_kib, now_cached_kib in known:
        if now_cached_kib is not None:
            cached_kib = now_cached_kib
        steps.append(Step(t_s, used_kib or 0, cached_kib, peak_kib if provisioned_kib is None else provisioned_kib))
    return trace_of(name, steps, samples[-1].t_s + period_s)


def period_of(samples: Sequence[Sample]) -> float | None:
    """The median distance of samples, seconds; None for fewer than two."""
    if len(samples) < 2:
        return None
    return median(after.t_s - before.t_s for before, after in pairwise(samples))


def shifted(trace: DemandTrace, by_s: float) -> DemandTrace:
    """The same machine started `by_s` later (earlier when negative)."""
    return DemandTrace(
        trace.name, tuple(step._replace(t_s=step.t_s + by_s) for step in trace.steps), trace.end_s + by_s
    )


def together(traces: Iterable[DemandTrace]) -> list[DemandTrace]:
    """All machines started at 0: the correlated case."""
    return [shifted(trace, -trace.start_s) for trace in traces]


def window(traces: Iterable[DemandTrace], start_s: float, end_s: float) -> list[DemandTrace]:
    """What happens from `start_s` to `end_s`, with `start_s` as the new 0; machines that do not exist then are left
    out, and those that exist at `start_s` begin with what held then."""
    cut = []
    for trace in traces:
        if trace.end_s <= start_s or trace.start_s >= end_s:
            continue
        before = [step for step in trace.steps if step.t_s <= start_s]
        steps = [before[-1]._replace(t_s=start_s)] if before else []
        steps += [step for step in trace.steps if start_s < step.t_s < end_s]
        cut.append(shifted(replace(trace, steps=tuple(steps), end_s=min(trace.end_s, end_s)), -start_s))
    return cut


def oracle_kib(traces: Iterable[DemandTrace], minimums_kib: Mapping[str, int] | None = None) -> int:
    """The largest sum of demand at any time: what a host needs that moves memory at once and keeps none in reserve.

    `minimums_kib`: by name, the floors that somebody has set.
    """
    minimums_kib = minimums_kib or {}
    peak_kib = sum_kib = 0
    now_s = float("-inf")
    for t_s, change_kib in merge(*(_changes(trace, minimums_kib.get(trace.name)) for trace in traces)):
        if t_s > now_s:
            peak_kib = max(peak_kib, sum_kib)
            now_s = t_s
        sum_kib += change_kib
    return max(peak_kib, sum_kib)


def _changes(trace: DemandTrace, minimum_kib: int | None) -> Iterable[tuple[float, int]]:
    last_kib = 0
    for step in trace.steps:
        demand_kib = step.demand_kib if minimum_kib is None else step.demand_over_kib(minimum_kib)
        yield step.t_s, demand_kib - last_kib
        last_kib = demand_kib
    yield trace.end_s, -last_kib
