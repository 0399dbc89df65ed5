"""A build farm with the shape of recorded clang builds in 16 GiB guests: the fastest rises that are known. Pure.

Recorded on real guests (the HyperAlloc artifact, EuroSys 2025; the tables of the traces): rising steps with a 99th
percentile of 598 MiB/s, a 99.9th of 833 and a largest of 2100; peaks of 11 to 15 of 16 GiB while linking; 2.5 to 5
GiB while compiling; 0.6 GiB between builds; a build of 40 to 60 minutes and as much rest; a page cache that grows to
2 GiB and beyond 5 near a build's end. An exponential distribution has both percentiles at once (598 = 4.6 x 130, 833
is near 6.9 x 130).
"""

from __future__ import annotations

from random import Random

from .course import DAY_S, GIB, Course, finish

HOST_KIB = 128 * GIB
# What 16 GiB guests of that artifact report.
PROVISIONED_KIB = 16_776_696
PEAK_MIB = (11 * 1024.0, 15 * 1024.0)
REST_MIB = (560.0, 640.0)
COMPILE_MIB = (3000.0, 5200.0)
LINK_OF_PEAK = (0.6, 0.85)
RISE_MEAN_MIB_PER_S = 130.0
RARE_RISE_MIB_PER_S = (833.0, 2100.0)
RARE_CHANCE = 0.0005
# Falls are steeper: programs end at once (median 162 to 269, 99th percentile 839 to 1363 MiB/s).
FALL_MEAN_MIB_PER_S = 230.0
BUILD_S = (2400.0, 3700.0)
REST_S = (1800.0, 3600.0)
LINK_S = (60.0, 200.0)
COMPILE_PHASE_S = (120.0, 400.0)
# The recorded periods: 1.0-2.5 s; between builds 30-60 s are enough, as nothing happens.
BUSY_STEP_S = (1.0, 2.5)
REST_STEP_S = (30.0, 60.0)
CACHE_FIRST_MIB = 110.0
CACHE_MIB = 2000.0
CACHE_END_MIB = (5000.0, 5700.0)
CACHE_END_S = 300.0


def build_farm(vm_count: int, seed: int, duration_s: float = DAY_S) -> list[Course]:
    """Build after build in every machine, each at its own times."""
    return [_builder(number, seed, duration_s) for number in range(vm_count)]


def _builder(number: int, seed: int, duration_s: float) -> Course:
    draw = Random(f"{seed}:builder:{number}")
    peak_mib = draw.uniform(*PEAK_MIB)
    rest_mib = draw.uniform(*REST_MIB)
    samples: list[tuple[float, float, float | None]] = []
    # The first build begins anywhere in a cycle of build and rest.
    at_s = _rest(samples, draw, 0.0, draw.uniform(60.0, REST_S[1] + BUILD_S[1]) % duration_s, rest_mib)
    first = True
    while at_s < duration_s:
        at_s = _build(samples, draw, at_s, peak_mib, rest_mib, full=first or draw.random() < 0.5)
        at_s = _rest(samples, draw, at_s, draw.uniform(*REST_S), rest_mib)
        first = False
    return finish(f"builder-{number:03d}", PROVISIONED_KIB, samples, duration_s)


def _rest(
    samples: list[tuple[float, float, float | None]], draw: Random, from_s: float, length_s: float, rest_mib: float
) -> float:
    at_s = from_s
    while at_s < from_s + length_s:
        samples.append((at_s, rest_mib + draw.uniform(-5.0, 5.0), CACHE_FIRST_MIB + draw.uniform(0.0, 2.0)))
        at_s += draw.uniform(*REST_STEP_S)
    return from_s + length_s


def _build(
    samples: list[tuple[float, float, float | None]], draw: Random, from_s: float, peak_mib: float, rest_mib: float,
    *, full: bool,
) -> float:  # fmt: skip
    """Compile phases, and links at the half and near the end; `full`: one of them goes up to the peak."""
    length_s = draw.uniform(*BUILD_S)
    phases = _phases(draw, from_s, length_s, peak_mib, full)
    cache_end_mib = draw.uniform(*CACHE_END_MIB)
    used_mib = rest_mib
    at_s = from_s
    for end_s, level_mib in phases:
        while at_s < end_s:
            done = (at_s - from_s) / length_s
            cached_mib = CACHE_FIRST_MIB + (CACHE_MIB - CACHE_FIRST_MIB) * done
            late_s = at_s - (from_s + length_s - CACHE_END_S)
            if late_s > 0:
                cached_mib += (cache_end_mib - CACHE_MIB) * late_s / CACHE_END_S
            samples.append((at_s, used_mib, min(cached_mib, PROVISIONED_KIB / 1024 - used_mib)))
            step_s = draw.uniform(*BUSY_STEP_S)
            # Up and down are drawn towards the phase's level, harder the farther away.
            pull = (level_mib - used_mib) / level_mib
            if draw.random() < min(0.97, max(0.03, 0.55 + pull)):
                rate = draw.expovariate(1 / RISE_MEAN_MIB_PER_S)
                if draw.random() < RARE_CHANCE:
                    rate = draw.uniform(*RARE_RISE_MIB_PER_S)
                used_mib = min(peak_mib, used_mib + min(rate, RARE_RISE_MIB_PER_S[1]) * step_s)
            else:
                used_mib = max(rest_mib, used_mib - draw.expovariate(1 / FALL_MEAN_MIB_PER_S) * step_s)
            at_s += step_s
    return at_s


def _phases(draw: Random, from_s: float, length_s: float, peak_mib: float, full: bool) -> list[tuple[float, float]]:
    """(ends at, level in MiB), by time."""
    links_s = [from_s + length_s * draw.uniform(0.35, 0.5), from_s + length_s * draw.uniform(0.62, 0.7)]
    # Beyond the peak, so that the peak is reached and held for a while.
    levels_mib = [peak_mib * (1.3 if full else draw.uniform(*LINK_OF_PEAK)), peak_mib * draw.uniform(*LINK_OF_PEAK)]
    phases: list[tuple[float, float]] = []
    at_s = from_s
    for link_s, level_mib in [*zip(links_s, levels_mib, strict=True), (from_s + length_s, None)]:
        while at_s < link_s:
            at_s = min(link_s, at_s + draw.uniform(*COMPILE_PHASE_S))
            phases.append((at_s, draw.uniform(*COMPILE_MIB)))
        if level_mib is not None:
            at_s += draw.uniform(*LINK_S)
            phases.append((at_s, level_mib))
    return phases
