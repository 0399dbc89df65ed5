"""The slider between performance (0) and density (100), as the numbers that it sets together. Pure.

Five numbers move, each of them monotone, so that no guest ever wants more when the slider goes towards density (I10).
Between the points of `CURVE` they are interpolated: times on a logarithmic scale, the rest straight.

Up to 25, the default, a guest keeps what nobody else needs (it serves as page cache there), and gives it up as soon as
somebody does. From 50 on, idle memory goes back to the host, sooner and further towards 100.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from math import exp, log

DEFAULT_SLIDER = 25
MOST_SLIDER = 100


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the slider sets."""

    buffer_ratio: float
    """Scales every guest's own buffer: 1 is what its settings say."""
    held_half_life_s: float
    """What a guest needed before is wanted for a while longer, and halves in this time."""
    cache_kept_ratio: float
    """The least share of the file cache that ranks with the buffer, once nothing of it has been missed for long."""
    harm_psi_some_ratio: float
    """The share of time in which somebody in the guest waits for memory that is not yet harm."""
    surplus_ratio: float
    """The share of what would be left over that guests keep, between what they want and their maximum."""

    def buffered_kib(self, demand_kib: int, cache_kib: int, buffer_percent: int) -> int:
        """Demand with its buffer, or with its worthwhile cache where that is more."""
        spare_kib = int(demand_kib * buffer_percent * self.buffer_ratio / 100)
        return demand_kib + (cache_kib if cache_kib > spare_kib else spare_kib)


CURVE = {
    # Twice the buffer, the past kept for a day: the peak of yesterday's working hours still has its room. Five times
    # the waiting of a healthy, busy guest (1 %) is harm.
    0: Tuning(2.0, 86400.0, 0.5, 0.05, 1.0),
    # The buffer as set, the past kept for hours.
    25: Tuning(1.0, 7200.0, 0.35, 0.08, 1.0),
    # Half of what was needed is given back in 45 s, nine tenths in 150 s: programs that come and go
    # keep their room. Nothing is left to guests that they do not want.
    50: Tuning(1.0, 45.0, 0.25, 0.10, 0.0),
    # A quarter of the buffer covers what a guest grows by in the second that a report takes; idle memory is gone in
    # a minute; only stalls that people notice count.
    100: Tuning(0.25, 10.0, 0.05, 0.30, 0.0),
}


@functools.cache
def tuning(slider: int) -> Tuning:
    """The numbers at one place of the slider, 0 to 100. Raises ValueError beyond."""
    if not 0 <= slider <= MOST_SLIDER:
        raise ValueError(f"slider {slider}: allowed is 0 (performance) to {MOST_SLIDER} (density)")
    below = max(place for place in CURVE if place <= slider)
    above = min(place for place in CURVE if place >= slider)
    if below == above:
        return CURVE[below]
    part = (slider - below) / (above - below)
    left, right = CURVE[below], CURVE[above]

    def between(first: float, second: float) -> float:
        return first + (second - first) * part

    return Tuning(
        between(left.buffer_ratio, right.buffer_ratio),
        exp(between(log(left.held_half_life_s), log(right.held_half_life_s))),
        between(left.cache_kept_ratio, right.cache_kept_ratio),
        between(left.harm_psi_some_ratio, right.harm_psi_some_ratio),
        between(left.surplus_ratio, right.surplus_ratio),
    )
