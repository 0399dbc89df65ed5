"""What a benchmark found: samples with a unit, quantiles of them, ratios between them, and a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

P99_SAMPLES = 100


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity. `missing`: why there are no samples; an empty figure says so and is never left out.

    `of`: of a ratio, how many samples its two sides have.
    """

    bench: str
    name: str
    unit: str
    samples: tuple[float, ...]
    missing: str = ""
    of: tuple[int, ...] = ()

    @property
    def count(self) -> str:
        """What the table shows as n."""
        return ":".join(map(str, self.of or (len(self.samples),)))

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def p99(self) -> float | None:
        """The nearest rank. None below 100 samples, where it would be the largest under another name."""
        if len(self.samples) < P99_SAMPLES:
            return None
        return sorted(self.samples)[math.ceil(0.99 * len(self.samples)) - 1]

    @property
    def largest(self) -> float | None:
        return max(self.samples, default=None)

    def as_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "bench": self.bench,
            "name": self.name,
            "unit": self.unit,
            "count": len(self.samples),
            "median": self.median,
            "p99": self.p99,
            "max": self.largest,
        }
        if self.of:
            value["of"] = list(self.of)
        # Of thousands of samples the quantiles say enough.
        if len(self.samples) <= 100:
            value["samples"] = list(self.samples)
        if self.missing:
            value["missing"] = self.missing
        return value


class Findings:
    """Figures and ratios in the order in which they were found."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, bench: str, name: str, unit: str, samples: Sequence[float], missing: str = "") -> Figure:
        figure = Figure(bench, name, unit, tuple(samples), (missing or "no samples") if not samples else "")
        self.figures.append(figure)
        return figure

    def ratio(self, bench: str, name: str, over: Figure, under: Figure) -> None:
        """The medians' ratio, `over` / `under`; no samples where one of them has none."""
        if over.median is None or not under.median:
            self.add(bench, name, "x", [], "one side was not measured")
        else:
            of = (len(over.samples), len(under.samples))
            self.figures.append(Figure(bench, name, "x", (over.median / under.median,), of=of))

    def table(self) -> str:
        rows = [("bench", "figure", "unit", "n", "median", "p99", "max")]
        for figure in self.figures:
            # A single number is no distribution.
            tail = ("", "") if len(figure.samples) == 1 else (number(figure.p99), number(figure.largest))
            rows.append(
                (figure.bench, figure.name, figure.unit, figure.count, number(figure.median), *tail)
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = []
        for row in rows:
            cells = [
                cell.ljust(width) if column < 3 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        lines += [f"{figure.bench}: {figure.name}: {figure.missing}" for figure in self.figures if figure.missing]
        return "\n".join(lines)


def number(value: float | None) -> str:
    """Three digits that mean something."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
