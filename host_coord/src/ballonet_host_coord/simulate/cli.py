"""`ballonet simulate`: compare policies on recorded or generated demand, in virtual time.

Exit codes as everywhere in `ballonet`: 0 done, 1 failed, 2 misused.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shutil
import sys
from math import inf
from pathlib import Path
from typing import NoReturn

import click

from ballonet_host_coord.ports import PortError
from ballonet_host_coord.slider import DEFAULT_SLIDER, MOST_SLIDER

from . import plots, report, runs, sources, written
from .characters import CHARACTERS
from .mixes import MIXES
from .policies.registry import OURS, POLICIES, takes_slider
from .recording import RecordedHost, overhead_kib
from .report import GIB, Report
from .runs import Budget, Job, Outcome
from .sources import DAY_H, Source

DEFAULT_POLICIES = "ballonet,follower,lazy,static,oracle"
# From the clairvoyant's own need, where every policy must lack something, to twice that (design, numbers to reach).
FRONTIER = (1.0, 1.05, 1.15, 1.3, 1.5, 2.0)
UNITS_KIB = {"M": 1024, "G": 1024**2, "T": 1024**3}
DEFAULT_VMS = 64
DEFAULT_TIMES = 1.05
# Points in a picture of one run: as many as its panels have pixels across, or fewer.
PICTURE_POINTS = 1200
FAILURES = (ValueError, OSError, PortError, plots.PlotError)
FAILED = 1


def _budget(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Budget | None:
    """`1.05x` (of what the oracle needs) or a size such as `96G`."""
    if value is None:
        return None
    budget = Budget()
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)x", value):
        budget = Budget(times=float(found[1]))
    elif found := re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])", value):
        budget = Budget(kib=round(float(found[1]) * UNITS_KIB[found[2]]))
    if not (budget.times or budget.kib):
        raise click.BadParameter(f"{value!r}; say 1.05x for a multiple of the oracle's need, or a size like 96G")
    return budget


def _sliders(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...]:
    """`25`, or `0:100:10` for each of a range; nothing for nothing."""
    if value is None:
        return ()
    found = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", value)
    places: tuple[int, ...] = ()
    if found and found[2] is None:
        places = (int(found[1]),)
    elif found and int(found[3]):
        places = tuple(range(int(found[1]), int(found[2]) + 1, int(found[3])))
    if not places or places[-1] > MOST_SLIDER:
        raise click.BadParameter(f"{value!r}; say a whole number from 0 to 100, or FIRST:LAST:STEP within them")
    return places


def _hours(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[float, float] | None:
    """`6:18`: from the sixth hour to the eighteenth; either may be left out."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)?:(\d+(?:\.\d+)?)?", value)
    from_h, to_h = (float(found[1] or 0), float(found[2] or inf)) if found else (0.0, 0.0)
    if not from_h < to_h:
        raise click.BadParameter(f"{value!r}; say FROM:TO in hours, FROM before TO, as 6:18, :24 or 12:")
    return from_h, to_h


def _policies(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """The names, each once; `all` for every one."""
    known = list(POLICIES)
    wanted = known if value == "all" else list(dict.fromkeys(part.strip() for part in value.split(",")))
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f", did you mean {near[0]}?" if near else "."
            raise click.BadParameter(f"there is no {name!r}{meant} There are: {', '.join(known)}; or all")
    return wanted


def _picture(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in plots.ENDINGS:
        raise click.BadParameter(f"{value}: a picture ends in {' or '.join(plots.ENDINGS)}")
    return value


def _characters(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`lying` for every machine, `lying=web*` for those whose name matches."""
    pairs = []
    for value in values:
        name, _, glob = value.partition("=")
        if name not in CHARACTERS:
            raise click.BadParameter(f"there is no {name!r}; there are: {', '.join(CHARACTERS)}")
        pairs.append((name, glob or "*"))
    return tuple(pairs)


def _mix_names() -> str:
    return "; ".join(f"{name}: {mix.what}" for name, mix in MIXES.items())


@click.command("simulate", epilog=f"Mixes: {_mix_names()}.")
@click.option("--traces", "trace", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Demand from a CSV (gzip too): vm,t_s,used_kib,provisioned_kib[,cached_kib,rss_kib].")
@click.option("--mix", type=click.Choice(list(MIXES)), help="Generated demand, a day of it.")
@click.option("--from-recording", "--from", "recording", metavar="RECORDING",
              type=click.Path(exists=True, path_type=Path), help="Demand from what `ballonet serve` has recorded.")
@click.option("--select", metavar="GLOB", default="*", show_default=True, help="Machines of the traces, by name.")
@click.option("--vms", type=click.IntRange(1), metavar="N",
              help=f"So many machines. [default: all of a file, {DEFAULT_VMS} of a mix]")
@click.option("--days", type=click.FloatRange(0, min_open=True), metavar="N", help="The first N days.")
@click.option("--hours", callback=_hours, metavar="FROM:TO", help="This part of the time.")
@click.option("--shift", "shift_s", type=float, default=0.0, metavar="SECONDS",
              help="Machine number n starts n times that earlier.")
@click.option("--together", is_flag=True, help="All machines start at the same moment: the correlated case.")
@click.option("--character", "characters", callback=_characters, metavar="NAME[=GLOB]", multiple=True,
              help=f"Machines with this character, by name; may be repeated. {', '.join(CHARACTERS)}.")
@click.option("--policy", "names", callback=_policies, metavar="NAME[,NAME]", default=DEFAULT_POLICIES,
              show_default=True, help="What to compare; `all` for every one.")
@click.option("--budget", callback=_budget, metavar="SIZE",
              help="The host's memory: a multiple of what the oracle needs, or a size like 96G. "
              f"[default: {DEFAULT_TIMES}x; of a recording its own]")
@click.option("--slider", "sliders", callback=_sliders, metavar="N|A:B:STEP",
              help="0 performance to 100 density; of a range, the curve. "
              f"[default: {DEFAULT_SLIDER}; of a recording its own]")
@click.option("--frontier", is_flag=True, help=f"Six budgets, {FRONTIER[0]} to {FRONTIER[-1]} x oracle, on one day.")
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Of what is drawn.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, metavar="N",
              help="Processes. [default: one for each core]")
@click.option("--json", "json_path", metavar="FILE", help="For programs, `-` for stdout instead of the table.")
@click.option("--plot", "plot_path", metavar="FILE", callback=_picture, type=click.Path(dir_okay=False, path_type=Path),
              help="A picture, .svg or .png (needs matplotlib).")
@click.option("--write-traces", "write_path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the mix's demand as a trace file, and simulate nothing.")
def simulate(
    trace: Path | None, mix: str | None, recording: Path | None, select: str, vms: int | None, days: float | None,
    hours: tuple[float, float] | None, shift_s: float, together: bool, characters: tuple[tuple[str, str], ...],
    names: list[str], budget: Budget | None, sliders: tuple[int, ...], frontier: bool, seed: int, jobs: int,
    json_path: str | None, plot_path: Path | None, write_path: Path | None,
) -> None:  # fmt: skip
    """Compare policies on one host's demand, in virtual time.

    The table has a line for each policy; unmet is what machines lacked, in GiB-seconds, of what they needed.
    """
    if [trace, mix, recording].count(None) != 2:
        raise click.UsageError("say where demand comes from: --traces FILE, --mix NAME or --from RECORDING")
    if days is not None and hours is not None:
        raise click.UsageError("say either --days or --hours")
    if frontier and len(sliders) > 1:
        raise click.UsageError("say either --frontier or one --slider for it; a curve has one budget")
    from_h, to_h = hours or (0.0, days * DAY_H if days else DAY_H if frontier else inf)
    count = vms or (DEFAULT_VMS if mix else None)
    source = Source(trace, select, mix or "", count, seed, from_h, to_h, shift_s, together, recording, characters)
    try:
        if write_path is not None:
            _write(write_path, source)
            return
        if plot_path is not None:
            plots.ensure(plot_path)
        if recording is not None:
            own = _recorded(recording)
            budget, sliders = budget or Budget(), sliders or (own.slider,)
        budget, sliders = budget or Budget(times=DEFAULT_TIMES), sliders or (DEFAULT_SLIDER,)
        _simulate(source, names, budget, sliders, frontier, jobs, json_path, plot_path)
    except FAILURES as error:
        _fail(str(error))


def _simulate(
    source: Source, names: list[str], budget: Budget, sliders: tuple[int, ...], frontier: bool, jobs: int,
    json_path: str | None, plot_path: Path | None,
) -> None:  # fmt: skip
    budgets = [Budget(times=times) for times in FRONTIER] if frontier else [budget]
    points = PICTURE_POINTS if plot_path is not None and not frontier and len(sliders) == 1 else 0
    wanted = [Job(source, name, b, slider, points) for b in budgets for slider in sliders for name in names]
    outcomes = runs.run_all(wanted, jobs, _Progress(len(runs.distinct(wanted))))
    size = len(names)
    reports = [_report(outcomes[start : start + size]) for start in range(0, len(outcomes), size)]
    curve_of = OURS if OURS in names else names[0]
    if json_path is not None:
        everything = [one.to_json() for one in reports]
        text = json.dumps(everything[0] if len(everything) == 1 else everything, indent=2) + "\n"
        if json_path == "-":
            click.echo(text, nl=False)
        else:
            Path(json_path).write_text(text, encoding="utf-8")
    if json_path != "-":
        click.echo(_text(reports, frontier, sliders, names))
    if plot_path is not None:
        if frontier:
            plots.frontier(plot_path, reports)
        elif len(sliders) > 1:
            plots.slider_curve(plot_path, reports, curve_of)
        else:
            plots.over_time(plot_path, reports[0], outcomes)


def _text(reports: list[Report], frontier: bool, sliders: tuple[int, ...], names: list[str]) -> str:
    width = shutil.get_terminal_size((120, 24)).columns
    if frontier:
        return report.frontier(reports, width)
    if len(sliders) > 1:
        head = "\n".join(report.wrapped(reports[0].title, width))
        curves = [report.curve(reports, name, width) for name in names if takes_slider(name)]
        return "\n\n".join([head, *curves, *report.others(reports, [n for n in names if not takes_slider(n)], width)])
    return reports[0].to_text(width)


def _report(outcomes: list[Outcome]) -> Report:
    first = outcomes[0]
    figures = {outcome.job.policy: outcome.figures for outcome in outcomes}
    source = first.job.source
    return Report(str(source), first.oracle_kib, first.budget_kib, first.job.slider, source.seed, figures)


def _recorded(path: Path) -> RecordedHost:
    """The recorded host, with a word on what it is and on what is lost of it."""
    # A day of twenty guests takes minutes.
    click.echo(f"{path}: reading", err=True)
    recorded = sources.recorded(path)
    host = recorded.host
    click.echo(
        f"{path}: {len(host.guests)} guests over {host.end_s / sources.HOUR_S:.2f} h; budget"
        f" {host.budget_kib / GIB:.2f} GiB, {overhead_kib(host) / GIB:.2f} of it QEMU's own; slider {host.slider}",
        err=True,
    )
    if recorded.lost:
        click.echo(f"{path}: {recorded.lost}", err=True)
    return host


def _write(path: Path, source: Source) -> None:
    if not source.mix:
        raise click.UsageError("--write-traces writes generated demand; say --mix")
    if source.from_h or source.shift_s or source.together or source.characters:
        raise click.UsageError(
            "--write-traces writes a mix as it is; leave --hours FROM, --shift, --together and --character out"
        )
    rows = written.write(path, sources.courses_of(source))
    click.echo(f"{path}: {rows} rows of {source}", err=True)


class _Progress:
    """How far all the runs are, on stderr: one living line on a terminal, otherwise a line for each run."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._live = sys.stderr.isatty()
        self._tell(f"0 of {count} runs", last=False)

    def __call__(self, outcome: Outcome, done: int) -> None:
        times = outcome.budget_kib / max(1, outcome.oracle_kib)
        seconds = outcome.figures["seconds"] or 0.0
        place = f", slider {outcome.job.slider}" if takes_slider(outcome.job.policy) else ""
        what = f"{outcome.job.policy} at {times:.2f}x{place}: {seconds:.1f} s"
        self._tell(f"{done} of {self._count} runs: {what}", last=done == self._count)

    def _tell(self, text: str, last: bool) -> None:
        if self._live:
            # The line makes room for the table when all is done.
            click.echo(f"\r\x1b[K{'' if last else text}", nl=False, err=True)
        else:
            click.echo(text, err=True)


def _fail(message: str) -> NoReturn:
    click.echo(f"ballonet: {message}", err=True)
    sys.exit(FAILED)
