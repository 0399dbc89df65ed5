"""What a simulation found, as a table for people and as JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1024
GIB = 1024 * MIB
# A score: the engine's figures by name, units in the names.
Figures = Mapping[str, float | None]
# Its keys, in the order of the JSON.
FIGURES = (
    "unmet_ratio", "shortage_vm_seconds", "episodes_per_vm_day", "deepest_shortage_kib", "moved_gib_per_vm_day",
    "commands_per_vm_day", "held_mean_kib", "cache_deficit_ratio", "seconds",
)  # fmt: skip
NARROW = 40


@dataclass(frozen=True, slots=True)
class Column:
    """One figure in the table: two heading lines, its factor and its digits. Low `rank` is the last to be left out."""

    key: str
    head: tuple[str, str]
    factor: float
    digits: int
    rank: int


COLUMNS = (
    Column("unmet_ratio", ("unmet", "%"), 100, 4, 0),
    Column("shortage_vm_seconds", ("short", "VM-s"), 1, 0, 3),
    Column("episodes_per_vm_day", ("episodes", "/VM-day"), 1, 2, 1),
    Column("deepest_shortage_kib", ("deepest", "MiB"), 1 / MIB, 0, 5),
    Column("moved_gib_per_vm_day", ("moved", "GiB/VM-day"), 1, 2, 4),
    Column("commands_per_vm_day", ("commands", "/VM-day"), 1, 0, 6),
    Column("held_mean_kib", ("held", "GiB"), 1 / GIB, 1, 2),
    Column("cache_deficit_ratio", ("cache", "deficit %"), 100, 2, 7),
    Column("seconds", ("took", "s"), 1, 1, 8),
)


@dataclass(frozen=True, slots=True)
class Report:
    """One comparison: every policy on the same demand at the same budget."""

    source: str
    oracle_kib: int
    budget_kib: int
    slider: int
    seed: int
    policies: Mapping[str, Figures]

    @property
    def title(self) -> str:
        """What every run of it has in common, wherever the slider stands."""
        times = self.budget_kib / self.oracle_kib if self.oracle_kib else 0.0
        return (
            f"{self.source}: budget {self.budget_kib / GIB:.1f} GiB = {times:.2f} x oracle"
            f" ({self.oracle_kib / GIB:.1f} GiB), seed {self.seed}"
        )

    def to_text(self, width: int) -> str:
        """At most `width` wide; what does not fit is left out, and a line says what."""
        title = f"{self.title}, slider {self.slider}"
        return "\n".join([*wrapped(title, width), *table("policy", self.policies, known(self.policies), width)])

    def to_json(self) -> dict[str, Any]:
        """For programs: sizes in KiB, ratios as ratios."""
        return {
            "oracle_kib": self.oracle_kib,
            "budget_kib": self.budget_kib,
            "slider": self.slider,
            "seed": self.seed,
            "source": self.source,
            "policies": {
                name: {key: figures[key] for key in FIGURES} for name, figures in self.policies.items()
            },
        }


def known(rows: Mapping[str, Figures]) -> list[Column]:
    """The columns of which there are data: many traces do not tell the cache."""
    has_cache = any(figures.get("cache_deficit_ratio") is not None for figures in rows.values())
    return [column for column in COLUMNS if has_cache or column.key != "cache_deficit_ratio"]


def table(first: str, rows: Mapping[str, Figures], columns: Sequence[Column], width: int) -> list[str]:
    """Aligned lines with two of headings; the columns of highest rank go first where `width` is too small."""
    shown = list(columns)
    left_out: list[Column] = []
    while True:
        cells = [(first, *(column.head[0] for column in shown)), ("", *(column.head[1] for column in shown))]
        cells += [(name, *(_number(figures.get(c.key), c) for c in shown)) for name, figures in rows.items()]
        widths = [max(len(row[index]) for row in cells) for index in range(len(shown) + 1)]
        if sum(widths) + 2 * len(shown) <= width or len(shown) == 1:
            break
        gone = max(shown, key=lambda column: column.rank)
        shown.remove(gone)
        left_out.append(gone)
    lines = []
    for row in cells:
        line = "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        lines.append(line.rstrip())
    lines.insert(2, "-" * min(width, sum(widths) + 2 * len(shown)))
    if left_out:
        names = ", ".join(" ".join(column.head) for column in left_out)
        lines += wrapped(f"(too narrow for: {names})", width)
    return lines


def curve(reports: Sequence[Report], policy: str, width: int) -> str:
    """The slider's curve of one policy, a line for each place."""
    rows = {str(report.slider): report.policies[policy] for report in reports}
    return "\n".join([f"{policy} by slider:", *table("slider", rows, known(rows), width)])


def others(reports: Sequence[Report], policies: Sequence[str], width: int) -> list[str]:
    """Beside a curve: the policies to which the slider means nothing, a line for each. Nothing for none."""
    rows = {name: reports[0].policies[name] for name in policies}
    return ["\n".join(["at every place of the slider:", *table("policy", rows, known(rows), width)])] if rows else []


def frontier(reports: Sequence[Report], width: int) -> str:
    """Unmet % of every policy, a column for each budget."""
    columns = [
        Column(str(index), (f"{report.budget_kib / max(1, report.oracle_kib):.2f}x", "unmet %"), 100, 4, 0)
        for index, report in enumerate(reports)
    ]
    rows = {
        name: {str(index): report.policies[name]["unmet_ratio"] for index, report in enumerate(reports)}
        for name in reports[0].policies
    }
    return "\n".join([f"{reports[0].source}: unmet by budget", *table("policy", rows, columns, width)])


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > max(width, NARROW):
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def _number(value: float | None, column: Column) -> str:
    if value is None:
        return "-"
    shown = value * column.factor
    text = f"{shown:.{column.digits}f}"
    # A little is not nothing.
    if shown > 0 and float(text) == 0:
        return f"<{10 ** -column.digits:.{column.digits}f}"
    return text
