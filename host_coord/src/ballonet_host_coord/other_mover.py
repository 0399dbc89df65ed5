"""Tells whether somebody else moves a guest's balloon (`virsh setmem`, another balancer), and only when certain. Pure.

Nobody says what target a hypervisor has in force: QEMU and libvirt (`currentMemory`) tell the size reached. So it is
concluded, and only from a balloon that had settled: for `SETTLED_S` it stood at the target that we set last, or where
we have set none since we know this machine, at one size.

**Smaller** than that is certain: no guest inflates its balloon by itself. It is waited for a second reading.

**Larger** may be the guest's own act (deflate-on-oom, its driver unloaded, its suspend). The agent's `balloon_moved`
does not tell: the kernel counts what the host asked for and what the guest took in one counter. A guest that takes
memory takes it in need. It is another's act when a live agent counts no direct reclaim from `CALM_S` before on
(`alloc_stalls`: the kernel's OOM notifier runs only after it) and demands nothing else, the driver goes on with its
statistics, and most of what came lies free, more than reclaim ever leaves. Where no agent speaks, the statistics must
count neither major faults nor what is swapped in instead. What is not certain counts as the guest's.

A mover that comes again before the balloon has settled is known by its **departures**: the balloon leaves a target of
ours that is in force, with the same signs, or the agent says so before it is read. Nothing waits for them, so the third
within a minute is another's act.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ballonet_protocol.limits import SETTLING_S

from .model import GuestSnapshot, LinkState, ReportKind

REST_KIB = 1024
"""As `move.ARRIVED_KIB`."""

SUSPECT_KIB = 4096
"""As `move.OTHERS_ACT_KIB`: from here on the target is not touched until it is clear whose act it was."""

CERTAIN_KIB = 16384
"""Less is nobody's order: drivers and the OOM notifier move single MiB."""

SETTLED_S = 5.0
"""A target that the balloon has rested at for this long is in force; one that was lost on its way is not."""

FOUND_S = 30.0
"""So long a balloon whose target we do not know must have stood still, where its guest has little to give: what a
process before this one ordered may still be on its way, and a shrink stands still where nothing is left to take."""

LOWERED_S = 2.0
"""Two readings of a balloon that nobody watches closely."""

RAISED_S = 5.0
STEADY_S = 2.0
RAISED_MOST_S = 12.0
"""A larger balloon is looked at this long, and must have stood still at the end. Then it is the guest's."""

CALM_S = 10.0
"""So long before the balloon moved, and ever since, the guest must not have been in need."""

FREE_SHARE = 0.5
FREE_LEAST_KIB = 131072
FREE_PARTS = 32
"""Of what came so much lies free, and in all more than 128 MiB and a thirty-second: reclaim frees far less."""

SWING_S = 1.0
"""A balloon that was stopped in motion is read a little later where it was carried, and comes back."""

DEPARTURES = 3
DEPARTED_WITHIN_S = 60.0
"""So many departures within this time are another mover's. One may be a target of ours that came too late; two may be
chance, as a large process that ends beside a small need."""


class Act(Enum):
    """Whose the balloon's last move is."""

    OURS = "ours"
    """Ours or the guest's, or not certain."""
    WAIT = "wait"
    """Not clear yet: no command, or another's target would be overwritten."""
    ANOTHERS = "anothers"


@dataclass(slots=True)
class OtherMover:
    """What is known of one guest's balloon beside our moves. `begun` and `doubt` are told, `look` is asked."""

    believed: bool = True
    """The last target was taken by the hypervisor as far as we know."""
    settled_s: float = float("inf")
    """Since when the balloon has stood at the target; infinity while it has not."""
    suspect_s: float | None = None
    from_kib: int = 0
    last_kib: int = 0
    changed_s: float = 0.0
    session: int = 0
    free_kib: int | None = None
    """What lay free before it moved."""
    need: tuple[str, int, int] | None = None
    """What the guest counts when it is in need, and who counts."""
    needed_s: float = float("-inf")
    """When the guest was last seen in need."""
    looked_s: float = float("-inf")
    looked_kib: int = 0
    """The last look before this one: in its turn a target was ordered."""
    ordered_s: float | None = None
    """When the target in force was first looked at; None before."""
    shrinks_after_s: float = float("inf")
    """The target in force makes it smaller, and was ordered then."""
    near_kib: int = 0
    """Where the balloon was nearest to it."""
    near_free_kib: int | None = None
    departed_s: float | None = None
    """When it grew away from a target of ours, from `departed_from_kib`; whose act that was is not known."""
    departed_from_kib: int = 0
    departed_least_kib: int = 0
    """By less it has not departed."""
    departed_free_kib: int | None = None
    departures_s: tuple[float, ...] = ()
    """Of those that were not the guest's own, within `DEPARTED_WITHIN_S`."""

    def begun(self) -> None:
        """A target of ours is on its way."""
        self.believed = True
        self.ordered_s = None
        self._unsettle()

    def doubt(self) -> None:
        """The last target may not have reached the hypervisor."""
        self.believed = False
        self.ordered_s = self.departed_s = None
        self._unsettle()

    def finds_rest(self, guest: GuestSnapshot, now_s: float) -> bool:
        """Whether a balloon that was found, with no target of ours, has come to rest: asked each turn until it has."""
        self._note_need(guest, now_s)
        vm, report = guest.vm, guest.report
        plugging = vm.hotplug is not None and vm.hotplug.plugged_kib != vm.hotplug.requested_kib
        if plugging or abs(vm.actual_kib - self.last_kib) > REST_KIB or now_s < self.settled_s:
            self.last_kib, self.settled_s = vm.actual_kib, now_s
        if report is None or now_s - vm.boot_began_s < SETTLING_S:
            return False  # nobody moves it before it is heard, and a boot or an arrival is no rest
        # A guest that stands still as a whole has said nothing since, and its shrink would go on.
        gives = report.available_kib >= _free_least_kib(guest) and report.arrived_s > self.settled_s
        return now_s - self.settled_s >= (SETTLED_S if gives else FOUND_S)

    def look(self, guest: GuestSnapshot, target_kib: int, now_s: float) -> Act:
        """Judge the size that was read; `target_kib` is what we set last."""
        self._note_need(guest, now_s)
        actual_kib = guest.vm.actual_kib
        if self.suspect_s is None:
            if self._departs_often(guest, target_kib, now_s):
                return self._end(Act.ANOTHERS)
            return self._look_settled(guest, actual_kib - target_kib, now_s)
        if actual_kib != self.last_kib:
            self.last_kib, self.changed_s = actual_kib, now_s
        return self._look_moved(guest, actual_kib - self.from_kib, now_s)

    def _look_settled(self, guest: GuestSnapshot, away_kib: int, now_s: float) -> Act:
        if abs(away_kib) <= REST_KIB:
            self.settled_s = min(self.settled_s, now_s)
            self.free_kib = _free_kib(guest)
            return Act.OURS
        if not self.believed or now_s - self.settled_s < SETTLED_S or abs(away_kib) <= SUSPECT_KIB:
            return Act.OURS
        if away_kib > 0 and not self._can_be_certain(guest, now_s):
            return Act.OURS
        self.suspect_s = self.changed_s = now_s
        self.last_kib = guest.vm.actual_kib
        self.from_kib = guest.vm.actual_kib - away_kib
        return Act.WAIT

    def _look_moved(self, guest: GuestSnapshot, away_kib: int, now_s: float) -> Act:
        assert self.suspect_s is not None
        if away_kib < -SUSPECT_KIB:
            if now_s - self.suspect_s < LOWERED_S:
                return Act.WAIT
            return self._end(Act.ANOTHERS if away_kib < -CERTAIN_KIB else Act.OURS)
        if away_kib <= SUSPECT_KIB or not self._can_be_certain(guest, self.suspect_s):
            return self._end(Act.OURS)
        if now_s - self.suspect_s < RAISED_S or now_s - self.changed_s < STEADY_S:
            return Act.WAIT if now_s - self.suspect_s < RAISED_MOST_S else self._end(Act.OURS)
        another = away_kib > CERTAIN_KIB and _lies_free(guest, away_kib, self.free_kib, self.suspect_s)
        return self._end(Act.ANOTHERS if another else Act.OURS)

    def _departs_often(self, guest: GuestSnapshot, target_kib: int, now_s: float) -> bool:
        """Note where the balloon is beside the target in force; whether it was led away from ours time and again."""
        actual_kib = guest.vm.actual_kib
        if self.departed_s is not None:
            self._judge_departure(guest, self.departed_s, now_s)
        if guest.on_its_way:
            self.ordered_s = None  # whatever it does yet follows the target before
            self.looked_s, self.looked_kib = now_s, actual_kib
            return False
        if self.ordered_s is None:
            self.ordered_s = now_s
            shrinks = target_kib < self.looked_kib - REST_KIB
            self.shrinks_after_s = self.looked_s if shrinks else float("inf")
            self.near_kib, self.near_free_kib = actual_kib, _free_kib(guest)
        settled = now_s - self.settled_s >= SETTLED_S
        grows = actual_kib > target_kib
        farther_kib = abs(actual_kib - target_kib) - abs(self.near_kib - target_kib)
        if self.believed and not settled:
            if grows and farther_kib > CERTAIN_KIB:
                self._departs(now_s, CERTAIN_KIB)
            elif _says_it_moved(guest, self.shrinks_after_s):
                self.shrinks_after_s = float("inf")  # it says so again
                self._departs(now_s, 0)
            elif farther_kib > CERTAIN_KIB and guest.vm.read_s - self.ordered_s >= SWING_S:
                self.departures_s += (now_s,)
        if farther_kib <= 0 or farther_kib > CERTAIN_KIB or guest.vm.read_s - self.ordered_s < SWING_S:
            self.near_kib, self.near_free_kib = actual_kib, _free_kib(guest)
        self.looked_s, self.looked_kib = now_s, actual_kib
        recent = tuple(at_s for at_s in self.departures_s if now_s - at_s < DEPARTED_WITHIN_S)
        self.departures_s = recent if len(recent) < DEPARTURES else ()
        return len(recent) >= DEPARTURES

    def _departs(self, now_s: float, least_kib: int) -> None:
        if self.departed_s is None:
            self.departed_s, self.departed_least_kib = now_s, least_kib
            self.departed_from_kib, self.departed_free_kib = self.near_kib, self.near_free_kib

    def _judge_departure(self, guest: GuestSnapshot, departed_s: float, now_s: float) -> None:
        """By the first statistics that came well after it. What cannot be told was the guest's own."""
        statistics, before_kib = guest.vm.statistics, self.departed_free_kib
        more_kib = guest.vm.actual_kib - self.departed_from_kib
        if statistics is None or before_kib is None or now_s - departed_s >= RAISED_MOST_S:
            self.departed_s = None
        elif statistics.arrived_s >= departed_s + STEADY_S:
            self.departed_s = None
            before_kib -= CERTAIN_KIB  # where nothing was seen to move
            certain = more_kib >= self.departed_least_kib and self._can_be_certain(guest, departed_s)
            if certain and _lies_free(guest, max(0, more_kib), before_kib, departed_s):
                self.departures_s += (departed_s,)

    def _can_be_certain(self, guest: GuestSnapshot, since_s: float) -> bool:
        """Whether the guest's signs speak against its own act."""
        report = guest.report
        heard = self.need is not None and report is not None and guest.vm.statistics is not None
        if heard and report is not None and report.kind is ReportKind.AGENT:
            heard = guest.agent.link is LinkState.LIVE
        return heard and since_s - self.needed_s >= CALM_S

    def _note_need(self, guest: GuestSnapshot, now_s: float) -> None:
        need, wish = _need(guest), guest.wish
        if need is None or need != self.need:
            if guest.report is not None or self.need is not None:
                self.needed_s = now_s  # nothing to compare with is no calm, either
            self.need = need
        if guest.agent.session != self.session:
            self.session, self.needed_s = guest.agent.session, now_s  # another boot, or one that slept
        if wish is not None and not wish.tells_of_a_move:
            self.needed_s = max(self.needed_s, wish.arrived_s)

    def _end(self, act: Act) -> Act:
        self._unsettle()
        return act

    def _unsettle(self) -> None:
        self.suspect_s = None
        self.settled_s = float("inf")


def _need(guest: GuestSnapshot) -> tuple[str, int, int] | None:
    """What this guest counts when it is in need: its agent its direct reclaims; without one its balloon driver major
    faults and what is swapped in, as without room for its pages it reads them again. None: nobody counts."""
    report, statistics = guest.report, guest.vm.statistics
    if report is not None and report.kind is ReportKind.AGENT:
        return None if report.alloc_stalls is None else ("agent", report.alloc_stalls, 0)
    if report is None or statistics is None or statistics.available_kib is None:
        return None
    if statistics.major_faults is None or statistics.swap_in_bytes is None:
        return None
    return "statistics", statistics.major_faults, statistics.swap_in_bytes


def _says_it_moved(guest: GuestSnapshot, since_s: float) -> bool:
    """Its agent has seen its balloon give memory that nobody announced."""
    wish = guest.wish
    return wish is not None and wish.tells_of_a_move and wish.arrived_s > since_s


def _free_kib(guest: GuestSnapshot) -> int | None:
    """What nobody in the guest has taken. Page cache is none of its own acts where no agent counts reclaim: what came
    may have been filled with it meanwhile."""
    statistics = guest.vm.statistics
    if statistics is None:
        return None
    by_agent = guest.report is not None and guest.report.kind is ReportKind.AGENT
    return statistics.free_kib if by_agent else statistics.available_kib


def _lies_free(guest: GuestSnapshot, more_kib: int, before_kib: int | None, since_s: float) -> bool:
    """Nobody in the guest took it to use it, and its driver is alive: these statistics came since."""
    statistics, free_kib = guest.vm.statistics, _free_kib(guest)
    if statistics is None or statistics.free_kib is None or free_kib is None or before_kib is None:
        return False
    if statistics.arrived_s < since_s + STEADY_S or statistics.free_kib < _free_least_kib(guest):
        return False
    return free_kib >= before_kib + FREE_SHARE * more_kib


def _free_least_kib(guest: GuestSnapshot) -> int:
    """More than reclaim ever leaves free."""
    return max(FREE_LEAST_KIB, guest.vm.ram_kib // FREE_PARTS)
