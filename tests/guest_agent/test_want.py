"""want.py: the formula of its docstring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.want import HotSwap, comfort_kib, present_kib, shortfall_kib, want_kib
from ballonet_guest_agent.zram import Zram

MIB = 1024


def test_want_is_present_plus_missing(make_guest) -> None:
    """Exactly as much is wanted above the present size as available memory is below comfort."""
    guest = make_guest()
    guest.inflate(600 * MIB)
    guest.used_kib = guest.size_kib - guest.reserve_kib - 10 * MIB
    sample = guest.sample()
    missing = comfort_kib(424 * MIB) - 10 * MIB
    assert shortfall_kib(sample, guest.ram_kib) == missing
    assert want_kib(sample, guest.ram_kib, 0, 0) == 424 * MIB + missing
    assert want_kib(sample, guest.ram_kib, 0, 50 * MIB) == 474 * MIB + missing


def test_idle_guest_wants_less_than_it_has(make_guest) -> None:
    """Spare memory lowers the want below the present size, but not below the floor."""
    guest = make_guest()
    assert want_kib(guest.sample(), guest.ram_kib, 0, 0) < present_kib(guest.sample(), guest.ram_kib)
    assert want_kib(guest.sample(), guest.ram_kib, 900 * MIB, 0) == 900 * MIB


@pytest.mark.parametrize(("severity", "step_mib"), [(0, 0), (1, 0), (2, 64), (3, 128)])
def test_a_stall_asks_for_a_step(make_guest, severity: int, step_mib: int) -> None:
    """With memory available a stalled guest asks for a step all the same, larger when it starves."""
    guest = make_guest()
    guest.inflate(500 * MIB)
    guest.used_kib = guest.size_kib - guest.reserve_kib - comfort_kib(guest.size_kib)
    assert want_kib(guest.sample(), guest.ram_kib, 0, 0, severity) == (524 + step_mib) * MIB


def test_large_guests_take_large_steps(make_guest) -> None:
    """A starving guest asks for an eighth of itself when that is more than 128 MiB."""
    guest = make_guest(64 * 1024 * MIB)
    guest.inflate(32 * 1024 * MIB)
    assert want_kib(guest.sample(), guest.ram_kib, 0, 0, 3) == 36 * 1024 * MIB


@given(
    balloon=st.integers(0, 1024), used=st.integers(0, 2048), hot=st.integers(0, 10**9), severity=st.integers(0, 3)
)
def test_bounds(make_guest, balloon: int, used: int, hot: int, severity: int) -> None:
    """Whatever the guest does, the want lies between floor and RAM and a DEMAND never asks for less than there is."""
    guest = make_guest()
    guest.inflate(balloon * MIB)
    guest.used_kib = used * MIB
    sample = guest.sample()
    assert 100 <= want_kib(sample, guest.ram_kib, 100, hot) <= guest.ram_kib
    if severity >= 2:
        assert want_kib(sample, guest.ram_kib, 100, hot, severity) >= present_kib(sample, guest.ram_kib)


def test_unknown_available_is_not_zero(make_guest) -> None:
    """A kernel that does not say what is available is not short for that."""
    guest = make_guest()
    sample = type(guest.sample()).from_texts("MemTotal: 1000000 kB\n", guest.texts()[1], None, True)
    assert shortfall_kib(sample, guest.ram_kib) == 0
    assert want_kib(sample, guest.ram_kib, 0, 0) == guest.ram_kib


def test_hot_swap_fades(make_guest) -> None:
    """What was read back counts half after ten seconds, and never more than the swap in use."""
    guest, hot = make_guest(), HotSwap()
    guest.swap_free_kib = 0
    hot.add(100 * MIB, 1.0)
    assert hot.kib(guest.sample()) == 100 * MIB
    hot.add(0, 10.0)
    assert hot.kib(guest.sample()) == 50 * MIB
    guest.swap_free_kib = guest.swap_total_kib - 7
    assert hot.kib(guest.sample()) == 7


def test_hot_swap_in_zram_is_half_there(make_guest) -> None:
    """Memory read back from zram is wanted without the part of it that zram holds already."""
    guest, hot = make_guest(), HotSwap()
    guest.swap_total_kib, guest.swap_free_kib = 200 * MIB, 0
    hot.add(100 * MIB, 1.0)
    guest.zram = Zram(200 * MIB, 200 * MIB, 50 * MIB)
    assert hot.kib(guest.sample()) == 75 * MIB
