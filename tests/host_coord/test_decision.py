"""Reasons in words: each rule has its sentence, with the numbers that settled the target."""

from __future__ import annotations

from typing import Any

import pytest

from ballonet_host_coord.decision import GuestDecision, Phase, Rule, Status, mib

from .builders import MIB


def decided(rule: Rule, **changes: Any) -> GuestDecision:
    """Demand 400, want 480 and 500 given; each number is another, so that the wrong one is seen."""
    values: dict[str, Any] = {
        "target_kib": 500 * MIB,
        "want_kib": 480 * MIB,
        "floor_kib": 256 * MIB,
        "phase": Phase.HOLD,
        "status": Status.OK,
        "shrinkable": True,
        "urgent": False,
        "demand_kib": 400 * MIB,
        "held_kib": 470 * MIB,
        "buffer_percent": 20,
        "weight": 7000,
        "most_kib": 1024 * MIB,
        **changes,
    }
    return GuestDecision("alpha", rule=rule, **values)


WORDS = {
    Rule.FIXED: "no report yet: held",
    Rule.RELEASED: "released by the operator: everything back, up to 1024 MiB",
    Rule.UNKNOWN: "no report yet: held",
    Rule.SHORT: "short: demand 400 MiB, its share by weight 7000 is 500 MiB",
    Rule.MAXIMUM: "demand 400 MiB is more than its maximum 1024 MiB",
    Rule.PARTLY: "demand 400 MiB met, of its want 480 MiB there is 500 MiB",
    Rule.FLOOR: "demand 400 MiB is below its floor 256 MiB",
    Rule.FALLING: "demand 400 MiB, falling: still holds 470 MiB",
    Rule.BUFFER: "demand 400 MiB + buffer 20 % = 480 MiB",
    Rule.SURPLUS: "demand 400 MiB, want 480 MiB: nobody needs the rest, up to 500 MiB",
}


@pytest.mark.parametrize("rule", Rule)
def test_each_rule_is_told_with_its_numbers(rule: Rule) -> None:
    """No rule without a sentence, and none that only names itself."""
    assert decided(rule).why == WORDS[rule]


@pytest.mark.parametrize("rule", Rule)
def test_what_holds_a_guest_follows_its_rule(rule: Rule) -> None:
    """Both are told where both count; who is fixed, or unknown, is told by what holds it alone."""
    told = decided(rule, held_by="paused").why
    if rule in (Rule.FIXED, Rule.UNKNOWN):
        assert told == "paused"
    else:
        assert told == f"{WORDS[rule]}; paused"


def test_sizes_are_told_in_whole_mib() -> None:
    """What a person reads is rounded to the nearest."""
    assert (mib(0), mib(511), mib(513), mib(1024 * MIB)) == ("0 MiB", "0 MiB", "1 MiB", "1024 MiB")
