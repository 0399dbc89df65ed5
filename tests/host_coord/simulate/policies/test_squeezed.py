from __future__ import annotations

import pytest

from ballonet_host_coord.simulate.policies.squeezed import Domain, Squeezed, iteration, wants_kib

from .stepping import GIB, MIB, Stepping, make_vm

HOST_FREE = 72 / 1024


def make_domain(actual: float, target: float | None = None, stuck: bool = False) -> Domain:
    """Dynamic range 1 to 9 GiB."""
    target_kib = int((actual if target is None else target) * GIB)
    return Domain(1 * GIB, 9 * GIB, actual * GIB, target_kib, stuck=stuck)


def test_all_get_the_same_fraction_of_their_range() -> None:
    """Whatever they need and hold, guests end at the same fraction, with 72 MiB left to the host."""
    vms = [make_vm("a", 4, 4, maximum=8, minimum=1), make_vm("b", 2, 1, maximum=16, minimum=2)]
    Stepping(Squeezed(), 9, vms).run(60)
    gamma = [(vm.assigned_kib - vm.minimum_kib) / (vm.maximum_kib - vm.minimum_kib) for vm in vms]
    assert gamma[0] == pytest.approx(gamma[1], abs=1e-4)
    assert sum(vm.assigned_kib for vm in vms) == pytest.approx((9 - HOST_FREE) * GIB, abs=20)


def test_need_is_not_looked_at() -> None:
    """A guest that starves changes nothing."""
    logs = []
    for used in (1, 8):
        stepping = Stepping(Squeezed(), 9, [make_vm("a", 4, used), make_vm("b", 2, 1)])
        stepping.run(60)
        logs.append(stepping.log)
    assert logs[0] == logs[1] != []


def test_taking_comes_before_giving() -> None:
    """An iteration that must take from anybody gives to nobody; the next one gives."""
    stepping = Stepping(Squeezed(), 10, [make_vm("a", 8, 1, minimum=1), make_vm("b", 1, 1, minimum=1)])
    stepping.run(60)
    assert [(time_s, set(told)) for time_s, told in stepping.log] == [(0.0, {"a"}), (1.0, {"b"})]


def test_promises_stay_within_the_budget() -> None:
    """With balloons at their real speed, host memory is never overdrawn on the way."""
    stepping = Stepping(Squeezed(), 10, [make_vm("a", 8, 1, minimum=1), make_vm("b", 1, 1, minimum=1)], gib_per_s=0.86)
    for second in range(60):
        stepping.run(second)
        assert sum(vm.assigned_kib for vm in stepping.vms) <= 10 * GIB


def test_stuck_guest_keeps_its_memory_and_the_rest_is_shared() -> None:
    """A guest without progress for 5 s is left out: the others share what it does not hold."""
    stuck, other = make_vm("stuck", 8, 1, minimum=1), make_vm("other", 1, 1, minimum=1)
    stuck.follows = False
    stepping = Stepping(Squeezed(), 10, [stuck, other])
    stepping.run(5.5)
    assert other.assigned_kib == 1 * GIB
    stepping.run(10)
    assert other.assigned_kib == pytest.approx((2 - HOST_FREE) * GIB, abs=20)
    assert stuck.assigned_kib == 8 * GIB


def test_stuck_guest_that_moves_again_takes_part_again() -> None:
    """Progress clears the flag."""
    stuck, other = make_vm("stuck", 8, 1, minimum=1), make_vm("other", 1, 1, minimum=1)
    stuck.follows = False
    stepping = Stepping(Squeezed(), 10, [stuck, other])
    stepping.run(30)
    stuck.follows = True
    stepping.run(60)
    assert stuck.assigned_kib == pytest.approx(other.assigned_kib, rel=0.001)


def test_progress_of_a_byte_keeps_a_guest_active() -> None:
    """A known hole: any movement in the right direction counts."""
    domain = make_domain(8, target=2)
    for second in range(1, 30):
        domain.observe(float(second), domain.actual_kib - 0.001, domain.target_kib)
    assert not domain.stuck


@pytest.mark.parametrize(("waited_s", "stuck"), [(5.0, False), (5.1, True)])
def test_stuck_after_five_seconds(waited_s: float, stuck: bool) -> None:
    """The flag comes after more than 5 s without progress towards a target."""
    domain = make_domain(8, target=2)
    domain.observe(waited_s, domain.actual_kib, domain.target_kib)
    assert domain.stuck == stuck


def test_four_kib_are_arrived() -> None:
    """A target within 4 KiB is met, and a change that small is not commanded."""
    assert Domain(0, GIB, 1000.0, 1004).arrived
    assert not Domain(0, GIB, 1000.0, 1005).arrived
    domains = {"a": Domain(0, 1_000_000, 500_000.0, 500_000)}
    assert iteration(4.0 + 8, 0.0, domains) == {}
    assert iteration(40.0, 0.0, domains) != {}


@pytest.mark.parametrize(("free", "gamma"), [(-100, 0.0), (100, 1.0), (0, 0.375)])
def test_fraction_has_bounds(free: float, gamma: float) -> None:
    """The common fraction is never below 0 nor above 1, and no range at all is no division by zero."""
    sizes = wants_kib(free * GIB, 0.0, [make_domain(4), make_domain(4)])
    assert sizes == [pytest.approx((1 + 8 * gamma) * GIB, abs=20)] * 2
    assert wants_kib(free * GIB, 0.0, [Domain(GIB, GIB, GIB, GIB)]) == [GIB]


def test_new_machine_is_noticed_at_the_next_balance() -> None:
    """A guest that comes makes room by the common fraction within a balance or two."""
    vms = [make_vm("a", 4, 1, minimum=1), make_vm("b", 4, 1, minimum=1)]
    stepping = Stepping(Squeezed(), 10, vms)
    stepping.run(33)
    stepping.change((make_vm("c", 1, 1, minimum=1), 1))
    stepping.run(45)
    assert [vm.assigned_kib for vm in stepping.vms] == [pytest.approx((10 - HOST_FREE) / 3 * GIB, abs=MIB)] * 3
