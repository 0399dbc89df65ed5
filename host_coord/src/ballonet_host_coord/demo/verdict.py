"""What the demo proves: judged from facts, told to people and programs. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ballonet_host_coord.model import RunState, Snapshot


@dataclass(slots=True)
class GuestScore:
    """One guest's part in the play. `seconds_to_usable` is the longest of its steps, None where one was not met."""

    name: str
    demand_met: bool = True
    seconds_to_usable: float | None = None
    steps_s: list[float | None] = field(default_factory=list)
    deepest_shortage_kib: int = 0
    """The most by which the guest's size fell short of what the step needed."""
    stall_us: int = 0
    """psi_some of the guest's kernel during its own steps."""
    oom_kills: int = 0
    refused: int = 0
    """INFLATEs that its agent refused."""

    def step(self, seconds: float | None) -> None:
        """Take one step's time from the wish to all of it usable; None: not within its time."""
        self.steps_s.append(seconds)
        self.demand_met = self.demand_met and seconds is not None
        met = [step for step in self.steps_s if step is not None]
        self.seconds_to_usable = max(met) if self.demand_met else None


@dataclass(slots=True)
class Judge:
    """Keeps the books more strictly than the coordinator: a machine counts with its whole RAM from QEMU's start."""

    budget_kib: int
    booked_most_kib: int = 0
    actual_most_kib: int = 0
    resident_most_kib: int = 0
    refused: dict[str, set[int]] = field(default_factory=dict)

    @property
    def exceeded_kib(self) -> int:
        return max(0, self.booked_most_kib - self.budget_kib)

    def look(self, snapshot: Snapshot) -> None:
        """Take in one turn of the coordinator."""
        booked_kib = actual_kib = resident_kib = 0
        for guest in snapshot.guests:
            waits = guest.vm.run_state is RunState.PRELAUNCH
            claim_kib = guest.vm.ram_kib + guest.booking.overhead_kib if waits else 0
            booked_kib += max(guest.booking.booked_kib, claim_kib)
            actual_kib += guest.vm.actual_kib
            resident_kib += guest.residency.resident_kib if guest.residency else 0
            consent = guest.agent.consent
            if consent is not None and consent.refused:
                self.refused.setdefault(guest.name, set()).add(consent.gen)
        self.booked_most_kib = max(self.booked_most_kib, booked_kib)
        self.actual_most_kib = max(self.actual_most_kib, actual_kib)
        self.resident_most_kib = max(self.resident_most_kib, resident_kib)


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
        """Every demand met, nobody killed, the budget never exceeded."""
        return self.budget_exceeded_kib == 0 and self.oom_kills == 0 and all(g.demand_met for g in self.guests)

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
