"""pressure.py: harm between two samples, and a balloon that moved by itself."""

from __future__ import annotations

import pytest

from ballonet_guest_agent.pressure import (
    Harm,
    counter_harm,
    move_harm,
    psi_share_permyriad,
    scanned,
    self_deflated_kib,
    stall_harm,
    waited,
)
from ballonet_protocol import DemandWhy, Severity

MIB = 1024


def test_stalls_against_the_policy(make_guest) -> None:
    """Shares of the interval: below both limits nothing, over `some` stalling, over `full` starving."""
    guest = make_guest()
    before = guest.sample()
    guest.psi_some_us = 49_000
    assert stall_harm(before, guest.sample(), 1.0, 500, 200) is None
    guest.psi_some_us = 50_000
    assert stall_harm(before, guest.sample(), 1.0, 500, 200) == Harm(DemandWhy.PSI, Severity.STALLING)
    guest.psi_full_us = 20_000
    assert stall_harm(before, guest.sample(), 1.0, 500, 200) == Harm(DemandWhy.PSI, Severity.STARVING)
    assert stall_harm(before, guest.sample(), 10.0, 500, 200) is None


def test_share_is_bounded() -> None:
    """A counter that ran faster than time is all of it; one that went back is unknown."""
    assert psi_share_permyriad(0, 10**9, 1.0) == 10_000
    assert psi_share_permyriad(5, 4, 1.0) is None
    assert psi_share_permyriad(0, 5, 0.0) is None


def test_no_psi_is_no_harm(make_guest) -> None:
    """Without PSI nothing is concluded from it."""
    guest = make_guest()
    guest.has_psi = False
    assert stall_harm(guest.sample(), guest.sample(), 1.0, 500, 200) is None


@pytest.mark.parametrize(
    ("counter", "increase", "expected"),
    [
        ("oom_kill", 1, (DemandWhy.OOM, Severity.STARVING)),
        ("pswpin", 5000, (DemandWhy.SWAP_IN, Severity.STARVING)),
        ("pswpin", 300, (DemandWhy.SWAP_IN, Severity.SHORT)),
        ("pswpin", 100, None),
        ("workingset_refault_file", 3000, (DemandWhy.REFAULT, Severity.SHORT)),
        ("workingset_refault_file", 1000, None),
        ("allocstall_normal", 1, None),
    ],
)
def test_counters(make_guest, counter: str, increase: int, expected: tuple[int, int] | None) -> None:
    """Each counter raises its own reason at its own rate; allocation stalls do not where PSI sees them."""
    guest = make_guest()
    before = guest.sample()
    guest.counters[counter] = guest.counters.get(counter, 0) + increase
    harm = counter_harm(before, guest.sample(), 1.0, short=True)
    assert harm == (None if expected is None else Harm(*expected))


def test_counters_with_memory_to_spare(make_guest) -> None:
    """A kill in a cgroup or a cold file read is no shortage while memory is available."""
    guest = make_guest()
    before = guest.sample()
    guest.counters.update(oom_kill=5, pswpin=50_000, workingset_refault_file=50_000)
    assert counter_harm(before, guest.sample(), 1.0, short=False) is None


def test_allocation_stalls_count_without_psi(make_guest) -> None:
    """Where the kernel has no PSI, an allocation stall is a stall."""
    guest = make_guest()
    guest.has_psi = False
    guest.counters["allocstall_normal"] = 0
    before = guest.sample()
    guest.counters["allocstall_normal"] = 1
    assert counter_harm(before, guest.sample(), 1.0, short=True) == Harm(DemandWhy.STALL, Severity.STALLING)


def test_self_deflation(make_guest) -> None:
    """Only what no grant explains is the guest's own, and only from 1 MiB on."""
    guest = make_guest()
    guest.inflate(600 * MIB)
    before = guest.sample()
    guest.deflate(100 * MIB)
    after = guest.sample()
    assert self_deflated_kib(before, after, guest.ram_kib, None) == 100 * MIB
    assert self_deflated_kib(before, after, guest.ram_kib, 600 * MIB) == 0
    assert self_deflated_kib(before, after, guest.ram_kib, 464 * MIB) == 60 * MIB
    assert self_deflated_kib(before, after, guest.ram_kib, 300 * MIB) == 100 * MIB
    assert self_deflated_kib(before, after, guest.ram_kib, 524 * MIB - 1000) == 0


def test_inflation_is_no_self_move(make_guest) -> None:
    """A balloon that grew, or cannot be counted, did not move by itself."""
    guest = make_guest()
    before = guest.sample()
    guest.inflate(100 * MIB)
    assert self_deflated_kib(before, guest.sample(), guest.ram_kib, None) == 0
    guest.has_balloon = False
    assert self_deflated_kib(before, guest.sample(), guest.ram_kib, None) == 0


SIGNS = {"pgscan_direct": 5, "pgscan_kswapd": 5, "allocstall_normal": 5, "workingset_restore_file": 5, "pswpin": 5}


@pytest.mark.parametrize(
    ("counter", "is_scanned", "is_waited"),
    [
        (None, False, False),
        ("pgscan_kswapd", True, False),
        ("pgscan_direct", True, True),
        ("allocstall_normal", False, True),
        ("workingset_restore_file", False, True),
        ("pswpin", False, True),
        ("workingset_refault_file", False, False),
    ],
)
def test_signs_of_reclaim(make_guest, counter: str | None, is_scanned: bool, is_waited: bool) -> None:
    """Each counter says by itself whether the guest as a whole reclaims, and whether a task waited."""
    guest = make_guest()
    guest.counters.update(SIGNS)
    before = guest.sample()
    if counter is not None:
        guest.counters[counter] += 1
    assert (scanned(before, guest.sample()), waited(before, guest.sample())) == (is_scanned, is_waited)


@pytest.mark.parametrize("counter", ["pgscan_direct", "pgscan_kswapd", "allocstall_normal", "workingset_restore_file"])
def test_unknown_sign_counts(make_guest, counter: str) -> None:
    """A kernel that does not count one of them may have reclaimed, and somebody may have waited."""
    guest = make_guest()
    guest.counters.update(SIGNS)
    del guest.counters[counter]
    sample = guest.sample()
    assert scanned(sample, sample) or waited(sample, sample)


def test_move_harm(make_guest) -> None:
    """Restored pages and swap-in hurt a move at the rates of a shortage; refaults only where nothing says restored."""
    guest = make_guest()
    guest.counters.update(SIGNS)
    before = guest.sample()
    guest.counters["workingset_refault_file"] += 50_000
    assert move_harm(before, guest.sample(), 1.0) is None
    guest.counters["pswpin"] += 256
    assert move_harm(before, guest.sample(), 1.0) == Harm(DemandWhy.SWAP_IN, Severity.SHORT)
    guest.counters["workingset_restore_file"] += 2048
    assert move_harm(before, guest.sample(), 1.0) == Harm(DemandWhy.REFAULT, Severity.SHORT)
    assert move_harm(before, guest.sample(), 10.0) is None
    old = make_guest()
    before = old.sample()
    old.counters["workingset_refault_file"] += 2048
    assert move_harm(before, old.sample(), 1.0) == Harm(DemandWhy.REFAULT, Severity.SHORT)
