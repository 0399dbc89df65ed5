"""A generated machine's course of demand as plain data: what a mix makes and a simulation replays. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 1024
GIB = 1024 * MIB
DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Course:
    """One machine. `samples`: (seconds, used KiB, page cache KiB or None), by time; each holds until the next one.

    `end_s`: when the machine goes, after the last sample.
    """

    name: str
    provisioned_kib: int
    samples: tuple[tuple[float, int, int | None], ...]
    end_s: float

    @property
    def peak_kib(self) -> int:
        """The most it ever uses: its fixed size, when it has one."""
        return max(used_kib for _, used_kib, _ in self.samples)

    @property
    def mean_kib(self) -> float:
        """The mean over time, since samples lie at irregular times."""
        return self.mean_between_kib(self.samples[0][0], self.end_s)

    def mean_between_kib(self, from_s: float, to_s: float) -> float:
        """The mean over time of a part of the course; 0 where it does not exist then."""
        total, span_s = 0.0, 0.0
        ends_s = [*(t_s for t_s, _, _ in self.samples[1:]), self.end_s]
        for (t_s, used_kib, _), end_s in zip(self.samples, ends_s, strict=True):
            held_s = min(end_s, to_s) - max(t_s, from_s)
            if held_s > 0:
                total += used_kib * held_s
                span_s += held_s
        return total / span_s if span_s else 0.0


def finish(
    name: str, provisioned_kib: int, samples: Sequence[tuple[float, float, float | None]], end_s: float
) -> Course:
    """A course of what was drawn: MiB become whole KiB, times are rounded to 10 ms, what is past the end goes.

    Raises ValueError when nothing is left.
    """
    kept: list[tuple[float, int, int | None]] = []
    for t_s, used_mib, cached_mib in samples:
        at_s = round(t_s, 2)
        if at_s >= end_s or (kept and at_s <= kept[-1][0]):
            continue
        used_kib = min(provisioned_kib, max(0, round(used_mib * MIB)))
        kept.append((at_s, used_kib, None if cached_mib is None else max(0, round(cached_mib * MIB))))
    if not kept:
        raise ValueError(f"{name}: no sample before its end at {end_s:g} s")
    return Course(name, provisioned_kib, tuple(kept), end_s)
