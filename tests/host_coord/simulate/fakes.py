"""A stand-in for the engine, with a character: unmet falls with the budget and the slider, as its policies differ."""

from __future__ import annotations

from ballonet_host_coord.simulate import demand_trace
from ballonet_host_coord.simulate.engine import Point
from ballonet_host_coord.slider import DEFAULT_SLIDER

# How much each lacks at the oracle's own need; any other as much as the last.
LACKS = {"ballonet": 0.001, "lazy": 0.005, "follower": 0.01, "static": 0.2, "oracle": 0.0}


class FakeScore:
    """In the place of `runs.score`."""

    def __init__(self) -> None:
        self.scored: list[tuple[str, int, int]] = []

    def __call__(self, policy, guests, budget_kib, slider=DEFAULT_SLIDER, points_every_s=0.0, headroom_kib=0):
        self.scored.append((policy, budget_kib, slider))
        self.headroom_kib = headroom_kib
        need_kib = demand_trace.oracle_kib(guest.trace for guest in guests)
        unmet = LACKS.get(policy, 0.2) * need_kib / budget_kib * (0.5 + slider / 200)
        points = [Point(t_s, 1e6, 1.2e6, unmet * 1e5) for t_s in (0.0, 1200.0, 2400.0)] if points_every_s else []
        return {
            "unmet_ratio": unmet, "shortage_vm_seconds": unmet * 1e4, "episodes_per_vm_day": unmet * 100,
            "deepest_shortage_kib": 2048.0, "moved_gib_per_vm_day": 3.5, "commands_per_vm_day": 12.0,
            "held_mean_kib": budget_kib * (0.9 - slider / 250), "cache_deficit_ratio": None, "seconds": 0.0,
        }, points  # fmt: skip
