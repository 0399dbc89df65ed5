from __future__ import annotations

import random

import pytest

from ballonet_host_coord.simulate.policies.ballonet import Ballonet
from ballonet_host_coord.simulate.policies.registry import POLICIES, make, takes_slider
from ballonet_host_coord.simulate.vm import Vm

from .stepping import Stepping, make_vm

PEERS = [
    "proxmox", "proxmox-full", "mom-libvirt", "mom-libvirt-full", "mom-vdsm", "mom-vdsm-full", "squeezed", "qmemman",
    "hyperv", "selfballoon", "virtui",
]  # fmt: skip


def an_hour(name: str, awake: bool, speed_gib_per_s: float = 0.86) -> Stepping:
    """An hour of machines that change at odd moments, one that comes, and some that are silent for a while."""
    draw = random.Random(7)
    vms: list[Vm] = [make_vm(str(index), draw.uniform(1, 6), draw.uniform(0.5, 6), maximum=8) for index in range(8)]
    stepping = Stepping(make(name), 30, vms, speed_gib_per_s, awake=awake)
    for change in range(12):
        stepping.run(stepping.now_s + draw.choice([10, 77, 150, 300.5]))
        vm = draw.choice(stepping.vms)
        vm.silent = draw.random() < 0.2
        stepping.change((vm, draw.uniform(0.5, 7.5)))
        if change == 5:
            stepping.change((make_vm("new", 1, 1, maximum=8), 3))
    stepping.run(stepping.now_s + 900)
    return stepping


def test_every_policy_is_there() -> None:
    """Ours first, then the references, then the peers of the scoring rule."""
    assert list(POLICIES) == ["ballonet", "static", "oracle", "follower", "give-all", "lazy", *PEERS]


def test_only_ours_takes_the_slider() -> None:
    """It stands in the instance, and every other is made the same whatever it says."""
    assert [name for name in POLICIES if takes_slider(name)] == ["ballonet"]
    ours = make("ballonet", slider=70)
    assert isinstance(ours, Ballonet)
    assert ours.slider == 70
    assert vars(make("lazy", slider=70)) == vars(make("lazy", slider=0))


@pytest.mark.parametrize("name", POLICIES)
def test_policy_says_what_it_is(name: str) -> None:
    """An instance bears its name; what it is and what stands behind it are said in a line each."""
    entry = POLICIES[name]
    assert make(name).name == name
    assert make(name) is not make(name)
    assert entry.what
    assert "\n" not in entry.what + entry.evidence
    assert entry.evidence


def test_unknown_name_is_refused_with_those_that_exist() -> None:
    """The error lists what can be had."""
    with pytest.raises(LookupError, match=r"no policy 'esx'.*hyperv"):
        make("esx")


@pytest.mark.parametrize("name", PEERS)
def test_sleep_changes_nothing(name: str) -> None:
    """A policy that sleeps while it is settled commands the same things at the same times as one kept awake."""
    asleep, awake = an_hour(name, awake=False), an_hour(name, awake=True)
    assert asleep.log == awake.log
    assert asleep.turns <= awake.turns


@pytest.mark.parametrize("name", PEERS)
def test_targets_stay_within_limits(name: str) -> None:
    """No machine is told to go below its minimum or above its maximum."""
    stepping = an_hour(name, awake=False)
    limits = {vm.name: (vm.minimum_kib, vm.maximum_kib) for vm in stepping.vms}
    for _, told in stepping.log:
        for vm, size in told.items():
            assert limits[vm][0] <= size <= limits[vm][1]


@pytest.mark.parametrize("name", PEERS)
def test_one_instance_begins_anew(name: str) -> None:
    """Two runs of fresh instances give the same answers."""
    assert an_hour(name, awake=False).log == an_hour(name, awake=False).log
