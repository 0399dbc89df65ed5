"""Which rule settled a guest's target, and its status word: for people, and nothing follows from it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import Migration, Rule, RunState, Status
from .pace import TOLERANCE_KIB

if TYPE_CHECKING:
    from .arbiter import _Party

MIGRATING = {
    Migration.NONE: "migrating: left alone",
    Migration.INCOMING: "is being migrated here: booked with its whole RAM",
    Migration.ARRIVED: "was migrated here and does not run yet: booked with its whole RAM",
    Migration.OUTGOING: "is being migrated away: left alone at the size it has",
    Migration.LEFT: "was migrated away: booked until its process ends",
}


def rule_of(party: _Party, target_kib: int) -> Rule:
    demand = party.guest.demand
    if party.fixed:
        return Rule.FIXED
    if party.guest.released:
        return Rule.RELEASED
    if demand is None:
        return Rule.UNKNOWN
    demand_kib = demand.demand_kib
    if target_kib < demand_kib and target_kib < party.demand_kib:
        return Rule.SHORT
    if demand_kib > party.demand_kib:
        return Rule.MAXIMUM
    if target_kib < party.want_kib:
        return Rule.PARTLY
    if target_kib > max(party.want_kib, party.floor_kib) + TOLERANCE_KIB and party.shrinkable:
        return Rule.SURPLUS
    if party.want_kib <= party.floor_kib:
        return Rule.FLOOR
    return Rule.FALLING if demand.held_kib >= party.want_kib else Rule.BUFFER


def status_of(party: _Party) -> Status:
    guest, demand = party.guest, party.guest.demand
    state = guest.vm.run_state
    if demand is None or (state is not RunState.RUNNING and state in (RunState.ABSENT, RunState.SHUTDOWN)):
        return Status.ABSENT
    has_kib = party.given_kib + TOLERANCE_KIB
    if has_kib < demand.demand_kib:
        return Status.WARNING
    settings = guest.settings
    if has_kib >= demand.demand_kib * (100 + settings.buffer_percent) // 100 or has_kib >= settings.maximum_kib:
        return Status.OK
    return Status.LOW
