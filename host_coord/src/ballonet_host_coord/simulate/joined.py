"""Where commands and benchmarks meet the engine, the trace files and the register of policies: a shell module.

Everything else beside it names a policy by its name and passes machines on without looking into them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .course import Course
from .vm import Policy

# A machine's demand as the engine reads it (`demand_trace.DemandTrace`), opaque here.
Machine = Any
Points = list[tuple[float, float, float, float]]


def _part(name: str) -> Any:
    # JOIN: becomes `from . import demand_trace, engine, guest, trace_files` and `from .policies import registry`.
    return importlib.import_module(f"{__package__}.{name}")


def names() -> list[str]:
    """Every policy, references first."""
    return list(_part("policies.registry").POLICIES)


def machines_of(courses: Sequence[Course]) -> list[Machine]:
    """Generated demand as the engine reads it."""
    part = _part("demand_trace")
    return [
        part.trace_of(
            course.name,
            (part.Step(t_s, used, cached, course.provisioned_kib) for t_s, used, cached in course.samples),
            course.end_s,
        )
        for course in courses
    ]


def read(path: Path, select: str) -> list[Machine]:
    """The machines of a file whose names match. Raises ValueError for what is no trace, OSError."""
    machines: list[Machine] = _part("trace_files").read_traces(path, select)
    return machines


def shifted(machines: Sequence[Machine], by_s: Sequence[float]) -> list[Machine]:
    """Each machine started so much later (earlier when negative)."""
    shift = _part("demand_trace").shifted
    return [shift(machine, s) for machine, s in zip(machines, by_s, strict=True)]


def together(machines: Sequence[Machine]) -> list[Machine]:
    """All machines started at 0."""
    moved: list[Machine] = _part("demand_trace").together(machines)
    return moved


def window(machines: Sequence[Machine], from_s: float, to_s: float) -> list[Machine]:
    """What happens between the two times, `from_s` as the new 0."""
    cut: list[Machine] = _part("demand_trace").window(machines, from_s, to_s)
    return cut


def span_s(machines: Sequence[Machine]) -> float:
    """From the first machine's start to the last one's end."""
    return float(max(machine.end_s for machine in machines) - min(machine.start_s for machine in machines))


def oracle_kib(machines: Sequence[Machine]) -> int:
    """The peak of the sum of demand."""
    return int(_part("demand_trace").oracle_kib(machines))


def policy(name: str, slider: int, seed: int) -> Policy:
    """A new instance, good for one run."""
    # JOIN: what a policy can be told is what its `make` takes; today's peers take nothing.
    make: Callable[..., Policy] = _part("policies.registry").POLICIES[name].make
    takes = inspect.signature(make).parameters
    return make(**{key: value for key, value in (("slider", slider), ("seed", seed)) if key in takes})


def score(
    name: str, machines: Sequence[Machine], budget_kib: int, slider: int, seed: int, points_every_s: float = 0.0
) -> tuple[dict[str, float | None], Points]:
    """One run's figures, `seconds` still 0, and the sums over time each `points_every_s` (0: none)."""
    guests = [_part("guest").Guest(machine) for machine in machines]
    points: Points | None = [] if points_every_s else None
    figures = _part("engine").run(
        guests, policy(name, slider, seed), budget_kib, None, points, points_every_s or 300.0
    )
    return figures.as_json(), points or []
