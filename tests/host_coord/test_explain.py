"""Explanations: the rule, the bounds, who holds the memory, and counterfactuals that the arbiter itself confirms."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.explain import LIMITS, MEANING, MOST_GUESTS_WHAT_IF, Limit, explain
from ballonet_host_coord.explain_text import render_explained
from ballonet_host_coord.model import Booking, GuestSnapshot, HostState, Rule, RunState, Snapshot
from ballonet_host_coord.snapshot import decision_to_json

from .builders import GIB, MIB, make_demand, make_guest, make_report, make_snapshot, make_vm
from .steps import waiting
from .test_snapshot import SNAPSHOTS
from .world import Character, World

BETA = make_guest("beta", 400 * MIB, 400 * MIB)
IDLE = make_guest(demand_kib=300 * MIB)
RULES: dict[str, tuple[Rule, Limit, list[GuestSnapshot], dict[str, Any]]] = {
    "paused": (Rule.FIXED, Limit.NONE, [make_guest(vm=make_vm(run_state=RunState.PAUSED))], {}),
    "booting": (Rule.FIXED, Limit.NONE, [make_guest(booking=Booking(GIB, 0, claimed=True))], {}),
    "given back": (Rule.RELEASED, Limit.NONE, [replace(IDLE, released=True)], {}),
    "unknown use": (Rule.UNKNOWN, Limit.NONE, [make_guest(demand_kib=None)], {}),
    "minimum above want": (Rule.FLOOR, Limit.NONE, [make_guest(demand_kib=100 * MIB)], {}),
    "may not be shrunk": (Rule.BUFFER, Limit.HELD, [replace(IDLE, vm=make_vm(deflate_on_oom=False))], {}),
    "short": (Rule.SHORT, Limit.NONE, [make_guest(demand_kib=900 * MIB), BETA], {"budget_kib": GIB}),
    "above its maximum": (Rule.MAXIMUM, Limit.NONE, [make_guest(demand_kib=2 * GIB)], {}),
    "a start waits": (
        Rule.PARTLY, Limit.STARTS, [make_guest(actual_kib=400 * MIB), waiting("beta")], {"budget_kib": GIB}),
    "buffers do not fit": (
        Rule.PARTLY, Limit.BUFFERS, [make_guest(actual_kib=400 * MIB), BETA], {"budget_kib": 850 * MIB}),
    "headroom first": (
        Rule.PARTLY, Limit.HEADROOM, [make_guest(), BETA], {"budget_kib": 900 * MIB, "headroom_kib": 100 * MIB}),
    "the past": (Rule.FALLING, Limit.NONE, [make_guest(demand=make_demand(300 * MIB, held_kib=500 * MIB))], {}),
    "enough": (Rule.BUFFER, Limit.NONE, [make_guest()], {}),
    "grows to its want": (Rule.BUFFER, Limit.NONE, [make_guest(actual_kib=300 * MIB)], {}),
    "nobody needs the rest": (Rule.SURPLUS, Limit.NONE, [make_guest()], {"slider": 25}),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "limit", "guests", "host"), RULES.values(), ids=RULES)
def test_rule_is_the_decisions_and_its_cause_is_found(
    rule: Rule, limit: Limit, guests: list[GuestSnapshot], host: dict[str, Any]
) -> None:
    """The rule is the one that was decided by; where it has more than one cause, that one is told which counts."""
    snapshot = make_snapshot(*guests, **host)
    (told,) = explain(snapshot, guests[0].name).guests
    assert (told.rule, told.limit) == (rule, limit)
    assert told.rule is one_iteration(snapshot).guests[0].rule
    text = " ".join(render_explained(explain(snapshot, guests[0].name)).split())
    assert f"rule {rule.value}: {MEANING[rule]}" in text
    assert LIMITS[limit] in text


def test_every_rule_and_cause_has_its_words() -> None:
    """Each is told in words, and has an example above."""
    assert set(MEANING) == set(Rule) == {rule for rule, *_ in RULES.values()}
    assert set(LIMITS) == set(Limit) == {limit for _, limit, *_ in RULES.values()}


@given(SNAPSHOTS)
@settings(max_examples=60, deadline=None)
def test_any_snapshot_is_explained(snapshot: Snapshot) -> None:
    """Whatever a snapshot holds, it is explained with the targets that are decided for it, as text and as JSON."""
    guests = tuple(
        replace(guest, settings=replace(guest.settings, name=f"g{number}", weight=1 + number))
        for number, guest in enumerate(snapshot.guests)
    )
    snapshot = replace(snapshot, guests=guests)
    decision = one_iteration(snapshot)
    explained = explain(snapshot, recorded_decision=decision_to_json(decision))
    assert explained.differs == ""
    assert [(guest.name, guest.target_kib, guest.why) for guest in explained.guests] == [
        (guest.name, guest.target_kib, guest.why) for guest in decision.guests
    ]
    json.dumps(dataclasses.asdict(explained))
    assert render_explained(explained)


def test_decision_is_reproduced_in_every_turn_of_a_world() -> None:
    """Over booting, growing, scarcity and silence, the explanation's targets are those that were decided."""
    world = World(2 * GIB, [Character(), Character(has_agent=False), Character(silent=True)], headroom_kib=64 * MIB)
    rules = set()
    for number in range(160):
        if number == 80:
            world["alpha"].use_kib = world["beta"].use_kib = 900 * MIB
        world.turn()
        if number % 10 == 0:
            assert world.snapshot is not None
            assert world.decision is not None
            explained = explain(world.snapshot, recorded_decision=decision_to_json(world.decision))
            assert explained.differs == ""
            rules |= {guest.rule for guest in explained.guests}
    assert {Rule.FIXED, Rule.FLOOR, Rule.PARTLY, Rule.UNKNOWN} <= rules


def test_unmet_guest_names_who_holds_the_memory() -> None:
    """The others are named, who holds most above its demand first, each with the reason why it keeps it."""
    others = [
        make_guest("beta", 500 * MIB, 500 * MIB),
        make_guest("gamma", 600 * MIB, 300 * MIB, vm=make_vm(actual_kib=600 * MIB, deflate_on_oom=False)),
        make_guest("delta", 500 * MIB, 300 * MIB),
        make_guest("gone", 0, None, vm=make_vm(run_state=RunState.ABSENT, ram_kib=0, actual_kib=0)),
    ]
    snapshot = make_snapshot(make_guest("alpha", 500 * MIB, 900 * MIB), *others, budget_kib=2100 * MIB)
    (alpha,) = explain(snapshot, "alpha").guests
    assert [(holder.name, holder.above_demand_kib // MIB, holder.why) for holder in alpha.holders] == [
        ("gamma", 300, "deflate-on-oom is off: only grown"),
        ("delta", 200, "it is being shrunk to 300 MiB"),
        ("beta", 0, "it needs it"),
    ]
    assert explain(make_snapshot(make_guest()), "alpha").guests[0].holders == ()


def test_what_is_to_share_adds_up() -> None:
    """Budget = overheads + fixed + headroom + what the ranks share out."""
    paused = make_guest("beta", vm=make_vm(run_state=RunState.PAUSED), booking=Booking(512 * MIB, 30 * MIB, False))
    host = explain(make_snapshot(make_guest(), paused, headroom_kib=64 * MIB)).host
    assert (host.overheads_kib, host.fixed_kib) == (30 * MIB, 512 * MIB)
    assert host.budget_kib == host.overheads_kib + host.fixed_kib + host.headroom_kib + host.shared_kib


def test_what_a_critical_host_shares_adds_up_to_what_guests_hold() -> None:
    """Budget = overheads + fixed + headroom + what is not there + what is shared, and shared is what is held less what
    the host lacks."""
    guests = [make_guest(name, 800 * MIB, 800 * MIB) for name in ("alpha", "beta")]
    snapshot = make_snapshot(
        *guests, headroom_kib=64 * MIB, state=HostState.CRITICAL, lacking_kib=100 * MIB, state_why="1 of 100"
    )
    explained = explain(snapshot)
    host = explained.host
    assert host.shared_kib == 1500 * MIB
    assert host.budget_kib == host.headroom_kib + host.not_there_kib + host.shared_kib
    text = " ".join(render_explained(explained).split())
    assert "not there 2532 + 1500 to share" in text
    assert "slider 50, at 100 while the host is short; host memory is CRITICAL: 1 of 100" in text


def test_scaled_buffer_is_told_beside_the_one_that_was_set() -> None:
    """Where the slider scales it, both are there; where it does not, one."""
    scaled = " ".join(render_explained(explain(make_snapshot(make_guest(), slider=100))).split())
    assert "buffer 20 % (5 % with the slider at 100)" in scaled
    assert "slider 100" in scaled
    plain = " ".join(render_explained(explain(make_snapshot(make_guest()))).split())
    assert "buffer 20 %" in plain
    assert "with the slider at 50" not in plain


@pytest.mark.parametrize("slider", [-1, 101])
def test_slider_that_is_none_is_refused_with_what_is_allowed(slider: int) -> None:
    """A file that was tampered with is a ValueError with a text, as any that is no snapshot."""
    with pytest.raises(ValueError, match="allowed is 0"):
        explain(make_snapshot(make_guest(), slider=slider))


def test_other_ballonets_decision_is_told_apart() -> None:
    """Where the recorded decision is not the one of this version, that is said with the sizes."""
    snapshot = make_snapshot(make_guest())
    recorded = decision_to_json(one_iteration(snapshot))
    recorded["guests"][0]["target_kib"] = 500 * MIB
    assert "alpha 480 instead of 500 MiB" in explain(snapshot, recorded_decision=recorded).differs
    assert "the same sizes" in explain(snapshot, recorded_decision={**recorded, "guests": [
        {**recorded["guests"][0], "target_kib": 480 * MIB, "why": "because"}]}).differs
    assert "no decision" in explain(snapshot, recorded_decision={"guests": 7}).differs


def test_unknown_guest_is_refused_with_the_known_ones() -> None:
    """A wrong name is answered with the right ones."""
    with pytest.raises(LookupError, match="no guest 'wbe'; known: alpha, beta"):
        explain(make_snapshot(make_guest(), BETA), "wbe")


def test_many_guests_are_explained_without_their_changes() -> None:
    """Where all of very many guests are asked for, each is explained and the changes are left to a named one."""
    many = [make_guest(f"guest{number}") for number in range(MOST_GUESTS_WHAT_IF + 1)]
    snapshot = make_snapshot(*many)
    assert all(guest.changes is None for guest in explain(snapshot).guests)
    assert explain(snapshot, "guest3").guests[0].changes is not None
    assert "name this guest" in render_explained(explain(snapshot))


WIDTHS = [40, 60, 80, 200]


@pytest.mark.parametrize("width", WIDTHS)
def test_text_fits_and_says_the_numbers(width: int) -> None:
    """Lines keep to the width; target, rule, holders and changes are there; no control character of a name is."""
    alpha = make_guest("al\x1bpha", 500 * MIB, 900 * MIB, settings={"weight": 3000})
    snapshot = make_snapshot(alpha, make_guest("beta", 500 * MIB, 500 * MIB), budget_kib=1100 * MIB)
    text = render_explained(explain(snapshot), width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    title = "al?pha: has 500 MiB, grows to"
    for said in (title, "rule short:", "weight 3000", "held by beta 500", "its demand is met"):
        assert said in words
    assert "\x1b" not in text


def test_old_report_and_lately_asked_are_said() -> None:
    """The report's age is told, and a wish of the last minute."""
    guest = make_guest(report=make_report(900.0), demand=make_demand(300 * MIB, psi_some_ratio=0.25))
    text = " ".join(render_explained(explain(make_snapshot(guest))).split())
    assert "agent, 100.0 s old" in text
    assert "psi_some 25 %" in text
