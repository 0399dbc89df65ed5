"""A guest with a virtio-mem device in the coordinator's hands: what is believed of it, and in which sizes its agent is
spoken to."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
import trio

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.attendant import Attendant
from ballonet_host_coord.cli_guests import OVERHEAD_KIB, _of_domain
from ballonet_host_coord.guest_rules import settings_for
from ballonet_host_coord.guests import GuestRecord
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    AgentFacts,
    AskInflate,
    Consent,
    Domain,
    GuestRules,
    LinkState,
    RunState,
    SetTarget,
    StartVm,
    StopPolicy,
    TellDeflate,
    Wish,
)
from ballonet_host_coord.pace import is_needed

from .builders import MIB, NOW_S, make_guest, make_settings, make_snapshot, make_vm
from .fake_libvirt import FakeLibvirt
from .steps import settled, step
from .test_hotplug import BOOT_KIB, MOST_KIB, RESERVE_KIB, told, vm_with

RAM_KIB = BOOT_KIB + MOST_KIB


class Session:
    """Keeps what the agent is told."""

    def __init__(self) -> None:
        self.consent: Consent | None = None
        self.told: list[int] = []

    def facts(self) -> AgentFacts:
        return AgentFacts(LinkState.LIVE, consent=self.consent)

    def renewed(self, ram_kib: int, now_s: float) -> None:
        self.told.append(ram_kib)

    def ask_inflate(self, gen: int, target_kib: int, floor_kib: int, rate_kib_per_s: int, now_s: float) -> None:
        self.told += [target_kib, floor_kib]

    def tell_deflate(self, gen: int, target_kib: int, now_s: float) -> None:
        self.told.append(target_kib)


@pytest.fixture
def record() -> Any:
    """Found running with 256 MiB plugged, and its agent has reported."""
    session: Any = Session()
    record = GuestRecord(make_settings(maximum_kib=RAM_KIB), session, Ledger())
    record.vm_read(vm_with(512, 256), None, NOW_S)
    report = told(vm_with(512, 256), 50)
    record.reported(replace(report, floor_kib=200 * MIB))
    return record


def test_what_the_agent_says_is_taken_to_the_hypervisors_scale(record: Any) -> None:
    """It counts less than it has, by what its kernel keeps: floor, wish and consent are larger by that."""
    record.session.consent = Consent(1, 300 * MIB, False, 0, NOW_S, NOW_S + 60)
    record.wished(Wish(400 * MIB, 1, 2, NOW_S))
    snapshot = record.snapshot(NOW_S)
    assert snapshot.report.floor_kib == 200 * MIB + RESERVE_KIB
    assert snapshot.wish.want_kib == 400 * MIB + RESERVE_KIB
    assert snapshot.agent.consent.effective_kib == 300 * MIB + RESERVE_KIB


def test_the_agent_is_told_sizes_of_its_own_scale(record: Any) -> None:
    """What is asked of it and granted to it is smaller by what it does not count."""
    vm, coordinator = Vm(), Coordinator()
    attendant = Attendant(record, vm, coordinator)

    async def carry_out() -> None:
        await attendant._execute(AskInflate("alpha", 1, 500 * MIB, 300 * MIB, 1, "so"))
        await attendant._execute(TellDeflate("alpha", 2, 700 * MIB, "so"))
        await attendant._execute(SetTarget("alpha", 700 * MIB, "so"))

    trio.run(carry_out)
    assert record.session.told == [kib - RESERVE_KIB for kib in (500 * MIB, 300 * MIB, 700 * MIB)]
    assert vm.targets == [700 * MIB]


def test_a_session_is_told_the_boot_memory(record: Any) -> None:
    """What is plugged comes and goes; a `ram` that is too large would make an agent ask for gigabytes."""
    record.vm_read(vm_with(512, 0, boot=2, boot_began_s=NOW_S + 5), None, NOW_S + 5)
    assert record.session.told == [BOOT_KIB]


def test_a_startup_size_beyond_boot_memory_is_one_that_can_be_had() -> None:
    """Whole blocks, or the first move would never arrive."""
    session: Any = Session()
    record = GuestRecord(make_settings(startup_kib=801 * MIB, maximum_kib=RAM_KIB), session, Ledger())
    command = record.vm_read(vm_with(run_state=RunState.PRELAUNCH, statistics_count=0), None, NOW_S)
    assert isinstance(command, SetTarget)
    assert command.target_kib == 800 * MIB


def test_a_size_that_cannot_be_is_not_believed(record: Any) -> None:
    """The guest writes its balloon's size: no more than what is there, no less than what is plugged."""
    facts = vm_with(512, 256)
    for actual_kib, believed_kib in ((RAM_KIB, BOOT_KIB + 256 * MIB), (10 * MIB, 256 * MIB)):
        record.vm_read(replace(facts, actual_kib=actual_kib), None, NOW_S + 1)
        assert record.vm.actual_kib == believed_kib


def test_a_start_needs_room_for_its_claim_alone() -> None:
    """A machine that waits takes its boot memory when it runs; the rest of its device is not promised to it."""
    vm = vm_with(run_state=RunState.PRELAUNCH, statistics_count=0)
    guest = make_guest("a", 0, None, {"maximum_kib": RAM_KIB}, vm=vm, waiting_to_start=True)
    snapshot = make_snapshot(guest, budget_kib=BOOT_KIB)
    assert not is_needed(snapshot, BOOT_KIB)
    assert is_needed(snapshot, BOOT_KIB - 1)
    (decided,) = one_iteration(snapshot).guests
    assert "starts when 512 MiB are free" in decided.why
    orders = step(settled(512), (guest, 512), budget_kib=BOOT_KIB)
    assert [order.guest for order in orders if isinstance(order, StartVm)] == ["a"]


def test_a_start_takes_no_more_than_its_claim_from_others() -> None:
    """Surplus stays with the others, but for the boot memory of who waits."""
    waits = vm_with(run_state=RunState.PRELAUNCH, statistics_count=0)
    starting = make_guest("a", 0, None, {"maximum_kib": RAM_KIB}, vm=waits, waiting_to_start=True)
    other = make_guest("b", 1024 * MIB)
    snapshot = make_snapshot(starting, other, budget_kib=(1024 + 16) * MIB + BOOT_KIB, slider=0)
    _, decided = one_iteration(snapshot).guests
    assert decided.target_kib == 1024 * MIB


def test_a_step_is_returned_to_a_size_that_can_be_had() -> None:
    """What is given back to a guest that a shrink hurts is whole blocks above its boot memory."""
    ledger = settled(512)
    move = ledger._moves["a"]
    move.stepped_s, move.gen, move.stepped_from_kib = NOW_S - 1, 1, 801 * MIB
    move.head_for(700 * MIB)
    wish = Wish(900 * MIB, 1, 2, NOW_S, gen=1)
    guest = make_guest("a", 0, 400 * MIB, {"maximum_kib": RAM_KIB}, vm=vm_with(512, 200), wish=wish)
    orders = [order for order in step(ledger, (guest, 600)) if isinstance(order, SetTarget)]
    assert [order.target_kib for order in orders] == [800 * MIB]


def test_a_minimum_follows_from_the_boot_memory() -> None:
    """A device of many times the boot memory does not raise what a domain keeps when nothing is said."""
    gib = 1024 * MIB
    rules = GuestRules()
    with_device, _ = settings_for(rules, Domain("web", "u", 64 * gib, 4 * gib, hotplug_kib=60 * gib))
    without, _ = settings_for(rules, Domain("web", "u", 4 * gib, 4 * gib))
    assert (with_device.minimum_kib, with_device.startup_kib) == (without.minimum_kib, without.startup_kib)
    assert with_device.maximum_kib == 64 * gib


def test_a_domains_claim_is_its_boot_memory_and_what_is_requested() -> None:
    """What a reservation for its start is made of."""
    domain = FakeLibvirt().domain("web")
    domain.device(requested_kib=256 * MIB)
    name, size, _ = _of_domain(BytesIO(domain.xml.encode()))
    assert (name, size) == ("web", f"{(1024 + 256) * MIB + OVERHEAD_KIB}KiB")


class Vm:
    def __init__(self) -> None:
        self.targets: list[int] = []

    async def connect(self) -> None: ...

    async def set_target(self, target_kib: int) -> None:
        self.targets.append(target_kib)

    async def aclose(self) -> None: ...


class Coordinator:
    def now(self) -> float:
        return NOW_S


def test_a_stop_plugs_nothing(record: Any) -> None:
    """Who is given back what is his before we leave gets his balloon emptied, not a host's worth of memory."""
    vm: Any = Vm()
    coordinator: Any = Coordinator()
    trio.run(Attendant(record, vm, coordinator).stop, StopPolicy.DEFLATE, False)
    assert vm.targets == [BOOT_KIB + 256 * MIB]


def test_facts_without_a_device_are_what_they_were() -> None:
    """Nothing of this touches a guest that has none."""
    session: Any = Session()
    record = GuestRecord(make_settings(), session, Ledger())
    record.vm_read(make_vm(), None, NOW_S)
    assert record.hidden_kib == 0
    assert record.vm == make_vm()
