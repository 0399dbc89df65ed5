"""Why the books are overdrawn, for how long, and when somebody must look (I1: it ends, or raises an alarm). Pure.

What flickers is not over: an overdraft ends when the books were balanced for `CALM_S`, and its time adds up until then.
"""

from __future__ import annotations

from .decision import mib
from .model import Migration, Snapshot
from .pace import TOLERANCE_KIB

ALARM_S = 60.0
"""An excess that lasts a minute is not a boot any more: somebody must look."""

CALM_S = 10.0
"""As long as a guest is left alone after it objected: what comes back within it was never mended."""


class OverdraftWatch:
    """Sees every turn; says what the journal should say."""

    def __init__(self) -> None:
        self.overdrawn_s = 0.0
        self.alarm = ""
        """What an operator must be told now; empty for nothing."""
        self._under_way = False
        self._seen_s: float | None = None
        """The last turn, where that was overdrawn."""
        self._last_s = 0.0
        """When the books were overdrawn last."""

    def turn(self, overdrawn_kib: int, cause: str, now_s: float) -> str:
        """A line for the journal, empty for none. It is an alarm where `alarm` has just become true."""
        if self._seen_s is not None:
            self.overdrawn_s += now_s - self._seen_s
        if not overdrawn_kib:
            self._seen_s = None
            if not self._under_way or now_s - self._last_s < CALM_S:
                return ""
            said = f"overdraft over after {self.overdrawn_s:.0f} s"
            self._under_way, self.overdrawn_s, self.alarm = False, 0.0, ""
            return said
        self._seen_s = self._last_s = now_s
        by = f"by {overdrawn_kib // 1024} MiB: {cause}"
        if not self._under_way:
            self._under_way = True
            return f"OVERDRAWN {by}"
        if self.overdrawn_s < ALARM_S:
            return ""
        news = not self.alarm
        self.alarm = f"overdrawn for {self.overdrawn_s:.0f} s {by}"
        return self.alarm if news else ""


def overdrawn_cause(snapshot: Snapshot) -> str:
    """The acts that were not ours and that explain an excess, the largest first."""
    causes: list[tuple[int, str]] = []
    for guest in snapshot.guests:
        if guest.forced:
            causes.append((guest.booking.assigned_kib, f"{guest.name} was released beyond the budget by the operator"))
            continue
        over_kib = guest.booking.assigned_kib - (guest.hypervisor_target_kib or guest.settings.startup_kib)
        if over_kib <= TOLERANCE_KIB:
            continue
        if not guest.vm.ram_kib:
            causes.append((over_kib, f"{guest.name} does not answer and is booked with its maximum"))
        elif guest.booking.claimed and guest.vm.migration in (Migration.INCOMING, Migration.ARRIVED):
            causes.append((over_kib, f"{guest.name} migrates here and is booked with its whole RAM"))
        elif guest.booking.claimed:
            causes.append((over_kib, f"{guest.name} has booted and its balloon has not answered yet"))
        elif guest.residency is not None and guest.residency.resident_kib >= guest.booking.assigned_kib:
            causes.append((over_kib, f"{guest.name} resides above its balloon's size"))
        elif guest.hypervisor_target_kib is not None:
            causes.append((over_kib, f"{guest.name} took {mib(over_kib)} back or has not given it yet"))
        elif guest.vm.migration is Migration.ARRIVED:
            causes.append((over_kib, f"{guest.name} migrated here with {mib(guest.booking.assigned_kib)}"))
        else:
            causes.append((over_kib, f"{guest.name} was found at {mib(guest.booking.assigned_kib)}"))
    causes.sort(reverse=True)
    return "; ".join(text for _, text in causes) or "the budget is smaller than what the guests hold"
