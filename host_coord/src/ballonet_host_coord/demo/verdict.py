"""What the demo proves: judged from facts, told to people and programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ballonet_host_coord.model import GuestSnapshot, Residency, RunState, Snapshot

# Set here and not taken from `booking`: who judges the books does not use their rules.
STATISTICS_NEEDED = 3
"""The driver queues its first statistics before it inflates; by the third it has had two seconds to begin."""
BALLOON_TOLERANCE_KIB = 32 * 1024
"""Guest and device are read up to a second apart; the balloon of another boot is off by far more."""


@dataclass(slots=True)
class GuestScore:
    """One guest's part in the play."""

    name: str
    steps_s: list[float | None] = field(default_factory=list)
    deepest_shortage_kib: int = 0
    """The most by which the guest's size fell short of what the step needed."""
    stall_us: int = 0
    """psi_some of the guest's kernel during its own steps."""
    oom_kills: int = 0
    refused: int = 0
    """INFLATEs that its agent refused."""

    @property
    def demand_met(self) -> bool:
        """All steps were met, and there were some."""
        return bool(self.steps_s) and None not in self.steps_s

    @property
    def seconds_to_usable(self) -> float | None:
        """The longest of the steps; None where one was not met."""
        return max((step for step in self.steps_s if step is not None), default=None) if self.demand_met else None

    def step(self, seconds: float | None) -> None:
        """Take one step's time from the wish to all of it usable; None: not within its time."""
        self.steps_s.append(seconds)


@dataclass(slots=True)
class Judge:
    """Keeps books of its own from what QEMU, the host's kernel and the agents say; the coordinator's are not read.

    A machine counts with its whole RAM from the moment its QEMU is seen, waiting or not, until its driver has
    answered in this boot. From then on it counts with the most of what it has, what it holds and what it was granted.
    """

    budget_kib: int
    booked_most_kib: int = 0
    actual_most_kib: int = 0
    resident_most_kib: int = 0
    refused: dict[str, set[int]] = field(default_factory=dict)
    answered: dict[str, tuple[int | None, int]] = field(default_factory=dict)
    """The boot (QEMU's pid, number) in which a guest's driver was last known to have answered."""

    @property
    def exceeded_kib(self) -> int:
        return max(0, self.booked_most_kib - self.budget_kib)

    def look(self, snapshot: Snapshot) -> None:
        """Take in one turn of the coordinator."""
        booked_kib = actual_kib = resident_kib = 0
        for guest in snapshot.guests:
            booked_kib += self._holds_kib(guest)
            actual_kib += guest.vm.actual_kib
            resident_kib += guest.residency.resident_kib if guest.residency else 0
            consent = guest.agent.consent
            if consent is not None and consent.refused:
                self.refused.setdefault(guest.name, set()).add(consent.gen)
        self.booked_most_kib = max(self.booked_most_kib, booked_kib)
        self.actual_most_kib = max(self.actual_most_kib, actual_kib)
        self.resident_most_kib = max(self.resident_most_kib, resident_kib)

    def _holds_kib(self, guest: GuestSnapshot) -> int:
        """What must be held against the budget for this guest, QEMU's own memory included."""
        vm, residency = guest.vm, guest.residency or Residency(0, 0)
        if vm.run_state in (RunState.ABSENT, RunState.SHUTDOWN):
            return residency.resident_kib + residency.overhead_kib
        boot = (vm.qemu_pid, vm.boot)
        if _driver_answers(guest):
            self.answered[guest.name] = boot
        held_kib = max(vm.actual_kib, residency.resident_kib, guest.hypervisor_target_kib or 0)
        if self.answered.get(guest.name) != boot:
            held_kib = max(held_kib, vm.ram_kib)
        return held_kib + max(guest.settings.overhead_kib, residency.overhead_kib)


def _driver_answers(guest: GuestSnapshot) -> bool:
    """Whether this boot's driver shows itself: by statistics, or by a report that tells the balloon QEMU tells."""
    vm, report = guest.vm, guest.report
    if vm.run_state is RunState.PRELAUNCH:
        return False
    if vm.statistics_count >= STATISTICS_NEEDED:
        return True
    if report is None or report.balloon_kib is None or report.arrived_s < vm.boot_began_s:
        return False
    return abs(report.balloon_kib - (vm.ram_kib - vm.actual_kib)) <= BALLOON_TOLERANCE_KIB


@dataclass(frozen=True, slots=True)
class Verdict:
    simulated: bool
    accelerator: str
    budget_kib: int
    budget_exceeded_kib: int
    booked_most_kib: int
    actual_most_kib: int
    resident_most_kib: int
    promised_kib: int
    """What all guests together may have: their maximums and their QEMUs' overhead."""
    guests: tuple[GuestScore, ...]

    @property
    def oom_kills(self) -> int:
        return sum(guest.oom_kills for guest in self.guests)

    @property
    def holds(self) -> bool:
        """Every demand met (and there was one), nobody killed, the budget never exceeded."""
        met = bool(self.guests) and all(guest.demand_met for guest in self.guests)
        return met and self.budget_exceeded_kib == 0 and self.oom_kills == 0

    def to_json(self) -> dict[str, Any]:
        return {
            "simulated": self.simulated,
            "accelerator": self.accelerator,
            "budget_kib": self.budget_kib,
            "budget_exceeded_kib": self.budget_exceeded_kib,
            "oom_kills": self.oom_kills,
            "guests": [
                {
                    "name": guest.name,
                    "demand_met": guest.demand_met,
                    "seconds_to_usable": guest.seconds_to_usable,
                    "deepest_shortage_kib": guest.deepest_shortage_kib,
                    "stall_us": guest.stall_us,
                    "refused": guest.refused,
                }
                for guest in self.guests
            ],
        }

    def to_text(self) -> str:
        """A few lines for a person."""
        lines = [
            f"budget {_mib(self.budget_kib)}, the guests' maximums and overhead {_mib(self.promised_kib)}",
            f"booked at most {_mib(self.booked_most_kib)} (judged from QEMU's start)"
            + (f": EXCEEDED by {_mib(self.budget_exceeded_kib)}" if self.budget_exceeded_kib else ": never exceeded"),
            f"actual at most {_mib(self.actual_most_kib)}, resident on the host at most {_mib(self.resident_most_kib)}",
        ]
        for guest in self.guests:
            took = "not met in time"
            if guest.demand_met and guest.seconds_to_usable is not None:
                steps = ", ".join(f"{step:.1f}" for step in guest.steps_s if step is not None)
                took = f"demand met, usable after {steps} s"
            lines.append(
                f"{guest.name}: {took}; deepest shortage {_mib(guest.deepest_shortage_kib)}, "
                f"stalled {guest.stall_us / 1e6:.2f} s, OOM kills {guest.oom_kills}, refused {guest.refused}"
            )
        lines.append("all of it holds" if self.holds else "it does NOT hold")
        return "\n".join(lines)


def _mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"
