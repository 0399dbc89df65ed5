from __future__ import annotations

from itertools import pairwise

import pytest

from ballonet_host_coord.simulate.policies.virtui import Virtui, step

from .stepping import GIB, Stepping, make_vm


def times(stepping: Stepping, name: str) -> list[float]:
    return [time_s for time_s, told in stepping.log if name in told]


@pytest.mark.parametrize(
    ("used_ratio", "since_move_s", "factor"),
    [(0.65, 0.0, 1.3), (0.64, 100.0, 1.0), (0.56, 100.0, 1.0), (0.55, 9.0, 1.0), (0.55, 10.0, 0.9), (1.0, 0.0, 1.3)],
)
def test_band(used_ratio: float, since_move_s: float, factor: float) -> None:
    """65 % grow by 30 %, 55 % shrink by 10 % if the last move is 10 s ago, nothing happens between."""
    assert step(used_ratio, since_move_s) == factor


def test_sees_a_need_after_5_to_12_s() -> None:
    """Whenever a need begins, the first hop follows after the dead time, and the second one sample later."""
    for start_s in range(60, 72):
        vm = make_vm("a", 8, 4.8)
        stepping = Stepping(Virtui(), 100, [vm])
        stepping.run(start_s)
        stepping.change((vm, 7.9))
        stepping.run(start_s + 18)
        first, second, *_ = [time_s - start_s for time_s in times(stepping, "a")]
        assert 5 <= first <= 12
        assert 10 <= second <= 17


def test_hops_on_stale_samples() -> None:
    """The sample after a hop was taken before it: a need that one hop meets gets two."""
    vm = make_vm("a", 8, 4.8)
    stepping = Stepping(Virtui(), 100, [vm])
    stepping.run(60)
    stepping.change((vm, 6))
    stepping.run(80)
    assert vm.assigned_kib == pytest.approx(8 * 1.3 * 1.3 * GIB, rel=0.001)


def test_hunts() -> None:
    """A hop overshoots the band, shrinks follow: after one rise the size goes up and then down again."""
    vm = make_vm("a", 8, 4.8, maximum=32)
    stepping = Stepping(Virtui(), 100, [vm])
    stepping.run(60)
    stepping.change((vm, 6))
    stepping.run(200)
    sizes = [told["a"] for _, told in stepping.log]
    peak = sizes.index(max(sizes))
    assert 0 < peak < len(sizes) - 1
    assert sizes[-1] < 0.8 * sizes[peak]


def test_shrinks_ten_seconds_apart() -> None:
    """An idle guest loses 10 % at most each 10 s, until it is more than 55 % full."""
    vm = make_vm("a", 8, 0.3, minimum=1)
    stepping = Stepping(Virtui(), 100, [vm])
    stepping.run(600)
    when = times(stepping, "a")
    assert all(later - earlier >= 10 for earlier, later in pairwise(when))
    assert 1.6 * GIB < vm.assigned_kib < GIB / 0.55


def test_swapping_guest_looks_full_and_no_more() -> None:
    """How much a guest lacks does not show: it grows by one hop a sample all the same."""
    logs = []
    for used in (8, 15):
        vm = make_vm("a", 4, used)
        stepping = Stepping(Virtui(), 100, [vm])
        stepping.run(7)
        logs.append(stepping.log)
    assert logs[0] == logs[1] != []


def test_new_machine_is_left_alone_for_its_boot() -> None:
    """For 20 s after it came a machine is not touched."""
    old, new = make_vm("old", 8, 4.8), make_vm("new", 2, 2)
    stepping = Stepping(Virtui(), 100, [old])
    stepping.run(100)
    stepping.change((new, 2))
    stepping.run(119)
    assert times(stepping, "new") == []
    stepping.run(140)
    assert times(stepping, "new") != []


def test_silent_guest_is_held() -> None:
    """Without a new sample nothing happens."""
    vm = make_vm("a", 4, 4)
    stepping = Stepping(Virtui(), 100, [vm])
    vm.silent = True
    stepping.change()
    stepping.run(100)
    assert stepping.log == []


def test_there_is_no_budget() -> None:
    """Each guest grows alone, past what the host has."""
    vms = [make_vm(name, 4, 12, maximum=32) for name in "ab"]
    Stepping(Virtui(), 10, vms).run(120)
    assert sum(vm.target_kib for vm in vms) > 20 * GIB
