"""How many machines fit on a host while unmet demand keeps a limit, found by doubling and bisection. Pure.

Unmet demand grows with the number of machines, but not strictly: another machine may come with valleys of its own.
So the answer is a count that keeps the limit while the next one tried does not, and every count tried is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# "At most 0.01 % unmet": the limit at which density is quoted (design, numbers to reach).
LIMIT_RATIO = 0.0001


@dataclass(frozen=True, slots=True)
class Density:
    """`vm_count` machines fit, `fixed_count` would with fixed sizes. `tried`: unmet ratio by count."""

    vm_count: int
    fixed_count: int
    tried: dict[int, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Machines per fixed machine; 0 when not even one fixed size fits."""
        return self.vm_count / self.fixed_count if self.fixed_count else 0.0


def fixed_count(peaks_kib: Sequence[int], host_kib: int) -> int:
    """How many machines fit, from the first on, when each has its own peak."""
    held_kib = 0
    for count, peak_kib in enumerate(peaks_kib):
        held_kib += peak_kib
        if held_kib > host_kib:
            return count
    return len(peaks_kib)


def density(
    unmet_ratio: Callable[[int], float], fixed: int, most: int, limit_ratio: float = LIMIT_RATIO, *,
    begin: int | None = None, step: int | None = None, within: int = 1,
) -> Density:  # fmt: skip
    """The largest count up to `most` at which `unmet_ratio(count)` is within the limit; 0 when none is.

    It begins at `begin` (`fixed` unless said), from where steps double in the direction that the answers show, and ends
    between two that are `within` apart.
    """
    tried: dict[int, float] = {}

    def fits(count: int) -> bool:
        if count not in tried:
            tried[count] = unmet_ratio(count)
        return tried[count] <= limit_ratio

    good, bad = 0, most + 1
    at, step = max(1, min(fixed if begin is None else begin, most)), max(1, step or fixed // 8)
    while good < at < bad:
        if fits(at):
            good, at = at, min(at + step, most)
        else:
            bad, at = at, max(at - step, 1)
        step *= 2
    while bad - good > max(1, within):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return Density(good, fixed, dict(sorted(tried.items())))
