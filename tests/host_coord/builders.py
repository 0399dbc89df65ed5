"""Facts for the tests of the host's pure core: ordinary values, of which a test changes what it is about."""

from __future__ import annotations

from typing import Any

from ballonet_host_coord.model import (
    AgentFacts,
    Booking,
    Demand,
    GuestSettings,
    GuestSnapshot,
    HostSnapshot,
    LinkState,
    ReportKind,
    RunState,
    Snapshot,
    UsageReport,
    VmFacts,
)

MIB = 1024
GIB = 1024 * MIB
NOW_S = 1000.0
RESERVE_KIB = 40 * MIB
"""What a guest's kernel keeps of 1 GiB before /proc/meminfo counts."""


def make_settings(name: str = "alpha", **changes: Any) -> GuestSettings:
    values: dict[str, Any] = {
        "minimum_kib": 256 * MIB,
        "startup_kib": 512 * MIB,
        "maximum_kib": 1024 * MIB,
        "overhead_kib": 0,
        **changes,
    }
    return GuestSettings(name, **values)


def make_vm(**changes: Any) -> VmFacts:
    """A guest of 1 GiB that has run for long, has 512 MiB and whose driver has answered."""
    values: dict[str, Any] = {
        "run_state": RunState.RUNNING,
        "ram_kib": 1024 * MIB,
        "actual_kib": 512 * MIB,
        "boot": 1,
        "boot_began_s": 0.0,
        "deflate_on_oom": True,
        "statistics_count": 10,
        "qemu_pid": 7,
        "read_s": NOW_S,
        **changes,
    }
    return VmFacts(**values)


def make_report(
    arrived_s: float = NOW_S, actual_kib: int = 512 * MIB, use_kib: int = 200 * MIB, **changes: Any
) -> UsageReport:
    """What the agent of such a guest says when it has `actual_kib` and occupies `use_kib` (hypervisor's scale)."""
    values: dict[str, Any] = {
        "kind": ReportKind.AGENT,
        "arrived_s": arrived_s,
        "boottime_ms": int(arrived_s * 1000),
        "total_kib": 1024 * MIB - RESERVE_KIB,
        "available_kib": max(0, actual_kib - use_kib),
        "balloon_kib": 1024 * MIB - actual_kib,
        **changes,
    }
    return UsageReport(**values)


def make_demand(demand_kib: int = 400 * MIB, **changes: Any) -> Demand:
    values: dict[str, Any] = {"demand_kib": demand_kib, "held_kib": demand_kib, "use_kib": demand_kib, **changes}
    return Demand(**values)


def make_guest(
    name: str = "alpha",
    actual_kib: int = 512 * MIB,
    demand_kib: int | None = 400 * MIB,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> GuestSnapshot:
    """A guest that may be shrunk: settled, deflate-on-oom on, a live agent, a fresh report."""
    values: dict[str, Any] = {
        "settings": make_settings(name, **(settings or {})),
        "vm": make_vm(actual_kib=actual_kib),
        "booking": Booking(actual_kib, 0, claimed=False),
        "hypervisor_target_kib": actual_kib,
        "agent": AgentFacts(LinkState.LIVE, session=1),
        "report": make_report(actual_kib=actual_kib),
        "demand": None if demand_kib is None else make_demand(demand_kib),
        **changes,
    }
    return GuestSnapshot(**values)


def make_snapshot(
    *guests: GuestSnapshot, budget_kib: int = 4 * GIB, headroom_kib: int = 0, now_s: float = NOW_S, **changes: Any
) -> Snapshot:
    """The slider stands in the middle: buffers as set, and no surplus is left to guests."""
    return Snapshot(
        now_s=now_s, host=HostSnapshot(budget_kib, headroom_kib, **{"slider": 50, **changes}), guests=guests
    )


class CountedRandomness:
    """Sessions 1, 2, 3 ... without jitter."""

    def __init__(self) -> None:
        self.sessions = 0

    def session_id(self) -> int:
        self.sessions += 1
        return self.sessions

    def nonce(self) -> bytes:
        return self.sessions.to_bytes(16, "big")

    def jitter(self) -> float:
        return 1.0
