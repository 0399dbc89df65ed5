"""What the host can promise to all guests when nobody says it, and whether it has what somebody said. Pure.

::

    budget = total - huge pages - reserve - others beyond the reserve

*total* is MemTotal, or the limit of our own cgroup or of one above it: each is an account of its own, and the one that
leaves least is the bound. *Others* is whatever is held and is no guest of ours: host processes, the kernel, unmanaged
guests. They are counted as they are, with a margin; the reserve pays for them first.

The budget must stand still while nothing happens (I6), so what is counted for the others moves in whole steps: up
when half the margin has been eaten for `RISE_AFTER_S`, down when twice the margin and a step would be left for
`FALL_AFTER_S`. What is short before that shows in the host's own state (host_state.py), which is at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .finding import shown
from .model import Account, BudgetParts, HostFacts, HostSettings, Survey, UnmanagedGuest

MARGIN_LEAST_KIB = 131072
"""128 MiB: what the daemons of a small host take and leave within minutes."""
MARGIN_PARTS = 16
UNMANAGED_LEAST_KIB, UNMANAGED_PARTS = 65536, 8
"""On top for each unmanaged guest, which may touch more at any moment: an eighth of what it holds, at least 64 MiB."""
STEP_KIB = 65536
RISE_AFTER_S = 10.0
FALL_AFTER_S = 60.0

HOST_ACCOUNT = "MemTotal"
MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted for the others of one account, and since when it seems too little or too much."""

    kib: int
    above_since_s: float | None = None
    above_least_kib: int = 0
    below_since_s: float | None = None
    below_most_kib: int = 0


@dataclass(frozen=True, slots=True)
class BudgetWatch:
    """What the fold remembers. Begin with `BudgetWatch()`: nobody has looked yet."""

    counted: dict[str, Counted] = field(default_factory=dict)
    survey: Survey | None = None


def watch_budget(before: BudgetWatch, survey: Survey, unplaced_kib: int = 0) -> BudgetWatch:
    """Fold one survey in. `unplaced_kib`: booked for guests of ours whose process is not known, so that they are
    among the others and must not count twice."""
    managed = before.survey.managed if before.survey is not None else frozenset()
    extra_kib = sum(max(UNMANAGED_LEAST_KIB, guest.resident_kib // UNMANAGED_PARTS) for guest in survey.unmanaged)
    counted = {}
    for account in survey.accounts:
        others_kib = max(0, account.others_kib - unplaced_kib)
        # Who is outside of our cgroup takes nothing from its limit, and cannot be told from who is inside.
        others_kib += min(extra_kib, others_kib)
        known = before.counted.get(account.of)
        if known is None:
            counted[account.of] = Counted(_with_margin(others_kib))
            continue
        if survey.managed - managed:  # what these hold is booked from now on, and no longer held by others
            known = replace(known, kib=min(known.kib, _with_margin(others_kib)))
        counted[account.of] = _fold(known, others_kib, survey.read_s)
    return BudgetWatch(counted, survey)


def _fold(known: Counted, others_kib: int, now_s: float) -> Counted:
    margin_kib = _margin_kib(others_kib)
    if others_kib > known.kib - margin_kib // 2:
        if known.above_since_s is None:
            return Counted(known.kib, above_since_s=now_s, above_least_kib=others_kib)
        least_kib = min(known.above_least_kib, others_kib)
        if now_s - known.above_since_s >= RISE_AFTER_S:
            return Counted(max(known.kib, _with_margin(least_kib)))
        return Counted(known.kib, above_since_s=known.above_since_s, above_least_kib=least_kib)
    if others_kib + 2 * margin_kib + STEP_KIB < known.kib:
        if known.below_since_s is None:
            return Counted(known.kib, below_since_s=now_s, below_most_kib=others_kib)
        most_kib = max(known.below_most_kib, others_kib)
        if now_s - known.below_since_s >= FALL_AFTER_S:
            return Counted(_with_margin(most_kib))
        return Counted(known.kib, below_since_s=known.below_since_s, below_most_kib=most_kib)
    return Counted(known.kib)


def _margin_kib(others_kib: int) -> int:
    return max(MARGIN_LEAST_KIB, others_kib // MARGIN_PARTS)


def _with_margin(others_kib: int) -> int:
    return -(-(others_kib + _margin_kib(others_kib)) // STEP_KIB) * STEP_KIB


def budget_parts(settings: HostSettings, facts: HostFacts, watch: BudgetWatch | None = None) -> BudgetParts:
    """The budget and its parts by the account that leaves least. Before a survey nobody but the reserve is counted."""
    survey = watch.survey if watch is not None else None
    accounts = survey.accounts if survey is not None else _accounts(facts)
    counted = watch.counted if watch is not None else {}
    found = []
    for account in accounts:
        known = counted.get(account.of)
        found.append(
            BudgetParts(
                of=account.of,
                total_kib=account.total_kib,
                hugepages_kib=account.hugepages_kib,
                reserve_kib=settings.reserve_kib,
                others_kib=known.kib if known is not None else 0,
                unmanaged=survey.unmanaged if survey is not None else (),
            )
        )
    least = min(found, key=lambda parts: (parts.budget_kib, parts.total_kib - parts.hugepages_kib - parts.others_kib))
    return replace(least, set_kib=settings.budget_kib)


def _accounts(facts: HostFacts) -> Iterable[Account]:
    yield Account(HOST_ACCOUNT, facts.total_kib, facts.hugetlb_kib)
    if facts.cgroup_limit_kib is not None:
        yield Account("the limit of its cgroup", facts.cgroup_limit_kib)


def in_words(parts: BudgetParts) -> str:
    """The budget as a sum, in MiB."""
    if parts.set_kib is None:
        return (
            f"budget {_mib(parts.budget_kib)} = {parts.of} {_mib(parts.total_kib)}{_huge(parts)} "
            f"- reserve {_mib(parts.reserve_kib)} - others {_mib(parts.beyond_kib)}{_named(parts.unmanaged)} (MiB)"
        )
    if not parts.not_there_kib:
        return ""
    return (
        f"budget {_mib(parts.set_kib)} is set, and {_mib(parts.not_there_kib)} of it are not there: {parts.of} "
        f"{_mib(parts.total_kib)}{_huge(parts)} - others {_mib(parts.others_kib)}{_named(parts.unmanaged)} (MiB)"
    )


def _huge(parts: BudgetParts) -> str:
    return f" - hugepages {_mib(parts.hugepages_kib)}" if parts.hugepages_kib else ""


def _named(unmanaged: tuple[UnmanagedGuest, ...]) -> str:
    if not unmanaged:
        return ""
    largest = sorted(unmanaged, key=lambda guest: (-guest.resident_kib, guest.pid))
    said = [f"{shown(guest.name)} {_mib(guest.resident_kib)}" for guest in largest[:MOST_NAMED]]
    if rest := largest[MOST_NAMED:]:
        said.append(f"{len(rest)} more {_mib(sum(guest.resident_kib for guest in rest))}")
    return f" (with guests that are not ours: {', '.join(said)})"


def _mib(kib: int) -> str:
    return f"{kib / 1024:.0f}"
