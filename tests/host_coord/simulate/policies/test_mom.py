from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from ballonet_host_coord.simulate.policies.mom import LIBVIRT, VDSM, Mom, Rules, target_kib
from ballonet_host_coord.simulate.vm import Vm

from .golden import golden_cases
from .stepping import GIB, Stepping, make_vm

HOST = 100


def held_free(share: float, vm: Vm) -> tuple[Vm, Callable[[], None]]:
    """The rest of a host whose free share stays as it is, whatever `vm` does; MOM knows no statistics of it."""
    rest = make_vm("rest", 0, 0, maximum=1000)
    rest.silent = True

    def hold() -> None:
        rest.target_kib = int((1 - share) * HOST * GIB - vm.assigned_kib)
        rest.assigned_kib = float(rest.target_kib)

    hold()
    return rest, hold


def alone(vm: Vm, share: float, rules: Rules = LIBVIRT, full: bool = False) -> Stepping:
    rest, hold = held_free(share, vm)
    return Stepping(Mom("mom", rules, full), HOST, [vm, rest], hold=hold)


@pytest.mark.parametrize(("name", "rules"), [("mom_libvirt", LIBVIRT), ("mom_vdsm", VDSM)])
def test_decides_as_the_original_did(workspace: Path, name: str, rules: Rules) -> None:
    """300 recorded decisions of the original are reproduced: the same guests, each within 2 KiB."""
    for case in golden_cases(workspace, name):
        told = {}
        for vm, facts in case["vms"].items():
            sizes = [sample["assigned"] for sample in facts["history"]]
            used = fmean(sizes) - fmean([sample["free"] for sample in facts["history"]])
            host_free_ratio = case["host_free"] / case["host_total"]
            size = target_kib(rules, host_free_ratio, sizes[-1], used, facts["minimum"], facts["maximum"])
            if size is not None:
                told[vm] = size
        assert told == pytest.approx(case["targets"], rel=0, abs=2)


# host's free share, size, used, minimum, maximum, told by libvirt's rules, by vdsm's
DECISIONS = {
    "comfortable host, little free: 20 % or the host's share": (0.30, 1000, 950, 0, 2000, 1150, 1250),
    "comfortable host, much free: grows by 5 % all the same": (0.30, 1000, 100, 0, 2000, 1050, 1050),
    "at its maximum it does not grow": (0.30, 1000, 950, 0, 1000, None, None),
    "a growth of 0.25 % is not worth a command": (0.30, 1000, 950, 0, 1002.5, None, None),
    "short host: at most 5 % down": (0.19, 1000, 100, 0, 2000, 950, 950),
    "short host: down to the host's share free": (0.10, 1000, 870, 0, 2000, 970, 970),
    "short host: a guest with less free is left alone": (0.10, 1000, 950, 0, 2000, None, None),
    "critical host: the wanted share is negative, it swaps": (0.04, 1000, 975, 0, 2000, 965, 965),
    "never below the minimum": (0.10, 1000, 100, 980, 2000, 980, 980),
    "below its minimum on a short host: vdsm lifts it": (0.10, 1000, 100, 1100, 2000, None, 1100),
    "exactly 20 % free is not short": (0.20, 1000, 100, 0, 2000, 1050, 1050),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_rules(case: str) -> None:
    """Each branch of the two rules gives what it is described to give."""
    host_free_ratio, size, used, minimum, maximum, *told = DECISIONS[case]
    assert None not in (host_free_ratio, size, used, minimum, maximum)
    for rules, expected in zip((LIBVIRT, VDSM), told, strict=True):
        got = target_kib(rules, host_free_ratio, size, used, minimum, maximum)  # type: ignore[arg-type]
        assert got == (None if expected is None else pytest.approx(expected))


def test_gives_back_four_gib_in_170_s() -> None:
    """A guest at rest at 2 GiB that needs 6 GiB has them after 170 s on a host that is 30 % free, as measured."""
    vm = make_vm("a", 2, 1.6, maximum=2, minimum=0)
    stepping = alone(vm, 0.30)
    stepping.run(200)
    vm.maximum_kib = 8 * GIB
    stepping.change((vm, 6))
    assert stepping.first_s(lambda: vm.assigned_kib >= 6 * GIB) == 170


def test_takes_six_gib_in_280_s() -> None:
    """An idle guest of 8 GiB, host 10 % free, is at 2 GiB after 280 s and comes to rest at 1.11 GiB, as measured."""
    vm = make_vm("a", 8, 1, maximum=8, minimum=0)
    stepping = alone(vm, 0.10)
    assert stepping.first_s(lambda: vm.assigned_kib <= 2 * GIB) == 280
    stepping.run(2000)
    assert vm.assigned_kib / GIB == pytest.approx(1.11, abs=0.005)


def test_critical_host_makes_a_guest_swap() -> None:
    """With 4 % of the host free a guest that uses 3.9 of its 4 GiB is pushed to 3.52 GiB in 300 s, as measured."""
    vm = make_vm("a", 4, 3.9, maximum=4, minimum=0)
    alone(vm, 0.04).run(300)
    assert vm.assigned_kib / GIB == pytest.approx(3.52, abs=0.015)


def test_swapped_memory_is_out_of_its_sight() -> None:
    """How much a starved guest lacks changes nothing: its apparent use ends at its size."""
    logs = []
    for used in (5, 12):
        stepping = alone(make_vm("a", 4, used), 0.30)
        stepping.run(20)
        logs.append(stepping.log)
    assert logs[0] == logs[1] != []


@pytest.mark.parametrize(("rules", "stands"), [(LIBVIRT, True), (VDSM, False)])
def test_silent_guest(rules: Rules, stands: bool) -> None:
    """Without statistics vdsm's rules leave a guest alone; libvirt's go on with the last ones."""
    vm = make_vm("a", 4, 1)
    stepping = alone(vm, 0.10, rules)
    stepping.run(1)
    vm.silent = True
    stepping.change()
    stepping.run(100)
    assert bool(stepping.log) == stands


def test_reserve_is_all_that_full_removes() -> None:
    """At the point of balance guests hold four fifths of the budget, and with `-full` the whole of it."""
    for full, ratio in ((False, 0.8), (True, 1.0)):
        vms = [make_vm(name, 8, 2, maximum=32) for name in "abcd"]
        stepping = Stepping(Mom("mom", LIBVIRT, full), 40, vms)
        held = []
        for second in range(1000, 4000, 10):
            stepping.run(second)
            held.append(sum(vm.assigned_kib for vm in vms) / (40 * GIB))
        assert fmean(held) == pytest.approx(ratio, abs=0.06)


def test_full_shrinks_the_roomy_once_more_is_promised_than_there_is() -> None:
    """With the budget handed out, a guest that waits for memory makes the host short and the idle guest give."""
    idle, hungry = make_vm("idle", 8, 1), make_vm("hungry", 2, 6)
    hungry.follows = False
    stepping = Stepping(Mom("mom", LIBVIRT, full=True), 10, [idle, hungry])
    stepping.run(600)
    assert hungry.target_kib > 2 * GIB
    assert min(told["idle"] for _, told in stepping.log) < 7 * GIB


def test_all_guests_grow_together() -> None:
    """There is no budget: the same rule moves all guests at the same moment."""
    stepping = Stepping(Mom("mom", LIBVIRT), 100, [make_vm(name, 4, 3.9) for name in "abc"])
    stepping.run(20)
    assert [set(told) for _, told in stepping.log] == [{"a", "b", "c"}] * 2
