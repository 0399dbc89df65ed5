from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ballonet_host_coord.simulate.policies.proxmox import Guest, Proxmox, targets_bytes

from .golden import golden_cases
from .stepping import GIB, MIB, Stepping, make_vm

MIB_BYTES = 1 << 20


def make_guest(assigned_mib: int, free_mib: int | None, minimum_mib: int = 1024, **changes: Any) -> Guest:
    values: dict[str, Any] = {
        "minimum": minimum_mib * MIB_BYTES, "maximum": 16384 * MIB_BYTES, "assigned": assigned_mib * MIB_BYTES,
        "shares": 1000, "free": None if free_mib is None else free_mib * MIB_BYTES, **changes,
    }  # fmt: skip
    return Guest(**values)


def sizes_mib(goal_mib: int, **guests: Guest) -> dict[str, int]:
    return {name: size // MIB_BYTES for name, size in targets_bytes(goal_mib * MIB_BYTES, guests).items()}


def test_decides_as_the_original_did(workspace: Path) -> None:
    """300 recorded decisions of the original are reproduced exactly."""
    for case in golden_cases(workspace, "proxmox"):
        guests = {
            name: Guest(vm["minimum"], vm["maximum"], vm["assigned"], vm["shares"], vm.get("free"))
            for name, vm in case["vms"].items()
        }
        sizes = targets_bytes(case["goal"], guests)
        assert {name: size for name, size in sizes.items() if size != guests[name].assigned} == case["targets"]


def test_a_step_is_at_most_100_mib() -> None:
    """However much the host has or lacks, a guest moves 100 MiB a turn, up or down."""
    assert sizes_mib(50_000, a=make_guest(2048, 10)) == {"a": 2148}
    assert sizes_mib(-50_000, a=make_guest(4096, 3000)) == {"a": 3996}


def test_tight_guests_grow_first() -> None:
    """A guest that looks roomy gets nothing while a tight one can take it."""
    assert sizes_mib(100, tight=make_guest(2048, 10), roomy=make_guest(2048, 1500)) == {"tight": 2148}


def test_missing_statistics_count_as_tight() -> None:
    """A guest without statistics grows like a tight one and is not among the roomy that give."""
    assert sizes_mib(100, unknown=make_guest(2048, None), roomy=make_guest(2048, 1500)) == {"unknown": 2148}
    assert sizes_mib(-50, unknown=make_guest(2048, None), roomy=make_guest(2048, 1500)) == {"roomy": 1998}


def test_starved_guest_is_shrunk_when_only_it_can_give() -> None:
    """Host above its target, the other guest at its minimum: the starved one loses 100 MiB."""
    assert sizes_mib(-5000, starved=make_guest(4096, 50), idle=make_guest(1024, 800)) == {"starved": 3996}


@pytest.mark.parametrize("goal_mib", [10, -10])
def test_ten_mib_are_not_worth_a_turn(goal_mib: int) -> None:
    """Within 10 MiB of the target nothing moves."""
    assert sizes_mib(goal_mib, a=make_guest(2048, 1500), b=make_guest(2048, 10)) == {}


def test_shares_divide_what_is_handed_out() -> None:
    """Above their minimums guests are led to sizes in the proportion of their shares."""
    sizes = sizes_mib(90, a=make_guest(1024, 0, shares=2000), b=make_guest(1024, 0))
    assert sizes == {"a": 1084, "b": 1054}


def test_no_shares_no_part() -> None:
    """A guest without shares or without a minimum takes no part."""
    assert sizes_mib(90, a=make_guest(1024, 0, shares=0), b=make_guest(1024, 0, minimum_mib=0)) == {}


@pytest.mark.parametrize(("percent", "budget"), [(80, 10), (100, 8)])
def test_host_at_its_target_does_nothing(percent: int, budget: float) -> None:
    """A guest starves at its minimum beside one with 6 GiB free, and nothing happens."""
    starved, idle = make_vm("starved", 1, 3, minimum=1), make_vm("idle", 7, 1)
    stepping = Stepping(Proxmox("proxmox", percent), budget, [starved, idle])
    stepping.run(600)
    assert stepping.log == []


def test_four_gib_take_410_s() -> None:
    """On an empty host a guest gets 4 GiB back in 41 turns of 100 MiB."""
    vm = make_vm("a", 2, 1.9)
    stepping = Stepping(Proxmox("proxmox"), 100, [vm])
    stepping.run(5)
    stepping.change((vm, 6))
    start_kib = vm.assigned_kib
    lasted_s = stepping.first_s(lambda: vm.assigned_kib >= start_kib + 4 * GIB)
    assert lasted_s == pytest.approx(410, abs=10)


def test_statistics_are_a_second_old() -> None:
    """A need that began after the last statistics is not seen at the turn that follows."""
    vms = [make_vm("a", 2, 0.5), make_vm("b", 2, 2)]
    stepping = Stepping(Proxmox("proxmox"), 5.125, vms)  # 100 MiB below its target
    stepping.run(0.5)
    vms[0].assigned_kib = vms[1].assigned_kib = 2.0 * GIB
    for vm in vms:
        vm.target_kib = 2 * GIB
    stepping.run(9.5)
    stepping.change((vms[0], 2), (vms[1], 0.5))
    stepping.run(10)
    assert stepping.log[-1][1] == {"b": 2 * GIB + 100 * MIB}


def test_usual_weight_is_usual_shares() -> None:
    """Twice the weight is twice the shares."""
    vms = [make_vm("a", 1, 1, minimum=1, weight=10_000), make_vm("b", 1, 1, minimum=1)]
    stepping = Stepping(Proxmox("proxmox", 100), 2 + 90 / 1024, vms)
    stepping.run(0)
    assert stepping.log == [(0.0, {"a": 1084 * MIB, "b": 1054 * MIB})]
