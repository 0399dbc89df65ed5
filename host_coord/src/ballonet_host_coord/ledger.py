"""The mover: turns decisions into commands, step by step, and keeps the books while they are under way. Pure.

Facts and `now` in, commands out; nothing here acts. A command that fails needs no word back: what was promised
stays booked, and a move that makes no progress ends by itself.

A **shrink** goes through four doors, each of which can close::

    decided, worth a command, guest shrinkable (arbiter)
      -> agent consents (AskInflate; clamped: no further than `effective`; refused: not now)
      -> one step (SetTarget), then wait until `actual` has arrived *and* a report came in after the step (I3)
      -> next step ... until the goal

It ends when the goal is reached, when consent expires or is overtaken by a DEMAND, when the guest blames the move
(I9: the last step is returned), or when `actual` makes no progress for `STUCK_S`. Whenever it ends early, the
hypervisor's target is set to the size reached, since virtio-balloon would go on trying for ever; not below the
guest's floor, though, as far as that is promised already or there is room (I2). An agent is told of a target above its
guest's size, whoever asked for it: it would take the memory for its own act otherwise.

A balloon **at rest**, at our target or where it was found, moves by somebody else's act. Where it is certainly another
mover's (other_mover.py), that is said and the move given up. Else, upward the guest helped itself; downward there is a
target in force that is not ours: it is taken over, said, and a guest that is short is granted anew.

A **grant** is at once: the balloon is moved and the agent is told beside it. It is paid from the room that the books
show now (I1: memory is given after it was taken), the guest furthest below its demand per weight first. Only
urgent grants and the end of a release, which would wait for ever for what no donor is asked for, may spend the
headroom, and only as far as the host's own MemAvailable shows it.

A **boot** (start, reset) sets the startup target before the driver asks for it; that is no shrink.
"""

from __future__ import annotations

from .arbiter import fresh_for_s
from .booking import affordable_kib, booked_at_kib
from .demand import WISH_FRESH_S
from .hotplug import grown_kib
from .model import (
    AskInflate,
    Command,
    Decision,
    GuestDecision,
    GuestSnapshot,
    LinkState,
    Migration,
    RunState,
    SetTarget,
    Snapshot,
    StartVm,
    TellDeflate,
    VmFacts,
)
from .move import ARRIVED_KIB, BACK_OFF_S, STUCK_S, Move
from .pace import SCARCE_LEAST_KIB, grant_least_kib, is_needed, need_per_weight, step_kib, worthwhile_kib

PAGE_KIB = 4
SHRINK_RATE_KIB_PER_S = 524288
"""What the agent is told to expect at most: two steps of 64 MiB in each of its fastest report periods (250 ms)."""

ASK_AGAIN_S = 2.0
"""After a refusal or a clamp: what the agent minds (a stall of its own) passes in seconds, and asking is one frame."""

SQUEEZED_S = 2.0
"""The report that follows a shrink within this time tells of its stalls (two report periods)."""

ASK_LOST_S = 4.0
"""Three tries a second apart and a second of grace: an unanswered request is over."""

TAKEN_FOR_ITS_OWN = "taken for the guest's own act, since nothing shows another mover's"

START_LOST_S = 10.0
"""A machine that still waits this long after it was told to run is told again."""


class Ledger:
    """Keeps one `Move` per guest. `step` is the only way in; the properties are facts for the next snapshot."""

    def __init__(self) -> None:
        self._moves: dict[str, Move] = {}

    def target_kib(self, name: str) -> int | None:
        """The target in force, to be booked: from the moment of setting it counts as promised. None where we have
        set none: a size that was only found promises nothing."""
        move = self._moves.get(name)
        return move.target_kib if move and not move.found else None

    def stuck_since_s(self, name: str) -> float | None:
        move = self._moves.get(name)
        return move.stuck_since_s if move else None

    def is_uncooperative(self, name: str, now_s: float) -> bool:
        """Flagged: its balloon has not followed for long, or time and again."""
        move = self._moves.get(name)
        return move is not None and move.is_uncooperative(now_s)

    def retries(self, name: str, now_s: float) -> bool:
        """A stuck balloon has been left alone for long enough: one more try may show that it moves again."""
        move = self._moves.get(name)
        return move is not None and move.stuck_since_s is not None and now_s >= move.leave_until_s

    def refuses(self, name: str) -> bool:
        """The last attempt to shrink it came to nothing, by refusal, objection, silence or standstill."""
        return name in self._moves and self._moves[name].refuses

    def is_shrinking(self, name: str, now_s: float) -> bool:
        """Our own shrink is under way, or ended a moment ago: stalls prove nothing (I9)."""
        move = self._moves.get(name)
        if move is None:
            return False
        return bool(move.stepped_s and not move.arrived) or now_s - move.squeezed_s < SQUEEZED_S

    def is_moving(self, name: str) -> bool:
        """A target is under way or consent is being asked: look more often."""
        move = self._moves.get(name)
        return move is not None and (not move.arrived or move.asked_kib is not None)

    def taken_back_kib(self, name: str) -> int:
        """How much the guest took back by itself at the last step; 0 for none."""
        move = self._moves.get(name)
        return move.taken_back_kib if move else 0

    def lowered_kib(self, name: str) -> int:
        """By how much the guest was made smaller without us, seen at the last step; 0 for none."""
        move = self._moves.get(name)
        return move.lowered_kib if move else 0

    def set_by_another_kib(self, name: str) -> int | None:
        """Where another mover has certainly set it, seen at the last step."""
        return self._moves[name].set_by_another_kib if name in self._moves else None

    def began_boot(self, name: str, vm_boot: int, startup_kib: int, adopted: bool) -> SetTarget | None:
        """A boot was seen. A machine that goes on is adopted as it is; any other gets its startup target.

        What was promised to a machine before its monitor was away is in force still, and booked.
        """
        move = self._moves.get(name)
        if adopted and move is not None:
            move.boot = vm_boot
            move.doubt()
            move.arrived = move.target_kib is None
            move.progress_s = 0.0
            return None
        self._moves[name] = Move(boot=vm_boot, gen=move.gen if move else 0)
        if adopted:
            return None
        self._moves[name].head_for(startup_kib)
        return SetTarget(name, startup_kib, "startup memory, set before the driver asks for it")

    def was_started(self, name: str, now_s: float) -> bool:
        """A start was ordered and may have happened: booked with its claim until the hypervisor shows otherwise."""
        move = self._moves.get(name)
        return move is not None and move.started_s is not None and now_s - move.started_s < START_LOST_S

    def force(self, name: str, vm: VmFacts) -> SetTarget | None:
        """The operator gives a guest everything back whatever the budget says: his act, booked like any other."""
        move = self._moves.get(name)
        if move is None or vm.run_state is not RunState.RUNNING:
            return None
        move.asked_kib = None
        move.stepped_s = 0.0
        move.head_for(vm.ram_kib)
        move.forced = True
        return SetTarget(name, vm.ram_kib, "released beyond the budget by the operator")

    def is_forced(self, name: str) -> bool:
        """The operator gave it what it has, whatever the budget says."""
        return name in self._moves and self._moves[name].forced

    def target_failed(self, name: str) -> None:
        """The hypervisor did not take a target. A move that stands still ends by itself; a machine that waits for its
        first instruction is not started without its startup target."""
        if move := self._moves.get(name):
            move.failed = True
            move.started_s = None
            move.doubt()

    def forget(self, name: str) -> None:
        """The machine is gone, and its memory with it."""
        self._moves.pop(name, None)

    def let_go(self) -> None:
        """Nothing is moved any more, or from now on: each size is as that of a machine that was found running."""
        for move in self._moves.values():
            move.adopt()

    def step(self, snapshot: Snapshot, decision: Decision) -> list[Command]:
        """One round: follow what is under way, free, then allocate within the room that the books show."""
        now_s = snapshot.now_s
        commands: list[Command] = []
        decided = {choice.name: choice for choice in decision.guests}
        host = snapshot.host
        room_kib = host.budget_kib - snapshot.booked_kib - host.reserved_kib
        # What is not held for a machine yet is kept from everybody but those who are short at this moment.
        pending_kib = host.reserved_kib - host.held_kib
        if host.unlisted_kib:
            room_kib = min(room_kib, max(0, room_kib - host.unlisted_kib))
        if snapshot.unseen:
            # What nobody has looked at is not booked yet, and may be large.
            room_kib, pending_kib = min(room_kib, 0), 0
        short = {guest.name for guest in snapshot.guests if _is_short(guest, decided[guest.name])}
        needed = is_needed(snapshot, room_kib)
        for guest in snapshot.guests:
            name = guest.settings.name
            move = self._moves.get(name)
            if move is None:
                continue
            move.set_by_another_kib = None
            if guest.vm.run_state is not RunState.RUNNING:
                move.doubt()
                commands += self._leave_off(guest, move, now_s)
                continue
            if move.look_for_others(guest, now_s):
                continue
            choice = decided[name]
            order = self._follow(guest, move, choice.floor_kib, room_kib + pending_kib, now_s)
            if order is not None:
                room_kib -= max(0, booked_at_kib(guest, order.target_kib) - guest.booking.assigned_kib)
                commands += self._told(guest, move, order)
            elif not guest.booking.claimed:
                scarce = needed or len(short) > (name in short)
                command = self._free(guest, choice, move, now_s, scarce)
                if command is not None:
                    commands.append(command)
        grants, room_kib = self._allocate(snapshot, decided, room_kib, pending_kib)
        return commands + grants + self._start(snapshot, room_kib)

    # --- following ---------------------------------------------------------------------------------------

    def _follow(
        self, guest: GuestSnapshot, move: Move, floor_kib: int, room_kib: int, now_s: float
    ) -> SetTarget | None:
        """Notice objections, arrival, progress, standstill, and what was done to the balloon by others."""
        actual_kib = guest.vm.actual_kib
        move.taken_back_kib = move.lowered_kib = 0
        if move.target_kib is None or guest.booking.claimed:
            return None
        at_target = abs(actual_kib - move.target_kib) <= ARRIVED_KIB
        if at_target and not move.stepped_s and move.stuck_since_s is None:
            move.rest_at(actual_kib)
            return None
        least_kib = max(actual_kib, min(floor_kib, affordable_kib(guest, room_kib)))
        if move.stepped_s and not move.arrived:
            move.squeezed_s = now_s
        wish = move.standing_wish(guest)
        if move.stepped_s and wish is not None and wish.arrived_s > move.stepped_s:
            if wish.gen is not None:
                return self._return_step(guest, move, least_kib, room_kib, now_s)
            if not move.arrived or move.asked_kib is not None:
                why = "the guest asks for memory: its shrink ends here"
                return self._stop(guest, move, least_kib, now_s, why)
        moved_kib = actual_kib - move.stuck_at_kib if move.stuck_growing else move.stuck_at_kib - actual_kib
        if move.stuck_since_s is not None and moved_kib > ARRIVED_KIB:
            move.stuck_since_s = None
        if at_target:
            move.rest_at(actual_kib)
            return None
        if not move.arrived:
            if move.consented and not move.may_rely_on(guest.agent.consent, now_s):
                return self._stop(guest, move, least_kib, now_s, "the agent's consent has ended: its shrink ends here")
            return self._watch(guest, move, least_kib, now_s)
        move.look_at_rest(actual_kib, now_s)
        if move.taken_back_kib:
            why = f"grew without us, {TAKEN_FOR_ITS_OWN}: its target becomes its size"
            return self._stop(guest, move, least_kib, now_s, why)
        return None

    def _watch(self, guest: GuestSnapshot, move: Move, least_kib: int, now_s: float) -> SetTarget | None:
        """A move is under way: is `actual` coming nearer to the target?"""
        assert move.target_kib is not None
        away_kib = abs(guest.vm.actual_kib - move.target_kib)
        if not move.progress_s or away_kib < move.away_kib - ARRIVED_KIB:
            move.away_kib, move.progress_s = away_kib, now_s
            return None
        if now_s - move.progress_s < STUCK_S:
            return None
        if move.stuck_since_s is None:
            move.stuck_since_s = move.progress_s
        move.stuck_at_kib = guest.vm.actual_kib
        move.stuck_growing = move.target_kib > guest.vm.actual_kib
        stop = self._stop(guest, move, least_kib, now_s, f"its balloon has not followed for {STUCK_S:.0f} s")
        move.stood_still(now_s)
        return stop

    @staticmethod
    def _stop(guest: GuestSnapshot, move: Move, least_kib: int, now_s: float, why: str) -> SetTarget:
        """End a move where it stands: the target becomes the size reached, or its floor."""
        move.stop(guest.vm.actual_kib, least_kib, now_s)
        return SetTarget(guest.name, least_kib, why)

    def _leave_off(self, guest: GuestSnapshot, move: Move, now_s: float) -> list[Command]:
        """It begins to migrate away: a shrink under way ends here, since nobody would follow it any more (I3, I9)."""
        move.asked_kib = None
        if guest.vm.migration is not Migration.OUTGOING or move.arrived or not move.stepped_s:
            return []
        return [self._stop(guest, move, guest.vm.actual_kib, now_s, "it migrates away: its shrink ends here")]

    @staticmethod
    def _return_step(guest: GuestSnapshot, move: Move, least_kib: int, room_kib: int, now_s: float) -> SetTarget:
        """I9: the guest blames this move; stop it and give its last step back, as far as there is room (I1)."""
        back_kib = grown_kib(guest.vm, min(move.stepped_from_kib, affordable_kib(guest, room_kib)))
        back_kib = max(least_kib, back_kib)
        move.stop(guest.vm.actual_kib, back_kib, now_s)
        move.head_for(back_kib)
        return SetTarget(guest.name, back_kib, "the inflation hurts: stopped, its last step returned")

    @staticmethod
    def _told(guest: GuestSnapshot, move: Move, order: SetTarget) -> list[Command]:
        """A target and, where it is above the guest's size, the word to its agent."""
        if guest.agent.link is not LinkState.LIVE or order.target_kib <= guest.vm.actual_kib:
            return [order]
        move.gen += 1
        return [order, TellDeflate(guest.name, move.gen, order.target_kib, order.why)]

    # --- freeing -----------------------------------------------------------------------------------------

    def _free(
        self, guest: GuestSnapshot, decided: GuestDecision, move: Move, now_s: float, scarce: bool
    ) -> Command | None:
        goal_kib = max(decided.target_kib, decided.floor_kib)
        actual_kib = guest.vm.actual_kib
        excess_kib = actual_kib - goal_kib
        arrived = excess_kib <= ARRIVED_KIB  # a goal between two pages is never reached
        if arrived or not decided.shrinkable:
            move.asked_kib = None if arrived else move.asked_kib
            return None
        least_kib = worthwhile_kib(guest) if not scarce else SCARCE_LEAST_KIB
        if (move.asked_kib is None and excess_kib < least_kib) or now_s < move.leave_until_s:
            return None
        if not move.arrived or not _reported_since(guest, move.stepped_s, now_s):
            return None
        wish = move.standing_wish(guest)
        if wish is not None and now_s - wish.arrived_s < WISH_FRESH_S and wish.want_kib > goal_kib:
            move.refuses = True  # whoever goes on asking is not waited for
            return None
        floor_kib = goal_kib
        if guest.agent.link is LinkState.LIVE:
            consent = guest.agent.consent
            if not move.is_covered_by(consent, goal_kib + least_kib, now_s):
                return self._ask(guest, decided, move, goal_kib, now_s)
            assert consent is not None
            if consent.refused or consent.effective_kib >= actual_kib - ARRIVED_KIB:
                if consent.refused or consent.effective_kib > goal_kib + least_kib:
                    move.leave_until_s = now_s + ASK_AGAIN_S
                    move.refuses = True
                move.asked_kib = None
                return None
            floor_kib = max(goal_kib, consent.effective_kib)
        target_kib = max(floor_kib, actual_kib - step_kib(guest))
        move.stepped_s = now_s
        move.stepped_from_kib = actual_kib
        move.squeezed_s = now_s
        move.refuses = False
        move.head_for(target_kib)
        move.consented = guest.agent.link is LinkState.LIVE
        return SetTarget(guest.name, target_kib, decided.why)

    def _ask(
        self, guest: GuestSnapshot, decided: GuestDecision, move: Move, goal_kib: int, now_s: float
    ) -> Command | None:
        """Ask for consent to the whole way; one request is under way at a time."""
        if move.asked_kib is not None:
            unanswered = guest.agent.consent is None or guest.agent.consent.gen != move.gen
            if guest.agent.failed_gen >= move.gen or (unanswered and now_s - move.asked_s >= ASK_LOST_S):
                move.asked_kib = None
                move.leave_until_s = now_s + BACK_OFF_S
                move.refuses = True
                return None
            if unanswered:
                return None
        move.gen += 1
        move.asked_kib = goal_kib
        move.asked_s = now_s
        return AskInflate(guest.name, move.gen, goal_kib, decided.floor_kib, SHRINK_RATE_KIB_PER_S, decided.why)

    # --- allocating --------------------------------------------------------------------------------------

    def _allocate(
        self, snapshot: Snapshot, decided: dict[str, GuestDecision], room_kib: int, pending_kib: int
    ) -> tuple[list[Command], int]:
        commands: list[Command] = []
        now_s = snapshot.now_s
        waiting = [guest for guest in snapshot.guests if self._wants_grant(guest, decided[guest.name], now_s)]
        waiting.sort(key=lambda guest: need_per_weight(guest, decided[guest.name]), reverse=True)
        for guest in waiting:
            choice = decided[guest.name]
            reserve_kib = snapshot.host.headroom_kib
            move = self._moves[guest.name]
            standing_kib = move.target_kib if move.target_kib is not None else guest.vm.actual_kib
            missing_kib = choice.target_kib - standing_kib
            ends = guest.released and missing_kib <= SCARCE_LEAST_KIB * len(snapshot.guests)
            if choice.urgent or ends:
                spendable_kib = room_kib + pending_kib if choice.urgent else room_kib
                shown_kib = snapshot.host.facts.available_kib if snapshot.host.facts else spendable_kib
                usable_kib = max(room_kib - reserve_kib, min(spendable_kib, shown_kib))
            else:
                usable_kib = room_kib - reserve_kib
            target_kib = min(choice.target_kib, affordable_kib(guest, usable_kib))
            target_kib -= target_kib % PAGE_KIB  # QEMU would round it up, beyond what the books have
            target_kib = grown_kib(guest.vm, target_kib)
            if target_kib - standing_kib < grant_least_kib(guest, choice.urgent, missing_kib):
                continue
            room_kib -= max(0, booked_at_kib(guest, target_kib) - guest.booking.assigned_kib)
            move.head_for(target_kib)
            move.asked_kib = None
            move.stepped_s = 0.0
            commands += self._told(guest, move, SetTarget(guest.name, target_kib, choice.why))
        return commands, room_kib

    def _wants_grant(self, guest: GuestSnapshot, decided: GuestDecision, now_s: float) -> bool:
        move = self._moves.get(guest.name)
        if move is None or guest.booking.claimed or guest.vm.run_state is not RunState.RUNNING:
            return False
        if guest.hands_off or guest.vm.hands_off:
            return False  # it is booked with what it holds, which may be more than its balloon leaves it
        if move.lowered_kib or move.unclear:
            return False  # not before the books have seen what it has now
        if move.stuck_since_s is not None and move.stuck_growing and now_s < move.leave_until_s:
            return False  # what it cannot take would only be booked, and lacking elsewhere
        standing_kib = move.target_kib if move.target_kib is not None else guest.vm.actual_kib
        return decided.target_kib > max(standing_kib, guest.vm.actual_kib)

    # --- starting ----------------------------------------------------------------------------------------

    def _start(self, snapshot: Snapshot, room_kib: int) -> list[SetTarget | StartVm]:
        """Start one waiting machine, when its whole claim fits beside all that is booked and the headroom."""
        for guest in snapshot.guests:
            move = self._moves.get(guest.name)
            if move is None or not guest.waiting_to_start:
                continue
            if move.failed and move.target_kib is not None:
                move.failed = False
                return [SetTarget(guest.name, move.target_kib, "startup memory, tried again before its start")]
            claim_kib = guest.vm.claim_kib - guest.booking.assigned_kib - guest.held_kib
            if claim_kib <= room_kib - snapshot.host.headroom_kib:
                move.started_s = snapshot.now_s
                return [StartVm(guest.name, f"its boot claim of {guest.vm.claim_kib // 1024} MiB fits")]
        return []


def _is_short(guest: GuestSnapshot, decided: GuestDecision) -> bool:
    """It lacks a part of its demand or, released, of what is to be given back."""
    if guest.released:
        return guest.given_kib < decided.target_kib
    demand = guest.demand
    return demand is not None and guest.given_kib < min(demand.demand_kib, guest.settings.maximum_kib)


def _reported_since(guest: GuestSnapshot, stepped_s: float, now_s: float) -> bool:
    """I3: a report that arrived after the previous step, and is fresh."""
    report = guest.report
    return report is not None and report.arrived_s > stepped_s and now_s - report.arrived_s <= fresh_for_s(guest)
