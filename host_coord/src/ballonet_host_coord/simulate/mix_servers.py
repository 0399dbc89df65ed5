"""A mix of servers with the shape of the hosted machines in the tables of the traces: web, database, batch, idle.
Pure.

Sizes, peaks and bursts are drawn so that the whole set has the statistics that are known of 250 hosted business
machines (bitbrains, Grid Workloads Archive GWA-T-12 "Rnd"): mean use near an eighth of the peak for most, peaks at 57
% of what is provisioned, bursts of a few minutes that come unannounced (autocorrelation 0.47 over 300 s and 0.20 over
an hour), and a gain (sum of peaks / peak of the sum) of 2.57 for 64 machines. What is of our own making: the four
kinds and their shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from random import Random

from .course import DAY_S, GIB, Course, finish

# A host for some fifty of them at fixed sizes: large enough for the gain to be that of a crowd.
HOST_KIB = 256 * GIB
# Mean 8.6 GiB, as 2075 GiB over 250 machines are 8.3; most are small (the largest rise of the median machine, 852
# MiB, is 32 % of it).
PROVISIONED_GIB = (2, 2, 4, 4, 8, 8, 32)
# 1184 / 2075 = 0.57 on the mean; how far they differ is an assumption.
PEAK_OF_PROVISIONED = (0.34, 0.80)
SLOW_S = (30.0, 60.0)
FAST_S = (1.0, 5.0)
# A burst is mostly over within a step of 300 s: what the autocorrelation says.
BURST_MEAN_S = 150.0
BURST_RISE_S = (1.0, 20.0)
# The largest rise in one step is 852 MiB or 32 % of the machine for the median machine: most bursts are smaller.
BURST_OF_RANGE = (0.10, 0.55)
NOISE_RATIO = 0.03


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of server. Levels are parts of its own peak; `busy_s` is the part of the day with its bursts."""

    name: str
    night: float
    noon: float
    bursts_per_day: float
    busy_s: tuple[float, float]


# The day curve of web servers halves at night; a database holds what its cache was given (the flat pods of the
# tables: a gain
# of 1.04 to 1.11); batch works from ten to five; a developer's idle machine builds something a few times a day.
WEB = Kind("web", night=0.12, noon=0.30, bursts_per_day=30, busy_s=(7 * 3600.0, 23 * 3600.0))
DATABASE = Kind("database", night=0.62, noon=0.66, bursts_per_day=4, busy_s=(0.0, DAY_S))
BATCH = Kind("batch", night=0.08, noon=0.08, bursts_per_day=24, busy_s=(-2 * 3600.0, 5 * 3600.0))
IDLE = Kind("idle", night=0.10, noon=0.12, bursts_per_day=4, busy_s=(9 * 3600.0, 18 * 3600.0))
# Every prefix of a mix has the shares 2:1:1:1.
TURN = (WEB, BATCH, IDLE, WEB, DATABASE)


def servers(vm_count: int, seed: int, duration_s: float = DAY_S) -> list[Course]:
    """Web by day, batch by night, databases and idle machines all the time."""
    return [_server(number, seed, duration_s) for number in range(vm_count)]


def _server(number: int, seed: int, duration_s: float) -> Course:
    kind = TURN[number % len(TURN)]
    draw = Random(f"{seed}:server:{number}")
    provisioned_kib = draw.choice(PROVISIONED_GIB) * GIB
    peak_mib = provisioned_kib / 1024 * draw.uniform(*PEAK_OF_PROVISIONED)
    night_mib, noon_mib = (peak_mib * level * draw.uniform(0.85, 1.15) for level in (kind.night, kind.noon))
    shift_s = draw.uniform(-1.5, 1.5) * 3600
    bursts = _bursts(kind, draw, peak_mib, duration_s)
    samples: list[tuple[float, float, None]] = []
    at_s = 0.0
    waiting = iter([*bursts, (duration_s, 0.0, 0.0, 0.0)])
    begin_s, rise_s, length_s, height_mib = next(waiting)
    while at_s < duration_s:
        if at_s >= begin_s + rise_s + length_s:
            begin_s, rise_s, length_s, height_mib = next(waiting)
            continue
        day = (1 - cos(2 * pi * (at_s - shift_s) / DAY_S)) / 2
        level_mib = night_mib + (noon_mib - night_mib) * day
        level_mib *= 1 + draw.uniform(-NOISE_RATIO, NOISE_RATIO)
        step_s = draw.uniform(*SLOW_S)
        if at_s >= begin_s:
            risen = min(1.0, (at_s - begin_s) / rise_s)
            level_mib = min(peak_mib, max(level_mib, level_mib + height_mib * risen))
            step_s = draw.uniform(*FAST_S) if risen < 1 else min(step_s, begin_s + rise_s + length_s - at_s)
        elif at_s + step_s > begin_s:
            step_s = begin_s - at_s + 0.02
        samples.append((at_s, level_mib, None))
        at_s += max(step_s, 0.5)
    return finish(f"{kind.name}-{number:03d}", provisioned_kib, samples, duration_s)


def _bursts(kind: Kind, draw: Random, peak_mib: float, duration_s: float) -> list[tuple[float, float, float, float]]:
    """(begins, rises for, lasts, by MiB), by time, none into another. One of each day goes up to the peak."""
    bursts: list[tuple[float, float, float, float]] = []
    for day in range(int(-(-duration_s // DAY_S))):
        count = max(1, round(kind.bursts_per_day * draw.uniform(0.7, 1.3)))
        begins_s = [day * DAY_S + draw.uniform(*kind.busy_s) % DAY_S for _ in range(count)]
        full = draw.randrange(count)
        for which, begin_s in enumerate(begins_s):
            height_mib = peak_mib * (1.0 if which == full else draw.uniform(*BURST_OF_RANGE))
            length_s = min(1800.0, 30 + draw.expovariate(1 / BURST_MEAN_S))
            bursts.append((begin_s, draw.uniform(*BURST_RISE_S), length_s, height_mib))
    kept: list[tuple[float, float, float, float]] = []
    for burst in sorted(bursts):
        if kept and burst[0] < sum(kept[-1][:3]) + 60:
            # Two that meet are one after the other, so that none is lost.
            burst = (sum(kept[-1][:3]) + draw.uniform(*SLOW_S) + 60, *burst[1:])
        kept.append(burst)
    return kept
