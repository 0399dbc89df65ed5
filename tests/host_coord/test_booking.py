"""The books hold the most that a guest can have, and a boot is believed only when its own driver has answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.booking import (
    BALLOON_TOLERANCE_KIB,
    affordable_kib,
    book,
    booked_at_kib,
    boot_answered,
    headroom_kib,
)
from ballonet_host_coord.budget import budget_parts
from ballonet_host_coord.model import Booking, HostFacts, HostSettings, Hotplug, Residency, RunState
from ballonet_host_coord.reservations import Reservation, refusal

from .builders import GIB, MIB, make_guest, make_report, make_settings, make_snapshot, make_vm

SIZES = st.integers(0, 1024 * MIB)
RAM_KIB = 1024 * MIB


@given(SIZES, SIZES, st.none() | SIZES, st.sampled_from(RunState), st.booleans(), st.booleans(), st.integers(0, 9999))
def test_never_below_what_resides(actual_kib, resident_kib, target_kib, state, answered, started, overhead_kib):
    """I8: whatever the guest claims and whatever state it is in, what the host's kernel sees is booked."""
    vm = make_vm(run_state=state, actual_kib=actual_kib)
    settings = make_settings(overhead_kib=5000)
    booking = book(settings, vm, Residency(resident_kib, overhead_kib), target_kib, answered, started)
    assert booking.assigned_kib >= resident_kib
    assert booking.overhead_kib >= overhead_kib
    assert booking.booked_kib == booking.assigned_kib + booking.overhead_kib


@pytest.mark.parametrize(
    "state", [RunState.RUNNING, RunState.PAUSED, RunState.MIGRATING, RunState.UNREACHABLE]
)
@given(actual_kib=SIZES, resident_kib=SIZES, target_kib=SIZES)
def test_the_largest_of_three_counts(state, actual_kib, resident_kib, target_kib):
    """I1: actual, the target in flight and residency are booked at their maximum, and QEMU's overhead beside it."""
    actual_kib = max(actual_kib, resident_kib)
    vm = make_vm(run_state=state, actual_kib=actual_kib)
    booking = book(make_settings(overhead_kib=7), vm, Residency(resident_kib, 3), target_kib, answered=True)
    assert booking.assigned_kib == max(actual_kib, target_kib, resident_kib)
    assert booking.overhead_kib == 7
    assert not booking.claimed


@given(SIZES, SIZES, SIZES, st.integers(-64 * MIB, 1024 * MIB))
def test_what_is_affordable_costs_no_more_than_the_room(actual_kib, resident_kib, target_kib, room_kib):
    """I1: the largest target that is paid from some room is booked within it, refilled balloons or not."""
    vm, residency = make_vm(actual_kib=actual_kib), Residency(resident_kib, 0)
    booking = book(make_settings(), vm, residency, target_kib, answered=True)
    guest = make_guest(vm=vm, residency=residency, booking=booking)
    most_kib = min(affordable_kib(guest, room_kib), RAM_KIB)
    assert booked_at_kib(guest, most_kib) <= booking.assigned_kib + max(0, room_kib)
    assert most_kib >= min(target_kib, actual_kib)


def test_what_the_host_refilled_is_booked_beside_a_target_in_flight() -> None:
    """The pages that reside need not be those that the balloon gives back."""
    vm = make_vm(actual_kib=300 * MIB)
    booking = book(make_settings(), vm, Residency(500 * MIB, 0), 600 * MIB, answered=True)
    assert booking.assigned_kib == 800 * MIB
    touched = book(make_settings(), vm, Residency(310 * MIB, 0), 600 * MIB, answered=True)
    assert touched.assigned_kib == 600 * MIB  # read a moment later than `actual`


def test_a_boot_is_booked_with_its_whole_ram_until_it_has_answered() -> None:
    """I1: `actual` of an earlier boot is not believed."""
    booking = book(make_settings(), make_vm(actual_kib=300 * MIB), None, None, answered=False)
    assert (booking.assigned_kib, booking.claimed) == (RAM_KIB, True)


def test_a_machine_before_its_first_instruction_costs_what_resides() -> None:
    """It cannot touch memory; from the order to start on it is booked with its claim."""
    vm = make_vm(run_state=RunState.PRELAUNCH, actual_kib=RAM_KIB)
    waiting = book(make_settings(overhead_kib=9), vm, Residency(50, 1), 512 * MIB, answered=False)
    assert (waiting.assigned_kib, waiting.overhead_kib, waiting.claimed) == (50, 9, False)
    started = book(make_settings(), vm, Residency(50, 1), 512 * MIB, answered=False, started=True)
    assert (started.assigned_kib, started.claimed) == (RAM_KIB, True)


def test_a_machine_that_is_not_there_costs_nothing() -> None:
    """Neither a claim nor an overhead is booked for what does not run."""
    vm = make_vm(run_state=RunState.ABSENT)
    assert book(make_settings(overhead_kib=9), vm, None, 512 * MIB, answered=False).booked_kib == 0


def test_the_agents_balloon_must_fit_the_devices() -> None:
    """A report of this boot shows that the driver has answered, where both name the same bag."""
    vm = make_vm(actual_kib=512 * MIB, statistics_count=0)
    assert boot_answered(vm, make_report(actual_kib=512 * MIB))
    assert boot_answered(vm, make_report(actual_kib=512 * MIB + BALLOON_TOLERANCE_KIB))
    assert not boot_answered(vm, make_report(actual_kib=512 * MIB + BALLOON_TOLERANCE_KIB + 1))
    assert not boot_answered(vm, make_report(actual_kib=1024 * MIB)), "the device tells the last boot's size"
    assert not boot_answered(vm, make_report(actual_kib=512 * MIB, balloon_kib=None))
    assert not boot_answered(vm, None)


def test_a_report_from_before_the_boot_shows_nothing() -> None:
    """What the last boot said cannot vouch for this one."""
    vm = make_vm(statistics_count=0, boot_began_s=50.0)
    assert not boot_answered(vm, make_report(arrived_s=49.9))
    assert boot_answered(vm, make_report(arrived_s=50.0))


@pytest.mark.parametrize(
    ("set_mib", "budget_mib", "headroom_mib"),
    [(None, 1024, 64), (None, 262144, 1024), (0, 262144, 0), (300, 1024, 300)],
)
def test_the_headroom_is_what_is_set_or_grows_with_the_budget(set_mib, budget_mib, headroom_mib):
    """Unset it is 64 MiB at least; none at all can be set."""
    settings = HostSettings(headroom_kib=None if set_mib is None else set_mib * MIB)
    assert headroom_kib(settings, budget_mib * MIB) == headroom_mib * MIB


def test_statistics_count_only_when_repeated() -> None:
    """The first statistics are queued before the balloon begins: three are needed."""
    assert not boot_answered(make_vm(statistics_count=2), None)
    assert boot_answered(make_vm(statistics_count=3), None)


def test_a_waiting_machine_has_not_answered() -> None:
    """Nothing that is said before the first instruction is of this boot."""
    assert not boot_answered(make_vm(run_state=RunState.PRELAUNCH), make_report())


@given(SIZES, SIZES, st.none() | SIZES, SIZES, st.booleans())
def test_what_is_in_huge_pages_is_booked_nowhere(actual_kib, resident_kib, target_kib, huge_kib, answered):
    """No budget has it in it: booked is at most the rest of the RAM, or what resides in ordinary memory, and never
    more than of the same guest without huge pages."""
    vm, residency = make_vm(actual_kib=actual_kib, hugepages_kib=huge_kib), Residency(resident_kib, 3)
    booking = book(make_settings(overhead_kib=7), vm, residency, target_kib, answered)
    ordinary = book(make_settings(), make_vm(actual_kib=actual_kib), residency, target_kib, answered)
    assert booking.assigned_kib == max(resident_kib, min(ordinary.assigned_kib, RAM_KIB - huge_kib))
    assert booking.overhead_kib == 7


def test_the_part_in_ordinary_memory_is_booked() -> None:
    """A guest in huge pages with a virtio-mem device of ordinary memory is booked with the device alone."""
    device = Hotplug(512 * MIB, 2 * MIB, plugged_kib=128 * MIB, requested_kib=256 * MIB)
    vm = make_vm(ram_kib=RAM_KIB + 512 * MIB, actual_kib=RAM_KIB + 128 * MIB, hotplug=device, hugepages_kib=RAM_KIB)
    assert book(make_settings(), vm, None, None, answered=True).assigned_kib == 512 * MIB
    assert vm.claim_kib == 512 * MIB


@pytest.mark.parametrize("set_gib", [None, 23])
def test_a_guest_in_huge_pages_takes_nothing_from_the_others(set_gib: int | None) -> None:
    """On a host of 64 GiB, 40 of them huge pages, a guest of 32 GiB in these is no overdraft, squeezes nobody and keeps
    no start from its room, whether the budget was set or not."""
    facts = HostFacts(64 * GIB, 20 * GIB, hugetlb_kib=40 * GIB)
    host = HostSettings(budget_kib=None if set_gib is None else set_gib * GIB, reserve_kib=GIB)
    budget_kib = budget_parts(host, facts).budget_kib
    assert budget_kib == 23 * GIB
    reason = "it uses hugepages"
    vm = make_vm(ram_kib=32 * GIB, actual_kib=32 * GIB, hugepages_kib=32 * GIB, hands_off=reason)
    settings = make_settings("huge", minimum_kib=8 * GIB, maximum_kib=32 * GIB, overhead_kib=96 * MIB)
    booking = book(settings, vm, Residency(0, 60 * MIB), None, answered=True)
    assert booking == Booking(0, 96 * MIB, claimed=False)
    huge = make_guest("huge", vm=vm, booking=booking, hypervisor_target_kib=None, demand=None, settings={})
    wants = {"vm": make_vm(ram_kib=16 * GIB, actual_kib=8 * GIB), "booking": Booking(8 * GIB, 0, claimed=False)}
    other = make_guest(
        "other", demand_kib=12 * GIB, settings={"maximum_kib": 16 * GIB}, hypervisor_target_kib=8 * GIB, **wants
    )
    snapshot = make_snapshot(huge, other, budget_kib=budget_kib)
    decision = one_iteration(snapshot)
    assert (decision.booked_kib, decision.overdrawn_kib) == (8 * GIB + 96 * MIB, 0)
    assert decision.guests[0].why == f"left alone: {reason}"
    assert decision.guests[1].target_kib >= 12 * GIB
    assert refusal(snapshot, Reservation("new", 8 * GIB, 5000, 10.0, 60.0)) == ""
