"""Pictures: they are written, they are the same for the same values, and their labels do not overlap."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.simulate import plots
from ballonet_host_coord.simulate.plots import LABEL_GAP, PlotError, frontier, over_time, slider_curve
from ballonet_host_coord.simulate.report import Report
from ballonet_host_coord.simulate.runs import Budget, Job, Outcome, work
from ballonet_host_coord.simulate.sources import Source

NAMES = ("ballonet", "lazy", "static", "oracle")


@pytest.fixture
def outcomes(engine) -> list[Outcome]:
    source = Source(mix="servers", vm_count=2, to_h=1.0)
    return [work(Job(source, name, Budget(times=1.05), points=60)) for name in NAMES]


def report_of(outcomes: list[Outcome], times=1.05, slider=50) -> Report:
    figures = {outcome.job.policy: outcome.figures for outcome in outcomes}
    oracle_kib = outcomes[0].oracle_kib
    return Report("some demand", oracle_kib, round(oracle_kib * times), slider, 1, figures)


def draw(kind: str, path: Path, outcomes: list[Outcome]) -> None:
    if kind == "run":
        over_time(path, report_of(outcomes), outcomes)
    elif kind == "frontier":
        frontier(path, [report_of(outcomes, times) for times in (1.0, 1.05, 2.0)])
    else:
        slider_curve(path, [report_of(outcomes, slider=s) for s in (0, 50, 100)], "ballonet", {0: 1.8, 100: 1.2})


@pytest.mark.parametrize("kind", ["run", "frontier", "slider"])
def test_a_picture_is_the_same_bytes_each_time(tmp_path, outcomes, kind):
    """An SVG carries no date and no chance, and says its units and its data as text."""
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(kind, first, outcomes)
    draw(kind, second, outcomes)
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert "some demand" in text
    assert "%" in text
    assert "<dc:date>" not in text


@pytest.mark.parametrize("kind", ["run", "frontier", "slider"])
def test_the_name_chooses_the_kind_of_file(tmp_path, outcomes, kind):
    """.png is a PNG."""
    path = tmp_path / "a.png"
    draw(kind, path, outcomes)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.pdf", "a", "none/a.svg"])
def test_a_picture_that_could_not_be_is_refused_first(tmp_path, name):
    """Another kind of file, or a folder that is not there, is told before anything runs."""
    with pytest.raises(PlotError, match=r"ends in \.svg or \.png|no folder"):
        plots.ensure(tmp_path / name)


def test_without_matplotlib_it_is_said_what_to_install(tmp_path, monkeypatch):
    """The Debian package and the extra are named."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"python3-matplotlib.*extra `plot`"):
        plots.ensure(tmp_path / "a.svg")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_labels_keep_apart_and_in_order(heights):
    """However lines end, their labels do not overlap and stand in the lines' order, each near its own."""
    heights.sort()
    placed = plots._apart(heights)
    assert len(placed) == len(heights)
    for low, high in pairwise(placed):
        assert high - low >= LABEL_GAP - 1e-9
    assert sum(placed) == pytest.approx(sum(heights))


def test_the_cache_is_drawn_where_it_is_known(tmp_path, outcomes):
    """A slider's curve has what page cache misses, of data that tell it, and no axis for it of others."""
    known = replace(outcomes[0], figures={**outcomes[0].figures, "cache_deficit_ratio": 0.1})
    for those, is_drawn in (([known], True), (outcomes[:1], False)):
        slider_curve(tmp_path / "a.svg", [report_of(those, slider=s) for s in (0, 100)], "ballonet")
        assert ("page cache missed" in (tmp_path / "a.svg").read_text()) == is_drawn


def test_what_is_apart_stays_where_it_is():
    """Labels move only where they would overlap."""
    assert plots._apart([0.1, 0.5, 0.9]) == [0.1, 0.5, 0.9]
