from __future__ import annotations

import pytest

from ballonet_host_coord.simulate.policies.selfballoon import Selfballoon, floor_kib, next_kib

from .stepping import GIB, MIB, Stepping, make_vm


@pytest.mark.parametrize(
    ("ram_mib", "floor_mib"), [(8, 0), (16, 16), (32, 24), (64, 43), (232, 64), (512, 111.90625), (2147, 163)]
)
def test_floor(ram_mib: int, floor_mib: float) -> None:
    """Each row of the floor's table."""
    assert floor_kib(ram_mib * MIB) == pytest.approx(floor_mib * MIB)


def test_comes_down_by_an_eighth_of_the_distance() -> None:
    """From 8 GiB towards a goal of 1.5 GiB it is at 2 GiB after twenty ticks, 100 s, as computed for the original."""
    size_kib, ticks = 8.0 * GIB, 0
    while size_kib > 2 * GIB:
        size_kib = next_kib(size_kib, 1.5 * GIB - size_kib / 10)
        ticks += 1
    assert ticks == 20


def test_goes_up_at_once() -> None:
    """A guest that outgrows its size asks for the whole of it at its next tick."""
    vm = make_vm("a", 4, 3.6)
    stepping = Stepping(Selfballoon(), 100, [vm])
    stepping.run(51)
    stepping.change((vm, 7))
    stepping.run(55)
    assert vm.assigned_kib == pytest.approx(7.4 * GIB, rel=0.001)


def test_comes_to_rest_at_a_tenth_free() -> None:
    """At rest a tenth of the guest is above what it has committed, and no turn is taken any more."""
    vm = make_vm("a", 12, 3.6)
    stepping = Stepping(Selfballoon(), 100, [vm])
    stepping.run(3600)
    assert vm.assigned_kib == pytest.approx(4 * GIB, rel=0.001)
    assert stepping.turns < 150


def test_nobody_arbitrates() -> None:
    """All guests take what they want, whatever the budget."""
    vms = [make_vm(name, 4, 8) for name in "ab"]
    stepping = Stepping(Selfballoon(), 10, vms)
    stepping.run(60)
    assert sum(vm.target_kib for vm in vms) > 16 * GIB


def test_a_lie_to_the_host_is_no_matter() -> None:
    """The driver reads its own kernel: what the guest says, or that it says nothing, changes nothing."""
    honest, liar = make_vm("honest", 4, 6), make_vm("liar", 4, 6)
    liar.shows_kib, liar.silent = 16 * GIB, True
    stepping = Stepping(Selfballoon(), 100, [honest, liar])
    stepping.run(60)
    assert honest.target_kib == liar.target_kib
