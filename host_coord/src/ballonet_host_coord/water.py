"""Weighted max-min fair sharing, exactly and in n log n: how memory is divided when there is not enough.

Each taker has a `base` it is measured from, a `lower` bound it gets in any case, an `upper` bound it never
exceeds and a weight. A common water level rises; at level L a taker holds clamp(base + L * weight, lower, upper).
The level
is found where all that is held together meets the supply. With base = minimum and upper = demand this is
the sharing of invariant I5: a taker that overstates its demand only lifts its own `upper`, so it gains at most
the share that its weight gives it.

Source of the scheme: max-min fairness by progressive filling (Bertsekas & Gallager, Data Networks, 6.5.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor


@dataclass(frozen=True, slots=True)
class Taker:
    """Sizes in KiB; `lower <= upper` is expected, a smaller `upper` is read as `lower`."""

    base_kib: int
    lower_kib: int
    upper_kib: int
    weight: int


def fill(supply_kib: int, takers: Sequence[Taker]) -> list[int]:
    """What each taker holds, in order. The sum is at most `supply_kib`, or the sum of the lower bounds."""
    lowers = [taker.lower_kib for taker in takers]
    uppers = [max(taker.lower_kib, taker.upper_kib) for taker in takers]
    if sum(uppers) <= supply_kib:
        return uppers
    spare = supply_kib - sum(lowers)
    if spare <= 0:
        return lowers
    # A taker begins to rise at the level where base + L*weight passes its lower bound and stops at its upper bound.
    edges: list[tuple[float, int]] = []
    for taker, lower, upper in zip(takers, lowers, uppers, strict=True):
        if upper > lower:
            edges.append(((lower - taker.base_kib) / taker.weight, taker.weight))
            edges.append(((upper - taker.base_kib) / taker.weight, -taker.weight))
    edges.sort()
    level = edges[0][0]
    rising = 0
    left = float(spare)
    for edge, change in edges:
        if rising:
            cost = (edge - level) * rising
            if cost >= left:
                level += left / rising
                break
            left -= cost
        level = edge
        rising += change
    return [
        min(upper, max(lower, taker.base_kib + floor(level * taker.weight)))
        for taker, lower, upper in zip(takers, lowers, uppers, strict=True)
    ]
