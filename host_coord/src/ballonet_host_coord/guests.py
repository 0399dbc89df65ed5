"""The coordinator's record of one guest: facts of every source meet here and leave as a `GuestSnapshot`.

The record knows when facts belong to one boot. A new boot (start, reset, incoming migration) throws away what the last
one said: reports, estimate, consent and the belief in the balloon's `actual`. Everything that enters is a
validated value; the record does no IO and reads no clock.
"""

from __future__ import annotations

from dataclasses import replace

from ballonet_protocol.limits import SETTLING_S

from .booking import book, boot_answered
from .demand import DEFAULT_TUNING, Estimate, beyond, demand_at, hidden_kib, observe, recall, remember
from .hotplug import grown_kib
from .learned import Learned
from .ledger import TAKEN_FOR_ITS_OWN, Ledger
from .model import (
    AgentFacts,
    DemandModel,
    GuestSettings,
    GuestSnapshot,
    LinkState,
    Migration,
    ReportKind,
    Residency,
    RunState,
    SetTarget,
    UsageReport,
    VmFacts,
    Wish,
)
from .refilled import above_since_s
from .session import AgentSession

AGENT_GONE_S = 60.0
"""An agent that was silent this long is gone: until then its guest is held, afterwards balloon statistics judge."""

PAUSED = "paused by the operator"
GREW_SAID_S = 600.0
"""How long it is said that a guest grew without us."""

TAKEN_BACK_WHY = 5
TAKEN_BACK_SEVERITY = 2


class GuestRecord:
    """One guest. `vm_read`, `vm_lost`, `reported` and `wished` are the ways in, `snapshot` the way out."""

    def __init__(self, settings: GuestSettings, session: AgentSession, ledger: Ledger, observe: bool = False
    ) -> None:
        self.settings = settings
        self.session = session
        self._ledger = ledger
        self.observe = observe
        """Nothing is moved: a new boot gets no startup target."""
        self.vm = VmFacts(RunState.ABSENT)
        self.residency: Residency | None = None
        self.released = False
        self.paused = False
        self.yielded = ""
        """What another mover did that is given way to; empty where nobody is."""
        self.tuned = DEFAULT_TUNING
        self.demand_model = DemandModel.BALLONET
        self.detail = "not seen yet"
        self.limit_kib: int | None = None
        """Of its QEMU's cgroup, where we have set one."""
        self.limit_fault = ""
        self.notes: tuple[str, ...] = ()
        """What of its settings could not be taken as it was given."""
        self.learned: Learned | None = None
        """What a coordinator before us has learned of it, until its first report shows which boot it is."""
        self._grew = ""
        self._grew_s = float("-inf")
        self._unseen = True
        self._seen = False
        self._answered = False
        self._ran_s = float("-inf")
        """When a machine that waited ran its first instruction: its boot began then, not with its process."""
        self._above_since_s: float | None = None
        self._estimate: Estimate | None = None
        self._report: UsageReport | None = None
        self._agent_report_s = float("-inf")
        self._wish: Wish | None = None
        self._needs: Wish | None = None
        """The last one that is a need. Its word that its balloon moved is none before its size is known."""
        self._statistics_s = float("-inf")
        self._ordered_kib: int | None = None
        """The target on its way to the hypervisor, which has not taken it yet as far as we know."""
        self._in_force_kib = 0
        """The most that the hypervisor may have as its target meanwhile."""

    @property
    def said(self) -> str:
        """For the guest's line in `status`; empty when there is nothing to say."""
        said = dict.fromkeys((self.detail, self.limit_fault, self._grew, *self.notes))
        return "; ".join(text for text in said if text)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def hidden_kib(self) -> int:
        """What its agent does not know of its size: it is spoken to in sizes that are smaller by this."""
        return hidden_kib(self._estimate, self.vm) if self._estimate is not None else 0

    @property
    def waits_for_size(self) -> bool:
        """It has told of a move, and its size was not read since."""
        return self._wish is not None and self._wish.is_before(self.vm)

    @property
    def is_unseen(self) -> bool:
        """Nobody has looked yet."""
        return self._unseen

    # --- facts in ----------------------------------------------------------------------------------------

    def vm_read(self, vm: VmFacts, residency: Residency | None, now_s: float) -> SetTarget | None:
        """Take what the hypervisor and the host's kernel say. A new boot may want its startup target set."""
        command = None
        # The guest writes `actual`: it is held within what a size can be before anything counts with it (I8).
        plugged_kib = vm.here_kib - vm.boot_kib
        vm = replace(vm, actual_kib=min(max(plugged_kib, vm.actual_kib), vm.here_kib))
        if not self._seen or vm.boot != self.vm.boot:
            reset = vm.qemu_pid is not None and vm.qemu_pid == self.vm.qemu_pid
            if not reset:
                self._ordered_kib, self._in_force_kib = None, 0
            # Who is left alone keeps what a new process gives it, all: at a startup size nobody would let it grow.
            left = bool(vm.hands_off or self.yielded or self.paused)
            goes_on = self._goes_on(vm, now_s)
            if left and not reset and not goes_on:
                self._ledger.forget(self.name)  # what was under way in the process before
            # A reset leaves the target in force, the operator's as well.
            adopted = self.observe or left or (reset and self.released) or goes_on
            self._forget_boot()
            if self._seen:
                self.session.renewed(vm.boot_kib, now_s)
            command = self._ledger.began_boot(self.name, vm.boot, self._startup_kib(vm), adopted)
        if self.vm.run_state is RunState.PRELAUNCH and vm.run_state is RunState.RUNNING:
            self._ran_s = now_s
        self._seen, self._unseen = True, False
        self.vm = replace(vm, boot_began_s=max(vm.boot_began_s, self._ran_s))
        self.residency = residency
        unwatched = residency is None and vm.run_state is not RunState.SHUTDOWN
        self.detail = "residency unknown: booked by its balloon's word alone" if unwatched else ""
        self._answered = self._answered or boot_answered(self.vm, self._agent_report())
        self._above_since_s = above_since_s(self._above_since_s, self.vm, residency, self._answered, now_s)
        if now_s - self._grew_s >= GREW_SAID_S:
            self._grew = ""
        self._take_statistics(now_s)
        self._take_need()
        return command

    def served(self) -> SetTarget | None:
        """From now on its memory is moved, which was only looked at: one that waits to start wants its startup target
        first."""
        vm = self.vm
        left = bool(vm.hands_off or self.yielded or self.paused)
        if not self._seen or left or vm.run_state is not RunState.PRELAUNCH:
            return None
        return self._ledger.began_boot(self.name, vm.boot, self._startup_kib(vm), adopted=False)

    def vm_lost(
        self, alive: bool, detail: str, residency: Residency | None = None, qemu_pid: int | None = None
    ) -> None:
        """The hypervisor does not answer. A process that is still there stays booked as it was; another one
        (`qemu_pid`) that has not answered yet is booked without a word of its own."""
        self.detail = detail
        self._unseen = False
        if not alive or (qemu_pid is not None and qemu_pid != self.vm.qemu_pid):
            self._forget_boot()
            self._ordered_kib, self._in_force_kib = None, 0
            self._ledger.forget(self.name)
            self.residency = None
            self.vm = VmFacts(RunState.ABSENT, boot=self.vm.boot)
        if alive:
            self.vm = replace(self.vm, run_state=RunState.UNREACHABLE, qemu_pid=qemu_pid or self.vm.qemu_pid)
            self.residency = residency or self.residency  # the kernel answers for a monitor that does not (I8)

    def reported(self, report: UsageReport) -> None:
        """Fold a report in (both sources come through here)."""
        if self.vm.ram_kib == 0 or report.arrived_s < self.vm.boot_began_s:
            return
        if report.kind is ReportKind.AGENT:
            self._agent_report_s = report.arrived_s
        self._report = report
        self._answered = self._answered or boot_answered(self.vm, self._agent_report())
        moved_by_us = self._ledger.is_shrinking(self.name, report.arrived_s)
        self._estimate = observe(
            self._estimate, report, self.vm, self.settings, moved_by_us, self.tuned, self.demand_model
        )
        if (learned := self.learned) is not None and (boot_id := self.session.facts().boot_id) is not None:
            self.learned = None
            if learned.boot_id == boot_id:
                self._estimate = recall(self._estimate, learned, self.vm, self.tuned)
        if report.floor_kib is not None and (unknown_kib := self.hidden_kib):
            self._report = replace(report, floor_kib=report.floor_kib + unknown_kib)

    def wished(self, wish: Wish) -> None:
        """A DEMAND, clamped to what the guest can have at all. The last one wins. One that only tells of a move waits
        until its size was read once more: whose act it was shows there."""
        if self.vm.ram_kib == 0:
            return
        if self._estimate is not None:
            wish = beyond(wish, self._estimate, self.vm)
        self._take_wish(wish)

    def _take_wish(self, wish: Wish) -> None:
        self._wish = replace(wish, want_kib=max(0, min(wish.want_kib, self.vm.ram_kib)))
        self._take_need()

    def _take_need(self) -> None:
        wish = self._wish
        if wish is None or wish is self._needs or self.waits_for_size:
            return
        self._needs = wish
        if self._estimate is not None:
            self._estimate = remember(self._estimate, wish, self.vm)

    def note_taken_back(self, now_s: float) -> None:
        """The guest took memory back by itself: that is a demand for what it has now (design, harm)."""
        taken_kib = self._ledger.taken_back_kib(self.name)
        if taken_kib:
            self._grew, self._grew_s = f"grew by {taken_kib // 1024} MiB without us, {TAKEN_FOR_ITS_OWN}", now_s
        if taken_kib and (self._wish is None or self._wish.want_kib < self.vm.actual_kib):
            self._take_wish(Wish(self.vm.actual_kib, TAKEN_BACK_WHY, TAKEN_BACK_SEVERITY, arrived_s=now_s))

    def has_learned(self) -> Learned | None:
        """What is worth keeping for a coordinator after us; what was kept for us, while we have heard nothing."""
        boot_id, estimate = self.session.facts().boot_id, self._estimate
        if boot_id is None or estimate is None:
            return self.learned
        return Learned(boot_id, estimate.report.arrived_s, estimate.held_kib, estimate.cache_kept_ratio)

    def target_ordered(self, target_kib: int) -> None:
        """A target is on its way. Until it is taken, each one before it may be in force, and is booked (I1)."""
        self._ordered_kib = target_kib
        self._in_force_kib = max(self._in_force_kib, target_kib)

    def target_taken(self, target_kib: int) -> None:
        """The hypervisor has it."""
        if target_kib == self._ordered_kib:
            self._ordered_kib, self._in_force_kib = None, target_kib

    @property
    def is_promised_more(self) -> bool:
        """The hypervisor may have a larger target in force than the one that was ordered last."""
        return self._ordered_kib is not None and self._in_force_kib > self._ordered_kib

    def dismissed(self) -> None:
        """It is no guest any more: nothing is promised to it."""
        self._ledger.forget(self.name)

    # --- facts out ---------------------------------------------------------------------------------------

    def snapshot(self, now_s: float) -> GuestSnapshot:
        started = self._ledger.was_started(self.name, now_s)
        target_kib = self._ledger.target_kib(self.name)
        promised_kib = max(target_kib or 0, self._in_force_kib) if self.is_promised_more else target_kib
        demand = None
        if self._estimate is not None and self.vm.ram_kib:
            demand = demand_at(self._estimate, self._needs, self.vm, self.settings, now_s, self.tuned)
        return GuestSnapshot(
            settings=self.settings,
            vm=self.vm,
            booking=book(self.settings, self.vm, self.residency, promised_kib, self._answered, started),
            hypervisor_target_kib=target_kib,
            residency=self.residency,
            agent=self._agent_facts(),
            report=self._report,
            demand=demand,
            wish=self._wish,
            released=self.released,
            hands_off=PAUSED if self.paused else self.yielded,
            stuck_since_s=self._ledger.stuck_since_s(self.name),
            retried=self._ledger.retries(self.name, now_s),
            uncooperative=self._ledger.is_uncooperative(self.name, now_s),
            refuses=self._ledger.refuses(self.name),
            forced=self._ledger.is_forced(self.name),
            on_its_way=self._ordered_kib is not None,
            above_since_s=self._above_since_s,
            limit_kib=self.limit_kib,
            unseen=self._unseen,
            waiting_to_start=(
                self.vm.run_state is RunState.PRELAUNCH and self.settings.start_when_it_fits and not started
            ),
        )

    # --- inside ------------------------------------------------------------------------------------------

    def _startup_kib(self, vm: VmFacts) -> int:
        return grown_kib(vm, min(self.settings.startup_kib, vm.ram_kib))

    def _goes_on(self, vm: VmFacts, now_s: float) -> bool:
        """Whether a machine seen anew may have run for long: a startup target would be a blind shrink (I3)."""
        if vm.run_state is RunState.PRELAUNCH:
            return False
        if RunState.MIGRATING in (self.vm.run_state, vm.run_state) or vm.migration is not Migration.NONE:
            return True
        if vm.qemu_pid is None:  # its age cannot be told: only a reset or an end that we saw makes it a new one
            return not self._seen or self.vm.run_state is RunState.UNREACHABLE
        same_boot = vm.qemu_pid == self.vm.qemu_pid and vm.boot_began_s <= self.vm.boot_began_s
        return (self._seen and same_boot) or now_s - vm.boot_began_s >= SETTLING_S

    def _forget_boot(self) -> None:
        self._grew = ""
        self._ran_s = float("-inf")
        self._above_since_s = None
        self._answered = False
        self._estimate = None
        self._report = None
        self._wish = self._needs = None
        self._agent_report_s = float("-inf")
        self._statistics_s = float("-inf")

    def _agent_facts(self) -> AgentFacts:
        facts = self.session.facts()
        if facts.consent is None or not (unknown_kib := self.hidden_kib):
            return facts
        effective_kib = facts.consent.effective_kib + unknown_kib
        return replace(facts, consent=replace(facts.consent, effective_kib=effective_kib))

    def _agent_report(self) -> UsageReport | None:
        report = self._report
        return report if report is not None and report.kind is ReportKind.AGENT else None

    def _take_statistics(self, now_s: float) -> None:
        """Where no agent has spoken for `AGENT_GONE_S`, the balloon's statistics are the report."""
        statistics = self.vm.statistics
        silent_since_s = max(self._agent_report_s, self.vm.boot_began_s)
        if statistics is None or statistics.arrived_s <= self._statistics_s or now_s - silent_since_s < AGENT_GONE_S:
            return
        if self.session.facts().link is LinkState.LIVE:
            return
        self._statistics_s = statistics.arrived_s
        if statistics.total_kib is None or statistics.available_kib is None:
            return
        total_kib = statistics.total_kib
        if self.vm.deflate_on_oom is not True:
            total_kib += self.vm.balloon_kib  # without deflate-on-oom the balloon leaves MemTotal
        self.reported(
            UsageReport(
                kind=ReportKind.STATISTICS,
                arrived_s=statistics.arrived_s,
                boottime_ms=int(statistics.arrived_s * 1000),
                total_kib=total_kib,
                available_kib=min(statistics.available_kib, total_kib),
                file_kib=statistics.caches_kib,
                major_faults=statistics.major_faults,
                swap_in_kib=None if statistics.swap_in_bytes is None else statistics.swap_in_bytes // 1024,
                swap_out_kib=None if statistics.swap_out_bytes is None else statistics.swap_out_bytes // 1024,
            )
        )
