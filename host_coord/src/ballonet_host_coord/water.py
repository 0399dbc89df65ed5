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
from math import floor
from typing import NamedTuple


class Taker(NamedTuple):
    """Sizes in KiB; `lower <= upper` is expected, a smaller `upper` is read as `lower`."""

    base_kib: int
    lower_kib: int
    upper_kib: int
    weight: int


def fill(supply_kib: int, takers: Sequence[Taker | tuple[int, int, int, int]]) -> list[int]:
    """What each taker (or a plain tuple of the same four) holds, in order. The sum is at most `supply_kib`, or the sum
    of the lower bounds."""
    uppers = [upper if upper > lower else lower for _, lower, upper, _ in takers]
    if sum(uppers) <= supply_kib:
        return uppers
    lowers = [lower for _, lower, _, _ in takers]
    spare = supply_kib - sum(lowers)
    if spare <= 0:
        return lowers
    # A taker begins to rise at the level where base + L*weight passes its lower bound and stops at its upper bound.
    edges: list[tuple[float, int]] = []
    for base, lower, upper, weight in takers:
        if upper > lower:
            edges.append(((lower - base) / weight, weight))
            edges.append(((upper - base) / weight, -weight))
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
    held = []
    for (base, lower, _, weight), upper in zip(takers, uppers, strict=True):
        kib = base + floor(level * weight)
        held.append(lower if kib < lower else upper if kib > upper else kib)
    return held
