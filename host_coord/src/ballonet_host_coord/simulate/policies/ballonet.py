"""ballonet itself on simulated machines: the coordinator's own demand, arbiter and ledger, in virtual time. Pure.

Nothing of the policy is written twice. Each turn makes the same `Snapshot` that the service makes, from what a guest's
agent would report and its balloon would show, calls `one_iteration` and `Ledger.step`, and carries the commands out.
What is modelled is the world around them:

* an agent reports at the next whole second after something changed, each `MOVING_S` while its balloon moves, else each
  `QUIET_S`; it writes a DEMAND `DEMAND_S` after its guest fell short (the scoring rule's 100 ms), repeated at each turn
  while it is;
* it answers an INFLATE after `ANSWER_S`, and consents unless its guest is short;
* what a short guest lacks is in its swap: its use is all it has, its DEMAND asks for a step more, and its commitment,
  which is taken to be what it needs as for every other policy that looks at it, tells the rest in the report that goes
  with the DEMAND.

Not played are boots (a machine is found running; the service would book all of its RAM until its driver answers, 13 s),
stalls and refaults: demand from harm and the worth of a missed cache are in no figure of the simulator.

Where nothing changes, turns are left out: they would decide the same. So they are, for at most `CALM_S`, where demand
changes within what a guest has with its buffer, and nothing moves: at most the surplus would be shared anew. What fades
with time (`held`) is looked at `FADING_LOOKS` times in a half-life.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor, inf

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.booking import book, headroom_kib
from ballonet_host_coord.demand import Estimate, demand_at, observe, remember
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    QUIET_REPORT_MS,
    AgentFacts,
    AskInflate,
    Command,
    Consent,
    Decision,
    GuestSettings,
    GuestSnapshot,
    HostSettings,
    HostSnapshot,
    LinkState,
    ReportKind,
    RunState,
    SetTarget,
    Snapshot,
    TellDeflate,
    UsageReport,
    VmFacts,
    Wish,
)
from ballonet_host_coord.simulate.vm import Vm
from ballonet_host_coord.slider import DEFAULT_SLIDER, Tuning, tuning
from ballonet_protocol.limits import LEASE_MS

DEMAND_S = 0.1
ANSWER_S = 0.02
"""A frame there, one look at /proc, a frame back: 9.5 ms were the median in a guest under emulation."""

MOVING_S = 0.25
"""How often the service looks at a balloon under way, and how often such a guest's agent reports."""

QUIET_S = QUIET_REPORT_MS / 1000
"""How often a quiet guest reports, as the service asks its agents to."""

CALM_S = 10.0
"""The service turns each second. Nobody lacks anything meanwhile, and surplus is not shared anew for a few seconds."""

FADING_LOOKS = 5
WAITING_GROWTH, WAITING_MOST_S = 4.0, 64.0
"""After a turn with nothing to do the next comes a second later, then four, and so on up to this."""

WISH_LEAST_KIB, WISH_PARTS = 131072, 8
"""What an agent asks for that is short: it sees that memory is missing and not how much (`want.py` of the agent)."""

BUFFER_PERCENT = 20
LONG_AGO_S = -1e9


class Ballonet:
    """The policy. One instance serves one run."""

    name = "ballonet"
    buffer_ratio = BUFFER_PERCENT / 100

    def __init__(self, slider: int = DEFAULT_SLIDER, headroom_kib: int | None = None) -> None:
        self.slider = slider
        self._set_headroom_kib = headroom_kib
        self._headroom_kib = 0
        self._tuned = tuning(slider)
        self._ledger = Ledger()
        self._budget_kib = 0
        self._seen: dict[str, _Seen] = {}
        self._began = False
        self._report_s = inf
        self._short_s = inf
        self._answer_s = inf
        self._again_s = inf
        self._waited_s = 1.0
        self._decided_s = -inf
        self.snapshot: Snapshot | None = None
        self.decision: Decision | None = None

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._budget_kib = budget_kib
        self._headroom_kib = headroom_kib(HostSettings(headroom_kib=self._set_headroom_kib), budget_kib)

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        if changed:
            self._report_s = min(self._report_s, floor(now_s) + 1.0)
            self._short_s = min(self._short_s, now_s + DEMAND_S)
        return min(self._report_s, self._short_s, self._answer_s, self._again_s)

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        if now_s >= self._short_s:
            self._short_s = inf
            others_s = min(self._report_s, self._answer_s, self._again_s)
            if now_s < others_s and not any(vm.assigned_kib < vm.shows_kib and not vm.silent for vm in vms):
                return {}  # nobody fell short: the reports are early enough
        reports = now_s >= self._report_s
        self._report_s = inf if reports else self._report_s
        self._meet(now_s, vms)
        if reports and now_s < min(self._answer_s, self._again_s) and now_s < self._decided_s + CALM_S:
            news = [(vm, seen) for vm in vms if (seen := self._seen[vm.name]).has_news(vm)]
            if all(seen.is_calm(vm, now_s, self._ledger, self._tuned) for vm, seen in news):
                self._again_s = min(self._again_s, self._decided_s + CALM_S)
                return {}
        self._decided_s = now_s
        guests = tuple(self._seen[vm.name].look(vm, now_s, self._ledger, self._tuned) for vm in vms)
        host = HostSnapshot(self._budget_kib, self._headroom_kib, None, self.slider)
        snapshot = Snapshot(now_s, host, guests)
        decision = one_iteration(snapshot)
        commands = self._ledger.step(snapshot, decision)
        self.snapshot, self.decision = snapshot, decision
        targets = self._carry_out(commands, now_s)
        self._plan(now_s, bool(commands))
        return targets

    def _meet(self, now_s: float, vms: Sequence[Vm]) -> None:
        """Machines that came, went, or came again with another size."""
        if len(self._seen) > len(vms):
            there = {vm.name for vm in vms}
            for name in [name for name in self._seen if name not in there]:
                del self._seen[name]
                self._ledger.forget(name)
        for vm in vms:
            seen = self._seen.get(vm.name)
            if seen is None or seen.settings.maximum_kib != vm.maximum_kib:
                boot = seen.boot + 1 if seen else 1
                # A machine with another size has been started anew: it is found as it is, like those at first.
                began_s = now_s if self._began and seen is None else LONG_AGO_S
                self._seen[vm.name] = _Seen(vm, boot, began_s)
                self._ledger.forget(vm.name)
                self._ledger.began_boot(vm.name, boot, vm.maximum_kib, adopted=True)
        self._began = True

    def _carry_out(self, commands: Sequence[Command], now_s: float) -> dict[str, int]:
        targets = {}
        for command in commands:
            seen = self._seen[command.guest]
            if isinstance(command, SetTarget):
                targets[command.guest] = command.target_kib
                seen.moved = True
            elif isinstance(command, AskInflate):
                seen.asked, seen.asked_s = command, now_s
            elif isinstance(command, TellDeflate):
                seen.asked = None
                seen.agent = replace(seen.agent, consent=None)
        return targets

    def _plan(self, now_s: float, acted: bool) -> None:
        """When to look again by ourselves."""
        asked = [seen.asked_s for seen in self._seen.values() if seen.asked is not None]
        self._answer_s = min(asked) + ANSWER_S if asked else inf
        if self._answer_s <= now_s:
            self._answer_s = now_s + ANSWER_S
        if acted or any(seen.moved for seen in self._seen.values()):
            self._again_s, self._waited_s = now_s + MOVING_S, 1.0
            return
        if any(seen.is_short for seen in self._seen.values()):
            self._again_s = now_s + self._waited_s
            self._waited_s = min(self._waited_s * WAITING_GROWTH, WAITING_MOST_S)
            return
        fades_s = self._tuned.held_half_life_s / FADING_LOOKS
        fading = self._tuned.surplus_ratio < 1.0 and any(seen.fades for seen in self._seen.values())
        if self._waited_s < WAITING_MOST_S:
            self._again_s = now_s + self._waited_s
            self._waited_s = min(self._waited_s * WAITING_GROWTH, WAITING_MOST_S)
        else:
            self._again_s = inf
        if fading:
            self._again_s = min(self._again_s, now_s + fades_s)


class _Seen:
    """One machine as the coordinator knows it, between two turns."""

    def __init__(self, vm: Vm, boot: int, began_s: float) -> None:
        self.boot = boot
        self.began_s = began_s
        self.settings = GuestSettings(
            vm.name, vm.minimum_kib, vm.maximum_kib, vm.maximum_kib, vm.weight, vm.buffer_percent, overhead_kib=0
        )
        self.agent = AgentFacts(LinkState.LIVE, session=1, live_since_s=began_s, report_ms=int(QUIET_S * 1000))
        self.estimate: Estimate | None = None
        self.wish: Wish | None = None
        self.asked: AskInflate | None = None
        self.asked_s = 0.0
        self.moved = False
        """Its balloon is under way."""
        self.is_short = False
        self.fades = False
        self._shown: tuple[int, int] = (-1, -1)
        self._last: GuestSnapshot | None = None

    def has_news(self, vm: Vm) -> bool:
        return self._shown != (ceil(vm.assigned_kib), vm.shows_kib)

    def is_calm(self, vm: Vm, now_s: float, ledger: Ledger, tuned: Tuning) -> bool:
        """Take its report. Whether it is at rest and has its demand with the buffer."""
        demand = self.look(vm, now_s, ledger, tuned).demand
        if self.moved or self.is_short or demand is None:
            return False
        return vm.assigned_kib >= tuned.buffered_kib(demand.demand_kib, demand.cache_kib, self.settings.buffer_percent)

    def look(self, vm: Vm, now_s: float, ledger: Ledger, tuned: Tuning) -> GuestSnapshot:
        """This turn's facts; the last turn's where nothing can have changed."""
        actual_kib = ceil(vm.assigned_kib)
        if self.asked is not None and now_s >= self.asked_s + ANSWER_S and not vm.silent:
            self._answer(vm, now_s)
        news = self._shown != (actual_kib, vm.shows_kib)
        refresh = self.estimate is None or now_s - self.estimate.report.arrived_s >= QUIET_S
        self.is_short = vm.shows_kib > actual_kib and not vm.silent
        last = self._last
        if last is not None and not news and not refresh and not self.is_short and not self.moved:
            if self.agent is not last.agent:
                self._last = last = replace(last, agent=self.agent)
            return last
        facts = VmFacts(
            RunState.RUNNING, vm.maximum_kib, actual_kib, self.boot, self.began_s, True, None, 3, 1, now_s
        )  # fmt: skip
        if (news or refresh) and not vm.silent:
            self._report(vm, facts, now_s, ledger, tuned)
        if self.is_short:
            step_kib = max(WISH_LEAST_KIB, actual_kib // WISH_PARTS)
            self.wish = Wish(min(actual_kib + step_kib, vm.maximum_kib), 1, 3, arrived_s=now_s)
            if self.estimate is not None:
                self.estimate = remember(self.estimate, self.wish, facts)
        target_kib = ledger.target_kib(vm.name)
        estimate = self.estimate
        demand = None
        if estimate is not None:
            demand = demand_at(estimate, self.wish, facts, self.settings, now_s, tuned)
            self.fades = demand.held_kib > demand.demand_kib
        self.moved = ledger.is_moving(vm.name)
        self._last = GuestSnapshot(
            settings=self.settings,
            vm=facts,
            booking=book(self.settings, facts, None, target_kib, answered=True),
            hypervisor_target_kib=target_kib,
            agent=self.agent,
            report=estimate.report if estimate is not None else None,
            demand=demand,
            wish=self.wish,
            stuck_since_s=ledger.stuck_since_s(vm.name),
            retried=ledger.retries(vm.name, now_s),
            uncooperative=ledger.is_uncooperative(vm.name, now_s),
            refuses=ledger.refuses(vm.name),
        )
        return self._last

    def _report(self, vm: Vm, facts: VmFacts, now_s: float, ledger: Ledger, tuned: Tuning) -> None:
        actual_kib = facts.actual_kib
        self._shown = (actual_kib, vm.shows_kib)
        available_kib = max(0, actual_kib - vm.shows_kib)
        report = UsageReport(
            ReportKind.AGENT,
            now_s,
            int(now_s * 1000),
            vm.maximum_kib,
            available_kib,
            committed_kib=vm.shows_kib,
            balloon_kib=vm.maximum_kib - actual_kib,
            file_kib=min(vm.cached_kib, available_kib) if vm.cached_kib is not None else None,
        )
        moved_by_us = ledger.is_shrinking(vm.name, now_s)
        self.estimate = observe(self.estimate, report, facts, self.settings, moved_by_us, tuned)

    def _answer(self, vm: Vm, now_s: float) -> None:
        asked = self.asked
        assert asked is not None
        refused = vm.assigned_kib < vm.shows_kib
        effective_kib = int(vm.assigned_kib) if refused else asked.target_kib
        consent = Consent(asked.gen, effective_kib, refused, 0, now_s, expires_s=now_s + LEASE_MS / 1000)
        self.agent = replace(self.agent, consent=consent)
        self.asked = None
