"""What one turn of the coordinator costs: the decision and the ledger's step, for few and for many guests."""

from __future__ import annotations

import time
from collections.abc import Iterator

from figures import Findings

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.ledger import Ledger
from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    Demand,
    GuestSettings,
    GuestSnapshot,
    HostFacts,
    HostSnapshot,
    LinkState,
    ReportKind,
    Residency,
    RunState,
    Snapshot,
    UsageReport,
    VmFacts,
)

NAME = "decide"
GUESTS = (10, 100, 1000)
MIB = 1024
RAM_KIB = 1024 * MIB
RESERVE_KIB = 40 * MIB
NOW_S = 1000.0


def measure(findings: Findings, quick: bool) -> None:
    for count in GUESTS:
        # At the least as many as a 99th percentile wants.
        turns = max(5, 1000 // count) if quick else max(100, 10_000 // count)
        deciding, stepping, commands = [], [], 0
        ledger = Ledger()
        for snapshot in turns_of(count, turns, ledger):
            began = time.perf_counter()
            decision = one_iteration(snapshot)
            decided = time.perf_counter()
            commands += len(ledger.step(snapshot, decision))
            ended = time.perf_counter()
            deciding.append((decided - began) * 1e3)
            stepping.append((ended - decided) * 1e3)
        findings.add(NAME, f"one_iteration, {count} guests", "ms", deciding)
        findings.add(NAME, f"Ledger.step, {count} guests", "ms", stepping)
        findings.add(NAME, f"commands per turn, {count} guests", "count", [commands / turns])


def turns_of(count: int, turns: int, ledger: Ledger) -> Iterator[Snapshot]:
    """A second apart, scarce: a third of the guests short, a third idle, a third as they should be; roles rotate. Needs
    differ, each guest has cache worth keeping and a past, and the host tells what it has."""
    for index in range(count):
        ledger.began_boot(f"g{index}", 1, 512 * MIB, adopted=True)
    for turn in range(turns):
        now_s = NOW_S + turn
        guests = tuple(_guest(index, (index + turn // 5) % 3, now_s, ledger) for index in range(count))
        facts = HostFacts(2 * count * 520 * MIB, count * 520 * MIB)
        yield Snapshot(now_s, HostSnapshot(count * 520 * MIB, 64 * MIB, facts), guests)


def scarce_guest(name: str, minimum_kib: int, demand_kib: int, weight: int) -> GuestSnapshot:
    """A guest that has its minimum and needs more."""
    ram_kib = 2 * demand_kib
    vm = VmFacts(RunState.RUNNING, ram_kib, minimum_kib, 1, -3600.0, True, None, 10, 7, NOW_S)
    settings = GuestSettings(name, minimum_kib, minimum_kib, ram_kib, weight, overhead_kib=0)
    report = UsageReport(ReportKind.AGENT, NOW_S, int(NOW_S * 1000), ram_kib, 0, balloon_kib=ram_kib - minimum_kib)
    agent = AgentFacts(LinkState.LIVE, session=1)
    demand = Demand(demand_kib, demand_kib, demand_kib)
    booking = Booking(minimum_kib, 0, claimed=False)
    return GuestSnapshot(settings, vm, booking, agent=agent, report=report, demand=demand)


def _guest(index: int, role: int, now_s: float, ledger: Ledger) -> GuestSnapshot:
    name = f"g{index}"
    actual_kib = 512 * MIB
    demand_kib = (700 * MIB, 300 * MIB, 420 * MIB)[role] + index * 7919 % 101 * 512
    settings = GuestSettings(name, 256 * MIB, actual_kib, RAM_KIB, weight=1000 + index % 5 * 1000, overhead_kib=0)
    vm = VmFacts(
        RunState.RUNNING, RAM_KIB, actual_kib, boot=1, deflate_on_oom=True, statistics_count=10, qemu_pid=7,
        read_s=now_s,
    )  # fmt: skip
    report = UsageReport(
        ReportKind.AGENT, now_s, int(now_s * 1000), RAM_KIB - RESERVE_KIB, max(0, actual_kib - demand_kib),
        balloon_kib=RAM_KIB - actual_kib,
    )  # fmt: skip
    target_kib = ledger.target_kib(name)
    return GuestSnapshot(
        settings,
        vm,
        Booking(max(actual_kib, target_kib or 0), 0, claimed=False),
        hypervisor_target_kib=target_kib,
        agent=AgentFacts(LinkState.LIVE, session=1),
        report=report,
        residency=Residency(actual_kib, 0, now_s),
        demand=Demand(demand_kib, demand_kib + 20 * MIB, demand_kib, cache_kib=100 * MIB, urgent=role == 0),
    )
