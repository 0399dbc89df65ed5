"""Remembers what the guest looked like and says what is wrong with it now.

One `observe` per sample. Three things need more than two samples and live here: how recent the last harm is (an INFLATE
is refused meanwhile), whether to look more often, and the moment of grace for a balloon that moved unannounced. The
hypervisor's command and the DEFLATE that announces it leave the host together and may arrive in either order; a
guest that takes memory back is still short a moment later.

A stall is a harm when the guest is short or reclaims as a whole; it refuses and stops INFLATEs when a task also waited
(pressure.py says why).

Looking more often: each 250 ms for three seconds after a harm, a large change or a step of a move. Where PSI triggers
cannot be armed the same holds while the stall counter rises, and stalls raise the DEMAND from here.
"""

from __future__ import annotations

from ballonet_guest_agent.pressure import (
    SHORTEST_INTERVAL_S,
    Harm,
    counter_harm,
    move_harm,
    scanned,
    self_deflated_kib,
    stall_harm,
    waited,
)
from ballonet_guest_agent.values import increase
from ballonet_guest_agent.want import HotSwap, shortfall_kib
from ballonet_protocol import DemandWhy, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ballonet_guest_agent.actions import Instant
    from ballonet_guest_agent.sample import Sample

#: Share of the trigger's window that may be stalled: 25 ms of 500 by some tasks, 10 ms by all of them.
DEFAULT_SOME_PERMYRIAD, DEFAULT_FULL_PERMYRIAD = 500, 200
#: Sampling while something happens, and for how long after it.
ATTENTIVE_PERIOD_S, ATTENTIVE_FOR_S = 0.25, 3.0
#: Sampling while nothing does: a balloon that moves by itself raises no event, so it has to be looked for.
QUIET_PERIOD_S = 1.0
#: A stall this recent refuses an INFLATE: four windows of the PSI trigger.
PRESSED_FOR_S = 2.0
#: How long after its sign a stall may be reported: two windows of the trigger.
SIGN_HOLDS_S = 1.0
#: How long a balloon may have moved before its DEFLATE arrives.
ANNOUNCEMENT_GRACE_S = 0.2


class Watch:
    """Samples in, harms out."""

    def __init__(self, has_psi_trigger: bool) -> None:
        self.has_psi_trigger = has_psi_trigger
        self.some_permyriad = DEFAULT_SOME_PERMYRIAD
        self.full_permyriad = DEFAULT_FULL_PERMYRIAD
        self.hot_swap = HotSwap()
        self.sample: Sample | None = None
        self.sampled_s = float("-inf")
        self.oom_killed = False
        self.self_moved = False
        #: Was the newest sample compared with the one before it? Not the first, and not one within an instant of it.
        self.compared = False
        self._before: Sample | None = None
        self._before_s = 0.0
        self._harmed_s = float("-inf")
        self._attentive_until_s = float("-inf")
        self._unannounced_s: float | None = None
        self._short = False
        self._scanned_s = self._waited_s = float("-inf")

    def forget(self) -> None:
        """Nobody watched for a while: the next sample is compared with nothing."""
        self._before = None
        self._unannounced_s = None

    def note_harm(self, now_s: float) -> None:
        """Tasks stall now."""
        self._harmed_s = now_s
        self.attend(now_s)

    def stalls(self, now_s: float, in_move: bool) -> bool:
        """Tasks stall, says PSI: is it a harm of the guest? The newest sample was taken after it said so.

        `in_move`: an INFLATE is on its way or just over, and kswapd alone is at work for it.
        """
        self.attend(now_s)
        own = self._short or self._reclaims(now_s)
        hurt = self._short or (own and now_s <= self._waited_s + SIGN_HOLDS_S)
        if hurt:
            self.note_harm(now_s)
        return hurt if in_move else own

    def _reclaims(self, now_s: float) -> bool:
        return now_s <= self._scanned_s + SIGN_HOLDS_S

    def attend(self, now_s: float) -> None:
        """Look more often for a while."""
        self._attentive_until_s = now_s + ATTENTIVE_FOR_S

    def pressed(self, now_s: float) -> bool:
        """Has the guest stalled, or worse, within the last two seconds?"""
        return now_s < self._harmed_s + PRESSED_FOR_S

    def harmed_since(self, then_s: float) -> bool:
        """Was a harm noted after `then_s`?"""
        return self._harmed_s > then_s

    def due_s(self, report_period_s: float) -> float:
        """When to take the next sample."""
        period_s = min(report_period_s, QUIET_PERIOD_S)
        if self.sampled_s < self._attentive_until_s:
            period_s = min(period_s, ATTENTIVE_PERIOD_S)
        due_s = self.sampled_s + period_s
        if self._unannounced_s is not None:
            due_s = min(due_s, self._unannounced_s + ANNOUNCEMENT_GRACE_S)
        return due_s

    def observe(
        self, sample: Sample, now: Instant, ram_kib: int, granted_kib: int | None, in_move: bool = False
    ) -> list[Harm]:
        """Compare with the sample before; the harms found, in no promised order. `in_move` as in `stalls`.

        Two samples within an instant make rates of single events: the earlier one stays to compare the next with.
        """
        before, interval_s = self._before, now.boottime_s - self._before_s
        newest = None if before is None else self.sample
        self.sample, self.sampled_s = sample, now.monotonic_s
        self.oom_killed = self.self_moved = False
        self._short = short = shortfall_kib(sample, ram_kib) > 0
        if newest is None or scanned(newest, sample):
            self._scanned_s = now.monotonic_s
        if newest is None or waited(newest, sample):
            self._waited_s = now.monotonic_s
        # Also of a sample that is compared with nothing: the end of the grace asked for it, and would ask for ever.
        harms = self._self_move(sample, now, ram_kib, granted_kib, short)
        self.compared = before is not None and interval_s >= SHORTEST_INTERVAL_S
        if before is None or self.compared:
            self._before, self._before_s = sample, now.boottime_s
        if before is not None and self.compared:
            if self._unannounced_s is None and self_deflated_kib(before, sample, ram_kib, granted_kib):
                self._unannounced_s = now.monotonic_s
            harms += self._compare(before, sample, interval_s, now.monotonic_s, in_move)
        if any(harm.severity >= Severity.STALLING and harm.why != DemandWhy.PSI for harm in harms):
            self.note_harm(now.monotonic_s)
        elif harms:
            self.attend(now.monotonic_s)
        return harms

    def _compare(self, before: Sample, sample: Sample, interval_s: float, now_s: float, in_move: bool) -> list[Harm]:
        swapped = increase(before.vm.swap_in_pages, sample.vm.swap_in_pages)
        self.hot_swap.add((swapped or 0) * sample.page_kib, interval_s)
        self.oom_killed = bool(increase(before.vm.oom_kills, sample.vm.oom_kills))
        harms = []
        stalled = stall_harm(before, sample, interval_s, self.some_permyriad, self.full_permyriad)
        if stalled is not None:
            if self.stalls(now_s, in_move) and not self.has_psi_trigger:
                harms.append(stalled)
        elif not self.has_psi_trigger and self._rising(before, sample):
            self.attend(now_s)
        counted = counter_harm(before, sample, interval_s, self._short)
        if counted is None and in_move and self._reclaims(now_s):
            counted = move_harm(before, sample, interval_s)
        if counted is not None:
            harms.append(counted)
        return harms

    @staticmethod
    def _rising(before: Sample, sample: Sample) -> bool:
        if before.psi is None or sample.psi is None:
            return False
        return bool(increase(before.psi.some_us, sample.psi.some_us))

    def _self_move(
        self, sample: Sample, now: Instant, ram_kib: int, granted_kib: int | None, short: bool
    ) -> list[Harm]:
        """Was an unexplained deflation announced meanwhile, or is its grace over?"""
        since_s = self._unannounced_s
        if since_s is None:
            return []
        if granted_kib is not None and granted_kib >= ram_kib - (sample.balloon_kib or 0):
            self._unannounced_s = None
            return []
        if now.monotonic_s < since_s + ANNOUNCEMENT_GRACE_S:
            return []
        self._unannounced_s = None
        self.self_moved = True
        return [Harm(DemandWhy.OOM, Severity.STARVING if short else Severity.SOON)]
