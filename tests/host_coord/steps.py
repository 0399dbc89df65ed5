"""Rounds of the ledger for its tests: a guest that was heard a moment ago, and what was decided for it."""

from __future__ import annotations

from typing import Any

from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    AgentFacts,
    AskInflate,
    BalloonStatistics,
    Booking,
    Command,
    Consent,
    Decision,
    GuestDecision,
    GuestSnapshot,
    LinkState,
    Phase,
    Rule,
    RunState,
    SetTarget,
    Status,
)

from .builders import MIB, NOW_S, make_guest, make_report, make_snapshot, make_vm


def settled(*sizes_mib: int) -> Ledger:
    """A ledger whose guests a, b ... were set to these sizes and have arrived there."""
    ledger = Ledger()
    for name, size_mib in zip("abc", sizes_mib, strict=False):
        ledger.began_boot(name, 1, size_mib * MIB, adopted=False)
        guest = make_guest(name, size_mib * MIB)
        step(ledger, (guest, size_mib), now_s=NOW_S - 100)
    return ledger


def decided(guest: GuestSnapshot, target_mib: int, **changes: Any) -> GuestDecision:
    values: dict[str, Any] = {
        "floor_kib": 256 * MIB, "phase": Phase.HOLD, "status": Status.OK, "shrinkable": True, "urgent": False,
        "rule": Rule.FIXED, "held_by": "so decided", "want_kib": 0, **changes,
    }  # fmt: skip
    return GuestDecision(name=guest.name, target_kib=target_mib * MIB, **values)


def step(
    ledger: Ledger,
    *chosen: tuple[GuestSnapshot, int] | tuple[GuestSnapshot, int, dict[str, Any]],
    now_s: float = NOW_S,
    **host: Any,
) -> list[Command]:
    """One round: guests with what was decided for them in MiB, and what else is special about the decision."""
    snapshot = make_snapshot(*(guest for guest, *_ in chosen), now_s=now_s, **host)
    answers = tuple(decided(guest, target, **(rest[0] if rest else {})) for guest, target, *rest in chosen)
    return ledger.step(snapshot, Decision(now_s, snapshot.host.budget_kib, snapshot.booked_kib, 0, 0, 0, "", answers))


def guest_at(size_mib: int, now_s: float = NOW_S, consent: Consent | None = None, **changes: Any) -> GuestSnapshot:
    """Guest a, heard at `now_s`, with little available, so that its steps are small."""
    size_kib = size_mib * MIB
    values: dict[str, Any] = {
        "agent": AgentFacts(LinkState.LIVE, session=1, consent=consent),
        "report": make_report(now_s, size_kib, use_kib=size_kib - 50 * MIB),
        "demand_kib": 200 * MIB,
        **changes,
    }
    return make_guest("a", size_kib, **values)


RESTS_AT_MIB = 500
FREE_MIB = 200


def heard(size_mib: int, now_s: float, free_mib: int | None = FREE_MIB, stalls: int | None = 3, **changes: Any
) -> GuestSnapshot:
    """Guest a as its agent and its balloon driver tell of it: not in need."""
    statistics = None if free_mib is None else BalloonStatistics(now_s, free_kib=free_mib * MIB)
    values: dict[str, Any] = {
        "report": make_report(now_s, size_mib * MIB, alloc_stalls=stalls),
        "vm": make_vm(actual_kib=size_mib * MIB, statistics=statistics, read_s=now_s),
        **changes,
    }
    return guest_at(size_mib, now_s, **values)


def consent_to(size_mib: int, gen: int = 1, refused: bool = False, until_s: float = NOW_S + 30) -> Consent:
    return Consent(gen, size_mib * MIB, refused, 0, NOW_S, until_s)


def asked(size_mib: int = 900, goal_mib: int = 500) -> Ledger:
    ledger = settled(size_mib)
    (ask,) = step(ledger, (guest_at(size_mib), goal_mib))
    assert isinstance(ask, AskInflate)
    return ledger


def stepping(consent_mib: int = 500) -> Ledger:
    """Guest a is on its first step from 900 to 788 MiB."""
    ledger = asked()
    commands = step(ledger, (guest_at(900, NOW_S + 1, consent_to(consent_mib)), 500), now_s=NOW_S + 1)
    assert commands == [SetTarget("a", int(900 * MIB * 7 / 8), "so decided")]
    return ledger


STEP_MIB = 787.5


def waiting(name: str) -> GuestSnapshot:
    vm = make_vm(run_state=RunState.PRELAUNCH)
    return make_guest(name, 0, None, vm=vm, booking=Booking(0, 10 * MIB, False), waiting_to_start=True)
