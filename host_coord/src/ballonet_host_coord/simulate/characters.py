"""Guests with character: what goes wrong in a house, as changes to a trace's demand or to a machine's moods. Pure.

Chance is an argument too: the same `Random` makes the same guest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

from .demand_trace import DemandTrace, Step, trace_of
from .guest import Guest, Mood

if TYPE_CHECKING:
    from random import Random

# The hole in which xenopsd's squeezed gives a guest up: its balloon moves for a second in twenty.
STUCK_OFF_S, STUCK_ON_S = 19.0, 1.0

# A liar shows three times its demand: with a 20 % buffer that is most of a machine at a third of its size.
LIE_RATIO = 3.0

# A burst takes a quarter of the machine for half a minute, every ten minutes on average: a job of a build.
BURST_PARTS, BURST_S, BURST_EVERY_S = 4, 30.0, 600.0

# A thrasher goes 5 % of the machine over its size, and back, every ten seconds.
SWING_PARTS, SWING_EVERY_S = 20, 10.0


def ideal(trace: DemandTrace) -> Guest:
    """Follows its target and says what it needs."""
    return Guest(trace)


def hidden_floor(trace: DemandTrace, least_kib: int | None = None) -> Guest:
    """Its balloon takes nothing below `least_kib` (half of the machine unless said), and nobody has been told."""
    return Guest(trace, least_kib=trace.provisioned_kib // 2 if least_kib is None else least_kib)


def stuck(trace: DemandTrace, from_s: float = -inf) -> Guest:
    """Its balloon stays where it is from `from_s` on."""
    return Guest(trace, (Mood(max(from_s, trace.start_s), follows=False),))


def intermittently_stuck(trace: DemandTrace, off_s: float = STUCK_OFF_S, on_s: float = STUCK_ON_S) -> Guest:
    """Its balloon moves `on_s` after each `off_s` in which it does not."""
    return Guest(trace, tuple(_alternating(trace, off_s, on_s)))


def lying(trace: DemandTrace, ratio: float = LIE_RATIO) -> Guest:
    """It shows its demand times `ratio`."""
    return Guest(trace, (Mood(trace.start_s, shows_ratio=ratio),))


def silent(trace: DemandTrace, from_s: float = -inf) -> Guest:
    """It reports nothing from `from_s` on; what it showed last, or its first demand, is all that is known."""
    return Guest(trace, (Mood(max(from_s, trace.start_s), silent=True),))


def bursty(trace: DemandTrace, random: Random) -> Guest:
    """Its use jumps by a part of the machine for BURST_S, at random times."""
    height_kib = trace.provisioned_kib // BURST_PARTS
    times_s = [step.t_s for step in trace.steps]
    steps = dict(zip(times_s, trace.steps, strict=True))
    burst_s = trace.start_s + random.expovariate(1 / BURST_EVERY_S)
    while burst_s < trace.end_s:
        end_s = min(burst_s + BURST_S, trace.end_s)
        last = bisect_right(times_s, end_s) - 1
        if end_s < trace.end_s:
            steps[end_s] = trace.steps[last]._replace(t_s=end_s)
        first = bisect_right(times_s, burst_s) - 1
        for place in range(first, last + 1):
            step = trace.steps[place]
            t_s = max(burst_s, step.t_s)
            if t_s < end_s:
                steps[t_s] = step._replace(t_s=t_s, used_kib=step.used_kib + height_kib)
        burst_s = end_s + random.expovariate(1 / BURST_EVERY_S)
    return Guest(trace_of(trace.name, (steps[t_s] for t_s in sorted(steps)), trace.end_s))


def thrashing(trace: DemandTrace, every_s: float = SWING_EVERY_S) -> Guest:
    """Whatever it is given, it soon needs a little more, then less again."""
    return Guest(trace, tuple(_swings(trace, every_s)))


def cache_hungry(trace: DemandTrace) -> Guest:
    """It fills all that it is given, up to its maximum, with page cache that it could do without."""
    steps = (_full_of_cache(step) for step in trace.steps)
    return Guest(trace_of(trace.name, steps, trace.end_s))


# By the name that a person gives.
CHARACTERS: dict[str, Callable[[DemandTrace, Random], Guest]] = {
    "ideal": lambda trace, _: ideal(trace),
    "hidden-floor": lambda trace, _: hidden_floor(trace),
    "stuck": lambda trace, _: stuck(trace),
    "intermittently-stuck": lambda trace, _: intermittently_stuck(trace),
    "lying": lambda trace, _: lying(trace),
    "silent": lambda trace, _: silent(trace),
    "bursty": bursty,
    "thrashing": lambda trace, _: thrashing(trace),
    "cache-hungry": lambda trace, _: cache_hungry(trace),
}


def _alternating(trace: DemandTrace, off_s: float, on_s: float) -> Iterator[Mood]:
    t_s, count = trace.start_s, 0
    while t_s < trace.end_s:
        yield Mood(t_s, follows=False)
        yield Mood(t_s + off_s)
        count += 1
        t_s = trace.start_s + count * (off_s + on_s)


def _swings(trace: DemandTrace, every_s: float) -> Iterator[Mood]:
    swing_kib = trace.provisioned_kib // SWING_PARTS
    count = 1
    while (t_s := trace.start_s + count * every_s) < trace.end_s:
        yield Mood(t_s, swing_kib=swing_kib if count % 2 else -swing_kib)
        count += 1


def _full_of_cache(step: Step) -> Step:
    used_kib = min(max(0, step.used_kib), step.provisioned_kib)
    return step._replace(cached_kib=step.provisioned_kib - used_kib)
