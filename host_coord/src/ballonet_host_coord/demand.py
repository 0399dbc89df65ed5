"""What a guest needs, folded from its reports: use, a bounded share of its commitment, and harm.

Three signals, since each alone is known to fail (`DESIGN.md`, section 3):

* **use** is the present: what the guest's kernel could not give back now. The balloon is subtracted (without that an
  idle guest with a full balloon looks busy), memory that was swapped out and is being read back is added.
* **committed** looks ahead: programs have asked for it. It overstates (reserved and never touched, doubled by a
  fork), so it may lift demand above use by no more than the buffer.
* **harm** is the proof: the guest's own DEMAND, or stalls that nothing of ours explains.

Fast up, slow down. While use rises it is extrapolated over `LEAD_S`, the time a deflate takes to arrive. What the guest
held before is remembered in `held` and halves in a time that the slider sets; the arbiter gives that part to
another guest at once when that one is short.

All of it is a fold: `observe(estimate, report, ...)` for each report, `demand_at(estimate, wish, now)` to read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .learned import Learned
from .model import Demand, DemandModel, GuestSettings, UsageReport, VmFacts, Wish
from .slider import DEFAULT_SLIDER, Tuning, tuning

DEFAULT_TUNING = tuning(DEFAULT_SLIDER)

LEAD_S = 2.0
"""A deflate is decided within one report (1 s) and carried out within another: that far ahead demand must look."""

LEAD_MOST_RATIO = 0.25
"""Of RAM: no extrapolation asks for more than this at once; the next report is a second away."""

FULL_RATIO = 1 / 64
"""A guest that had less than this left used what it was given; how fast it then fills more shows no trend."""

FORGET_RATIO = 0.01
"""A remainder of the past below 1 % of demand is dropped, so that constant reports reach a fixed point."""

HOT_SWAP_HALF_LIFE_S = 30.0
"""Swap read back within the last minute belongs to the working set; older reads were a visit."""

WISH_FRESH_S = 3.0
"""An agent repeats its DEMAND while it is short (up to four a second); three report periods without one end it."""

URGENT_COMMITTED_RATIO = 2
"""A guest that is short says so, and its own step cannot tell how much it lacks; its commitment can. Now that it has
shown that it uses what it has committed, this is believed, up to twice what it uses: more would be a reservation."""

HARM_AVAILABLE_RATIO = 0.15
"""Stalls with more than 15 % of the guest available come from a limit inside it; more memory would not cure them."""

HARM_STEP_RATIO = 1 / 8
HARM_STEP_LEAST_KIB = 65536
"""A guest that stalls gets an eighth of its size more, at least 64 MiB: several seconds' allocation of a busy one."""

CACHE_HALF_LIFE_S = 300.0
"""Cache of which nothing is missed stops ranking with the buffer by halves in this time, down to the slider's share:
what a guest reads again within minutes is then still there."""

BEYOND_STEPS = {1: (32768, 32), 2: (65536, 16), 3: (131072, 8)}
BEYOND_NEAR_KIB = 4096
"""A guest that asks for all it knows of: the next step by severity, at least so much or this part of its size."""

PAGE_KIB = 4
"""The kernel counts refaults in pages; other sizes than 4 KiB only make this a stricter measure."""

REFAULT_KIB_PER_S = 4096
"""Pages read again that were dropped shortly before: 4 MiB a second keeps a disk busy, and proves that the cache is
too small. It then ranks with the buffer as a whole."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the fold remembers between two reports."""

    report: UsageReport
    size_kib: int
    """What the guest had when it reported: RAM less its balloon."""
    use_kib: int
    committed_kib: int | None
    rise_kib_per_s: float
    trend_kib_per_s: float
    """The rise that has lasted for two reports: a single step up is over when it is seen."""
    hot_swap_kib: float
    held_kib: float
    psi_some_ratio: float | None
    psi_full_ratio: float | None
    harmed: bool
    cache_kept_ratio: float = 1.0
    """The share of the file cache that has shown itself worth keeping, or has not shown the opposite yet."""
    model: DemandModel = DemandModel.BALLONET
    reserve_kib: int = 0
    """What its kernel keeps before it counts."""
    here_kib: int = 0
    """What it had with the balloon empty when it reported."""
    plugged_kib: int = 0


def observe(
    before: Estimate | None,
    report: UsageReport,
    vm: VmFacts,
    settings: GuestSettings,
    moved_by_us: bool,
    tuned: Tuning = DEFAULT_TUNING,
    model: DemandModel = DemandModel.BALLONET,
) -> Estimate:
    """Fold one report in. `moved_by_us`: our own shrink is under way, so stalls prove nothing (invariant I9)."""
    reserve_kib = _reserve_kib(before, report, vm)
    balloon_kib = report.balloon_kib if report.balloon_kib is not None else vm.balloon_kib
    here_kib = vm.ram_kib if vm.hotplug is None else report.total_kib + reserve_kib
    size_kib = max(0, here_kib - balloon_kib)
    hot_swap_kib = 0.0
    rise_kib_per_s = 0.0
    psi_some = psi_full = None
    interval_s = 0.0
    if before is not None and _follows(before.report, report):
        interval_s = max(0.001, (report.boottime_ms - before.report.boottime_ms) / 1000)
        hot_swap_kib = before.hot_swap_kib * 0.5 ** (interval_s / HOT_SWAP_HALF_LIFE_S)
        hot_swap_kib += _grown(before.report.swap_in_kib, report.swap_in_kib)
        psi_some = _ratio(before.report.psi_some_us, report.psi_some_us, interval_s)
        psi_full = _ratio(before.report.psi_full_us, report.psi_full_us, interval_s)
    if report.swap_total_kib is not None and report.swap_free_kib is not None:
        hot_swap_kib = min(hot_swap_kib, max(0, report.swap_total_kib - report.swap_free_kib))
    unavailable_kib = max(0, size_kib - reserve_kib - report.available_kib)
    use_kib = min(vm.ram_kib, unavailable_kib + reserve_kib + int(hot_swap_kib))
    if before is not None and interval_s and before.report.available_kib > before.size_kib * FULL_RATIO:
        rise_kib_per_s = max(0.0, (use_kib - before.use_kib) / interval_s)
    harmed = (
        not moved_by_us
        and psi_some is not None
        and psi_some > tuned.harm_psi_some_ratio
        and report.available_kib < size_kib * HARM_AVAILABLE_RATIO
    )
    estimate = Estimate(
        report=report,
        size_kib=size_kib,
        use_kib=use_kib,
        committed_kib=None if report.committed_kib is None else report.committed_kib + reserve_kib,
        rise_kib_per_s=rise_kib_per_s,
        trend_kib_per_s=min(rise_kib_per_s, before.rise_kib_per_s) if before is not None else 0.0,
        hot_swap_kib=hot_swap_kib,
        held_kib=0.0,
        psi_some_ratio=psi_some,
        psi_full_ratio=psi_full,
        harmed=harmed,
        cache_kept_ratio=_cache_kept_ratio(before, report, interval_s, tuned),
        model=model,
        reserve_kib=reserve_kib,
        here_kib=here_kib,
        plugged_kib=vm.here_kib - vm.boot_kib,
    )
    now_kib = _demand_kib(estimate, vm, settings)
    held_kib = float(now_kib)
    if before is not None:
        passed_s = max(0.0, report.arrived_s - before.report.arrived_s)
        held_kib = _held_kib(before.held_kib, now_kib, passed_s, tuned.held_half_life_s)
    return replace(estimate, held_kib=held_kib)


def demand_at(
    estimate: Estimate,
    wish: Wish | None,
    vm: VmFacts,
    settings: GuestSettings,
    now_s: float,
    tuned: Tuning = DEFAULT_TUNING,
) -> Demand:
    """What the guest needs at `now_s`. A wish that blames one of our moves (`gen`) is not demand yet (I9)."""
    demand_kib = _demand_kib(estimate, vm, settings)
    urgent = estimate.harmed
    if wish is not None and wish.gen is None and now_s - wish.arrived_s <= WISH_FRESH_S:
        demand_kib = max(demand_kib, _wished_kib(estimate, wish, vm))
        urgent = True
    passed_s = max(0.0, now_s - estimate.report.arrived_s)
    return Demand(
        demand_kib=demand_kib,
        held_kib=int(_held_kib(estimate.held_kib, demand_kib, passed_s, tuned.held_half_life_s)),
        use_kib=estimate.use_kib,
        committed_kib=estimate.committed_kib,
        cache_kib=int((estimate.report.file_kib or 0) * max(estimate.cache_kept_ratio, tuned.cache_kept_ratio)),
        urgent=urgent,
        psi_some_ratio=estimate.psi_some_ratio,
        psi_full_ratio=estimate.psi_full_ratio,
    )


def remember(estimate: Estimate, wish: Wish, vm: VmFacts) -> Estimate:
    """A wish that was granted or not: it stays in `held`, so that its memory is not taken back the moment it ends."""
    if wish.gen is not None:
        return estimate
    return replace(estimate, held_kib=max(estimate.held_kib, float(_wished_kib(estimate, wish, vm))))


def recall(estimate: Estimate, learned: Learned, vm: VmFacts, tuned: Tuning) -> Estimate:
    """The first estimate of a coordinator, with what the one before had learned of the same boot, faded meanwhile."""
    passed_s = max(0.0, estimate.report.arrived_s - learned.at_s)
    past_kib = min(learned.held_kib, float(vm.ram_kib))
    held_kib = _held_kib(past_kib, int(estimate.held_kib), passed_s, tuned.held_half_life_s)
    cache_kept_ratio = max(tuned.cache_kept_ratio, learned.cache_kept_ratio * 0.5 ** (passed_s / CACHE_HALF_LIFE_S))
    return replace(estimate, held_kib=max(estimate.held_kib, held_kib), cache_kept_ratio=cache_kept_ratio)


def hidden_kib(estimate: Estimate, vm: VmFacts) -> int:
    """What the agent does not count of the guest's size: it takes the larger of its boot memory, which HELLO told it,
    and of what its kernel counts for all there is. 0 without a virtio-mem device."""
    if vm.hotplug is None:
        return 0
    return max(0, estimate.here_kib - max(vm.boot_kib, estimate.report.total_kib))


def beyond(wish: Wish, estimate: Estimate, vm: VmFacts) -> Wish:
    """An agent's wish on the hypervisor's scale. It asks for no more than all that it knows of; with a virtio-mem
    device that can grow this means a step more, as large as the agent's own steps."""
    if vm.hotplug is None:
        return wish
    want_kib = wish.want_kib + hidden_kib(estimate, vm)
    if want_kib >= estimate.here_kib - BEYOND_NEAR_KIB:
        least_kib, part = BEYOND_STEPS[min(3, max(1, wish.severity))]
        want_kib = estimate.here_kib + max(least_kib, estimate.here_kib // part)
    return replace(wish, want_kib=want_kib)


def _wished_kib(estimate: Estimate, wish: Wish, vm: VmFacts) -> int:
    """What a guest that asks is believed to need: its wish, or what it has committed."""
    proven_kib = min(estimate.committed_kib or 0, estimate.use_kib * URGENT_COMMITTED_RATIO)
    return min(max(wish.want_kib, proven_kib), vm.ram_kib)


def _demand_kib(estimate: Estimate, vm: VmFacts, settings: GuestSettings) -> int:
    kib = estimate.use_kib
    if estimate.model is DemandModel.HYPERV:
        return min(kib if estimate.committed_kib is None else estimate.committed_kib, vm.ram_kib)
    if estimate.committed_kib is not None:
        bound_kib = estimate.use_kib + estimate.use_kib * settings.buffer_percent // 100
        kib = max(kib, min(estimate.committed_kib, bound_kib))
    lead_kib = min(estimate.trend_kib_per_s * LEAD_S, vm.ram_kib * LEAD_MOST_RATIO)
    kib = max(kib, estimate.use_kib + int(lead_kib))
    if estimate.harmed:
        step_kib = max(HARM_STEP_LEAST_KIB, int(estimate.size_kib * HARM_STEP_RATIO))
        kib = max(kib, estimate.size_kib + step_kib)
    return min(kib, vm.ram_kib)


def _reserve_kib(before: Estimate | None, report: UsageReport, vm: VmFacts) -> int:
    """What the guest's kernel keeps before it counts: constant for a boot.

    With a virtio-mem device it cannot be told from memory that is plugged and not counted yet, or was counted before it
    was unplugged: then what was seen before holds. Memory that the guest does not put online is never its reserve.
    """
    reserve_kib = max(0, vm.here_kib - report.total_kib)
    if vm.hotplug is None or before is None:
        return reserve_kib
    settled = vm.hotplug.requested_kib == vm.hotplug.plugged_kib == before.plugged_kib
    return min(reserve_kib, before.reserve_kib) if settled else before.reserve_kib


def _held_kib(held_kib: float, demand_kib: int, passed_s: float, half_life_s: float) -> float:
    past_kib = (held_kib - demand_kib) * 0.5 ** (passed_s / half_life_s)
    return demand_kib + past_kib if past_kib > demand_kib * FORGET_RATIO else float(demand_kib)


def _cache_kept_ratio(
    before: Estimate | None, report: UsageReport, interval_s: float, tuned: Tuning
) -> float:
    """Active cache is protected until refaults show that it is not needed; where none are told it is, by a share."""
    if before is None or not interval_s:
        return 1.0
    if report.refaults is None:
        return tuned.cache_kept_ratio
    refaulted_kib = _grown(before.report.refaults, report.refaults) * PAGE_KIB
    if refaulted_kib / interval_s > REFAULT_KIB_PER_S:
        return 1.0
    faded_ratio: float = before.cache_kept_ratio * 0.5 ** (interval_s / CACHE_HALF_LIFE_S)
    return max(tuned.cache_kept_ratio, faded_ratio)


def _follows(before: UsageReport, report: UsageReport) -> bool:
    """Counters and rates need two reports of one boot and one source, in order."""
    return before.kind is report.kind and report.boottime_ms > before.boottime_ms


def _grown(before: int | None, after: int | None) -> int:
    return max(0, after - before) if before is not None and after is not None else 0


def _ratio(before_us: int | None, after_us: int | None, interval_s: float) -> float | None:
    if before_us is None or after_us is None or after_us < before_us:
        return None
    return min(1.0, (after_us - before_us) / (interval_s * 1_000_000))
