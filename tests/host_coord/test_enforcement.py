"""A limit is never in the way of what was promised, and is brought down to it when it has arrived."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.enforcement import LOWER_LEAST_KIB, STEP_KIB, Cell, needed_kib, next_limit_kib
from ballonet_host_coord.model import Booking, Enforce, Residency, RunState

from .builders import GIB, MIB, make_guest, make_vm

SIZES = st.integers(0, 1024 * MIB)
ENFORCED = {"enforce": Enforce.CGROUP}


def enforced(actual_kib: int = 512 * MIB, **changes):
    booking = {"booking": Booking(actual_kib, 40 * MIB, claimed=False)}
    return make_guest(actual_kib=actual_kib, settings=ENFORCED, **{**booking, **changes})


def cell(limit_kib: int | None, used_kib: int = 400 * MIB) -> Cell:
    return Cell("/x", 2, limit_kib, used_kib)


def settled(guest, used_kib: int, limit_kib: int | None = None) -> int | None:
    """The limit in the end, when nothing else moves."""
    for _ in range(100):
        limit_kib = next_limit_kib(guest, cell(limit_kib, used_kib))
        used_kib = min(used_kib, limit_kib) if limit_kib is not None else used_kib
    return limit_kib


@given(SIZES, SIZES | st.none(), SIZES, SIZES, SIZES | st.none(), st.sampled_from(RunState))
def test_never_in_the_way_of_what_was_promised(actual_kib, target_kib, about_kib, used_kib, limit_kib, state):
    """Whatever is known and in force: `actual`, the target in force and the one about to be set fit, with overhead."""
    guest = enforced(actual_kib, vm=make_vm(actual_kib=actual_kib, run_state=state), hypervisor_target_kib=target_kib)
    needed = needed_kib(guest, about_kib)
    if needed is not None:
        assert needed >= max(actual_kib, target_kib or 0, about_kib) + 40 * MIB
    found = next_limit_kib(guest, cell(limit_kib, used_kib))
    if found is not None:
        assert found >= max(actual_kib, target_kib or 0) + 40 * MIB


def test_what_resides_is_no_part_of_it():
    """That a guest holds more than it was given is what is to end: the limit comes down to what was given."""
    lies = enforced(residency=Residency(GIB, 40 * MIB), booking=Booking(GIB, 40 * MIB, claimed=False))
    assert needed_kib(lies) == needed_kib(enforced()) == (512 + 40 + 64) * MIB
    assert 0 <= settled(lies, used_kib=GIB) - needed_kib(lies) < LOWER_LEAST_KIB


@pytest.mark.parametrize(
    "free",
    [
        {"settings": {"enforce": Enforce.OFF}}, {"released": True}, {"forced": True}, {"hands_off": "paused"},
        {"unseen": True}, {"booking": Booking(GIB, 0, claimed=True)}, {"vm": make_vm(hands_off="it uses hugepages")},
        {"vm": make_vm(run_state=RunState.MIGRATING)}, {"vm": make_vm(run_state=RunState.PRELAUNCH)},
        {"vm": make_vm(run_state=RunState.ABSENT)}, {"vm": make_vm(ram_kib=0)},
    ],
    ids=["off", "released", "forced", "left alone", "unseen", "booting", "pinned", "migrating", "waiting", "absent",
         "size unknown"],
)  # fmt: skip
def test_no_limit_where_nobody_knows_or_the_operator_gave_all(free):
    """And one that is in force is taken away."""
    guest = make_guest(**{"settings": ENFORCED, **free})
    assert needed_kib(guest, 300 * MIB) is None
    assert next_limit_kib(guest, cell(600 * MIB)) is None


def test_up_at_once_and_down_when_the_shrink_has_arrived():
    """A grant in flight raises it; a shrink in flight leaves it where it was until `actual` is there."""
    at_512 = needed_kib(enforced())
    growing = enforced(hypervisor_target_kib=900 * MIB)
    assert next_limit_kib(growing, cell(at_512)) == needed_kib(growing) > at_512
    shrinking = enforced(hypervisor_target_kib=256 * MIB)
    high_kib = needed_kib(enforced(900 * MIB))
    assert next_limit_kib(shrinking, cell(high_kib)) == high_kib
    assert next_limit_kib(shrinking, cell(None)) is None
    arrived = enforced(256 * MIB)
    assert next_limit_kib(arrived, cell(high_kib, used_kib=300 * MIB)) == needed_kib(arrived)


def test_a_step_below_what_is_held_at_a_time():
    """The kernel brings a cgroup below its limit while that is written: it has little to do each time."""
    guest = enforced(residency=Residency(GIB, 0))
    assert next_limit_kib(guest, cell(None, used_kib=GIB)) == GIB - STEP_KIB
    assert next_limit_kib(guest, cell(GIB - STEP_KIB, used_kib=GIB - STEP_KIB)) == GIB - 2 * STEP_KIB
    # It did not follow, for want of swap: the limit stays where it is and holds what comes.
    assert next_limit_kib(guest, cell(GIB - STEP_KIB, used_kib=GIB + STEP_KIB)) == GIB - STEP_KIB


@given(SIZES, st.integers(0, 2 * GIB), st.none() | st.integers(0, 2 * GIB))
def test_a_guest_at_rest_has_a_limit_at_rest(actual_kib, used_kib, limit_kib):
    """A fixed point, within what is not worth a write; an unreachable machine keeps or raises what it has."""
    guest = enforced(actual_kib)
    end_kib = settled(guest, used_kib, limit_kib)
    assert end_kib is not None
    assert 0 <= end_kib - needed_kib(guest) < LOWER_LEAST_KIB
    away = replace(guest, vm=replace(guest.vm, run_state=RunState.UNREACHABLE))
    found = next_limit_kib(away, cell(limit_kib, used_kib))
    assert found == (None if limit_kib is None else max(limit_kib, needed_kib(away)))
