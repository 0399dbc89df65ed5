"""A peer's own clock: its turns fall on multiples of its period, whatever moment the engine asks at. Pure.

A peer that has settled (same inputs as before, nothing to say) sleeps until something changes, and wakes at the
first multiple after that: what it would have seen and done in between is what it saw and did before. A turn at the
very moment of a change comes before it, so a sleeper has had that one too.
"""

from __future__ import annotations

from math import ceil, floor, inf

# Far above the rounding of a sum of periods over a year, far below any period.
SAME_MOMENT_S = 1e-6


class Ticks:
    """Turns at phase_s, phase_s + period_s, ...; each at most once."""

    __slots__ = ("_last", "_period_s", "_phase_s", "asleep")

    def __init__(self, period_s: float, phase_s: float = 0.0) -> None:
        self._period_s = period_s
        self._phase_s = phase_s
        self._last = -1
        self.asleep = False

    def take(self, now_s: float) -> int | None:
        """The number of the turn that falls on `now_s`, None if none does or it was taken before."""
        tick = round((now_s - self._phase_s) / self._period_s)
        if tick <= self._last or abs(self._phase_s + tick * self._period_s - now_s) > SAME_MOMENT_S:
            return None
        self._last = tick
        return tick

    def skip(self, now_s: float) -> None:
        """Counts the turns up to `now_s` as taken."""
        self._last = max(self._last, floor((now_s - self._phase_s + SAME_MOMENT_S) / self._period_s))

    def upcoming_s(self, now_s: float) -> float:
        """The next turn at or after `now_s` that was not taken, asleep or not."""
        tick = max(self._last + 1, ceil((now_s - self._phase_s - SAME_MOMENT_S) / self._period_s))
        return max(now_s, self._phase_s + tick * self._period_s)

    def next_s(self, now_s: float, changed: bool) -> float:
        """When to be called next; infinity while asleep, and a change wakes."""
        if changed and self.asleep:
            self.asleep = False
            self.skip(now_s)
        return inf if self.asleep else self.upcoming_s(now_s)
