"""One guest's record: facts of one boot never count for another, and each source has its turn."""

from __future__ import annotations

import pytest

from ballonet_host_coord.guests import AGENT_GONE_S, GREW_SAID_S, GuestRecord
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    OOM_WHY,
    SOON,
    AgentFacts,
    BalloonStatistics,
    LinkState,
    Migration,
    ReportKind,
    Residency,
    RunState,
    SetTarget,
    Wish,
)

from .builders import GIB, MIB, NOW_S, RESERVE_KIB, make_report, make_settings, make_vm


class Session:
    """Stands for the AgentSession: facts as the test sets them, and how often it was renewed."""

    def __init__(self) -> None:
        self.link = LinkState.LIVE
        self.renewals: list[float] = []

    def facts(self):
        return AgentFacts(self.link)

    def renewed(self, ram_kib, now_s):
        self.renewals.append(now_s)


@pytest.fixture
def record():
    return GuestRecord(make_settings(), Session(), Ledger())


@pytest.fixture
def running(record):
    """Found running for long: adopted, and its agent has reported."""
    assert record.vm_read(make_vm(), None, NOW_S) is None
    record.reported(make_report())
    return record


def booted(record, **changes):
    """The next boot of the same machine."""
    return record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 5, statistics_count=0, **changes), None, NOW_S + 5)


# --- boots -----------------------------------------------------------------------------------------------


def test_machine_found_running_is_adopted(running):
    """A startup target for a machine that has run for long would be a blind shrink: it gets none."""
    snapshot = running.snapshot(NOW_S)
    assert snapshot.hypervisor_target_kib is None
    assert (snapshot.booking.assigned_kib, snapshot.booking.claimed) == (512 * MIB, False)


def test_waiting_machine_gets_its_startup_target(record):
    """Before its first instruction the target of its startup memory is set, never above its RAM."""
    command = record.vm_read(make_vm(run_state=RunState.PRELAUNCH, statistics_count=0), None, NOW_S)
    assert isinstance(command, SetTarget)
    assert command.target_kib == 512 * MIB
    assert record.snapshot(NOW_S).waiting_to_start
    small = GuestRecord(make_settings(), Session(), Ledger())
    vm = make_vm(run_state=RunState.PRELAUNCH, ram_kib=300 * MIB)
    assert small.vm_read(vm, None, NOW_S).target_kib == 300 * MIB


def test_who_is_left_alone_gets_no_startup_target(record):
    """A young machine that may not be moved is adopted as it is."""
    assert record.vm_read(make_vm(boot_began_s=NOW_S - 1, hands_off="it uses hugepages"), None, NOW_S) is None
    assert record.snapshot(NOW_S).hypervisor_target_kib is None


def test_a_guest_that_grew_without_us_says_for_whose_act_it_was_taken(record):
    """An operator may know of another mover; it is said for ten minutes, and of this boot alone."""
    booted(record)

    class Grown(Ledger):
        def taken_back_kib(self, name):
            return 300 * MIB

    record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 5, actual_kib=800 * MIB), None, NOW_S + 60)
    ledger, record._ledger = record._ledger, Grown()
    record.note_taken_back(NOW_S + 60)
    record._ledger = ledger
    assert "grew by 300 MiB without us, taken for the guest's own act" in record.said
    record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 5), None, NOW_S + 60 + GREW_SAID_S - 1)
    assert "grew by" in record.said
    record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 5), None, NOW_S + 60 + GREW_SAID_S)
    assert record.said == "residency unknown: booked by its balloon's word alone"


LEFT_ALONE = [{"paused": True}, {"yielded": "another mover set it to 600 MiB"}]


@pytest.mark.parametrize("left", LEFT_ALONE)
@pytest.mark.parametrize("run_state", [RunState.RUNNING, RunState.PRELAUNCH])
def test_who_is_paused_or_given_way_to_gets_no_startup_target_in_a_new_process(running, left, run_state):
    """Until `ballonet resume`: at its startup size nobody would let it grow. A start waits for room all the same."""
    for name, value in left.items():
        setattr(running, name, value)
    running.vm_lost(alive=False, detail="ended")
    young = make_vm(boot=2, boot_began_s=NOW_S + 4, statistics_count=0, qemu_pid=8, run_state=run_state)
    assert running.vm_read(young, None, NOW_S + 5) is None
    snapshot = running.snapshot(NOW_S + 5)
    assert snapshot.hypervisor_target_kib is None
    assert snapshot.waiting_to_start is (run_state is RunState.PRELAUNCH)
    again = make_vm(boot=3, boot_began_s=NOW_S + 6, statistics_count=0, qemu_pid=8)
    assert running.vm_read(again, None, NOW_S + 7) is None, "nor after a reset"


@pytest.mark.parametrize("left", LEFT_ALONE)
def test_what_was_under_way_in_the_process_before_ends_with_it(record, left):
    """Its last target says nothing of a new process: there it would be booked, and its arrival waited for."""
    booted(record)
    assert record.snapshot(NOW_S + 5).hypervisor_target_kib == 512 * MIB
    for name, value in left.items():
        setattr(record, name, value)
    assert record.vm_read(make_vm(boot=3, boot_began_s=NOW_S + 8, qemu_pid=8), None, NOW_S + 9) is None
    assert record.snapshot(NOW_S + 9).hypervisor_target_kib is None


def test_who_is_released_gets_its_startup_target_in_a_new_process(record):
    """It is given everything from there, and a reset leaves it what it has."""
    record.released = True
    assert booted(record) is not None
    assert record.vm_read(make_vm(boot=3, boot_began_s=NOW_S + 6, qemu_pid=7), None, NOW_S + 7) is None


def test_new_boot_forgets_what_the_last_one_said(running):
    """Report, demand, wish and the belief in `actual` end with a reset; the startup target is set again."""
    running.wished(Wish(600 * MIB, 1, 2, NOW_S))
    assert running.snapshot(NOW_S).demand is not None
    command = booted(running)
    assert command == SetTarget("alpha", 512 * MIB, command.why)
    snapshot = running.snapshot(NOW_S + 5)
    assert (snapshot.report, snapshot.demand, snapshot.wish) == (None, None, None)
    assert (snapshot.booking.assigned_kib, snapshot.booking.claimed) == (GIB, True)
    assert running.session.renewals == [NOW_S + 5]


def test_report_of_the_last_boot_is_dropped(running):
    """What arrived before the boot began says nothing of it, and does not answer for its driver."""
    booted(running)
    running.reported(make_report(arrived_s=NOW_S + 4))
    assert running.snapshot(NOW_S + 5).report is None
    assert running.snapshot(NOW_S + 5).booking.claimed


def test_report_of_this_boot_ends_its_claim(running):
    """Once the agent's balloon fits the device's, `actual` is believed for the rest of the boot."""
    booted(running)
    running.reported(make_report(arrived_s=NOW_S + 15))
    assert not running.snapshot(NOW_S + 15).booking.claimed
    running.reported(make_report(arrived_s=NOW_S + 16, balloon_kib=0))
    assert not running.snapshot(NOW_S + 16).booking.claimed


def test_boot_of_a_waiting_machine_begins_with_its_first_instruction(record):
    """The time that it waited settles nothing."""
    record.vm_read(make_vm(run_state=RunState.PRELAUNCH, statistics_count=0), None, NOW_S)
    record.vm_read(make_vm(statistics_count=0), None, NOW_S + 100)
    assert record.vm.boot_began_s == NOW_S + 100


@pytest.mark.parametrize(
    ("pid", "began_s", "adopted"),
    [
        (7, 0.0, True),
        (7, NOW_S + 1, False),  # reset behind a monitor that hung
        (8, NOW_S + 1, False),
        (8, NOW_S - 100, True),
        (None, NOW_S + 5, True),
    ],
)
def test_machine_whose_monitor_returns_goes_on(running, pid, began_s, adopted):
    """The same boot, or one that may have run for long, is adopted; what has just booted gets its startup target."""
    running.vm_lost(alive=True, detail="hangs")
    assert running.snapshot(NOW_S).booking.assigned_kib == 512 * MIB
    assert running.snapshot(NOW_S).vm.run_state is RunState.UNREACHABLE
    vm = make_vm(boot=2, boot_began_s=began_s, statistics_count=0, qemu_pid=pid)
    assert (running.vm_read(vm, None, NOW_S + 5) is None) is adopted


@pytest.mark.parametrize(("age_s", "adopted"), [(5, False), (29, False), (30, True), (600, True)])
def test_age_decides_about_a_machine_at_first_sight(record, age_s, adopted):
    """A process that has just begun is set to its startup size, one that has run for long is left as it is."""
    command = record.vm_read(make_vm(boot_began_s=NOW_S - age_s), None, NOW_S)
    assert (command is None) is adopted
    record.vm_lost(alive=False, detail="ended")
    command = record.vm_read(make_vm(boot=2, boot_began_s=NOW_S - age_s, qemu_pid=8), None, NOW_S)
    assert (command is None) is adopted


def test_machine_of_unknown_age_is_new_only_where_its_end_was_seen(record):
    """Without a process to look at, a startup target at first sight could be a blind shrink."""
    assert record.vm_read(make_vm(boot_began_s=NOW_S, qemu_pid=None), None, NOW_S) is None
    assert record.vm_read(make_vm(boot=2, boot_began_s=NOW_S + 1, qemu_pid=None), None, NOW_S + 1) is not None
    record.vm_lost(alive=False, detail="ended")
    assert record.vm_read(make_vm(boot=3, boot_began_s=NOW_S + 2, qemu_pid=None), None, NOW_S + 2) is not None


@pytest.mark.parametrize(
    ("changes", "is_set"),
    [
        ({"run_state": RunState.PRELAUNCH}, True),
        ({"run_state": RunState.PRELAUNCH, "hands_off": "it uses hugepages"}, False),
        ({}, False),
    ],
)
def test_who_is_served_after_being_observed_gets_a_startup_target_if_it_waits(changes, is_set):
    """One that runs may have filled its memory, and one that is left alone is left alone; nobody seen is nobody."""
    observer = GuestRecord(make_settings(), Session(), Ledger(), observe=True)
    assert observer.served() is None
    observer.vm_read(make_vm(statistics_count=0, **changes), None, NOW_S)
    assert (observer.served() is not None) is is_set


@pytest.mark.parametrize("left", ["paused", "yielded"])
def test_who_is_left_alone_keeps_all_when_observing_ends(left):
    """At a startup size nobody would let it grow, and another mover's size is not ours to change."""
    observer = GuestRecord(make_settings(), Session(), Ledger(), observe=True)
    observer.vm_read(make_vm(statistics_count=0, run_state=RunState.PRELAUNCH), None, NOW_S)
    setattr(observer, left, "so said" if left == "yielded" else True)
    assert observer.served() is None


def test_observer_books_no_target_that_was_never_set():
    """With --observe a waiting machine gets no startup target, neither ordered nor booked."""
    observer = GuestRecord(make_settings(), Session(), Ledger(), observe=True)
    assert observer.vm_read(make_vm(run_state=RunState.PRELAUNCH, statistics_count=0), None, NOW_S) is None
    assert observer.snapshot(NOW_S).hypervisor_target_kib is None


def test_machine_that_was_never_heard_is_booked_with_its_maximum(record):
    """A process that lives and does not answer holds up to its maximum, or what the kernel sees it hold (I1)."""
    assert record.snapshot(NOW_S).unseen
    record.vm_lost(alive=True, detail="hangs", qemu_pid=7)
    snapshot = record.snapshot(NOW_S)
    assert (snapshot.unseen, snapshot.vm.run_state) == (False, RunState.UNREACHABLE)
    assert snapshot.booking.assigned_kib == GIB
    record.vm_lost(alive=True, detail="hangs", residency=Residency(2 * GIB, 0), qemu_pid=7)
    assert record.snapshot(NOW_S).booking.assigned_kib == 2 * GIB
    record.vm_lost(alive=False, detail="ended", qemu_pid=7)
    assert record.snapshot(NOW_S).booking.booked_kib == 0


def test_new_process_that_does_not_answer_inherits_nothing(running):
    """What the last process had says nothing of the one that listens now."""
    running.vm_lost(alive=True, detail="hangs", qemu_pid=8)
    snapshot = running.snapshot(NOW_S)
    assert (snapshot.vm.qemu_pid, snapshot.report, snapshot.booking.assigned_kib) == (8, None, GIB)


@pytest.mark.parametrize(("claimed_kib", "kept_kib"), [(-(1 << 34), 0), (1 << 34, GIB)])
def test_size_that_cannot_be_is_clamped(record, claimed_kib, kept_kib):
    """`actual` comes from the guest: below nothing and above its RAM there is no size (I8)."""
    record.vm_read(make_vm(actual_kib=claimed_kib), None, NOW_S)
    assert record.snapshot(NOW_S).vm.actual_kib == kept_kib


def test_migrated_machine_goes_on(running):
    """The end of an incoming migration counts as a boot and is no reason to set a startup target."""
    running.vm_read(make_vm(run_state=RunState.MIGRATING), None, NOW_S)
    assert booted(running) is None


def test_machine_that_is_found_after_its_arrival_goes_on(record):
    """Seen first when it runs here already, in a young process: its startup target would be a blind shrink (I3)."""
    vm = make_vm(migration=Migration.ARRIVED, boot_began_s=NOW_S - 1)
    assert record.vm_read(vm, None, NOW_S) is None


def test_machine_that_arrives_has_its_claim_until_its_driver_answers_here(record):
    """Statistics that its device brings along, or showed before, are no answer of a driver that runs here (I1)."""
    record.vm_read(make_vm(run_state=RunState.MIGRATING, migration=Migration.INCOMING), None, NOW_S)
    booking = record.snapshot(NOW_S).booking
    assert (booking.claimed, booking.assigned_kib) == (True, GIB)
    arrived = make_vm(boot=2, migration=Migration.ARRIVED, boot_began_s=NOW_S + 1, statistics_count=0)
    record.vm_read(arrived, None, NOW_S + 1)
    assert record.snapshot(NOW_S + 1).booking.claimed
    record.reported(make_report(NOW_S + 2))
    booking = record.snapshot(NOW_S + 2).booking
    assert (booking.claimed, booking.assigned_kib) == (False, 512 * MIB)


def test_machine_that_is_gone_holds_nothing(running):
    """Its memory returns with its process."""
    running.vm_lost(alive=False, detail="died")
    snapshot = running.snapshot(NOW_S)
    assert (snapshot.vm.run_state, snapshot.booking.booked_kib, snapshot.demand) == (RunState.ABSENT, 0, None)
    assert running.detail == "died"


def test_unknown_residency_is_said(running):
    """Where the kernel does not show the process, the books have the guest's word alone, and status says so."""
    assert "residency unknown" in running.detail
    running.vm_read(make_vm(), Residency(700 * MIB, 30 * MIB), NOW_S)
    assert running.detail == ""


def test_residency_is_booked(running):
    """What the host's kernel shows is taken with the hypervisor's facts."""
    running.vm_read(make_vm(), Residency(700 * MIB, 30 * MIB), NOW_S)
    assert running.snapshot(NOW_S).booking.booked_kib == 730 * MIB


# --- wishes ----------------------------------------------------------------------------------------------


def test_wish_is_clamped_to_the_machine(running):
    """Nobody wants more than its RAM."""
    running.wished(Wish(9 * GIB, 1, 2, NOW_S))
    assert running.snapshot(NOW_S).wish.want_kib == GIB
    assert running.snapshot(NOW_S).demand.demand_kib == GIB


def test_a_word_of_a_move_waits_for_the_size(running):
    """Whose act an unannounced move is shows in the size alone: beside the one before it would be a need."""
    running.wished(Wish(900 * MIB, OOM_WHY, SOON, NOW_S + 3))
    for read_s, demand_kib in ((NOW_S + 2, 0), (NOW_S + 3, 900 * MIB)):
        running.vm_read(make_vm(read_s=read_s), None, NOW_S + 3)
        demand = running.snapshot(NOW_S + 3).demand
        assert (demand.demand_kib >= 900 * MIB, demand.urgent) == (demand_kib > 0, demand_kib > 0)
    running.wished(Wish(GIB, OOM_WHY, SOON + 2, NOW_S + 4))
    assert running.snapshot(NOW_S + 4).demand.demand_kib == GIB


def test_facts_without_a_machine_are_dropped(record):
    """Before a machine was seen there is nothing that a report or a wish could be about."""
    record.reported(make_report())
    record.wished(Wish(GIB, 1, 2, NOW_S))
    snapshot = record.snapshot(NOW_S)
    assert (snapshot.report, snapshot.demand, snapshot.wish) == (None, None, None)


# --- statistics ------------------------------------------------------------------------------------------


def statistics(arrived_s, **changes):
    values = {"total_kib": GIB - RESERVE_KIB, "available_kib": 300 * MIB, "caches_kib": 50 * MIB, **changes}
    return BalloonStatistics(arrived_s, **values)


def read_statistics(record, now_s, vm=None, **changes):
    record.vm_read(make_vm(statistics=statistics(now_s, **changes), **(vm or {})), None, now_s)
    return record.snapshot(now_s).report


def test_statistics_judge_when_the_agent_has_long_been_silent(running):
    """Until a minute after its last report the guest is held; then the balloon's statistics are the report."""
    running.session.link = LinkState.UNRESPONSIVE
    assert read_statistics(running, NOW_S + AGENT_GONE_S - 1).kind is ReportKind.AGENT
    report = read_statistics(running, NOW_S + AGENT_GONE_S)
    assert (report.kind, report.available_kib) == (ReportKind.STATISTICS, 300 * MIB)
    assert report.total_kib == GIB - RESERVE_KIB


def test_statistics_are_no_report_while_the_agent_lives(running):
    """A live agent is the only witness, however long it says nothing."""
    assert read_statistics(running, NOW_S + 10 * AGENT_GONE_S).kind is ReportKind.AGENT


def test_statistics_without_sizes_are_no_report(running):
    """A driver that does not tell them leaves them unknown."""
    running.session.link = LinkState.NONE
    assert read_statistics(running, NOW_S + AGENT_GONE_S, available_kib=None).kind is ReportKind.AGENT


def test_balloon_is_added_where_it_leaves_the_total(running):
    """Without deflate-on-oom the guest's kernel takes the balloon out of its total."""
    running.session.link = LinkState.NONE
    vm = {"deflate_on_oom": False}
    report = read_statistics(running, NOW_S + AGENT_GONE_S, vm=vm, total_kib=512 * MIB - RESERVE_KIB)
    assert report.total_kib == GIB - RESERVE_KIB


# --- what the record tells by itself ---------------------------------------------------------------------


def test_memory_taken_back_is_a_wish_for_what_the_guest_has(running, monkeypatch):
    """A guest that helped itself is short: its size is its demand, unless it has asked for more already."""
    running.note_taken_back(NOW_S)
    assert running.snapshot(NOW_S).wish is None
    monkeypatch.setattr(running._ledger, "taken_back_kib", lambda name: 50 * MIB)
    running.note_taken_back(NOW_S)
    assert running.snapshot(NOW_S).wish.want_kib == 512 * MIB
    running.wished(Wish(800 * MIB, 1, 2, NOW_S))
    running.note_taken_back(NOW_S)
    assert running.snapshot(NOW_S).wish.want_kib == 800 * MIB


def test_without_a_startup_target_a_waiting_machine_would_begin_with_all(monkeypatch):
    """Were every boot adopted, the check of the startup target would fail."""
    monkeypatch.setattr(GuestRecord, "_goes_on", lambda record, vm, now_s: True)
    with pytest.raises(AssertionError):
        test_waiting_machine_gets_its_startup_target(GuestRecord(make_settings(), Session(), Ledger()))


# --- targets on their way ----------------------------------------------------------------------------------


def test_a_larger_target_is_booked_until_the_hypervisor_has_the_smaller(running):
    """I1: what was ordered before may be in force still, however long a call takes or whether it failed."""
    running.target_ordered(900 * MIB)
    running.target_taken(900 * MIB)
    assert running.snapshot(NOW_S).booking.assigned_kib == 512 * MIB  # the ledger's word, where nothing is in doubt
    running.target_ordered(600 * MIB)
    assert running.is_promised_more
    assert running.snapshot(NOW_S).booking.assigned_kib == 900 * MIB
    running.target_taken(900 * MIB)  # an older call that comes back late proves nothing
    assert running.is_promised_more
    running.target_taken(600 * MIB)
    assert not running.is_promised_more
    assert running.snapshot(NOW_S).booking.assigned_kib == 512 * MIB


def test_what_was_promised_to_a_machine_ends_with_it(running):
    """The next one's QEMU knows no target."""
    running.target_ordered(900 * MIB)
    running.target_ordered(600 * MIB)
    running.vm_lost(False, "gone")
    assert not running.is_promised_more


@pytest.mark.parametrize("choice", ["paused", "released", "yielded", ""])
def test_a_reset_leaves_the_size_of_who_is_not_managed(running, choice):
    """QEMU keeps its target over a reset; nobody but the coordinator would set another."""
    if choice:
        setattr(running, choice, True if choice != "yielded" else "another mover")
    command = booted(running, qemu_pid=running.vm.qemu_pid or 1)
    assert (command is None) is bool(choice)


def test_what_is_said_twice_is_said_once(record):
    """Discovery and the connection find the same fault in a domain's XML."""
    record.notes = ("not read", "and more")
    record.vm_lost(True, "not read")
    assert record.said == "not read; and more"
