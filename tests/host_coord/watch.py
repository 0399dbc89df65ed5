"""The judge of the invariants: looks at facts and commands alone and keeps books of its own.

Nothing here asks the ledger or the arbiter what they think, apart from `decision.shrinkable` and `floor_kib`, which say
what can be taken. I10 is about two decisions on one snapshot, so `slider_is_monotone` has both made.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import (
    AskInflate,
    Command,
    Decision,
    GuestSnapshot,
    HostState,
    LinkState,
    ReportKind,
    Rule,
    RunState,
    SetTarget,
    Snapshot,
    StartVm,
    TellDeflate,
)

TOLERANCE_KIB = 4096
"""The arbiter's own: a device's rounding is no shortage."""


ROUNDING_KIB = 64
"""A common level is found in floats and rounded down in each of several ranks."""


class Violation(AssertionError):
    """An invariant does not hold. Its first word is the invariant's."""


def require(holds: bool, invariant: str, text: str) -> None:
    if not holds:
        raise Violation(f"{invariant}: {text}")


def slider_is_monotone(snapshot: Snapshot) -> None:
    """I10: towards density, and as the host gets shorter, the sum of wants never rises for one snapshot."""
    wants = []
    for state in HostState:
        for slider in (0, 10, 25, 40, 50, 80, 90, 100):
            host = replace(snapshot.host, slider=slider, state=state)
            guests = one_iteration(replace(snapshot, host=host)).guests
            wants.append((slider, state, sum(guest.want_kib for guest in guests)))
    for slider, state, want_kib in wants:
        for further, shorter, less_kib in wants:
            if further >= slider and list(HostState).index(shorter) >= list(HostState).index(state):
                text = f"wants rise from {want_kib} at {slider}, {state}, to {less_kib} at {further}, {shorter}"
                require(less_kib <= want_kib, "I10", text)


class Watch:
    """Judges every turn; `commands` before they are carried out."""

    def __init__(self) -> None:
        self._target: dict[str, int] = {}
        """In force at the hypervisor, by our commands."""
        self._stepped_s: dict[str, float] = {}
        self._stepped_from: dict[str, int] = {}
        self._asked_gen: dict[str, int] = {}
        self._boot: dict[str, int] = {}
        self._relies_on: dict[str, int] = {}
        """gen of the consent that a step under way needs."""
        self._foreign: set[str] = set()
        """Whose target in force is another mover's."""
        self._squeezed_gen: dict[str, int] = {}
        """gen of the step down that is in force and not ended by a later target."""
        self.quiet = False
        """I6: demand is constant and balloons have arrived, so nothing is to be moved any more."""
        self._began_s = 0.0

    def coordinator_began(self, now_s: float) -> None:
        """It reads targets from nowhere, so what was promised before is only what `actual` shows."""
        self._began_s = now_s
        for books in (self._target, self._stepped_s, self._stepped_from, self._asked_gen, self._relies_on):
            books.clear()
        self._squeezed_gen.clear()

    def startup(self, guest: Any, command: SetTarget, now_s: float) -> None:
        """I3: a startup target is only set for a boot that is not over."""
        young = now_s - guest.boot_began_s < 30.0
        require(young or not guest.is_up, "I3", f"startup target set on {guest.name}, which is up")
        self._target[guest.name] = command.target_kib
        self._foreign.discard(guest.name)
        self._relies_on.pop(guest.name, None)

    def facts(self, snapshot: Snapshot, guests: Iterable[Any]) -> None:
        """I8 and the boot claims of I1, against the truth of the model guests."""
        for known, guest in zip(snapshot.guests, guests, strict=True):
            if self._boot.get(known.name) != guest.boot:
                self._boot[known.name] = guest.boot
                self._stepped_s.pop(known.name, None)
                self._squeezed_gen.pop(known.name, None)
            assigned_kib = known.booking.assigned_kib
            if not guest.reachable:
                continue
            require(assigned_kib >= guest.resident_kib, "I8", f"{known.name} booked below its residency")
            if guest.run_state is RunState.RUNNING and not guest.is_up:
                require(assigned_kib >= known.vm.ram_kib, "I1", f"{known.name} boots and is not booked with its claim")

    def commands(self, snapshot: Snapshot, decision: Decision, commands: list[Command]) -> None:
        by_name = {guest.name: guest for guest in snapshot.guests}
        before_kib = sum(self._booked_kib(guest) for guest in snapshot.guests)
        blamed = [guest for guest in snapshot.guests if self._blames_a_step(guest)]
        self._judge_entitlements(snapshot, decision)
        self._judge_host(snapshot, decision)
        for command in commands:
            guest = by_name[command.guest]
            moves = not isinstance(command, StartVm)
            require(not (self.quiet and moves), "I6", f"{guest.name} is moved although nothing changes: {command}")
            if isinstance(command, SetTarget):
                self._judge_target(snapshot, decision, guest, command)
            elif isinstance(command, AskInflate):
                self._asked_gen[guest.name] = command.gen
                self._judge_step_down(snapshot, guest, command.target_kib)
            elif isinstance(command, TellDeflate):
                self._asked_gen[guest.name] = 0
            if not isinstance(command, StartVm):
                require(guest.vm.run_state is RunState.RUNNING, "I7", f"{guest.name} is moved while not running")
        for guest in snapshot.guests:
            self._judge_step_under_way(snapshot, guest)
        after_kib = sum(self._booked_kib(guest) for guest in snapshot.guests)
        for command in commands:
            if isinstance(command, StartVm):
                guest = by_name[command.guest]
                after_kib += guest.vm.ram_kib - guest.booking.assigned_kib
        most_kib = max(snapshot.host.budget_kib, before_kib)
        require(after_kib <= most_kib, "I1", f"our commands lift booked to {after_kib}, at most {most_kib} is allowed")
        unknown = any(guest.unseen for guest in snapshot.guests)
        for guest in blamed:
            self._judge_blamed(guest, 0 if unknown else snapshot.host.budget_kib - after_kib)

    def _booked_kib(self, guest: GuestSnapshot) -> int:
        vm = guest.vm
        resident_kib = guest.residency.resident_kib if guest.residency else 0
        if vm.run_state in (RunState.ABSENT, RunState.SHUTDOWN):
            return guest.booking.booked_kib
        if guest.name in self._foreign:
            return max(guest.booking.assigned_kib, resident_kib) + guest.booking.overhead_kib
        if guest.booking.claimed or (vm.run_state is RunState.PRELAUNCH):
            return max(guest.booking.assigned_kib, resident_kib) + guest.booking.overhead_kib
        target_kib = self._target.get(guest.name, 0)
        above_kib = resident_kib - vm.actual_kib
        if target_kib > vm.actual_kib and above_kib > 16 * 1024:  # a balloon that the host refilled
            target_kib = max(target_kib, min(vm.ram_kib, target_kib + above_kib))
        return max(vm.actual_kib, target_kib, resident_kib) + guest.booking.overhead_kib

    def moved_by_another(self, name: str, target_kib: int) -> None:
        """Somebody else has set this target. In the midst of a move of ours nobody can tell, and what we promised is
        booked on: that is no less than what is in force."""
        self._target[name] = target_kib
        self._foreign.add(name)
        self._relies_on.pop(name, None)
        self._squeezed_gen.pop(name, None)

    def _judge_target(
        self, snapshot: Snapshot, decision: Decision, guest: GuestSnapshot, command: SetTarget
    ) -> None:
        name, target_kib, actual_kib = guest.name, command.target_kib, guest.vm.actual_kib
        heard = guest.report is not None and guest.report.arrived_s > self._began_s
        may_move = heard or guest.released or name in self._target
        require(may_move, "I7", f"{name} is moved before anything was heard of it")
        least_kib = min(guest.settings.minimum_kib, max(actual_kib, self._target.get(name, 0)))
        require(target_kib >= least_kib, "I2", f"{name} is left below its minimum, at {target_kib}")
        if target_kib > actual_kib:
            most_kib = max(guest.settings.maximum_kib, self._stepped_from.get(name, 0))
            require(guest.released or target_kib <= most_kib, "I2", f"{name} is lifted above its maximum")
        elif target_kib < actual_kib:
            self._judge_step_down(snapshot, guest, target_kib)
            self._judge_consent(snapshot, guest, target_kib)
            self._judge_starved(decision, snapshot, guest, target_kib)
            self._stepped_s[name] = snapshot.now_s
            self._stepped_from[name] = actual_kib
        self._target[name] = target_kib
        self._foreign.discard(name)
        self._relies_on.pop(name, None)
        self._squeezed_gen.pop(name, None)
        if target_kib < actual_kib and guest.agent.link is LinkState.LIVE and guest.agent.consent is not None:
            self._relies_on[name] = self._squeezed_gen[name] = guest.agent.consent.gen

    def _blames_a_step(self, guest: GuestSnapshot) -> bool:
        """Before this turn's commands: a DEMAND that came after the step in force and names it."""
        wish, gen = guest.wish, self._squeezed_gen.get(guest.name)
        if wish is None or wish.gen is None:
            return False
        required = guest.demand is None or not guest.demand.urgent
        require(required, "I9", f"{guest.name}: what it blames on our own move counts as its demand")
        can_move = guest.vm.run_state is RunState.RUNNING and not guest.booking.claimed
        named = gen is not None and wish.gen == gen == self._asked_gen.get(guest.name)
        return can_move and named and wish.arrived_s > self._stepped_s.get(guest.name, float("inf"))

    def _judge_blamed(self, guest: GuestSnapshot, left_kib: int) -> None:
        """After the commands: the step has ended, and is returned as far as there was room."""
        name, target_kib = guest.name, self._target[guest.name]
        require(target_kib >= guest.vm.actual_kib, "I9", f"{name} blames a step of ours, and it goes on")
        back = target_kib >= self._stepped_from[name] - ROUNDING_KIB or left_kib <= ROUNDING_KIB
        require(back, "I9", f"{name} blames a step of ours, which is not returned")

    def _judge_entitlements(self, snapshot: Snapshot, decision: Decision) -> None:
        """I5: nobody is to have less than it needs and its weight entitles it to, whatever the others say."""
        host = snapshot.host
        if host.state is HostState.CRITICAL:
            return  # there is less to share than was promised
        pool_kib = host.budget_kib - host.headroom_kib
        takers = []
        for guest, decided in zip(snapshot.guests, decision.guests, strict=True):
            pool_kib -= guest.booking.overhead_kib
            if decided.rule is Rule.FIXED:
                pool_kib -= guest.booking.assigned_kib
                continue
            lower_kib = decided.floor_kib
            if decided.shrinkable:
                pool_kib -= max(0, guest.booking.assigned_kib - guest.given_kib)
            else:
                lower_kib = max(lower_kib, guest.booking.assigned_kib)
            takers.append((guest, decided, lower_kib))
        for guest, decided, lower_kib in takers:
            need_kib = min(max(self._needs_kib(guest), decided.floor_kib), guest.settings.maximum_kib)
            if guest.demand is None or guest.released or decided.target_kib >= need_kib:
                continue
            others = [
                (other.settings.minimum_kib, lower, max(lower, other.vm.ram_kib), other.settings.weight)
                for other, _, lower in takers
                if other is not guest
            ]
            own = (guest.settings.minimum_kib, lower_kib, max(lower_kib, need_kib), guest.settings.weight)
            entitled_kib = _level_of_the_first(pool_kib, [own, *others])
            text = f"{guest.name} is to have {decided.target_kib}, and {entitled_kib:.0f} is its due"
            require(decided.target_kib >= entitled_kib - ROUNDING_KIB, "I5", text)

    @staticmethod
    def _judge_host(snapshot: Snapshot, decision: Decision) -> None:
        """A host with less than 2 % left has guests shrunk, down to their floors where it must be."""
        facts = snapshot.host.facts
        if facts is None or facts.available_kib >= facts.total_kib * 0.02:
            return
        able = [
            (guest.given_kib, decided)
            for guest, decided in zip(snapshot.guests, decision.guests, strict=True)
            if decided.shrinkable
        ]
        # Who was brought below its floor by somebody else is brought back to it all the same (I2).
        above = [(given_kib, decided) for given_kib, decided in able if given_kib > decided.floor_kib]
        if any(given_kib > decided.floor_kib + TOLERANCE_KIB for given_kib, decided in above):
            taken_kib = sum(given_kib - decided.target_kib for given_kib, decided in above)
            require(taken_kib > 0, "host", "it is at its end, and nothing is taken from its guests")

    def _judge_step_under_way(self, snapshot: Snapshot, guest: GuestSnapshot) -> None:
        """I3: where consent has ended, the hypervisor's target is no longer below the size reached."""
        gen = self._relies_on.get(guest.name)
        if gen is None or guest.vm.run_state is not RunState.RUNNING or guest.booking.claimed:
            return
        if guest.vm.actual_kib <= self._target[guest.name] + 1024:
            del self._relies_on[guest.name]  # arrived: what comes later is another matter
            return
        consent = guest.agent.consent
        holds = consent is not None and consent.gen == gen and snapshot.now_s < consent.expires_s
        require(holds, "I3", f"{guest.name}: its step goes on without its consent")

    def _judge_step_down(self, snapshot: Snapshot, guest: GuestSnapshot, target_kib: int) -> None:
        name, now_s, report = guest.name, snapshot.now_s, guest.report
        least_kib = guest.settings.minimum_kib
        if report is not None and report.floor_kib is not None:
            least_kib = max(least_kib, report.floor_kib)
        require(target_kib >= least_kib, "I2", f"{name} is sent below its floor, to {target_kib}")
        require(report is not None, "I3", f"{name} is shrunk and never reported")
        assert report is not None
        require(not guest.booking.claimed, "I3", f"{name} is shrunk while it boots")
        require(now_s - guest.vm.boot_began_s >= 30.0, "I3", f"{name} is shrunk within 30 s of its boot")
        require(report.arrived_s > self._stepped_s.get(name, 0.0), "I3", f"{name}: no report since the last step")
        require(now_s - report.arrived_s <= 3.0, "I3", f"{name} is shrunk on an old report")
        live = guest.agent.link is LinkState.LIVE
        require(live or report.kind is ReportKind.STATISTICS, "I3", f"{name}: report of an agent that is not there")
        this_session = report.kind is ReportKind.STATISTICS or report.arrived_s >= guest.agent.live_since_s
        require(this_session, "I3", f"{name}: the report is older than the session")
        gives_way = guest.vm.deflate_on_oom is True or guest.settings.shrink_without_deflate_on_oom
        require(gives_way, "I3", f"{name} is shrunk with deflate-on-oom off")
        require(not guest.released, "I7", f"{name} is shrunk although released")

    def _judge_consent(self, snapshot: Snapshot, guest: GuestSnapshot, target_kib: int) -> None:
        if guest.agent.link is not LinkState.LIVE:
            return
        consent = guest.agent.consent
        require(consent is not None, "I3", f"{guest.name} is shrunk without its consent")
        assert consent is not None
        require(consent.gen == self._asked_gen.get(guest.name), "I3", f"{guest.name} consented to something else")
        require(not consent.refused, "I3", f"{guest.name} refused and is shrunk")
        require(snapshot.now_s < consent.expires_s, "I3", f"{guest.name}: its consent has ended")
        require(target_kib >= consent.effective_kib, "I3", f"{guest.name} is sent below what it agreed to")

    def _judge_starved(
        self, decision: Decision, snapshot: Snapshot, guest: GuestSnapshot, target_kib: int
    ) -> None:
        needs_kib = self._needs_kib(guest)
        if target_kib >= needs_kib:
            return
        for other, decided in zip(snapshot.guests, decision.guests, strict=True):
            if other.name == guest.name or not decided.shrinkable or other.demand is None:
                continue
            if other.refuses or other.uncooperative:
                continue  # who was asked in vain is not waited for
            least_kib = max(self._needs_kib(other), decided.floor_kib)
            require(
                other.vm.actual_kib <= least_kib + TOLERANCE_KIB,
                "I4",
                f"{guest.name} is sent below its demand while {other.name} holds more than it needs",
            )

    @staticmethod
    def _needs_kib(guest: GuestSnapshot) -> int:
        return min(guest.demand.demand_kib, guest.settings.maximum_kib) if guest.demand else 0


def _level_of_the_first(pool_kib: int, takers: list[tuple[int, int, int, int]]) -> float:
    """What the first of (base, lower, upper, weight) holds when a common level per weight uses up the pool."""

    def held(level: float, taker: tuple[int, int, int, int]) -> float:
        base, lower, upper, weight = taker
        return min(max(base + level * weight, lower), upper)

    low, high = 0.0, float(1 << 30)
    for _ in range(80):
        middle = (low + high) / 2
        if sum(held(middle, taker) for taker in takers) <= pool_kib:
            low = middle
        else:
            high = middle
    return held(low, takers[0])
