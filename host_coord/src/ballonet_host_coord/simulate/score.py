"""What one policy at one budget scored: the figures of the scoring rule, with their units in their names. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """The fields are the keys of the report's JSON. Per VM-day: over the sum of the days that each machine existed."""

    unmet_ratio: float
    """GiB*s of max(0, demand - assigned) over GiB*s of demand."""
    shortage_vm_seconds: float
    """How long machines were short, added up."""
    episodes_per_vm_day: float
    """Shortages that last longer than 2 s."""
    deepest_shortage_kib: float
    """The most that any machine lacked at any time."""
    moved_gib_per_vm_day: float
    """Sum of |change of assigned| by balloons: neither first sizes nor what an ended machine leaves."""
    commands_per_vm_day: float
    """Changed targets."""
    held_mean_kib: float
    """Memory held by all machines, mean over the run."""
    cache_deficit_ratio: float | None
    """GiB*s of max(0, c - (assigned - used)) over GiB*s of c = min(cached, 20 % of provisioned); None: not recorded."""
    seconds: float
    """Wall time of the run, filled in by the caller: the engine reads no clock."""

    def as_json(self) -> dict[str, float | None]:
        return asdict(self)
