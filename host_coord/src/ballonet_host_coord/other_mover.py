"""Tells whether somebody else moves a guest's balloon (`virsh setmem`, another balancer), and only when certain. Pure.

Nobody says what target a hypervisor has in force: QEMU and libvirt (`currentMemory`) tell the size reached. So it is
concluded, and only from a balloon that had settled: for `SETTLED_S` it stood at the target that we set last, or where
we have set none since we know this machine, at one size.

**Smaller** than that is certain: no guest inflates its balloon by itself. It is waited for a second reading.

**Larger** may be the guest's own act (deflate-on-oom, its driver unloaded, its suspend). The agent's `balloon_moved`
does not tell: the kernel counts what the host asked for and what the guest took in one counter. A guest that takes
memory takes it in need. It is another's act when a live agent counts no direct reclaim from `CALM_S` before on
(`alloc_stalls`: the kernel's OOM notifier runs only after it) and demands nothing else, the driver goes on with its
statistics, and most of what came lies free, more than reclaim ever leaves. What is not certain counts as the guest's.
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

OOM_WHY = 5
SOON = 0
"""`DemandWhy.OOM` at `Severity.SOON`: all that an agent can say of a balloon that moved unannounced."""


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
    """MemFree before it moved."""
    stalls: int | None = None
    needed_s: float = float("-inf")
    """When the guest was last seen in need."""

    def begun(self) -> None:
        """A target of ours is on its way."""
        self.believed = True
        self._unsettle()

    def doubt(self) -> None:
        """The last target may not have reached the hypervisor."""
        self.believed = False
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
        gives = report.available_kib >= _free_least_kib(guest)
        return now_s - self.settled_s >= (SETTLED_S if gives else FOUND_S)

    def look(self, guest: GuestSnapshot, target_kib: int, now_s: float) -> Act:
        """Judge the size that was read; `target_kib` is what we set last."""
        self._note_need(guest, now_s)
        actual_kib = guest.vm.actual_kib
        if self.suspect_s is None:
            return self._look_settled(guest, actual_kib - target_kib, now_s)
        if actual_kib != self.last_kib:
            self.last_kib, self.changed_s = actual_kib, now_s
        return self._look_moved(guest, actual_kib - self.from_kib, now_s)

    def _look_settled(self, guest: GuestSnapshot, away_kib: int, now_s: float) -> Act:
        if abs(away_kib) <= REST_KIB:
            self.settled_s = min(self.settled_s, now_s)
            statistics = guest.vm.statistics
            self.free_kib = statistics.free_kib if statistics else None
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
        another = away_kib > CERTAIN_KIB and self._lies_free(guest, away_kib)
        return self._end(Act.ANOTHERS if another else Act.OURS)

    def _lies_free(self, guest: GuestSnapshot, more_kib: int) -> bool:
        """Nobody in the guest took it to use it, and its driver is alive: these statistics came since."""
        statistics = guest.vm.statistics
        assert self.suspect_s is not None
        if statistics is None or statistics.free_kib is None or self.free_kib is None:
            return False
        if statistics.arrived_s < self.suspect_s + STEADY_S:
            return False
        return statistics.free_kib >= max(_free_least_kib(guest), self.free_kib + FREE_SHARE * more_kib)

    def _can_be_certain(self, guest: GuestSnapshot, since_s: float) -> bool:
        """Whether the guest's signs speak against its own act."""
        agent = guest.agent
        heard = agent.link is LinkState.LIVE and self.stalls is not None
        return heard and guest.vm.statistics is not None and since_s - self.needed_s >= CALM_S

    def _note_need(self, guest: GuestSnapshot, now_s: float) -> None:
        report, wish = guest.report, guest.wish
        stalls = report.alloc_stalls if report is not None and report.kind is ReportKind.AGENT else None
        if stalls is None or self.stalls is None or stalls != self.stalls:
            if report is not None or self.stalls is not None:
                self.needed_s = now_s  # nothing to compare with is no calm, either
            self.stalls = stalls
        if guest.agent.session != self.session:
            self.session, self.needed_s = guest.agent.session, now_s  # another boot, or one that slept
        if wish is not None and (wish.why, wish.severity) != (OOM_WHY, SOON):
            self.needed_s = max(self.needed_s, wish.arrived_s)

    def _end(self, act: Act) -> Act:
        self._unsettle()
        return act

    def _unsettle(self) -> None:
        self.suspect_s = None
        self.settled_s = float("inf")


def _free_least_kib(guest: GuestSnapshot) -> int:
    """More than reclaim ever leaves free."""
    return max(FREE_LEAST_KIB, guest.vm.ram_kib // FREE_PARTS)
