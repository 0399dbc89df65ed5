"""How short the host itself is of memory: a state with hysteresis, folded from the host's own facts. Pure.

The books promise memory; this watches what the host really has. Processes that nobody manages, a budget that was set
too large, or a limit on our own cgroup show up here first. Three states (ESX's four, Waldspurger, OSDI'02, without
the one that pages, since our host must never swap):

* **EASY**: the slider stands where the operator put it;
* **TIGHT**: nobody is given a surplus, and the slider stands at `TIGHT_SLIDER` at least;
* **CRITICAL**: the slider stands at density, and what the host lacks is taken from what guests share, demand included.

A state is entered at once and left after `CALM_S` above a higher mark, one at a time: a host that swings about one mark
does not make guests swing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .model import HostFacts, HostState, Snapshot

TIGHT_RATIO, TIGHT_OVER_RATIO = 0.06, 0.08
CRITICAL_RATIO, CRITICAL_OVER_RATIO = 0.02, 0.04
"""Available memory over the host's, or over our cgroup's limit. ESX's marks: 6 % high, 4 % soft, 2 % hard."""

TIGHT_PSI_SOME_RATIO = 0.10
CRITICAL_PSI_FULL_RATIO = 0.05
"""Over `PSI_OVER_S`: a tenth of the time somebody on the host waits for memory; a twentieth everybody does."""

PSI_BELOW_RATIO = 0.15
"""With more than this available the host has memory for whoever waits: it waits inside a limit of its own, which is
in the host's figures too. No stalls make a host critical that is not tight."""

PSI_OVER_S = 10.0
"""The kernel's own short average; a single reclaim is over by then."""

CALM_S = 10.0
"""A state must have ended for this long before it is left."""

TIGHT_SLIDER = 80


_ORDER = (HostState.EASY, HostState.TIGHT, HostState.CRITICAL)


@dataclass(frozen=True, slots=True)
class HostWatch:
    """What the fold remembers. Begin with `HostWatch()`."""

    state: HostState = HostState.EASY
    lacking_kib: int = 0
    """What is missing up to the mark at which a critical host is tight again."""
    why: str = ""
    since_s: float = 0.0
    easier_since_s: float | None = None
    psi_read_s: float | None = None
    psi_some_us: int | None = None
    psi_full_us: int | None = None
    psi_some_ratio: float = 0.0
    psi_full_ratio: float = 0.0


def watch_host(before: HostWatch, facts: HostFacts, now_s: float) -> HostWatch:
    """Fold the host's facts in."""
    watch = _with_psi(before, facts, now_s)
    total_kib, available_kib = _room(facts)
    found, why = _found(watch, total_kib, available_kib)
    state, easier_since_s = before.state, None
    if _ORDER.index(found) > _ORDER.index(state):
        state = found
    elif found is not state:
        easier_since_s = before.easier_since_s if before.easier_since_s is not None else now_s
        if now_s - easier_since_s >= CALM_S:
            state, easier_since_s = _ORDER[_ORDER.index(state) - 1], None
    lacking_kib = 0
    if state is HostState.CRITICAL:
        lacking_kib = max(0, int(total_kib * CRITICAL_OVER_RATIO) - available_kib)
    return replace(
        watch,
        state=state,
        lacking_kib=lacking_kib,
        why=(why or before.why) if state is not HostState.EASY else "",
        since_s=now_s if state is not before.state else before.since_s,
        easier_since_s=easier_since_s,
    )


def effective_slider(slider: int, state: HostState) -> int:
    """Where the slider stands when the host is short."""
    if state is HostState.CRITICAL:
        return 100
    return max(slider, TIGHT_SLIDER) if state is HostState.TIGHT else slider


def backed_kib(snapshot: Snapshot) -> int:
    """What the host can let all guests have, QEMU's own included, without becoming tight: what they hold now and what
    is available above the mark. A budget may promise more; whoever handed that out as surplus would have it taken back
    as soon as it is touched, and would hand it out again when the host has recovered."""
    facts = snapshot.host.facts
    if facts is None:
        return snapshot.host.budget_kib
    held_kib = 0
    for guest in snapshot.guests:
        seen = guest.residency
        held_kib += guest.booking.booked_kib if seen is None else seen.resident_kib + seen.overhead_kib
    total_kib, available_kib = _room(facts)
    return held_kib + available_kib - int(total_kib * TIGHT_OVER_RATIO)


def _room(facts: HostFacts) -> tuple[int, int]:
    """(total, available): the host's, or our cgroup's where that is nearer to its end."""
    rooms = [(facts.total_kib, facts.available_kib)]
    if facts.cgroup_limit_kib is not None and facts.cgroup_used_kib is not None:
        rooms.append((facts.cgroup_limit_kib, max(0, facts.cgroup_limit_kib - facts.cgroup_used_kib)))
    return min(rooms, key=lambda room: room[1] / max(1, room[0]))


def _found(watch: HostWatch, total_kib: int, available_kib: int) -> tuple[HostState, str]:
    """What the facts say; a state that is in force is found until its upper mark has been passed."""
    ratio = available_kib / max(1, total_kib)
    critical = CRITICAL_OVER_RATIO if watch.state is HostState.CRITICAL else CRITICAL_RATIO
    tight = TIGHT_OVER_RATIO if watch.state is not HostState.EASY else TIGHT_RATIO
    room = f"{available_kib // 1024} of {total_kib // 1024} MiB available on the host"
    if ratio < critical:
        return HostState.CRITICAL, room
    if watch.psi_full_ratio > CRITICAL_PSI_FULL_RATIO and ratio < tight:
        return HostState.CRITICAL, f"everything on the host waits for memory {watch.psi_full_ratio:.0%} of the time"
    if ratio < tight:
        return HostState.TIGHT, room
    if watch.psi_some_ratio > TIGHT_PSI_SOME_RATIO and ratio < PSI_BELOW_RATIO:
        return HostState.TIGHT, f"something on the host waits for memory {watch.psi_some_ratio:.0%} of the time"
    return HostState.EASY, ""


def _with_psi(before: HostWatch, facts: HostFacts, now_s: float) -> HostWatch:
    """The share of time that was waited, over `PSI_OVER_S` or since the last look where that is longer."""
    if facts.psi_some_us is None:
        return replace(before, psi_read_s=None, psi_some_ratio=0.0, psi_full_ratio=0.0)
    if before.psi_read_s is None or before.psi_some_us is None:
        return replace(before, psi_read_s=now_s, psi_some_us=facts.psi_some_us, psi_full_us=facts.psi_full_us)
    passed_s = now_s - before.psi_read_s
    if passed_s < PSI_OVER_S:
        return before
    return replace(
        before,
        psi_read_s=now_s,
        psi_some_us=facts.psi_some_us,
        psi_full_us=facts.psi_full_us,
        psi_some_ratio=_waited_ratio(before.psi_some_us, facts.psi_some_us, passed_s),
        psi_full_ratio=_waited_ratio(before.psi_full_us, facts.psi_full_us, passed_s),
    )


def _waited_ratio(before_us: int | None, after_us: int | None, passed_s: float) -> float:
    if before_us is None or after_us is None or after_us < before_us:
        return 0.0
    return min(1.0, (after_us - before_us) / (passed_s * 1_000_000))
