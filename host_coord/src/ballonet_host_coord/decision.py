"""What the coordinator has decided, and the commands that follow: values, with the reason and its numbers. Pure.

Sizes are KiB on the hypervisor's scale. A `GuestDecision` is a named tuple, since thousands are made each second; its
reason is kept as a rule and numbers, and put into words only where somebody reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """The three words that operators know from Hyper-V, and one for a guest that is not there."""

    OK = "OK"
    LOW = "Low"
    WARNING = "Warning"
    ABSENT = "-"


class Phase(StrEnum):
    HOLD = "hold"
    FREEING = "freeing"
    ALLOCATING = "allocating"


class Rule(StrEnum):
    """What settled a guest's target: the rank that it ended in, or why it was in none."""

    FIXED = "fixed"
    """Cannot be moved; `held_by` says why."""
    RELEASED = "released"
    """The operator gave it everything."""
    UNKNOWN = "unknown"
    """No report: what it has is left to it."""
    SHORT = "short"
    """Its demand is more than its share by weight."""
    MAXIMUM = "maximum"
    """Its demand is more than it may have."""
    PARTLY = "partly"
    """Demand met, buffer only as far as there was memory."""
    FLOOR = "floor"
    """It needs less than the least it may have."""
    FALLING = "falling"
    """It keeps, for a while, what it needed before."""
    BUFFER = "buffer"
    """Demand and buffer met, and no more wanted."""
    SURPLUS = "surplus"
    """It has more than it wants, since nobody else needs it: page cache, until then."""


class GuestDecision(NamedTuple):
    """One guest's part of a decision."""

    name: str
    target_kib: int
    """What the guest should have."""
    want_kib: int
    """What it would have if there were enough: demand and buffer."""
    floor_kib: int
    """No target below it: max(minimum, the guest's own floor)."""
    phase: Phase
    status: Status
    shrinkable: bool
    urgent: bool
    rule: Rule
    demand_kib: int = 0
    held_kib: int = 0
    buffer_percent: int = 0
    """As the slider has scaled it."""
    weight: int = 0
    most_kib: int = 0
    """The most that it may have."""
    held_by: str = ""
    """Why it is not shrunk, or not moved at all, where that matters to its target."""

    @property
    def why(self) -> str:
        """The reason with its numbers, for a person."""
        text = self._rule_in_words()
        if not self.held_by:
            return text
        return f"{text}; {self.held_by}" if text else self.held_by

    def _rule_in_words(self) -> str:
        demand = f"demand {mib(self.demand_kib)}"
        match self.rule:
            case Rule.FIXED | Rule.UNKNOWN:
                return "" if self.held_by else "no report yet: held"
            case Rule.RELEASED:
                return f"released by the operator: everything back, up to {mib(self.most_kib)}"
            case Rule.SHORT:
                return f"short: {demand}, its share by weight {self.weight} is {mib(self.target_kib)}"
            case Rule.MAXIMUM:
                return f"{demand} is more than its maximum {mib(self.most_kib)}"
            case Rule.PARTLY:
                return f"{demand} met, of its want {mib(self.want_kib)} there is {mib(self.target_kib)}"
            case Rule.FLOOR:
                return f"{demand} is below its floor {mib(self.floor_kib)}"
            case Rule.FALLING:
                return f"{demand}, falling: still holds {mib(self.held_kib)}"
            case Rule.SURPLUS:
                return f"{demand}, want {mib(self.want_kib)}: nobody needs the rest, up to {mib(self.target_kib)}"
        return f"{demand} + buffer {self.buffer_percent} % = {mib(self.want_kib)}"


@dataclass(frozen=True, slots=True)
class Decision:
    now_s: float
    budget_kib: int
    booked_kib: int
    headroom_kib: int
    headroom_free_kib: int
    overdrawn_kib: int
    overdrawn_cause: str
    guests: tuple[GuestDecision, ...]


# --- what is done about it ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTarget:
    """Move the real balloon, through the hypervisor."""

    guest: str
    target_kib: int
    why: str


@dataclass(frozen=True, slots=True)
class AskInflate:
    """Ask the agent for its consent to a smaller guest."""

    guest: str
    gen: int
    target_kib: int
    floor_kib: int
    rate_kib_per_s: int
    why: str


@dataclass(frozen=True, slots=True)
class TellDeflate:
    """Tell the agent that it may have more. The balloon is moved beside it, at once."""

    guest: str
    gen: int
    target_kib: int
    why: str


@dataclass(frozen=True, slots=True)
class StartVm:
    """Let a VM that waits before its first instruction run."""

    guest: str
    why: str


Command = SetTarget | AskInflate | TellDeflate | StartVm


def mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"
