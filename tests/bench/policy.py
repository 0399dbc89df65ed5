"""`python tests/bench/policy.py [--json FILE] [--quick]`: the policy against its goals, its peers and the bound.

Runs in processes of their own, with a line on stderr as each ends; a table of goal, reached and met on stdout. Asserts
nothing. The traces are not part of the project: without them the mixes remain, and the table says what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable
from concurrent.futures import as_completed
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import goals
from goals import DENSITIES, GUEST_COUNTS, OURS, ByPolicy, Goal

from ballonet_host_coord.simulate import joined, runs
from ballonet_host_coord.simulate.density import Density, density, fixed_count
from ballonet_host_coord.simulate.mixes import MIXES
from ballonet_host_coord.simulate.runs import Budget, Job, Outcome, Source
from ballonet_host_coord.simulate.vm import Vm
from ballonet_host_coord.water import Taker, fill

TRACES = Path(__file__).resolve().parents[3] / "shared" / "traces"
WEEK = "bitbrains-rnd/2013-08-week1-64vm.csv.gz"
BUILDS = ("hyperalloc-eurosys25/runs.csv.gz", "multi-clang-base-manual/*")
STAGGER_S = 2400.0   # how far apart the three recorded builds began
BUDGETS = (1.0, 1.05, 1.15, 1.3, 1.5, 2.0)
SLIDERS = range(0, 101, 10)
SEED = 1
# Nobody is logged in before and after; leaving the night out is the stricter reading, as it is only met demand.
OFFICE_H = (6.0, 19.0)
MOST_PER_FIXED = 3
# Density beside ours, of the plainest policy there is.
BESIDE = "follower"
GIB = 1 << 20
BEGAN_S = time.monotonic()


def say(line: str) -> None:
    print(f"[{time.monotonic() - BEGAN_S:5.0f} s] {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="ballonet's policy against its goals")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write everything there, too")
    parser.add_argument("--traces", metavar="FOLDER", type=Path, default=TRACES, help="where the traces lie")
    parser.add_argument("--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--quick", action="store_true", help="an hour of everything: does it work at all?")
    parser.add_argument("--ours", metavar="NAME", default=OURS, help="the policy that is measured against the goals")
    options = parser.parse_args()
    known = joined.names()
    if options.ours not in known:
        parser.error(f"there is no policy {options.ours!r}; there are {', '.join(known)}")
    found, values = measure(options, known)
    print(goals.table(found))
    if options.json:
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        seconds = round(time.monotonic() - BEGAN_S, 1)
        document = {"machine": machine, "quick": options.quick, "seconds": seconds, "goals": goals.as_json(found)}
        options.json.write_text(json.dumps(document | values, indent=1) + "\n")
    return 0


def measure(options: argparse.Namespace, known: list[str]) -> tuple[list[Goal], dict[str, Any]]:
    """Every goal in its order, and what they were computed from."""
    hours = {"to_h": 1.0} if options.quick else {}
    week = Source(options.traces / WEEK, seed=SEED, **hours)
    builds = Source(options.traces / BUILDS[0], BUILDS[1], seed=SEED, **hours)
    sets = {
        "64 VMs, a week, 1.05x": (week, 1.05, False),
        "3 builds, staggered, 1.05x": (builds, 1.05, True),
        "3 builds, together, 1.15x": (replace(builds, shift_s=STAGGER_S), 1.15, True),
    }
    day = replace(week, to_h=1.0 if options.quick else runs.DAY_H)
    servers = Source(mix="servers", vm_count=8 if options.quick else 40, seed=SEED, **hours)
    jobs: dict[tuple[str, str], Job] = {}
    absent = [path for path in (WEEK, BUILDS[0]) if not (options.traces / path).is_file()]
    for name, (source, times, _) in sets.items():
        jobs |= {(name, who): Job(source, who, Budget(times=times)) for who in known if _there(source)}
    for times in BUDGETS:
        jobs |= {(f"frontier {times}", who): Job(day, who, Budget(times=times)) for who in known if _there(day)}
    for slider in SLIDERS:
        jobs["slider", str(slider)] = Job(servers, options.ours, Budget(times=1.05), slider)
    for path in absent:
        say(f"missing: {options.traces / path}; what needs it is left out")
    outcomes = dict(zip(jobs, runs.run_all(list(jobs.values()), options.jobs, _Told(len(jobs))), strict=True))

    def figures(of: str) -> ByPolicy:
        by = {who: outcome.figures for (name, who), outcome in outcomes.items() if name == of}
        return {OURS if who == options.ours else who: those for who, those in by.items()}

    why = "the traces are not here"
    found: list[Goal] = []
    for name, (_, _, is_build) in sets.items():
        those = figures(name)
        found += goals.of_set(name, those, builds=is_build) if those else [goals.missing(f"{name}: all", "", why)]
    by_budget = {times: those for times in BUDGETS if (those := figures(f"frontier {times}"))}
    found += goals.of_frontier(by_budget) + goals.of_thrift(by_budget) if by_budget else [
        goals.missing("frontier and thrift: all", "", why)
    ]
    found += densities(options)
    say("decisions")
    whos = [who for who in (options.ours, "qmemman") if who in known]
    ms = {OURS if who == options.ours else who: decide_ms(who, options.quick) for who in whos}
    found += goals.of_decisions(ms, lambda few, many: many * math.log(many) / (few * math.log(few)))
    worst = worst_share(1000)
    found.append(Goal("weighted shares, off the exact ones at worst", "<= 0.01", worst, worst <= 0.01, "1000 cases"))
    values = {
        "sets": {name: figures(name) for name in sets},
        "frontier": {str(times): those for times, those in by_budget.items()},
        "slider": {key[1]: outcome.figures for key, outcome in outcomes.items() if key[0] == "slider"},
        "decide_ms": ms,
        "missing": [str(options.traces / path) for path in absent],
    }
    return found, values


def densities(options: argparse.Namespace) -> list[Goal]:
    """How many machines fit, ours and the plainest policy's, all mixes at once."""
    whos = list(dict.fromkeys((options.ours, BESIDE)))
    reached: dict[tuple[str, str], Density] = {}
    with runs.workers(options.jobs) as pool:
        wanted = [(mix, who) for mix in DENSITIES for who in whos]
        if pool is None:
            for mix, who in wanted:
                reached[mix, who] = density_of(mix, who, options.quick)
                say(f"density of {mix}, {who}")
        else:
            futures = {pool.submit(density_of, mix, who, options.quick): (mix, who) for mix, who in wanted}
            for future in as_completed(futures):
                reached[futures[future]] = future.result()
                say("density of {}, {}".format(*futures[future]))
    found = []
    for mix in DENSITIES:
        ours = reached[mix, options.ours]
        others = {who: reached[mix, who].ratio for who in whos if who != options.ours}
        found.append(goals.of_density(mix, ours.vm_count, ours.fixed_count, ours.ratio, others))
    return found


def density_of(mix: str, who: str, quick: bool) -> Density:
    """In whichever process: the largest count of this mix's machines on its host."""
    host_kib = MIXES[mix].host_kib // (16 if quick else 1)
    begin_h, end_h = OFFICE_H if mix.startswith("desktops") else (0.0, runs.DAY_H)
    most_made = 1024 // (16 if quick else 1)
    # Machine n is the same in every count, so all are made once.
    courses = MIXES[mix](most_made, SEED, end_h * runs.HOUR_S)
    fixed = fixed_count([course.peak_kib for course in courses], host_kib)
    most = min(most_made, max(1, fixed * MOST_PER_FIXED))
    machines = joined.window(joined.machines_of(courses[:most]), begin_h * runs.HOUR_S, end_h * runs.HOUR_S)

    def unmet_ratio(count: int) -> float:
        # More than even the clairvoyant could place needs no run.
        if joined.oracle_kib(machines[:count]) > host_kib:
            return 1.0
        return joined.score(who, machines[:count], host_kib, 50, SEED)[0]["unmet_ratio"] or 0.0

    return density(unmet_ratio, fixed, most)


def decide_ms(who: str, quick: bool) -> dict[int, float]:
    """The median time of one decision, by number of guests: a third of them changes before each, the host is full."""
    times_ms = {}
    for count in GUEST_COUNTS:
        draw = Random(SEED)
        vms = [
            Vm(f"g{n}", 744 * 1024, 8 * GIB, weight=draw.randint(1, 10_000), assigned_kib=2.0 * GIB, target_kib=2 * GIB)
            for n in range(count)
        ]
        _change(vms, draw)
        policy = joined.policy(who, slider=50, seed=SEED)
        policy.begin(0.0, count * 2 * GIB, vms)
        taken_ms = []
        for turn in range(1, 4 if quick else max(5, 20_000 // count)):
            _change(vms[turn % 3 :: 3], draw)
            policy.next_turn_s(float(turn), True)
            began_s = time.perf_counter()
            targets = policy.turn(float(turn), vms)
            taken_ms.append((time.perf_counter() - began_s) * 1e3)
            by_name = {vm.name: vm for vm in vms}
            for name, target_kib in targets.items():
                by_name[name].target_kib, by_name[name].assigned_kib = target_kib, float(target_kib)
        times_ms[count] = statistics.median(taken_ms)
    return times_ms


def _change(vms: Iterable[Vm], draw: Random) -> None:
    for vm in vms:
        vm.used_kib = vm.demand_kib = vm.shows_kib = draw.randint(GIB, 3 * GIB)


def worst_share(cases: int) -> float:
    """How far the project's sharing is from exact water-filling (by bisection of the level), at worst, of a share."""
    draw, worst = Random(SEED), 0.0
    for _ in range(cases):
        takers = []
        for _ in range(draw.randint(2, 60)):
            lower_kib = draw.randint(64, 1024) * 1024
            takers.append(Taker(lower_kib, lower_kib, lower_kib + draw.randint(0, 8 * GIB), draw.randint(1, 10_000)))
        low_kib, high_kib = (sum(getattr(t, key) for t in takers) for key in ("lower_kib", "upper_kib"))
        supply_kib = draw.randint(low_kib, high_kib)
        for got_kib, exact_kib in zip(fill(supply_kib, takers), exact(supply_kib, takers), strict=True):
            worst = max(worst, abs(got_kib - exact_kib) / exact_kib)
    return worst


def exact(supply_kib: int, takers: list[Taker]) -> list[float]:
    """Water-filling by bisection: another way to the same answer than `water.fill` takes."""
    def held(level: float) -> list[float]:
        return [min(float(t.upper_kib), max(t.lower_kib, t.base_kib + level * t.weight)) for t in takers]

    low, high = 0.0, float(max(t.upper_kib / t.weight for t in takers))
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(held(middle)) <= supply_kib else (low, middle)
    return held(low)


def _there(source: Source) -> bool:
    return source.trace is None or source.trace.is_file()


class _Told:
    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, outcome: Outcome, done: int) -> None:
        job = outcome.job
        times = outcome.budget_kib / max(1, outcome.oracle_kib)
        say(f"{done} of {self._count}: {job.source}: {job.policy} at {times:.2f}x, {outcome.figures['seconds']} s")


if __name__ == "__main__":
    sys.exit(main())
