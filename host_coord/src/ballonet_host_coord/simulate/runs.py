"""Runs of policies on demand, one after the other or in processes of their own: a shell module.

A job says where its demand comes from instead of carrying it, so that it is small whatever the demand is, and a
fresh process (`spawn`) loads it once.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path

from . import joined
from .course import Course
from .joined import Machine, Points
from .mixes import MIXES

HOUR_S = 3600.0
DAY_H = 24.0


@dataclass(frozen=True, slots=True)
class Source:
    """Where demand comes from, and which part of it: a trace file or a generated mix.

    `shift_s`: the machine with number n starts n times that earlier. `together`: all start at 0.
    """

    trace: Path | None = None
    select: str = "*"
    mix: str = ""
    vm_count: int | None = None
    seed: int = 0
    from_h: float = 0.0
    to_h: float = inf
    shift_s: float = 0.0
    together: bool = False

    def __str__(self) -> str:
        what = self.mix or "/".join(self.trace.parts[-2:] if self.trace else ())
        words = [what if self.select == "*" else f"{what}, {self.select}"]
        if self.vm_count:
            words.append(f"{self.vm_count} VMs")
        if self.from_h or self.to_h < inf:
            words.append(f"hours {self.from_h:g} to {'the end' if self.to_h == inf else format(self.to_h, 'g')}")
        if self.shift_s:
            words.append(f"each {self.shift_s:g} s earlier")
        if self.together:
            words.append("started together")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the host has: a size, or a multiple of what the oracle needs."""

    times: float = 0.0
    kib: int = 0

    def of(self, oracle_kib: int) -> int:
        return self.kib or round(oracle_kib * self.times)


@dataclass(frozen=True, slots=True)
class Job:
    """One policy at one budget. `points`: how many sums over time to keep, for a picture."""

    source: Source
    policy: str
    budget: Budget
    slider: int = 50
    points: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job."""

    job: Job
    oracle_kib: int
    budget_kib: int
    figures: Mapping[str, float | None]
    points: Points


def courses_of(source: Source) -> list[Course]:
    """The generated demand that a source names, not windowed."""
    last_h = source.to_h if source.to_h < inf else DAY_H
    return MIXES[source.mix](source.vm_count or 1, source.seed, last_h * HOUR_S)


def load(source: Source) -> list[Machine]:
    """The demand that a source names. Raises ValueError for a file that is no trace or has nothing left, OSError."""
    if source.trace is not None:
        machines = joined.read(source.trace, source.select)[: source.vm_count]
    else:
        machines = joined.machines_of(courses_of(source))
    if source.shift_s:
        machines = joined.shifted(machines, [-number * source.shift_s for number in range(len(machines))])
    if source.together:
        machines = joined.together(machines)
    if source.from_h or source.to_h < inf:
        machines = joined.window(machines, source.from_h * HOUR_S, source.to_h * HOUR_S)
    if not machines:
        raise ValueError(f"{source}: no machine exists then")
    return machines


@functools.lru_cache(maxsize=2)
def _loaded(source: Source) -> tuple[list[Machine], int]:
    machines = load(source)
    return machines, joined.oracle_kib(machines)


def run(
    policy: str, courses: Sequence[Course], budget_kib: int, slider: int, seed: int
) -> dict[str, float | None]:
    """The figures of one policy on generated demand, with the seconds that it took."""
    began_s = time.perf_counter()
    figures, _ = joined.score(policy, joined.machines_of(courses), budget_kib, slider, seed)
    return {**figures, "seconds": round(time.perf_counter() - began_s, 3)}


def work(job: Job) -> Outcome:
    """Do one job, in whichever process."""
    machines, oracle_kib = _loaded(job.source)
    budget_kib = job.budget.of(oracle_kib)
    began_s = time.perf_counter()
    every_s = max(1.0, joined.span_s(machines) / job.points) if job.points else 0.0
    figures, points = joined.score(job.policy, machines, budget_kib, job.slider, job.source.seed, every_s)
    took_s = round(time.perf_counter() - began_s, 3)
    return Outcome(job, oracle_kib, budget_kib, {**figures, "seconds": took_s}, points)


@contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """Fresh processes that know nothing of this one, or None for doing it here. What waits is dropped at an error."""
    if processes < 2:
        yield None
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    jobs: Sequence[Job], processes: int, tell: Callable[[Outcome, int], None] | None = None
) -> list[Outcome]:
    """The outcomes in the order of the jobs; `tell` hears of each as it ends, with how many have ended."""
    outcomes: dict[int, Outcome] = {}

    def end(index: int, outcome: Outcome) -> None:
        outcomes[index] = outcome
        if tell is not None:
            tell(outcome, len(outcomes))

    with workers(min(processes, len(jobs))) as pool:
        if pool is None:
            for index, job in enumerate(jobs):
                end(index, work(job))
        else:
            waiting: dict[Future[Outcome], int] = {pool.submit(work, job): i for i, job in enumerate(jobs)}
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    end(waiting.pop(future), future.result())
    return [outcomes[index] for index in range(len(jobs))]
