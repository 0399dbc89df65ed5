"""Room that is made for a machine before it starts: all of it or none, by weight, for a limited time. Pure.

    asked -> refused, at once, when the guests need what it would take (its share by weight is less than its size)
          -> pending: nobody is granted anything of it; guests shrink; after `timeout` it is refused
          -> held: the books have the room free beside the headroom; until the machine appears, or `hold` has passed

A reservation is asked for and judged like a guest whose demand is its size: it takes from others what their weights
leave it, never a minimum, and never the headroom (that pays urgent asks, not starts). Those that were held first are
served first, so machines that start together come up one after the other and never overdraw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from .arbiter import enter, refilled_kib_of
from .decision import mib
from .model import GuestSnapshot, RunState, Snapshot, Survey
from .pace import SCARCE_LEAST_KIB
from .settings import OVERHEAD_KIB
from .water import fill

LONGEST_TIMEOUT_S, LONGEST_HOLD_S = 600.0, 3600.0
DEFAULT_HOLD_S = 60.0
"""libvirt starts a domain within a second of its `prepare` hook; a restore of a large one reads for minutes first."""
PENDING_MOST = 256
LAST_MIB_AFTER_S = 5.0
"""By then guests have been asked for what it lacks. What each of them keeps because it is too little for a command
(`pace.SCARCE_LEAST_KIB`) comes from the headroom, as at the end of a release."""

FIRST_FOR_S = 30.0
"""So long one that can be served has those asked for later wait: as long as most wait at all. For longer, who asks for
much with a long timeout would stop every other start; not at all, and small ones would always be in its way."""
TAKEN_UP_APART_KIB = 65536


@dataclass(frozen=True, slots=True)
class Reservation:
    """Times are the coordinator's clock."""

    name: str
    """The machine's, as the hypervisor will call it."""
    size_kib: int
    weight: int
    asked_s: float
    timeout_s: float
    hold_s: float = DEFAULT_HOLD_S
    held_since_s: float | None = None
    settled_kib: int | None = None
    """What it will be booked with once its driver has answered, where it boots with less than its size: the rest comes
    back soon enough for whoever may wait."""

    @property
    def is_held(self) -> bool:
        return self.held_since_s is not None

    def is_over(self, now_s: float) -> bool:
        """Waited or held for as long as it may."""
        if self.held_since_s is not None:
            return now_s >= self.held_since_s + self.hold_s
        return now_s >= self.asked_s + self.timeout_s


class Reservations:
    """All that stand now, in the order in which they were asked for."""

    def __init__(self, kept: Iterable[Reservation] = ()) -> None:
        self._all: dict[str, Reservation] = {item.name: item for item in kept}
        self._beyond: frozenset[str] = frozenset()
        """Pending, and more than there would be with every guest at its floor: asked of nobody meanwhile."""

    def __iter__(self) -> Iterator[Reservation]:
        return iter(self._all.values())

    def get(self, name: str) -> Reservation | None:
        return self._all.get(name)

    @property
    def reserved_kib(self) -> int:
        """Held and pending: nobody else is given any of it, but of what is pending who is short at this moment."""
        return sum(item.size_kib for item in self._all.values() if item.is_held or item.name not in self._beyond)

    @property
    def held_kib(self) -> int:
        return sum(item.size_kib for item in self._all.values() if item.is_held)

    def settled_kib(self, besides: str) -> int:
        """What all but this one will have in the end."""
        others = (item for item in self._all.values() if item.name not in (besides, *self._beyond))
        return sum(item.size_kib if item.settled_kib is None else item.settled_kib for item in others)

    def ask(self, reservation: Reservation) -> bool:
        """Enter it as pending; one for the same name takes the place of the one before, and keeps what that holds.
        Whether what is held is another now, by size or time: then it is to be written down."""
        before = self._all.get(reservation.name)
        was_held = before is not None and before.is_held
        if before is not None and was_held and before.size_kib >= reservation.size_kib:
            self._all[reservation.name] = replace(reservation, held_since_s=reservation.asked_s)
            return True
        self._all.pop(reservation.name, None)
        self._all[reservation.name] = reservation
        return was_held

    def entered(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with what is reserved in it."""
        if not self._all:
            return snapshot
        return replace(
            snapshot,
            host=replace(snapshot.host, reserved_kib=self.reserved_kib, held_kib=self.held_kib),
            guests=tuple(self._with_its_own(guest) for guest in snapshot.guests),
        )

    def _with_its_own(self, guest: GuestSnapshot) -> GuestSnapshot:
        item = self._all.get(guest.name)
        return replace(guest, held_kib=item.size_kib) if item is not None and item.is_held else guest

    def drop(self, name: str) -> Reservation | None:
        return self._all.pop(name, None)

    def step(self, snapshot: Snapshot) -> list[Reservation]:
        """Hold what there is room for, in order; let go what is over or has come. The ones that changed or left."""
        now_s, changed = snapshot.now_s, []
        there = {guest.name for guest in snapshot.guests if is_there(guest)}
        for name, item in list(self._all.items()):
            if name in there or item.is_over(now_s):
                changed.append(self._all.pop(name))
        return changed + self._hold(snapshot)

    def _hold(self, snapshot: Snapshot) -> list[Reservation]:
        """Those that are held from now on. Who may still be served has those asked for later wait, for a while."""
        waiting = [item for item in self._all.values() if not item.is_held]
        if not waiting or snapshot.unseen:
            return []
        room_kib = free_kib(snapshot) - self.held_kib
        most_kib = most_free_kib(snapshot) - self.held_kib
        last_kib = min(snapshot.host.headroom_kib, SCARCE_LEAST_KIB * len(snapshot.guests))
        changed, beyond, blocked = [], set(), False
        for item in waiting:
            # One that has been given up is taken up again when there is clearly enough: guests' floors move a little.
            apart_kib = TAKEN_UP_APART_KIB if item.name in self._beyond else 0
            more_kib = last_kib if snapshot.now_s - item.asked_s >= LAST_MIB_AFTER_S else 0
            if item.size_kib <= room_kib + more_kib and not blocked:
                room_kib -= item.size_kib
                self._all[item.name] = held = replace(item, held_since_s=snapshot.now_s)
                changed.append(held)
            elif item.size_kib + apart_kib > most_kib:
                beyond.add(item.name)
            elif snapshot.now_s - item.asked_s < FIRST_FOR_S:
                blocked = True
        self._beyond = frozenset(beyond)
        return changed


def is_there(guest: GuestSnapshot) -> bool:
    """Whether the machine has come: from then on it is booked itself. One that waits before its first instruction is
    booked with next to nothing, and its room is kept until its claim is."""
    if guest.vm.run_state is RunState.PRELAUNCH and not guest.booking.claimed:
        return False
    return not guest.unseen and guest.vm.run_state not in (RunState.ABSENT, RunState.SHUTDOWN)


def free_kib(snapshot: Snapshot) -> int:
    """What the books have beside guests, those that nobody has listed yet, and headroom."""
    host = snapshot.host
    return host.budget_kib - host.headroom_kib - snapshot.booked_kib - (host.unlisted_kib or 0)


def unlisted_kib(survey: Survey | None, counted: bool) -> int | None:
    """What the QEMUs on this host that are no guests of ours may hold at most, while libvirt has not said which of
    them are: each its whole RAM. `counted`: the budget has gone without what they hold already. None before a survey.
    """
    if survey is None:
        return None
    claims = [(max(qemu.ram_kib + OVERHEAD_KIB, qemu.resident_kib), qemu.resident_kib) for qemu in survey.unmanaged]
    return sum(claim_kib - held_kib if counted else claim_kib for claim_kib, held_kib in claims)


def most_free_kib(snapshot: Snapshot) -> int:
    """What the books would have beside guests and headroom with each guest at its floor; one that boots counts with
    what it is to boot with, one that cannot be moved with what it has."""
    away_kib = 0
    for party in enter(snapshot):
        guest = party.guest
        assigned_kib = guest.booking.assigned_kib
        hands_off = guest.hands_off or guest.vm.hands_off
        if guest.booking.claimed and guest.vm.run_state is RunState.RUNNING and not hands_off:
            assigned_kib = min(assigned_kib, max(guest.settings.startup_kib, guest.settings.minimum_kib))
        elif not party.fixed:
            assigned_kib = min(assigned_kib, party.floor_kib)
        away_kib += assigned_kib + guest.booking.overhead_kib
    host = snapshot.host
    return host.budget_kib - host.headroom_kib - away_kib - (host.unlisted_kib or 0)


def share_of_start_kib(snapshot: Snapshot, size_kib: int, weight: int) -> int:
    """What a machine of this size and weight would get beside these guests, by the rank of demand: minimums and what
    cannot be taken stay, the rest is shared by weight. Nothing of the headroom, which pays urgent asks.

    A guest that boots or has booted a moment ago will give what it is given, soon enough for one that may wait: it
    counts with what it is to boot with.
    """
    takers, away_kib = [(0, 0, size_kib, weight)], snapshot.host.reserved_kib + snapshot.host.lacking_kib
    for party in enter(snapshot):
        guest = party.guest
        away_kib += guest.booking.overhead_kib
        least_kib = min(guest.settings.minimum_kib, guest.vm.ram_kib)
        hands_off = guest.hands_off or guest.vm.hands_off
        if guest.booking.claimed and guest.vm.run_state is RunState.RUNNING and not hands_off:
            startup_kib = min(max(guest.settings.startup_kib, least_kib), guest.vm.ram_kib)
            takers.append((least_kib, least_kib, startup_kib, party.weight))
        elif party.fixed:
            away_kib += guest.booking.assigned_kib
        else:
            away_kib += refilled_kib_of(party) if party.shrinkable else 0
            lower_kib = party.floor_kib if party.settling else party.lower_kib
            takers.append((least_kib, lower_kib, max(party.demand_kib, lower_kib), party.weight))
    return fill(snapshot.host.budget_kib - snapshot.host.headroom_kib - away_kib, takers)[0]


def refusal(snapshot: Snapshot, wanted: Reservation) -> str:
    """Why it cannot be had, with the numbers; empty where it can. `snapshot.host.reserved_kib` is without it, and with
    what the others will have in the end."""
    share_kib = share_of_start_kib(snapshot, wanted.size_kib, wanted.weight)
    if share_kib >= wanted.size_kib:
        return ""
    budget_kib, headroom_kib = snapshot.host.budget_kib, snapshot.host.headroom_kib
    reserved = f", {mib(snapshot.host.reserved_kib)} reserved for others" if snapshot.host.reserved_kib else ""
    return (
        f"{mib(wanted.size_kib)} for {wanted.name}: at most {mib(max(0, share_kib))} can be freed for weight "
        f"{wanted.weight}; budget {mib(budget_kib)}, headroom {mib(headroom_kib)}, "
        f"guests hold {mib(snapshot.booked_kib)}{reserved}"
    )
