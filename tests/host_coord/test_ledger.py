"""The mover: what leads to a step, what ends one, what a grant may spend, and when a machine is started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.ledger import (
    ASK_AGAIN_S,
    ASK_LOST_S,
    BACK_OFF_S,
    SQUEEZED_S,
    STUCK_S,
    Ledger,
)
from ballonet_host_coord.model import (
    AgentFacts,
    AskInflate,
    Booking,
    LinkState,
    Migration,
    ReportKind,
    RunState,
    SetTarget,
    StartVm,
    TellDeflate,
    VmFacts,
    Wish,
)
from ballonet_host_coord.move import RETRY_S
from ballonet_host_coord.pace import STEP_LEAST_KIB

from .builders import MIB, NOW_S, make_guest, make_report, make_snapshot, make_vm
from .steps import STEP_MIB, asked, consent_to, guest_at, settled, step, stepping, waiting

# --- shrinking ------------------------------------------------------------------------------------------


def test_a_shrink_begins_with_a_question() -> None:
    """Nothing is moved before the agent has consented; it is asked for the whole way and told the floor."""
    (ask,) = step(settled(900), (guest_at(900), 500))
    assert ask == AskInflate("a", 1, 500 * MIB, 256 * MIB, 524288, "so decided")


def test_one_question_at_a_time() -> None:
    """While the answer is awaited nothing else is asked and nothing moved."""
    assert step(asked(), (guest_at(900, NOW_S + 1), 500), now_s=NOW_S + 1) == []


def test_the_next_step_waits_for_arrival_and_a_report() -> None:
    """I3: both must have come since the last step; then the next one goes on within the same consent."""
    ledger = stepping()
    consent, size = consent_to(500), int(STEP_MIB * MIB)
    on_the_way = guest_at(850, NOW_S + 2, consent)
    assert step(ledger, (on_the_way, 500), now_s=NOW_S + 2) == []
    unheard = replace(guest_at(787, NOW_S + 1, consent), vm=make_vm(actual_kib=size))
    assert step(ledger, (unheard, 500), now_s=NOW_S + 2.5) == []
    (second,) = step(ledger, (replace(unheard, report=make_report(NOW_S + 2.7, size)), 500), now_s=NOW_S + 3)
    assert isinstance(second, SetTarget)
    assert 500 * MIB <= second.target_kib <= size - STEP_LEAST_KIB


def test_a_shrink_under_way_ends_when_the_guest_migrates_away() -> None:
    """Once, at the size reached; what it was asked for does not hold afterwards."""
    ledger = stepping()
    consent = consent_to(500)
    vm = make_vm(actual_kib=850 * MIB, run_state=RunState.MIGRATING, migration=Migration.OUTGOING)
    leaving = replace(guest_at(850, NOW_S + 2, consent), vm=vm)
    (stop,) = step(ledger, (leaving, 850), now_s=NOW_S + 2)
    assert isinstance(stop, SetTarget)
    assert stop.target_kib == 850 * MIB
    assert step(ledger, (leaving, 850), now_s=NOW_S + 3) == []
    stays = guest_at(850, NOW_S + 3 + BACK_OFF_S, consent)
    (again,) = step(ledger, (stays, 500), now_s=NOW_S + 3 + BACK_OFF_S)
    assert isinstance(again, AskInflate)
    assert again.gen == 2


@pytest.mark.parametrize("migration", [Migration.INCOMING, Migration.LEFT])
def test_nothing_is_said_to_who_is_not_here(migration: Migration) -> None:
    """A process that waits for a guest, or whose guest has gone, gets no command."""
    vm = make_vm(actual_kib=850 * MIB, run_state=RunState.MIGRATING, migration=migration)
    assert step(stepping(), (replace(guest_at(850, NOW_S + 2), vm=vm), 500), now_s=NOW_S + 2) == []


def test_no_further_than_the_agent_agreed() -> None:
    """A clamped answer is the end of the way; the agent is asked again after a while, not at once."""
    ledger = asked()
    (first,) = step(ledger, (guest_at(900, NOW_S + 1, consent_to(860)), 500), now_s=NOW_S + 1)
    assert isinstance(first, SetTarget)
    assert first.target_kib == 860 * MIB
    there = guest_at(860, NOW_S + 2, consent_to(860))
    assert step(ledger, (there, 500), now_s=NOW_S + 2) == []
    assert step(ledger, (guest_at(860, NOW_S + 3), 500), now_s=NOW_S + 3) == []
    (again,) = step(ledger, (guest_at(860, NOW_S + 2 + ASK_AGAIN_S), 500), now_s=NOW_S + 2 + ASK_AGAIN_S)
    assert isinstance(again, AskInflate)
    assert again.gen == 2


def test_a_refusal_moves_nothing() -> None:
    """And is respected for a while."""
    ledger = asked()
    assert step(ledger, (guest_at(900, NOW_S + 1, consent_to(900, refused=True)), 500), now_s=NOW_S + 1) == []
    assert step(ledger, (guest_at(900, NOW_S + 2), 500), now_s=NOW_S + 2) == []


@pytest.mark.parametrize("stale", [consent_to(500, gen=7), consent_to(500, until_s=NOW_S + 1)])
def test_an_answer_to_something_else_or_run_out_is_none(stale) -> None:
    """Only the newest question's answer counts, as long as its lease."""
    commands = step(asked(), (guest_at(900, NOW_S + 1, stale), 500), now_s=NOW_S + 1)
    assert not [order for order in commands if isinstance(order, SetTarget)]


def test_consent_to_less_does_not_cover_more() -> None:
    """A goal that has fallen since is asked anew."""
    (ask,) = step(asked(), (guest_at(900, NOW_S + 1, consent_to(500)), 300), now_s=NOW_S + 1)
    assert ask == AskInflate("a", 2, 300 * MIB, 256 * MIB, 524288, "so decided")


def test_silence_to_a_question_means_hold() -> None:
    """Three tries without an answer, or none in time: the guest is left alone for a while."""
    ledger = asked()
    failed = replace(guest_at(900, NOW_S + 3), agent=AgentFacts(LinkState.LIVE, failed_gen=1))
    assert step(ledger, (failed, 500), now_s=NOW_S + 3) == []
    assert step(ledger, (guest_at(900, NOW_S + 4), 500), now_s=NOW_S + 4) == []
    ledger = asked()
    late_s = NOW_S + ASK_LOST_S
    assert step(ledger, (guest_at(900, late_s), 500), now_s=late_s) == []
    assert step(ledger, (guest_at(900, late_s + 1), 500), now_s=late_s + 1) == []
    (again,) = step(ledger, (guest_at(900, late_s + BACK_OFF_S), 500), now_s=late_s + BACK_OFF_S)
    assert isinstance(again, AskInflate)


def test_without_an_agent_steps_are_half() -> None:
    """Nobody can object, so less is taken before the next look."""
    values = {"agent": AgentFacts(), "report": make_report(NOW_S, kind=ReportKind.STATISTICS, available_kib=0)}
    (order,) = step(settled(900), (guest_at(900, **values), 500))
    assert order == SetTarget("a", int(900 * MIB * 15 / 16), "so decided")


def test_a_guest_that_may_not_be_shrunk_is_not_asked() -> None:
    """What the arbiter holds, the ledger leaves."""
    assert step(settled(900), (guest_at(900), 500, {"shrinkable": False})) == []


def test_who_was_asked_in_vain_is_known_for_it_until_it_gives() -> None:
    """A refusal is remembered while the guest is asked again, and forgotten with the next step."""
    ledger = asked()
    step(ledger, (guest_at(900, NOW_S + 1, consent_to(900, refused=True)), 500), now_s=NOW_S + 1)
    step(ledger, (guest_at(900, NOW_S + 4), 500), now_s=NOW_S + 4)
    assert ledger.refuses("a")
    step(ledger, (guest_at(900, NOW_S + 5, consent_to(500, gen=2)), 500), now_s=NOW_S + 5)
    assert not ledger.refuses("a")


def test_small_moves_are_not_worth_a_command_unless_somebody_is_short() -> None:
    """I6: below 3 % of the guest it stays; for another guest's shortage 4 MiB are moved."""
    assert step(settled(900), (guest_at(900), 880)) == []
    short = make_guest("b", 300 * MIB, 600 * MIB)
    commands = step(settled(900, 300), (guest_at(900), 880), (short, 300), budget_kib=1200 * MIB)
    assert [type(order) for order in commands] == [AskInflate]


# --- what ends a shrink ---------------------------------------------------------------------------------


def test_a_demand_that_blames_the_move_gets_its_last_step_back() -> None:
    """I9: stopped and returned at once, and the guest is left alone for a while."""
    ledger = stepping()
    wish = Wish(950 * MIB, 1, 2, arrived_s=NOW_S + 2, gen=1)
    hurt = guest_at(850, NOW_S + 2, wish=wish)
    back, told = step(ledger, (hurt, 500), now_s=NOW_S + 2)
    assert isinstance(back, SetTarget)
    assert back.target_kib == 900 * MIB
    assert told == TellDeflate("a", 2, 900 * MIB, back.why)
    well = guest_at(900, NOW_S + 8, wish=wish)
    assert step(ledger, (well, 500), now_s=NOW_S + 8) == []


def test_a_returned_step_is_paid_from_what_there_is() -> None:
    """I1: what was freed may be given already; then only the rest is returned, and never less than it has."""
    hurt = guest_at(850, NOW_S + 2, wish=Wish(950 * MIB, 1, 2, arrived_s=NOW_S + 2, gen=1))
    back, _ = step(stepping(), (hurt, 500), now_s=NOW_S + 2, budget_kib=870 * MIB)
    assert isinstance(back, SetTarget)
    assert back.target_kib == 870 * MIB
    (back,) = step(stepping(), (hurt, 500), now_s=NOW_S + 2, budget_kib=600 * MIB)
    assert isinstance(back, SetTarget)
    assert back.target_kib == 850 * MIB


def test_any_other_demand_ends_the_shrink_where_it_stands() -> None:
    """The target becomes the size reached: virtio-balloon would go on trying for ever."""
    wish = Wish(900 * MIB, 1, 2, arrived_s=NOW_S + 2)
    (stop,) = step(stepping(), (guest_at(850, NOW_S + 2, wish=wish), 500), now_s=NOW_S + 2)
    assert isinstance(stop, SetTarget)
    assert stop.target_kib == 850 * MIB


@pytest.mark.parametrize("agent", [AgentFacts(LinkState.LIVE), AgentFacts(LinkState.OPENING)])
def test_a_step_whose_consent_has_ended_ends(agent) -> None:
    """I3: a new session, a BYE or silence means hold, in the middle of a step too."""
    (stop,) = step(stepping(), (replace(guest_at(850, NOW_S + 2), agent=agent), 500), now_s=NOW_S + 2)
    assert isinstance(stop, SetTarget)
    assert stop.target_kib == 850 * MIB


def test_a_balloon_that_does_not_follow_is_stopped_and_marked() -> None:
    """After 5 s; it stays marked until it moves, and is tried again after half a minute."""
    ledger = stepping()
    begin_s, end_s = NOW_S + 2, NOW_S + 2 + STUCK_S
    consent = consent_to(500)
    assert step(ledger, (guest_at(900, begin_s, consent), 500), now_s=begin_s) == []
    (stop,) = step(ledger, (guest_at(900, end_s, consent), 500), now_s=end_s)
    assert isinstance(stop, SetTarget)
    assert stop.target_kib == 900 * MIB
    assert step(ledger, (guest_at(900, end_s + 1), 500), now_s=end_s + 1) == []
    assert ledger.stuck_since_s("a") == begin_s
    assert not ledger.retries("a", end_s + RETRY_S - 1)
    assert ledger.retries("a", end_s + RETRY_S)
    step(ledger, (guest_at(800, end_s + 40), 800), now_s=end_s + 40)
    assert ledger.stuck_since_s("a") is None


def test_progress_however_slow_is_no_standstill() -> None:
    """A thrashing guest gives slowly; it is left to."""
    ledger = stepping()
    for second in range(2, 30):
        guest = guest_at(900 - 3 * second, NOW_S + second, consent_to(500))
        assert step(ledger, (guest, 500), now_s=NOW_S + second) == []


def test_memory_taken_back_is_not_fought() -> None:
    """Its new size becomes its target, and is told as demand."""
    ledger = settled(500)
    (stop,) = step(ledger, (guest_at(600), 500))
    assert isinstance(stop, SetTarget)
    assert stop.target_kib == 600 * MIB
    assert ledger.taken_back_kib("a") == 100 * MIB
    step(ledger, (guest_at(600, NOW_S + 1), 600), now_s=NOW_S + 1)
    assert ledger.taken_back_kib("a") == 0


def test_stalls_are_ours_until_a_moment_after_the_shrink() -> None:
    """I9: from the step to two seconds after its end, however it ended."""
    ledger = stepping()
    assert ledger.is_shrinking("a", NOW_S + 100)
    wish = Wish(900 * MIB, 1, 2, arrived_s=NOW_S + 2)
    step(ledger, (guest_at(850, NOW_S + 2, wish=wish), 500), now_s=NOW_S + 2)
    assert ledger.is_shrinking("a", NOW_S + 2 + SQUEEZED_S - 0.1)
    assert not ledger.is_shrinking("a", NOW_S + 2 + SQUEEZED_S)


# --- boots ----------------------------------------------------------------------------------------------


def test_a_boot_gets_its_startup_target_and_an_adopted_machine_none() -> None:
    """What is found running is left as it is until it has been heard."""
    ledger = Ledger()
    startup = ledger.began_boot("a", 1, 512 * MIB, adopted=False)
    assert startup is not None
    assert startup.target_kib == ledger.target_kib("a") == 512 * MIB
    assert ledger.began_boot("b", 1, 512 * MIB, adopted=True) is None
    assert ledger.target_kib("b") is None


def test_what_was_promised_outlives_a_monitor_that_was_away() -> None:
    """I1: a grant under way stays booked; a reset ends it."""
    ledger = settled(300)
    step(ledger, (guest_at(300, demand_kib=700 * MIB), 700))
    assert ledger.began_boot("a", 2, 512 * MIB, adopted=True) is None
    assert ledger.target_kib("a") == 700 * MIB
    assert ledger.is_moving("a")
    ledger.began_boot("a", 3, 512 * MIB, adopted=False)
    assert ledger.target_kib("a") == 512 * MIB


def test_a_machine_starts_when_its_whole_claim_fits_beside_the_headroom() -> None:
    """I1: headroom never pays a start; one machine starts at a time."""
    ledger = Ledger()
    for name in "ab":
        ledger.began_boot(name, 1, 512 * MIB, adopted=False)
    pair = (waiting("a"), 0), (waiting("b"), 0)
    assert step(ledger, *pair, budget_kib=1143 * MIB, headroom_kib=100 * MIB) == []
    (start,) = step(ledger, *pair, budget_kib=1144 * MIB, headroom_kib=100 * MIB)
    assert isinstance(start, StartVm)
    assert ledger.was_started(start.guest, NOW_S + 9)
    assert not ledger.was_started(start.guest, NOW_S + 11)


def test_nothing_is_given_before_every_guest_was_looked_at() -> None:
    """I1: a guest that nobody has looked at may hold anything; until then no grant and no start."""
    unseen = make_guest("b", 0, None, vm=VmFacts(RunState.ABSENT), booking=Booking(0, 0, False), unseen=True)
    short, seen = guest_at(300, demand_kib=600 * MIB), replace(unseen, unseen=False)
    assert step(settled(300), (short, 600), (unseen, 0)) == []
    assert step(settled(300), (short, 600), (seen, 0)) != []
    ledger = Ledger()
    ledger.began_boot("a", 1, 512 * MIB, adopted=False)
    assert step(ledger, (waiting("a"), 0), (unseen, 0)) == []
    assert step(ledger, (waiting("a"), 0), (seen, 0)) != []


def test_force_gives_everything_whatever_the_budget_says() -> None:
    """The operator's act; it is booked like any other."""
    ledger = settled(300)
    order = ledger.force("a", make_vm())
    assert order is not None
    assert order.target_kib == ledger.target_kib("a") == 1024 * MIB
    assert ledger.force("a", make_vm(run_state=RunState.PAUSED)) is None
    ledger.forget("a")
    assert ledger.force("a", make_vm()) is None


def test_a_machine_that_waits_is_started_in_the_room_that_is_held_for_it() -> None:
    """Its reservation is its claim: it is not asked for twice."""
    ledger, guest = Ledger(), waiting("a")
    ledger.began_boot("a", 1, 512 * MIB, adopted=False)
    host = {"budget_kib": 1060 * MIB, "reserved_kib": 900 * MIB, "held_kib": 900 * MIB}
    assert step(ledger, (guest, 0), **host) == []
    (start,) = step(ledger, (replace(guest, held_kib=900 * MIB), 0), **host)
    assert isinstance(start, StartVm)


def test_grants_are_whole_pages():
    """QEMU rounds a size up to a page: a target inside one would have the guest hold what is not booked."""
    guest = make_guest(actual_kib=512 * MIB, demand_kib=700 * MIB + 3)
    snapshot = make_snapshot(guest, budget_kib=700 * MIB + 2)
    ledger = Ledger()
    ledger.began_boot(guest.name, 1, 512 * MIB, adopted=True)
    orders = ledger.step(snapshot, one_iteration(snapshot))
    assert [order.target_kib for order in orders if isinstance(order, SetTarget)] == [700 * MIB]


def test_a_goal_between_two_pages_is_reached() -> None:
    """Its device rounds up; a consent that would cover more is no reason to set the same target with each reading."""
    ledger = asked(900, 500)
    (order,) = step(ledger, (guest_at(900, NOW_S + 1, consent_to(500)), 860), now_s=NOW_S + 1)
    assert order == SetTarget("a", 860 * MIB, "so decided")
    for second in range(2, 10):
        at = guest_at(860, NOW_S + second, consent_to(500))
        at = replace(at, vm=replace(at.vm, actual_kib=860 * MIB + 3))
        assert step(ledger, (at, 860), now_s=NOW_S + second) == []
