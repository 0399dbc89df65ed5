"""A stand-in for the engine and its policies, with a character: unmet falls with the budget, as its policies differ."""

from __future__ import annotations

from pathlib import Path

from ballonet_host_coord.simulate.course import Course

# How much each lacks at once the oracle's need.
POLICIES = {"static": 0.2, "oracle": 0.0, "follower": 0.01, "lazy": 0.005, "ballonet": 0.001}


class FakeJoined:
    """The functions of `joined.py`; machines are courses as they are."""

    def __init__(self) -> None:
        self.scored: list[tuple[str, int, int, int]] = []
        self.read_error: Exception | None = None

    def names(self) -> list[str]:
        return list(POLICIES)

    def machines_of(self, courses):
        return list(courses)

    def read(self, path: Path, select: str):
        if self.read_error:
            raise self.read_error
        return [Course(f"vm{n}", 4096, ((0.0, 1000 + n, None), (1800.0, 3000, None)), 3600.0) for n in range(3)]

    def shifted(self, machines, by_s):
        self.by_s = list(by_s)
        return machines

    def together(self, machines):
        self.are_together = True
        return machines

    def window(self, machines, from_s, to_s):
        self.window_s = (from_s, to_s)
        return machines if from_s < 3600 * 24 else []

    def span_s(self, machines) -> float:
        return max(machine.end_s for machine in machines)

    def oracle_kib(self, machines) -> int:
        return sum(machine.peak_kib for machine in machines)

    def score(self, name, machines, budget_kib, slider, seed, points_every_s=0.0):
        self.scored.append((name, budget_kib, slider, seed))
        unmet = POLICIES[name] * self.oracle_kib(machines) / budget_kib * (1 - slider / 200)
        points = [(t_s, 1e6, 1.2e6, unmet * 1e5) for t_s in (0.0, 1200.0, 2400.0)] if points_every_s else []
        return {
            "unmet_ratio": unmet, "shortage_vm_seconds": unmet * 1e4, "episodes_per_vm_day": unmet * 100,
            "deepest_shortage_kib": 2048.0, "moved_gib_per_vm_day": 3.5, "commands_per_vm_day": 12.0,
            "held_mean_kib": budget_kib * (0.5 + slider / 250), "cache_deficit_ratio": None, "seconds": 0.0,
        }, points  # fmt: skip
