"""A simulated machine over its whole life: its demand, and its moods where its balloon or its word cannot be trusted.
Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .demand_trace import DemandTrace
from .vm import BUFFER_PERCENT


class Mood(NamedTuple):
    """What holds from `t_s` on; each mood says all of it."""

    t_s: float
    follows: bool = True
    """Its balloon follows its target."""
    silent: bool = False
    """It reports nothing: what it shows stays what it showed last."""
    shows_ratio: float = 1.0
    """It shows its demand times this, never above provisioned."""
    swing_kib: int | None = None
    """At this moment its use becomes what it has and this (negative: less this); its next step ends that."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A trace with its character. Moods in order of time."""

    trace: DemandTrace
    moods: tuple[Mood, ...] = ()
    least_kib: int = 0
    """Its balloon takes nothing below this."""
    weight: int = 5000
    minimum_kib: int | None = None
    """The floor of its size where somebody has set one; None: hv_balloon's table."""
    buffer_percent: int = BUFFER_PERCENT
