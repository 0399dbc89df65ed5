"""Office desktops by the announcement of Hyper-V's Dynamic Memory, logging in at once or over the morning. Pure.

The announcement: one host of 96 GB, LoginVSI's medium worker, 85 machines of a fixed 1 GB, 120 dynamic ones with a
startup of 512 MB and "about 700 MB on average". 120 x 700 MB are 82 of the 85 GB that the fixed ones had, so 700 MB
is what the host gave each one; with the default buffer of 20 % on top, its use was 583 MB. So a fixed size (its own
peak) is 1 GB on the mean here, and demand + 20 % fits about 120 times: the mix repeats what was announced, and a
better policy has to do better.

Each day: the machine runs all night, logged out; a log-in peak; work with programs opened and closed; a few minutes
now and then with something large; a valley at lunch; log-out in the evening. Times of samples are each machine's own,
so that rises do not coincide by construction; only the storm's log-ins do.
"""

from __future__ import annotations

from random import Random

from .course import DAY_S, GIB, Course, finish

# M. Kleef, Microsoft, "Hyper-V Dynamic Memory test for VDI density", 2010-11-08: 85 of 1 GB each on a host of 96 GB.
HOST_KIB = 85 * GIB
STATIC_MIB = 1024.0
STARTUP_MIB = 512.0
GIVEN_MEAN_MIB = 700.0
# Hyper-V's default (windowsserverdocs, dynamic-memory.md).
BUFFER_RATIO = 0.20
WORK_MEAN_MIB = GIVEN_MEAN_MIB / (1 + BUFFER_RATIO)
# Peaks differ, and their mean is the static size. How far they differ is an assumption: a quarter.
PEAK_SPREAD_RATIO = 0.25
# Twice the static size, as the maximum of a dynamic one: an assumption. It is never reached; it sets the floor (360
# MiB).
PROVISIONED_KIB = 2 * GIB
# What is used before anybody logs in, so that the startup size is enough: an assumption.
IDLE_MIB = (380.0, 460.0)
# A log-in peaks below the day's peak (profile, scanner, start-up programs): an assumption.
LOGIN_OF_PEAK = (0.85, 1.0)
LOGIN_RISE_S = (20.0, 60.0)
LOGIN_HOLD_S = (30.0, 120.0)
LOGIN_SETTLE_S = (60.0, 180.0)
# All within a minute: design brief, correlated case. Staggered: as people come to an office, an assumption.
STORM_S = (8 * 3600.0, 8 * 3600.0 + 60.0)
STAGGERED_S = (7 * 3600.0, 10 * 3600.0)
LUNCH_S = (11.75 * 3600.0, 13.0 * 3600.0)
LUNCH_LENGTH_S = (1800.0, 3600.0)
LUNCH_OF_WORK = 0.85
LOGOUT_S = (16.5 * 3600.0, 18.5 * 3600.0)
LOGOUT_FALL_S = (10.0, 30.0)
# Samples: 1-5 s apart while something happens, 30-60 s otherwise, as guests are seen by anything that looks at them.
FAST_S = (1.0, 5.0)
SLOW_S = (30.0, 60.0)
# The medium worker runs five programs at once at the most and goes on to another each minute or two, 12 minutes a loop.
PROGRAMS = 5
PROGRAM_MIB = (15.0, 60.0)
CHANGE_CHANCE = 0.35
# Something large: how often a day, and for how long; assumptions.
LARGE_TIMES = (1, 3)
LARGE_S = (120.0, 600.0)
LARGE_RISE_S = (5.0, 20.0)

Sample = tuple[float, float, None]


def storm(vm_count: int, seed: int, duration_s: float = DAY_S) -> list[Course]:
    """Everybody logs in within a minute at eight: the correlated case."""
    return [_desktop(number, seed, STORM_S, duration_s) for number in range(vm_count)]


def staggered(vm_count: int, seed: int, duration_s: float = DAY_S) -> list[Course]:
    """The same machines, and people come between seven and ten."""
    return [_desktop(number, seed, STAGGERED_S, duration_s) for number in range(vm_count)]


def login_s(number: int, seed: int, window_s: tuple[float, float]) -> float:
    """When this machine's user logs in; a draw of its own, so that the two variants have the same machines."""
    return Random(f"{seed}:desktop:{number}:login").uniform(*window_s)


def _desktop(number: int, seed: int, window_s: tuple[float, float], duration_s: float) -> Course:
    draw = Random(f"{seed}:desktop:{number}")
    peak_mib = STATIC_MIB * draw.uniform(1 - PEAK_SPREAD_RATIO, 1 + PEAK_SPREAD_RATIO)
    idle_mib = draw.uniform(*IDLE_MIB)
    work_mib = WORK_MEAN_MIB * draw.uniform(0.9, 1.1)
    begin_s = login_s(number, seed, window_s)
    logout_s = draw.uniform(*LOGOUT_S)
    samples: list[Sample] = []
    _quiet(samples, draw, 0.0, begin_s, idle_mib)
    at_s = _ramp(samples, draw, begin_s, draw.uniform(*LOGIN_RISE_S), idle_mib, peak_mib * draw.uniform(*LOGIN_OF_PEAK))
    at_s += draw.uniform(*LOGIN_HOLD_S)
    at_s = _ramp(samples, draw, at_s, draw.uniform(*LOGIN_SETTLE_S), samples[-1][1], work_mib)
    _work(samples, draw, at_s, logout_s, work_mib, peak_mib)
    at_s = _ramp(samples, draw, logout_s, draw.uniform(*LOGOUT_FALL_S), samples[-1][1], idle_mib)
    _quiet(samples, draw, at_s + draw.uniform(*SLOW_S), DAY_S, idle_mib)
    days = int(-(-duration_s // DAY_S))
    everything = [(t_s + day * DAY_S, mib, none) for day in range(days) for t_s, mib, none in samples]
    return finish(f"desktop-{number:03d}", PROVISIONED_KIB, everything, duration_s)


def _quiet(samples: list[Sample], draw: Random, from_s: float, to_s: float, level_mib: float) -> None:
    """Nobody is logged in; services breathe by a few MiB."""
    at_s = from_s
    while at_s < to_s:
        samples.append((at_s, level_mib + draw.uniform(-4.0, 4.0), None))
        at_s += draw.uniform(*SLOW_S)


def _ramp(
    samples: list[Sample], draw: Random, from_s: float, length_s: float, low_mib: float, high_mib: float
) -> float:
    """From one level to another in uneven steps a few seconds apart. When it ended, which is when `high_mib` stands."""
    at_s, end_s = from_s, from_s + length_s
    while at_s < end_s:
        samples.append((at_s, low_mib + (high_mib - low_mib) * ((at_s - from_s) / length_s), None))
        at_s += draw.uniform(*FAST_S)
    samples.append((end_s, high_mib, None))
    return end_s


def _work(samples: list[Sample], draw: Random, from_s: float, to_s: float, work_mib: float, peak_mib: float) -> None:
    """Programs come and go around `work_mib`; lunch is quiet; something large takes all up to `peak_mib`."""
    programs_mib = [draw.uniform(*PROGRAM_MIB) for _ in range(PROGRAMS)]
    are_open = [draw.random() < 0.5 for _ in range(PROGRAMS)]
    lunch_s = draw.uniform(*LUNCH_S)
    lunch_end_s = lunch_s + draw.uniform(*LUNCH_LENGTH_S)
    large_at_s = sorted(draw.uniform(from_s, to_s - 2 * LARGE_S[1]) for _ in range(draw.randint(*LARGE_TIMES)))
    at_s = from_s + draw.uniform(*SLOW_S)
    while at_s < to_s:
        if draw.random() < CHANGE_CHANCE:
            which = draw.randrange(PROGRAMS)
            are_open[which] = not are_open[which]
        opened_mib = sum(mib for mib, is_open in zip(programs_mib, are_open, strict=True) if is_open)
        level_mib = work_mib + opened_mib - sum(programs_mib) / 2 + draw.uniform(-8.0, 8.0)
        if lunch_s <= at_s < lunch_end_s:
            level_mib = work_mib * LUNCH_OF_WORK + draw.uniform(-4.0, 4.0)
        level_mib = min(level_mib, peak_mib)
        samples.append((at_s, level_mib, None))
        if large_at_s and large_at_s[0] <= at_s:
            large_at_s.pop(0)
            at_s = _ramp(samples, draw, at_s + draw.uniform(*FAST_S), draw.uniform(*LARGE_RISE_S), level_mib, peak_mib)
            at_s += draw.uniform(*LARGE_S)
            at_s = _ramp(samples, draw, at_s, draw.uniform(*LARGE_RISE_S), peak_mib, level_mib)
        at_s += draw.uniform(*SLOW_S)


