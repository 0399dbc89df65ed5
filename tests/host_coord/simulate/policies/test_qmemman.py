from __future__ import annotations

from pathlib import Path

import pytest

from ballonet_host_coord.simulate.policies.qmemman import Domain, Qmemman, balance

from .golden import golden_cases
from .stepping import GIB, MIB, Stepping, make_vm

MIB_BYTES = 1 << 20


def make_domain(used_mib: int, assigned_mib: int, maximum_mib: int = 8192) -> Domain:
    return Domain(used_mib * MIB_BYTES, assigned_mib * MIB_BYTES, maximum_mib * MIB_BYTES)


def test_decides_as_the_original_did(workspace: Path) -> None:
    """300 recorded decisions of the original are reproduced exactly and in order."""
    for case in golden_cases(workspace, "qmemman"):
        domains = {name: Domain(**facts) for name, facts in case["vms"].items()}
        assert balance(case["free"], domains) == [tuple(move) for move in case["moves"]]


def test_donors_come_first() -> None:
    """With enough for all, what shrinks a guest stands before what grows one, each in input order."""
    domains = {"a": make_domain(1000, 1000), "b": make_domain(500, 4000), "c": make_domain(2000, 2000)}
    moves = balance(0, domains)
    assert [name for name, _ in moves] == ["b", "a", "c"]
    assert sum(size for _, size in moves) == pytest.approx(7000 * MIB_BYTES, rel=0.002)


def test_preference_has_bounds() -> None:
    """1.3 times the use, not above the maximum, not below the least."""
    assert make_domain(1000, 0).preferred == 1300 * MIB_BYTES
    assert make_domain(8000, 0).preferred == 8192 * MIB_BYTES
    assert make_domain(10, 0).preferred == 200 * MIB_BYTES


def test_short_of_memory_a_round_only_takes() -> None:
    """A donation is handed out in a later round: this one has donors alone, small ones left out."""
    domains = {"poor": make_domain(4000, 2000), "rich": make_domain(1000, 2000), "even": make_domain(1000, 1305)}
    assert balance(-60 * MIB_BYTES, domains) == [("rich", 1300 * MIB_BYTES)]


def test_short_of_memory_what_is_free_is_handed_out() -> None:
    """Without donors, the free memory goes to the poor in proportion to their preference."""
    domains = {"a": make_domain(4000, 2000), "b": make_domain(2000, 2000)}
    moves = dict(balance(600 * MIB_BYTES, domains))
    assert moves == {"a": int(0.999 * 2400 * MIB_BYTES), "b": int(0.999 * 2200 * MIB_BYTES)}


def test_hungry_guest_triggers_a_round_at_once() -> None:
    """A guest that outgrows its size has its memory in well under a second, from the other's surplus."""
    hungry, idle = make_vm("hungry", 4, 2), make_vm("idle", 8, 2)
    stepping = Stepping(Qmemman(), 12.5, [hungry, idle])
    stepping.run(100)
    stepping.change((hungry, 6.5))
    assert stepping.first_s(lambda: hungry.assigned_kib >= 6.5 * GIB, 0.1) <= 1.0


def test_starved_guest_is_fed_from_donations_over_rounds() -> None:
    """Two guests that want more than there is: one gives down to its preference, and the other gets that."""
    hungry, rich = make_vm("hungry", 2, 8), make_vm("rich", 8, 2)
    stepping = Stepping(Qmemman(), 10.2, [hungry, rich])
    stepping.run(20)
    assert rich.assigned_kib == pytest.approx(2.6 * GIB, rel=0.03)
    assert hungry.assigned_kib == pytest.approx(7.5 * GIB, rel=0.02)


@pytest.mark.parametrize(
    ("size", "change_mib", "wakes"),
    [(4, 29, False), (4, 30, True), (4, -29, False), (4, -30, True), (2.5, 14, False), (2.5, 15, True)],
)
def test_agent_writes_what_is_worth_it(size: float, change_mib: int, wakes: bool) -> None:
    """30 000 KiB either way are written, 15 000 if the guest grows and will soon need more than it has."""
    vm = make_vm("a", size, 2)
    policy = Qmemman()
    stepping = Stepping(policy, 100, [vm])
    vm.maximum_kib = int(size * GIB)
    stepping.run(10)
    written_kib = vm.shows_kib
    stepping.change((vm, 2 + change_mib / 1024))
    stepping.run(11)
    assert (policy._written_kib["a"] != written_kib) == wakes


def test_small_plans_are_dropped() -> None:
    """A written change that would move less than 150 MiB in all moves nothing."""
    vms = [make_vm("a", 4, 2), make_vm("b", 4, 2)]
    stepping = Stepping(Qmemman(), 8.25, vms)
    stepping.run(50)
    before = len(stepping.log)
    stepping.change((vms[0], 2.03))
    stepping.run(60)
    assert len(stepping.log) == before
    stepping.change((vms[0], 2.5))
    stepping.run(70)
    assert len(stepping.log) > before


def test_stuck_donor_is_left_out() -> None:
    """A donor that does not move is flagged once somebody waited half a second for it, and counts no more."""
    hungry, stuck = make_vm("hungry", 2, 5), make_vm("stuck", 8, 2)
    stuck.follows = False
    policy = Qmemman()
    stepping = Stepping(policy, 10.1, [hungry, stuck])
    stepping.run(30)
    assert "stuck" in policy._stalled_kib
    stuck.follows = True
    stepping.run(31)
    stepping.change((hungry, 5.5))
    stepping.run(40)
    assert policy._stalled_kib == {}
    assert hungry.assigned_kib > 5.5 * GIB


def test_guest_takes_only_what_is_free() -> None:
    """While a slow donor is on its way, nothing is promised that is not there: 45 MiB stay free, or nothing grows."""
    hungry, idle = make_vm("hungry", 2, 6), make_vm("idle", 8, 1)
    stepping = Stepping(Qmemman(), 10.1, [hungry, idle], gib_per_s=0.86)
    for tick in range(200):
        stepping.run(tick / 10)
        assert sum(vm.assigned_kib for vm in stepping.vms) <= 10.1 * GIB
    assert hungry.assigned_kib > 6 * GIB


def test_silent_guest_is_left_out() -> None:
    """A guest whose agent is lost keeps what it has."""
    hungry, lost = make_vm("hungry", 2, 6), make_vm("lost", 8, 1)
    lost.silent = True
    stepping = Stepping(Qmemman(), 10.1, [hungry, lost])
    stepping.run(30)
    assert all("lost" not in told for _, told in stepping.log)


def test_rests_when_nothing_changes() -> None:
    """Rounds follow one another only while they move something."""
    stepping = Stepping(
        Qmemman(), 14, [make_vm(name, 3, used) for name, used in zip("abcd", (1, 2, 4, 6), strict=True)]
    )
    stepping.run(3600)
    assert stepping.turns < 100
    assert sum(vm.target_kib for vm in stepping.vms) <= 14 * GIB - 45 * MIB
