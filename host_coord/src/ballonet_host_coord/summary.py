"""What `ballonet status` tells: one line of the host, one of each guest, as plain JSON types. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from . import refilled
from .budget import in_words
from .model import Decision, GuestDecision, GuestSnapshot, LinkState, Phase, RunState, Snapshot


def summarise(snapshot: Snapshot, decision: Decision, details: dict[str, str], alarm: str) -> dict[str, Any]:
    """The answer to "status". `details` says per guest what its hypervisor connection complains of."""
    facts, parts = snapshot.host.facts, snapshot.host.budget_parts
    return {
        "host": {
            "budget_kib": decision.budget_kib,
            "budget_why": in_words(parts) if parts else "",
            "budget_parts": asdict(parts) if parts else None,
            "booked_kib": decision.booked_kib,
            "headroom_kib": decision.headroom_kib,
            "headroom_free_kib": decision.headroom_free_kib,
            "overdrawn_kib": decision.overdrawn_kib,
            "overdrawn_cause": decision.overdrawn_cause,
            "available_kib": facts.available_kib if facts else None,
            "slider": snapshot.host.slider,
            "state": snapshot.host.state.value,
            "state_why": snapshot.host.state_why,
            "observe": snapshot.observe,
            "alarm": alarm,
        },
        "guests": [
            _guest(guest, decided, details.get(guest.name, ""), snapshot)
            for guest, decided in zip(snapshot.guests, decision.guests, strict=True)
        ],
    }


def _guest(guest: GuestSnapshot, decided: GuestDecision, detail: str, snapshot: Snapshot) -> dict[str, Any]:
    above = refilled.in_words(guest, snapshot.host.refills, snapshot.now_s)
    demand = guest.demand
    there = guest.vm.run_state not in (RunState.ABSENT, RunState.SHUTDOWN)
    assigned_kib = guest.booking.assigned_kib
    commit_pressure = round(100 * demand.demand_kib / assigned_kib) if demand and assigned_kib else None
    return {
        "name": guest.name,
        "status": decided.status.value,
        "minimum_kib": guest.settings.minimum_kib,
        "maximum_kib": guest.settings.maximum_kib,
        "weight": guest.settings.weight,
        "assigned_kib": assigned_kib,
        "actual_kib": guest.vm.actual_kib if there else None,
        "resident_kib": guest.residency.resident_kib if guest.residency else None,
        "overhead_kib": guest.booking.overhead_kib,
        "booked_kib": guest.booking.booked_kib,
        "limit_kib": guest.limit_kib,
        "use_kib": demand.use_kib if demand else None,
        "demand_kib": demand.demand_kib if demand else None,
        "committed_kib": demand.committed_kib if demand else None,
        "commit_pressure_percent": commit_pressure,
        "psi_some_percent": _percent(demand.psi_some_ratio) if demand else None,
        "psi_full_percent": _percent(demand.psi_full_ratio) if demand else None,
        "target_kib": decided.target_kib if there else None,
        "want_kib": decided.want_kib if there else None,
        "state": _state(guest, decided, bool(above)),
        "resides_above": bool(above),
        "agent": _agent(guest),
        "why": "; ".join(text for text in (f"{decided.why} ({detail})" if detail else decided.why, above) if text),
    }


def _state(guest: GuestSnapshot, decided: GuestDecision, above: bool) -> str:
    state = guest.vm.run_state
    if guest.unseen:
        return "unseen"
    if state is RunState.PRELAUNCH:
        return "waiting" if guest.waiting_to_start else "starting"
    if state is not RunState.RUNNING:
        return state.value
    if guest.booking.claimed:
        return "booting"
    if guest.hands_off:
        return "left alone"
    if guest.released:
        return "released"
    if guest.uncooperative:
        return "uncooperative"
    if guest.stuck_since_s is not None:
        return "stuck"
    if above:
        return "over actual"
    if guest.hypervisor_target_kib is not None and abs(guest.hypervisor_target_kib - guest.vm.actual_kib) > 1024:
        return "growing" if guest.hypervisor_target_kib > guest.vm.actual_kib else "shrinking"
    return "steady" if decided.phase is Phase.HOLD or decided.status.value == "OK" else "short"


def _agent(guest: GuestSnapshot) -> str:
    if guest.agent.link is LinkState.LIVE:
        return guest.agent.implementation or "live"
    if guest.booking.claimed:
        return "not up yet"
    return f"{guest.agent.link.value}: {guest.agent.detail}" if guest.agent.detail else guest.agent.link.value


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round(100 * ratio, 1)
