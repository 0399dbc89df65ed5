"""One guest's balloon on its way: what is known of a move, and how one begins, rests and ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import Consent, GuestSnapshot, Wish
from .other_mover import Act, OtherMover

ARRIVED_KIB = 1024
"""`actual` within 1 MiB of the target has arrived: drivers move whole chunks of 256 pages."""

STUCK_S = 5.0
"""No progress of `actual` for 5 s: the move ends and the guest is marked (squeezed's figure)."""

RETRY_S = 30.0
RETRY_MOST_S = 300.0
"""A guest whose balloon did not follow is tried again after this, and after twice as long each time that it stands
still anew; its books never depended on it."""

UNCOOPERATIVE_S = 20.0
"""Off its target for this long a guest is flagged (squeezed's figure)."""

UNCOOPERATIVE_TIMES = 3
FORGIVEN_S = 600.0
"""So many standstills flag it, too: a balloon that moves for a second in twenty never stands still for long (squeezed's
known hole). Each is forgotten after ten minutes in which it followed."""

BACK_OFF_S = 10.0
"""After an objection, a standstill or silence, the guest is left alone this long before it is asked again."""

OTHERS_ACT_KIB = 4096
"""`actual` leaves the place where it rested by more than this: the guest took memory back by itself, or another mover
made it smaller."""


@dataclass(slots=True)
class Move:
    """What the ledger knows of one guest's balloon."""

    boot: int
    target_kib: int | None = None
    """The target in force at the hypervisor. None: not set by us in this boot, and not found at rest."""
    found: bool = False
    """Nobody of us has set the target: it is the size that the balloon was found to rest at."""
    arrived: bool = True
    ram_kib: int = 0
    """The guest's RAM when it was last looked at; 0 before."""
    rest_kib: int = 0
    """Where the balloon came to rest: what leaves it afterwards is somebody else's act."""
    stopped_s: float = float("-inf")
    gen: int = 0
    asked_kib: int | None = None
    """The goal of the INFLATE with the newest `gen`, while it is asked or consented to."""
    asked_s: float = 0.0
    stepped_s: float = 0.0
    stepped_from_kib: int = 0
    consented: bool = False
    """The step under way needs the agent's consent as long as it lasts."""
    squeezed_s: float = float("-inf")
    """When a shrink of ours was last seen under way."""
    away_kib: int = 0
    progress_s: float = 0.0
    """When `actual` last came nearer to the target; 0 while nothing is under way."""
    leave_until_s: float = 0.0
    stuck_since_s: float | None = None
    stuck_at_kib: int = 0
    stuck_growing: bool = False
    """It was a grant that the balloon did not follow."""
    standstills: int = 0
    stood_still_s: float = float("-inf")
    """When it last stood still."""
    refuses: bool = False
    forced: bool = False
    """The target in force is the operator's, whatever the budget says."""
    failed: bool = False
    """The hypervisor did not take the last target."""
    started_s: float | None = None
    taken_back_kib: int = 0
    lowered_kib: int = 0
    """By how much the guest was made smaller, in this turn."""
    other: OtherMover = field(default_factory=OtherMover)
    set_by_another_kib: int | None = None
    """Where another mover has certainly set it, in this turn."""
    unclear: bool = False
    """It moved, and whose act that was is not clear yet: no command."""

    def standing_wish(self, guest: GuestSnapshot) -> Wish | None:
        """What the guest asked for last. Who blames a move that is none of ours, or over, has asked for nothing; nor
        has who tells of one, before its size is known."""
        wish = guest.wish
        if wish is None or wish.is_before(guest.vm):
            return None
        return wish if wish.gen is None or wish.gen == self.gen > 0 else None

    def may_rely_on(self, consent: Consent | None, now_s: float) -> bool:
        """Whether the agent has answered the newest request and its word still holds."""
        return consent is not None and consent.gen == self.gen and now_s < consent.expires_s

    def is_covered_by(self, consent: Consent | None, goal_kib: int, now_s: float) -> bool:
        """Whether its word still holds, for no smaller a goal."""
        return self.asked_kib is not None and goal_kib >= self.asked_kib and self.may_rely_on(consent, now_s)

    def head_for(self, target_kib: int) -> None:
        self.target_kib = target_kib
        self.found = self.arrived = False
        self.consented = self.forced = self.failed = False
        self.progress_s = 0.0
        self.other.begun()

    def rest_at(self, actual_kib: int) -> None:
        self.arrived = True
        self.rest_kib = actual_kib

    def stop(self, actual_kib: int, target_kib: int, now_s: float) -> None:
        """It ends early where it stands, with `target_kib` in force, and the guest is left alone for a while."""
        self.asked_kib = None
        self.stepped_s = 0.0
        self.refuses = True
        self.leave_until_s = max(self.leave_until_s, now_s + BACK_OFF_S)
        self.target_kib = target_kib
        self.found = self.forced = False
        self.stopped_s = now_s
        self.rest_at(actual_kib)
        self.other.begun()

    def adopt(self) -> None:
        """Its size is not ours any more, whatever was under way: as of a machine that was found running."""
        self.target_kib = self.asked_kib = self.stuck_since_s = None
        self.stepped_s = 0.0
        self.found = self.forced = self.unclear = False
        self.arrived = True
        self.other.begun()

    def doubt(self) -> None:
        """It was out of sight, or a target of ours may not have reached the hypervisor."""
        if self.found or self.target_kib is None:
            # No target of ours is at stake. Where it rests now is found anew, and no doubt comes with that.
            believed = self.other.believed
            self.adopt()
            self.other.believed = believed
        else:
            self.other.doubt()

    def look_for_others(self, guest: GuestSnapshot, now_s: float) -> bool:
        """Whether nothing is done in this turn, since another mover is at work or may be."""
        self.unclear = False
        if guest.vm.ram_kib != self.ram_kib:
            # Memory was plugged in or out, and `actual` went with it: nobody's order, and no target of ours.
            if self.ram_kib and self.arrived:
                self.adopt()
            self.ram_kib = guest.vm.ram_kib
        if guest.hands_off and self.arrived:
            self.adopt()
            return False
        if self.target_kib is None:
            self._find(guest, now_s)
            return False
        if guest.booking.claimed:
            return False
        if self.stuck_since_s is not None:
            self.other.begun()  # what it does late is no order
        act = self.other.look(guest, self.target_kib, now_s)
        if act is Act.ANOTHERS:
            self.adopt()
            self.set_by_another_kib = guest.vm.actual_kib
        self.unclear = act is not Act.OURS
        self.taken_back_kib = self.lowered_kib = 0
        return self.unclear

    def _find(self, guest: GuestSnapshot, now_s: float) -> None:
        """Take the size that it rests at for its target, and send nothing."""
        if guest.booking.claimed or guest.vm.hands_off:
            self.other.begun()
        elif self.other.finds_rest(guest, now_s):
            self.target_kib, self.found = guest.vm.actual_kib, True
            self.rest_at(guest.vm.actual_kib)

    def stood_still(self, now_s: float) -> None:
        """It was stopped because its balloon does not follow."""
        passed = 0 if self.stood_still_s < 0 else int((now_s - self.stood_still_s) / FORGIVEN_S)
        self.standstills = max(0, self.standstills - passed) + 1
        self.stood_still_s = now_s
        self.leave_until_s = now_s + min(RETRY_MOST_S, RETRY_S * 2.0 ** (self.standstills - 1))

    def is_uncooperative(self, now_s: float) -> bool:
        """Whether an operator should be told that its balloon does not follow."""
        if self.stuck_since_s is not None and now_s - self.stuck_since_s >= UNCOOPERATIVE_S:
            return True
        return self.standstills >= UNCOOPERATIVE_TIMES and now_s - self.stood_still_s < FORGIVEN_S

    def look_at_rest(self, actual_kib: int, now_s: float) -> None:
        """Note what the balloon did without us. A larger size is another's act or the guest's, and not taken as a
        target before its word; a smaller one is in force at the hypervisor, so it is the target."""
        assert self.target_kib is not None
        if actual_kib > self.target_kib + OTHERS_ACT_KIB:
            self.taken_back_kib = actual_kib - self.target_kib
        elif now_s - self.stopped_s < STUCK_S:
            self.rest_kib = actual_kib  # it was stopped in motion and still swings back
        elif actual_kib < min(self.rest_kib, self.target_kib) - OTHERS_ACT_KIB:
            self.lowered_kib = self.rest_kib - actual_kib
            self.target_kib = self.rest_kib = actual_kib
        else:
            self.rest_kib = max(self.rest_kib, actual_kib)
