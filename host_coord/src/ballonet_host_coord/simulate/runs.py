"""Runs of policies on demand, one after the other or in processes of their own: a shell module.

A job says where its demand comes from instead of carrying it, so that it is small whatever the demand is, and a
fresh process (`spawn`) loads it once. What the slider means nothing to is run once for all of its places.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ballonet_host_coord.slider import DEFAULT_SLIDER

from . import engine, sources
from .engine import Point
from .guest import Guest
from .policies import registry
from .sources import House, Source


@dataclass(frozen=True, slots=True)
class Budget:
    """What the host has: a multiple of what the oracle needs, a size, or, with neither, what was recorded.

    A size of a recorded host is its setting `budget`, QEMU's own memory included; what guests get is without.
    """

    times: float = 0.0
    kib: int = 0

    def of(self, house: House) -> int:
        """For the guests, KiB. Raises ValueError where that is nothing."""
        if self.times:
            return round(house.oracle_kib * self.times)
        budget_kib = (self.kib or house.budget_kib) - house.overhead_kib
        if budget_kib <= 0:
            raise ValueError("the budget leaves nothing for guests")
        return budget_kib


@dataclass(frozen=True, slots=True)
class Job:
    """One policy at one budget. `points`: how many sums over time to keep, for a picture."""

    source: Source
    policy: str
    budget: Budget
    slider: int = DEFAULT_SLIDER
    points: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a job."""

    job: Job
    oracle_kib: int
    budget_kib: int
    figures: Mapping[str, float | None]
    points: list[Point]


def score(
    policy: str, guests: Sequence[Guest], budget_kib: int, slider: int = DEFAULT_SLIDER, points_every_s: float = 0.0,
    headroom_kib: int | None = None,
) -> tuple[dict[str, float | None], list[Point]]:  # fmt: skip
    """One run's figures with the seconds that it took, and the sums over time each `points_every_s` (0: none)."""
    points: list[Point] | None = [] if points_every_s else None
    began_s = time.perf_counter()
    made = registry.make(policy, slider, headroom_kib)
    figures = engine.run(guests, made, budget_kib, None, points, points_every_s or 1.0)
    return {**figures.as_json(), "seconds": round(time.perf_counter() - began_s, 3)}, points or []


def work(job: Job) -> Outcome:
    """Do one job, in whichever process."""
    house = sources.load(job.source)
    budget_kib = job.budget.of(house)
    every_s = max(1.0, house.span_s / job.points) if job.points else 0.0
    figures, points = score(job.policy, house.guests, budget_kib, job.slider, every_s, house.headroom_kib)
    return Outcome(job, house.oracle_kib, budget_kib, figures, points)


def distinct(jobs: Sequence[Job]) -> list[Job]:
    """The runs that these jobs take, in their order."""
    return list(dict.fromkeys(map(_run_of, jobs)))


@contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor | None]:
    """Fresh processes that know of this one what recordings it has read, or None for doing it here.

    What waits is dropped at an error.
    """
    if processes < 2:
        yield None
        return
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, fresh, sources.know, (sources.known(),))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    jobs: Sequence[Job], processes: int, tell: Callable[[Outcome, int], None] | None = None
) -> list[Outcome]:
    """The outcomes in the order of the jobs; `tell` hears of each run as it ends, with how many have ended."""
    outcomes: dict[Job, Outcome] = {}
    wanted = distinct(jobs)

    def end(outcome: Outcome) -> None:
        outcomes[outcome.job] = outcome
        if tell is not None:
            tell(outcome, len(outcomes))

    with workers(min(processes, len(wanted))) as pool:
        if pool is None:
            for job in wanted:
                end(work(job))
        else:
            waiting: set[Future[Outcome]] = {pool.submit(work, job) for job in wanted}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    end(future.result())
    return [replace(outcomes[_run_of(job)], job=job) for job in jobs]


def _run_of(job: Job) -> Job:
    return job if registry.takes_slider(job.policy) else replace(job, slider=DEFAULT_SLIDER)
