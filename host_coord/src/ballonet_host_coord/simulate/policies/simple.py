"""The plain policies that every other is measured against: static, follower, give-all, lazy and the oracle. Pure.

They believe what machines show, hear of a change at the next whole second, and are still while nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, inf

from ballonet_host_coord.simulate.vm import Vm
from ballonet_host_coord.water import Taker, fill

BUFFER_RATIO = 0.2


class _EachSecond:
    """Turns at the whole second after a change."""

    name = ""
    buffer_ratio = BUFFER_RATIO

    def __init__(self) -> None:
        self._budget_kib = 0
        self._turn_s = inf

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        self._budget_kib = budget_kib

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        if changed:
            self._turn_s = min(self._turn_s, floor(now_s) + 1.0)
        elif now_s >= self._turn_s:
            self._turn_s = inf
        return self._turn_s


class Static(_EachSecond):
    """Shares of the budget by provisioned memory, among the machines that exist."""

    name = "static"
    # Clipped to what is provisioned and scaled down alike, so that it begins with its shares.
    buffer_ratio = inf

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        scale = min(1.0, self._budget_kib / max(1, sum(vm.maximum_kib for vm in vms)))
        return {vm.name: int(vm.maximum_kib * scale) for vm in vms}


def follower_kib(vms: Sequence[Vm], budget_kib: int) -> list[int]:
    """What each shows and 20 %, at most its provisioned memory; scaled down alike when that exceeds the budget."""
    wants_kib = [_want_kib(vm) for vm in vms]
    sum_kib = sum(wants_kib)
    if sum_kib <= budget_kib:
        return wants_kib
    scale = budget_kib / sum_kib
    return [int(want_kib * scale) for want_kib in wants_kib]


class Follower(_EachSecond):
    """Demand and 20 %, scaled down alike when short."""

    name = "follower"

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        targets_kib = follower_kib(vms, self._budget_kib)
        return {vm.name: target_kib for vm, target_kib in zip(vms, targets_kib, strict=True)}


class GiveAll(_EachSecond):
    """The follower, then all spare memory in proportion to its targets, up to what is provisioned."""

    name = "give-all"

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        targets_kib = follower_kib(vms, self._budget_kib)
        takers = [
            Taker(0, target_kib, vm.maximum_kib, max(1, target_kib))
            for vm, target_kib in zip(vms, targets_kib, strict=True)
        ]
        return {vm.name: held_kib for vm, held_kib in zip(vms, fill(self._budget_kib, takers), strict=True)}


class Lazy(_EachSecond):
    """A follower that takes surplus back only when another machine is short, from all in proportion to it."""

    name = "lazy"

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        wants_kib = [_want_kib(vm) for vm in vms]
        keeps_kib = [max(vm.target_kib, want_kib) for vm, want_kib in zip(vms, wants_kib, strict=True)]
        lack_kib = sum(keeps_kib) - self._budget_kib
        if lack_kib <= 0:
            targets_kib = keeps_kib
        elif sum(wants_kib) > self._budget_kib:
            targets_kib = follower_kib(vms, self._budget_kib)
        else:
            part = lack_kib / (sum(keeps_kib) - sum(wants_kib))
            targets_kib = [
                floor(keep_kib - (keep_kib - want_kib) * part)
                for keep_kib, want_kib in zip(keeps_kib, wants_kib, strict=True)
            ]
        return {vm.name: target_kib for vm, target_kib in zip(vms, targets_kib, strict=True)}


class Oracle:
    """Knows each step as it happens and moves memory at once (`instant`: the engine's special case): a bound."""

    name = "oracle"
    buffer_ratio = 0.0
    instant = True

    def begin(self, now_s: float, budget_kib: int, vms: Sequence[Vm]) -> None:
        pass

    def turn(self, now_s: float, vms: Sequence[Vm]) -> Mapping[str, int]:
        return {vm.name: vm.demand_kib for vm in vms}

    def next_turn_s(self, now_s: float, changed: bool) -> float:
        return now_s if changed else inf


# By the name that a person gives.
POLICIES = {policy.name: policy for policy in (Static, Follower, GiveAll, Lazy, Oracle)}


def _want_kib(vm: Vm) -> int:
    return min(vm.maximum_kib, int(vm.shows_kib * (1.0 + BUFFER_RATIO)))
