"""What the operator promises and allows: the settings as values, checked by config.py and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .slider import DEFAULT_SLIDER

QUIET_REPORT_MS = 4000
"""A quiet guest's word is good for three periods (I3), so at 4 s no shrink waits for a report, and a quarter of the
frames will do. What needs an answer does not wait: an agent reports a change at once, and asks when it is short."""


OVERHEAD_KIB = 98304
"""96 MiB: what QEMU takes for a small guest under KVM, with air."""


class StopPolicy(StrEnum):
    """What a clean stop of the coordinator does with the balloons."""

    LEAVE = "leave"
    DEFLATE = "deflate"


class Enforce(StrEnum):
    """Who sees to it that a guest holds no more than it was given."""

    OFF = "off"
    """Its balloon alone."""
    CGROUP = "cgroup"
    """The host's kernel too, by a limit of its QEMU's own cgroup (enforcement.py)."""


class DemandModel(StrEnum):
    """How reports become demand."""

    BALLONET = "ballonet"
    """Use, a bounded share of what is committed, and harm."""
    HYPERV = "hyperv"
    """Committed memory, raised by a DEMAND alone: the reference that operators know."""


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """What the operator promises and allows one guest. Checked by the configuration, not here."""

    name: str
    minimum_kib: int
    startup_kib: int
    maximum_kib: int
    weight: int = 5000
    """Share under scarcity, 1..10000. It divides, it does not order."""
    buffer_percent: int = 20
    """Spare memory over demand."""
    overhead_kib: int = OVERHEAD_KIB
    """QEMU's own memory, booked until it has been measured, and the least that is booked afterwards."""
    shrink_without_deflate_on_oom: bool = False
    """Allows shrinking (never below committed) where deflate-on-oom is off."""
    start_when_it_fits: bool = True
    """A VM that waits before its first instruction (`-S`) gets its startup target and is continued."""
    enforce: Enforce = Enforce.OFF
    qmp_path: str = ""
    channel_path: str = ""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The host's side of the settings. `budget_kib` None: MemTotal less `reserve_kib`."""

    budget_kib: int | None = None
    reserve_kib: int = 1048576
    headroom_kib: int | None = None
    """None: `booking.headroom_kib`."""
    slider: int = DEFAULT_SLIDER
    """Performance (0) to density (100)."""
    demand_model: DemandModel = DemandModel.BALLONET
    report_ms: int = QUIET_REPORT_MS
    """How often an agent reports whose guest does not change; one that does reports up to four times a second."""
    stop_policy: StopPolicy = StopPolicy.LEAVE
    observe: bool = False
    """Decide, and move nothing."""
    control_path: str = "/run/ballonet/control.sock"
    control_group: str | None = None
    state_path: str = "/var/lib/ballonet/state.sqlite"
    record_path: str | None = None


@dataclass(frozen=True, slots=True)
class GuestRules:
    """The sections that speak of guests, in the order of the files: name or pattern, and attributes of GuestSettings.
    guest_rules.py says what they come to for one guest."""

    defaults: tuple[tuple[str, Any], ...] = ()
    sections: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    host: HostSettings
    guests: tuple[GuestSettings, ...]
    """Those with a QMP socket of their own."""
    libvirt_uri: str | None = None
    libvirt_domains: tuple[str, ...] = ("*",)
    """Patterns; a domain that fits none is not ours."""
    rules: GuestRules = GuestRules()
