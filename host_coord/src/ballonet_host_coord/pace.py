"""How fast a balloon is moved, and what is worth a command: the numbers of moving, each with its reason. Pure."""

from __future__ import annotations

from .model import GuestDecision, GuestSnapshot, LinkState, Snapshot

TOLERANCE_KIB = 4096
"""A device's rounding and a report's age: no shortage, no excess, and status words do not flicker for it."""

WORTHWHILE_LEAST_KIB = 16384
WORTHWHILE_RATIO = 0.03
"""A move below 16 MiB or 3 % of the guest is not worth a command (I6); memory that somebody lacks always is."""

SCARCE_LEAST_KIB = 4096
"""While somebody is short, or a guest lacks part of its demand, this much is worth a command."""

GRANT_MOST_KIB = 524288
"""What is for buffers waits until half of it is there, or 512 MiB, half a second of a donor's way: it comes piece by
piece as others give, and each piece would be a command."""

STEP_LEAST_KIB = 65536
STEP_RATIO = 1 / 8
STEP_AVAILABLE_RATIO = 1 / 2
STEP_MOST_KIB = 1048576
"""One downward step: an eighth of the guest or half of what it reports available, 64 MiB to 1 GiB. A report must
follow before the next, so a wrong step is noticed before it is repeated."""


def worthwhile_kib(guest: GuestSnapshot) -> int:
    """The least that is worth a command where nobody lacks anything."""
    ratio_kib = int(guest.vm.actual_kib * WORTHWHILE_RATIO)
    return ratio_kib if ratio_kib > WORTHWHILE_LEAST_KIB else WORTHWHILE_LEAST_KIB


def grant_least_kib(guest: GuestSnapshot, urgent: bool, missing_kib: int) -> int:
    """The least that is worth a grant to this guest, which would have `missing_kib` more.

    A released guest is given the last of it, however little: what a release promises is everything.
    """
    lacks = guest.demand is not None and guest.vm.actual_kib < guest.demand.demand_kib
    if lacks or urgent:
        return SCARCE_LEAST_KIB
    least_kib = max(worthwhile_kib(guest), min(missing_kib // 2, GRANT_MOST_KIB))
    return min(least_kib, missing_kib) if guest.released else least_kib


def step_kib(guest: GuestSnapshot) -> int:
    """The next downward step; half of it where no agent watches the guest (I3)."""
    report = guest.report
    spare_kib = int(report.available_kib * STEP_AVAILABLE_RATIO) if report is not None else 0
    kib = min(STEP_MOST_KIB, max(STEP_LEAST_KIB, int(guest.vm.actual_kib * STEP_RATIO), spare_kib))
    return kib if guest.agent.link is LinkState.LIVE else kib // 2


def is_needed(snapshot: Snapshot, room_kib: int) -> bool:
    """Small moves count too: to end an overdraft, to let a machine start, to fill the headroom."""
    spare_kib = room_kib - snapshot.host.headroom_kib
    waiting = [guest for guest in snapshot.guests if guest.waiting_to_start]
    claims = [guest.vm.claim_kib - guest.booking.assigned_kib - guest.held_kib for guest in waiting]
    return room_kib < 0 or spare_kib <= -SCARCE_LEAST_KIB or any(claim > spare_kib for claim in claims)


def need_per_weight(guest: GuestSnapshot, decided: GuestDecision) -> tuple[int, float]:
    """Urgent asks first, then whoever is furthest below its demand per weight, then below its target."""
    demand_kib = guest.demand.demand_kib if guest.demand else 0
    lacking_kib = max(0, min(demand_kib, decided.target_kib) - guest.vm.actual_kib)
    wanting_kib = max(0, decided.target_kib - guest.vm.actual_kib)
    weight = guest.settings.weight
    return (2 if decided.urgent else 1 if lacking_kib else 0), (lacking_kib or wanting_kib) / weight
