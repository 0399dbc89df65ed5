"""Balloon and virtio-mem as one size: how a target is divided, and what becomes of memory that a guest keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.booking import book, boot_answered
from ballonet_host_coord.demand import beyond, demand_at, hidden_kib, observe
from ballonet_host_coord.hotplug import LEAST_KIB, PATIENCE_S, REFUSED_S, Mover, Sizes, Split, grown_kib, split
from ballonet_host_coord.model import Hotplug, RunState, SetTarget, Wish

from .builders import MIB, NOW_S, make_guest, make_report, make_settings, make_vm
from .steps import settled, step

BOOT_KIB = 512 * MIB
BLOCK_KIB = 2 * MIB
MOST_KIB = 1024 * MIB
RESERVE_KIB = 100 * MIB


def plug(plugged_mib: int = 0, requested_mib: int | None = None) -> Hotplug:
    requested_kib = (plugged_mib if requested_mib is None else requested_mib) * MIB
    return Hotplug(MOST_KIB, BLOCK_KIB, plugged_mib * MIB, requested_kib)


def sizes(left_mib: int = 512, plugged_mib: int = 0, requested_mib: int | None = None) -> Sizes:
    return Sizes(BOOT_KIB, left_mib * MIB, plug(plugged_mib, requested_mib))


def vm_with(left_mib: int = 512, plugged_mib: int = 0, requested_mib: int | None = None, **changes):
    device = plug(plugged_mib, requested_mib)
    return make_vm(
        ram_kib=BOOT_KIB + MOST_KIB, actual_kib=(left_mib + plugged_mib) * MIB, hotplug=device, **changes
    )


@st.composite
def any_sizes(draw) -> Sizes:
    block_kib = draw(st.sampled_from([2 * MIB, 4 * MIB, 128 * MIB]))
    boot_kib = draw(st.integers(64, 4096)) * MIB
    blocks = draw(st.integers(1, 64))
    plugged, requested = draw(st.integers(0, blocks)), draw(st.integers(0, blocks))
    left_kib = draw(st.integers(boot_kib // 2, boot_kib))
    device = Hotplug(blocks * block_kib, block_kib, plugged * block_kib, requested * block_kib)
    return Sizes(boot_kib, left_kib, device)


# --- dividing -------------------------------------------------------------------------------------------


@given(any_sizes(), st.data())
def test_a_target_is_divided(both: Sizes, data: st.DataObject) -> None:
    """Whole blocks within both devices' bounds; never above the target, and below it only where no block fits."""
    device = both.hotplug
    most_kib = both.boot_kib + device.most_kib
    target_kib = data.draw(st.integers(LEAST_KIB, most_kib + 10 * MIB))
    told = split(target_kib, both)
    assert told.requested_kib % device.block_kib == 0
    assert 0 <= told.requested_kib <= device.most_kib
    assert LEAST_KIB <= told.balloon_kib <= both.boot_kib
    if both.left_kib >= device.block_kib + LEAST_KIB:  # else the balloon cannot make up for the part of a block
        assert told.size_kib <= target_kib
    lacking_kib = min(target_kib, most_kib) - told.size_kib
    assert lacking_kib < device.block_kib
    if target_kib <= both.size_kib:
        assert lacking_kib <= 0
    if lacking_kib > 0:
        assert told.balloon_kib == both.boot_kib


@given(any_sizes(), st.data())
def test_devices_move_one_way(both: Sizes, data: st.DataObject) -> None:
    """Growing shrinks neither device, shrinking grows neither: no order of arrival is more than what is booked."""
    target_kib = data.draw(st.integers(LEAST_KIB, both.boot_kib + both.hotplug.most_kib))
    told = split(target_kib, both)
    if target_kib > both.size_kib:
        assert told.balloon_kib >= both.left_kib
        assert told.requested_kib >= both.hotplug.plugged_kib
    else:
        assert told.balloon_kib <= max(LEAST_KIB, both.left_kib)
        assert told.requested_kib <= both.hotplug.plugged_kib


@given(any_sizes(), st.data())
def test_a_larger_target_is_no_smaller(both: Sizes, data: st.DataObject) -> None:
    """The sum is monotone in the target, and a target that was reached is divided into what is there."""
    most_kib = both.boot_kib + both.hotplug.most_kib
    lower_kib = data.draw(st.integers(LEAST_KIB, most_kib))
    upper_kib = data.draw(st.integers(lower_kib, most_kib))
    assert split(lower_kib, both).size_kib <= split(upper_kib, both).size_kib
    told = split(upper_kib, both)
    there = Sizes(both.boot_kib, told.balloon_kib, replace(both.hotplug, plugged_kib=told.requested_kib))
    assert split(there.size_kib, there) == told


@given(any_sizes(), st.data())
def test_what_a_guest_keeps_is_not_asked_for(both: Sizes, data: st.DataObject) -> None:
    """No request is below what the guest refuses to unplug; the balloon makes up for it."""
    device = both.hotplug
    kept_kib = data.draw(st.integers(0, device.plugged_kib // device.block_kib)) * device.block_kib
    target_kib = data.draw(st.integers(LEAST_KIB, both.size_kib))
    told = split(target_kib, both, kept_kib)
    assert told.requested_kib >= kept_kib
    assert told.balloon_kib == max(LEAST_KIB, target_kib - told.requested_kib)


@given(any_sizes(), st.data())
def test_a_size_to_grow_to_is_reached_exactly(both: Sizes, data: st.DataObject) -> None:
    """What `grown_kib` allows can be had to the KiB, so that a move to it arrives."""
    vm = make_vm(
        ram_kib=both.boot_kib + both.hotplug.most_kib, actual_kib=both.size_kib, hotplug=both.hotplug
    )
    asked_kib = data.draw(st.integers(both.size_kib, vm.ram_kib))
    target_kib = grown_kib(vm, asked_kib)
    assert asked_kib - both.hotplug.block_kib < target_kib <= asked_kib
    if target_kib >= both.size_kib:
        assert split(target_kib, both).size_kib == target_kib


def test_the_order_of_devices() -> None:
    """Growing deflates before it plugs, shrinking unplugs before it inflates."""
    assert split(500 * MIB, sizes(400, 0)) == Split(500 * MIB, 0)
    assert split(700 * MIB, sizes(400, 0)) == Split(512 * MIB, 188 * MIB)
    assert split(701 * MIB, sizes(512, 188)) == Split(512 * MIB, 188 * MIB)
    assert split(600 * MIB, sizes(512, 188)) == Split(512 * MIB, 88 * MIB)
    assert split(599 * MIB, sizes(512, 188)) == Split(511 * MIB, 88 * MIB)
    assert split(400 * MIB, sizes(512, 188)) == Split(400 * MIB, 0)


# --- what a guest's kernel keeps --------------------------------------------------------------------------


def test_a_refused_unplug_is_the_balloons() -> None:
    """Without any progress for a while the balloon takes the rest, and what is plugged is what is requested."""
    mover = Mover()
    assert mover.aim(300 * MIB, sizes(512, 200), NOW_S) == Split(300 * MIB, 0)
    assert mover.follow(sizes(300, 150, 0), NOW_S + 1) is None
    assert mover.follow(sizes(300, 150, 0), NOW_S + 1 + PATIENCE_S * 0.9) is None
    told = mover.follow(sizes(300, 150, 0), NOW_S + 1 + PATIENCE_S)
    assert told == Split(150 * MIB, 150 * MIB)
    assert mover.follow(sizes(150, 150, 150), NOW_S + 60) is None


def test_a_refusal_is_remembered_and_tried_again() -> None:
    """The next shrinks take from the balloon at once; unplugging is asked for again after a minute, then after two."""
    mover, now_s = Mover(), NOW_S
    for wait_s in (REFUSED_S, 2 * REFUSED_S):
        mover.aim(500 * MIB, sizes(512, 200), now_s)
        now_s += PATIENCE_S
        assert mover.follow(sizes(500, 200, 0), now_s) == Split(300 * MIB, 200 * MIB)
        assert mover.aim(450 * MIB, sizes(300, 200), now_s + wait_s - 1).requested_kib == 200 * MIB
        now_s += wait_s
    assert mover.aim(450 * MIB, sizes(300, 200), now_s).requested_kib == 150 * MIB
    assert mover.of_boot(2).aim(450 * MIB, sizes(300, 200), now_s - 1).requested_kib == 150 * MIB


def test_a_guest_that_gives_something_is_asked_again_sooner() -> None:
    """Progress ends what was refused before: the next refusal counts as the first."""
    mover, now_s = Mover(), NOW_S
    for kept_mib, wait_s in ((200, REFUSED_S), (150, REFUSED_S)):
        mover.aim(400 * MIB, sizes(512, 200), now_s)
        mover.follow(sizes(512, kept_mib, 0), now_s + 1)
        now_s += 1 + PATIENCE_S
        assert mover.follow(sizes(400, kept_mib, 0), now_s) is not None
        assert mover.aim(300 * MIB, sizes(400, kept_mib), now_s + wait_s - 1).requested_kib == kept_mib * MIB
        now_s += wait_s
        assert mover.aim(300 * MIB, sizes(400, kept_mib), now_s).requested_kib == 0


def test_anothers_request_is_left_alone() -> None:
    """Who requests another size while we wait for ours has taken the device over."""
    mover = Mover()
    mover.aim(500 * MIB, sizes(512, 200), NOW_S)
    assert mover.follow(sizes(512, 200, 100), NOW_S + PATIENCE_S) is None
    assert mover.follow(sizes(512, 200, 0), NOW_S + 9 * PATIENCE_S) is None


def test_an_unplug_that_arrives_ends() -> None:
    """Nothing more is told once it has given what was requested."""
    mover = Mover()
    mover.aim(600 * MIB, sizes(512, 200), NOW_S)
    assert mover.follow(sizes(512, 88, 88), NOW_S + 1) is None
    assert mover.follow(sizes(512, 200, 88), NOW_S + 100) is None


# --- books ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("plugged", "requested", "claim"), [(0, 0, 512), (0, 256, 768), (128, 0, 640)])
def test_a_boot_claims_what_it_can_touch(plugged: int, requested: int, claim: int) -> None:
    """Before its driver answers a guest may have its boot memory and what is plugged or requested, and no more."""
    vm = vm_with(300, plugged, requested)
    assert book(make_settings(), vm, None, None, answered=False).assigned_kib == claim * MIB
    assert book(make_settings(), vm, None, None, answered=True).assigned_kib == (300 + plugged) * MIB


def test_the_balloon_is_compared_without_what_is_not_plugged() -> None:
    """A guest of this boot counts the pages in its balloon; the rest of the device was never there."""
    vm = vm_with(300, 256, statistics_count=0)
    assert vm.balloon_kib == 212 * MIB
    assert boot_answered(vm, make_report(balloon_kib=212 * MIB))
    assert not boot_answered(vm, make_report(balloon_kib=(212 + 768) * MIB))


def test_a_grant_beyond_boot_memory_is_in_whole_blocks() -> None:
    """The ledger asks for what can be had: a target between two blocks would never arrive."""
    ledger = settled(512)
    guest = make_guest("a", BOOT_KIB, 801 * MIB, {"maximum_kib": 1536 * MIB}, vm=vm_with())
    orders = step(ledger, (guest, 801, {"urgent": True}))
    assert [order.target_kib for order in orders if isinstance(order, SetTarget)] == [800 * MIB]


# --- what the guest says ------------------------------------------------------------------------------------


def told(vm, available_mib: int, counted_mib: int | None = None, arrived_s: float = NOW_S):
    """A report of a guest whose kernel counts what is plugged, or `counted_mib` of it."""
    counted_kib = vm.here_kib - vm.boot_kib if counted_mib is None else counted_mib * MIB
    total_kib = BOOT_KIB - RESERVE_KIB + counted_kib
    return make_report(arrived_s, total_kib=total_kib, available_kib=available_mib * MIB, balloon_kib=vm.balloon_kib)


def observed(vm, report, before=None):
    return observe(before, report, vm, make_settings(maximum_kib=1536 * MIB), False)


def test_plugged_memory_is_not_in_use() -> None:
    """Use stays the same where memory is plugged, whether the guest's kernel has counted it yet or not."""
    small = observed(vm_with(), told(vm_with(), 200))
    assert small.use_kib == 312 * MIB
    big = vm_with(512, 512)
    assert observed(big, told(big, 712, arrived_s=NOW_S + 1), small).use_kib == 312 * MIB
    late = told(big, 200, counted_mib=0, arrived_s=NOW_S + 1)
    assert observed(big, late, small).use_kib == 312 * MIB
    back = vm_with(512, 0)
    early = told(back, 712, counted_mib=512, arrived_s=NOW_S + 2)
    assert observed(back, early, observed(big, told(big, 712), small)).use_kib == 312 * MIB


def test_memory_that_is_never_put_online_does_not_grow_demand() -> None:
    """A guest that leaves plugged blocks offline does not look fuller with each block that it is given."""
    estimate = observed(vm_with(), told(vm_with(), 200))
    for plugged_mib in (256, 512, 1024):
        vm = vm_with(512, plugged_mib)
        for _ in range(2):
            report = told(vm, 200, counted_mib=0, arrived_s=estimate.report.arrived_s + 1)
            estimate = observed(vm, report, estimate)
        assert estimate.use_kib == 312 * MIB


def test_a_wish_for_all_it_knows_of_is_a_wish_for_more() -> None:
    """An agent knows of what its kernel counts; it asks for that at the most, and a step more is meant."""
    vm = vm_with(512, 256)
    estimate = observed(vm, told(vm, 50))
    assert hidden_kib(estimate, vm) == RESERVE_KIB
    most = beyond(Wish(668 * MIB, 1, 3, arrived_s=NOW_S), estimate, vm)
    assert most.want_kib == (768 + 128) * MIB
    less = beyond(Wish(500 * MIB, 1, 3, arrived_s=NOW_S), estimate, vm)
    assert less.want_kib == 600 * MIB
    settings = make_settings(maximum_kib=1536 * MIB)
    assert demand_at(estimate, most, vm, settings, NOW_S).demand_kib >= 896 * MIB
    fixed = make_vm()
    assert beyond(less, observed(fixed, make_report()), fixed) == less


def test_an_absent_machine_has_no_device() -> None:
    """Facts without a device are what they were: the RAM is all there is."""
    vm = make_vm(run_state=RunState.ABSENT)
    assert (vm.boot_kib, vm.here_kib, vm.claim_kib) == (vm.ram_kib, vm.ram_kib, vm.ram_kib)
    assert grown_kib(vm, 700 * MIB + 1) == 700 * MIB + 1
