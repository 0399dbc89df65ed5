"""Pictures of simulations: one run over time, the frontier over budgets, the slider's curve: a shell module.

Matplotlib is imported when a picture is asked for, since nothing else needs it. An SVG of the same values is the same
bytes: fixed ids, no date, text as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .policies.registry import OURS
from .report import GIB, Figures, Report
from .runs import Outcome
from .sources import HOUR_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png")
NEEDS = "pictures need matplotlib: the Debian package python3-matplotlib, or the extra `plot` with pip"
# One strong colour for ours, one for the bound, greys for the rest: what to look at is not a matter of a legend.
INK, OURS_COLOR, ORACLE_COLOR, SHORT_COLOR, MUTED = "#22303c", "#0b6e99", "#5a8f29", "#c8321e", "#8b959e"
# Where zero stands on a logarithmic axis: a decade below the least that is not zero, or here where all are.
FLOOR_PERCENT = 1e-6
KEY_OF_LINES = "black: demand   coloured: held   dashed: budget   red: somebody is short"
LABEL_GAP = 0.034   # of the axis' height, between two labels at the right
DPI = 150
TITLE_INCHES = 0.6   # two lines
STYLE: Any = {
    "svg.hashsalt": "ballonet",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


class PlotError(Exception):
    """No picture, with what would help: theirs."""


def ensure(path: Path) -> None:
    """Raises PlotError where a picture could not be made in the end, before anything has been computed."""
    if path.suffix not in ENDINGS:
        raise PlotError(f"{path}: a picture ends in {' or '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise PlotError(f"{path}: there is no folder {path.absolute().parent}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise PlotError(NEEDS) from error


def over_time(path: Path, report: Report, outcomes: Sequence[Outcome]) -> None:
    """A panel for each policy: demand, what was held, the budget, shortages; and a bar of its unmet demand."""
    height = 1.2 + 1.75 * len(outcomes)
    with _figure(path, (11, height), "tight") as figure:
        grid = figure.subplots(len(outcomes), 2, squeeze=False, width_ratios=(4.2, 1), sharex="col")
        budget_gib = report.budget_kib / GIB
        for row, ((axes, bar), outcome) in enumerate(zip(grid, outcomes, strict=True)):
            name = outcome.job.policy
            hours = [t_s / HOUR_S for t_s, *_ in outcome.points]
            demand, held, unmet = ([point[i] / GIB for point in outcome.points] for i in (1, 2, 3))
            color = _color(name)
            axes.plot(hours, demand, color=INK, linewidth=0.9)
            axes.plot(hours, held, color=color, linewidth=1.3)
            axes.axhline(budget_gib, color=MUTED, linewidth=0.9, linestyle=(0, (5, 3)))
            short = [hour for hour, gib in zip(hours, unmet, strict=True) if gib > 0]
            axes.plot(short, [budget_gib * 1.07] * len(short), "|", color=SHORT_COLOR, markersize=7)
            axes.set_ylim(0, budget_gib * 1.16)
            axes.set_title(name, color=color, fontweight="bold" if name == OURS else "normal", pad=3)
            axes.set_ylabel("GiB")
            _bar(bar, outcome.figures, [other.figures for other in outcomes], color)
            if row == 0:
                axes.set_title(KEY_OF_LINES, loc="right", fontsize=9, pad=3)
            axes.set_xlim(hours[0], hours[-1])
        grid[-1][0].set_xlabel("time, hours")
        grid[-1][1].set_xlabel("unmet demand, % (log)")
        _hour_ticks(grid[-1][0], hours[0], hours[-1])
        figure.suptitle(
            f"{_best(report)}\n{report.source}; budget {budget_gib:.1f} GiB ="
            f" {report.budget_kib / report.oracle_kib:.2f} x oracle",
            x=0.01, y=1 - TITLE_INCHES / 8 / height, ha="left", va="top", fontsize=12,
        ).set_in_layout(False)  # fmt: skip
        # The title has the same room above few panels and above many.
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, 0, 1, 1 - TITLE_INCHES / height))


def frontier(path: Path, reports: Sequence[Report]) -> None:
    """Unmet demand against the budget for every policy, labelled at its line's end."""
    with _figure(path, (10, 6.4)) as figure:
        axes = figure.subplots()
        times = [report.budget_kib / report.oracle_kib for report in reports]
        names = list(reports[0].policies)
        zero = _zero(_exact_percent(those) for report in reports for those in report.policies.values())
        values = {name: [max(_exact_percent(report.policies[name]), zero) for report in reports] for name in names}
        top = max(max(line) for line in values.values()) * 2
        axes.set_yscale("log")
        axes.set_ylim(zero / 2, max(top, zero * 100))
        for name in sorted(names, key=lambda name: name == OURS):
            axes.plot(
                times, values[name], color=_color(name), marker="o", markersize=6 if name == OURS else 3,
                linewidth=2.6 if name == OURS else 1.0, zorder=5 if name == OURS else 2, clip_on=False,
            )  # fmt: skip
        axes.axhline(zero, color=MUTED, linewidth=0.8, linestyle=":")
        axes.text(times[0], zero * 1.15, "none", color=MUTED, fontsize=9, va="bottom", ha="left")
        _label_ends(axes, times[-1], {name: line[-1] for name, line in values.items()})
        axes.set_xticks(times, [f"{value:.2f}" for value in times], rotation=0)
        _part_close_ticks(axes, times)
        axes.minorticks_off()
        axes.set_xlabel("the host's memory, as a multiple of what a clairvoyant needs")
        axes.set_ylabel("unmet demand, % of GiB·s")
        axes.grid(axis="y", color="#e4e7ea", linewidth=0.6)
        axes.set_title(f"{_best_of_all(reports)}\n{reports[0].source}", fontsize=12, pad=10)


def slider_curve(
    path: Path, reports: Sequence[Report], policy: str, densities: Mapping[int, float] | None = None
) -> None:
    """What the slider trades, on one axis: above, memory held and what the page cache misses, or how many machines fit;
    below, what machines lack."""
    with _figure(path, (9, 6.4)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        places = [report.slider for report in reports]
        figures = [report.policies[policy] for report in reports]
        held = [(figure_["held_mean_kib"] or 0.0) / GIB for figure_ in figures]
        upper.plot(places, held, color=OURS_COLOR, linewidth=2.2, marker="o", markersize=4)
        upper.set_ylabel("memory held, mean GiB", color=OURS_COLOR)
        upper.set_ylim(0, max(held) * 1.15)
        if densities:
            _second(upper, list(densities), list(densities.values()), "machines per fixed size", ORACLE_COLOR)
        elif all(figure_["cache_deficit_ratio"] is not None for figure_ in figures):
            missed = [(figure_["cache_deficit_ratio"] or 0.0) * 100 for figure_ in figures]
            _second(upper, places, missed, "page cache missed, %", ORACLE_COLOR)
        zero = _zero(map(_exact_percent, figures))
        unmet = [max(_exact_percent(figure_), zero) for figure_ in figures]
        lower.plot(places, unmet, color=SHORT_COLOR, linewidth=2.2, marker="o", markersize=4)
        lower.set_yscale("log")
        lower.set_ylim(zero / 2, max(max(unmet) * 3, zero * 100))
        lower.axhline(zero, color=MUTED, linewidth=0.8, linestyle=":")
        lower.text(0.995, zero * 1.2, "none", color=MUTED, fontsize=9, ha="right",
                   transform=lower.get_yaxis_transform())  # fmt: skip
        lower.set_ylabel("unmet demand, %", color=SHORT_COLOR)
        episodes = [figure_["episodes_per_vm_day"] or 0.0 for figure_ in figures]
        _second(lower, places, episodes, "shortages > 2 s per VM-day", INK)
        lower.set_xlabel("slider: 0 performance, 100 density")
        lower.set_xlim(min(places) - 2, max(places) + 2)
        first, last = held[0], held[-1]
        said = f"From {places[0]} to {places[-1]} the slider holds {first:.1f} to {last:.1f} GiB"
        figure.suptitle(f"{said}\n{policy} on {reports[0].title}", x=0.01, ha="left", fontsize=12)


@contextmanager
def _figure(
    path: Path, size: tuple[float, float], layout: Literal["constrained", "tight"] = "constrained"
) -> Iterator[Figure]:
    """A figure that is written to `path` in the end. Raises PlotError."""
    ensure(path)
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=size, layout=layout)
        FigureCanvasAgg(figure)
        yield figure
        metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=DPI, metadata=metadata)


def _bar(axes: Axes, figures: Figures, others: Sequence[Figures], color: str) -> None:
    unmet = _exact_percent(figures)
    most = max(max(map(_exact_percent, others)), FLOOR_PERCENT * 100)
    share = max(0.0, log10(max(unmet, FLOOR_PERCENT) / FLOOR_PERCENT) / log10(most / FLOOR_PERCENT))
    axes.barh([0], [max(share, 0.01)], color=color, height=0.45)
    axes.set_xlim(0, 1.0)
    axes.set_ylim(-0.9, 0.9)
    axes.set_yticks([])
    axes.set_xticks([0, 1], ["none", f"{most:.2g}"])
    axes.text(0.02, 0.36, f"{_said(unmet)} unmet", va="bottom", fontsize=10, in_layout=False)
    episodes = figures["episodes_per_vm_day"] or 0.0
    axes.text(0.02, -0.36, f"{episodes:.3g} episodes/VM-day", va="top", fontsize=9, color=MUTED, in_layout=False)


def _hour_ticks(axes: Axes, first_h: float, last_h: float) -> None:
    """Whole parts of a day, some five to nine of them."""
    step_h = next((step for step in (0.25, 0.5, 1, 2, 4, 6, 12, 24, 48, 96) if (last_h - first_h) / step <= 9), 168)
    axes.set_xticks([number * step_h for number in range(ceil(first_h / step_h), int(last_h / step_h) + 1)])


def _second(axes: Axes, places: Sequence[float], values: Sequence[float], label: str, color: str) -> None:
    other: Any = axes.twinx()
    other.plot(places, values, color=color, linewidth=1.4, linestyle=(0, (4, 2)))
    other.set_ylabel(label, color=color)
    other.set_ylim(0, max(values) * 1.15 or 1.0)
    other.spines["right"].set_visible(True)


def _label_ends(axes: Axes, at: float, ends: Mapping[str, float]) -> None:
    """Names at the right of their lines, moved apart where they would overlap, joined to their line by a thin one."""
    low, high = (log10(limit) for limit in axes.get_ylim())
    wanted = sorted((((log10(value) - low) / (high - low)), name) for name, value in ends.items())
    placed = _apart([height for height, _ in wanted])
    for (height, name), label in zip(wanted, placed, strict=True):
        axes.annotate(
            name, xy=(at, 10 ** (low + height * (high - low))), xycoords="data",
            xytext=(1.045, label), textcoords="axes fraction", va="center", fontsize=11 if name == OURS else 9,
            color=_color(name), fontweight="bold" if name == OURS else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#c9cfd4", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2},
        )  # fmt: skip


def _apart(heights: Sequence[float]) -> list[float]:
    """Rising heights moved as little as it takes to be LABEL_GAP apart: those that meet spread around their mean."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _middle(groups[-1]) - _middle(groups[-2]) < LABEL_GAP * (
            len(groups[-1]) + len(groups[-2])
        ) / 2:
            last = groups.pop()
            groups[-1] = groups[-1] + last
    return [
        _middle(group) + (index - (len(group) - 1) / 2) * LABEL_GAP for group in groups for index in range(len(group))
    ]


def _middle(group: Sequence[float]) -> float:
    return sum(group) / len(group)


def _part_close_ticks(axes: Axes, times: Sequence[float]) -> None:
    """Budgets that lie closer than their labels are wide are labelled in two lines."""
    near = (max(times) - min(times)) * 0.07
    last, lowered = None, False
    for value, label in zip(times, axes.get_xticklabels(), strict=True):
        lowered = last is not None and value - last < near and not lowered
        if lowered:
            label.set_text(f"\n{label.get_text()}")
        last = value
    axes.set_xticks(times, [label.get_text() for label in axes.get_xticklabels()])


def _color(name: str) -> str:
    return {OURS: OURS_COLOR, "oracle": ORACLE_COLOR}.get(name, MUTED)


def _zero(percents: Iterable[float]) -> float:
    """Where nothing stands on a logarithmic axis."""
    least = min((percent for percent in percents if percent > 0), default=0.0)
    return 10.0 ** (floor(log10(least)) - 1) if least else FLOOR_PERCENT


def _exact_percent(figures: Figures) -> float:
    return (figures["unmet_ratio"] or 0.0) * 100


def _said(percent: float) -> str:
    return "none" if percent == 0 else f"{percent:.2g} %"


def _best(report: Report) -> str:
    """The finding in one line."""
    unmet = {name: _exact_percent(figures) for name, figures in report.policies.items() if name != "oracle"}
    if not unmet:
        return "The clairvoyant's run"
    best = min(unmet, key=lambda name: (unmet[name], name != OURS))
    if len(unmet) == 1:
        return f"{best} leaves {_said(unmet[best])} of demand unmet"
    second = min((name for name in unmet if name != best), key=lambda name: unmet[name])
    return f"{best} leaves least of demand unmet: {_said(unmet[best])}, next {second}: {_said(unmet[second])}"


def _best_of_all(reports: Sequence[Report]) -> str:
    names = [name for name in reports[0].policies if name != "oracle"]
    if OURS not in names or len(names) < 2:
        return "Unmet demand by the host's memory"
    unmet = [{name: report.policies[name]["unmet_ratio"] or 0.0 for name in names} for report in reports]
    least = sum(at_budget[OURS] <= min(at_budget.values()) for at_budget in unmet)
    return f"{OURS} leaves least unmet, or as little as any, at {least} of {len(reports)} budgets"
