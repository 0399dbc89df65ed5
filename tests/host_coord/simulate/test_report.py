"""The table and the JSON of a simulation."""

from __future__ import annotations

import pytest

from ballonet_host_coord.simulate.report import FIGURES, GIB, Report, curve, frontier, others

FULL = {
    "unmet_ratio": 0.00123, "shortage_vm_seconds": 77.0, "episodes_per_vm_day": 1.5, "deepest_shortage_kib": 2048.0,
    "moved_gib_per_vm_day": 3.25, "commands_per_vm_day": 1234.0, "held_mean_kib": 12.5 * GIB,
    "cache_deficit_ratio": 0.02, "seconds": 4.25,
}  # fmt: skip


def a_report(budget_gib=21, slider=50, **changes) -> Report:
    policies = {"ballonet": {**FULL, **changes}, "a-long-name-of-a-peer": FULL}
    return Report("some demand", 20 * GIB, budget_gib * GIB, slider, 7, policies)


def test_json_has_exactly_the_agreed_keys():
    """Programs find every figure of every policy, and nothing that is not agreed."""
    value = a_report().to_json()
    assert list(value) == ["oracle_kib", "budget_kib", "slider", "seed", "source", "policies"]
    assert value["policies"]["ballonet"] == FULL
    assert list(value["policies"]["ballonet"]) == list(FIGURES)
    assert len(FIGURES) == 9


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width):
    """Columns that do not fit are left out and named; unmet, and so the verdict, always stays."""
    text = a_report().to_text(width)
    assert max(map(len, text.splitlines())) <= max(width, 40)
    assert "0.1230" in text
    assert ("too narrow" in text) == (width < 100)


def test_columns_are_aligned():
    """Numbers end at the same place in every line."""
    lines = a_report(unmet_ratio=0.5).to_text(120).splitlines()[-2:]
    assert len({len(line) for line in lines}) == 1


def test_units_are_in_the_heading():
    """Percent, MiB, GiB and seconds stand over the numbers that they measure."""
    text = a_report().to_text(120)
    for word in ("unmet", "%", "MiB", "GiB/VM-day", "/VM-day", "VM-s", "1.05 x oracle", "slider 50", "seed 7"):
        assert word in text


def test_a_little_is_not_nothing():
    """What rounds to zero but is not zero does not read as zero."""
    text = a_report(unmet_ratio=1e-9).to_text(120)
    assert "<0.0001" in text
    assert "<0.0001" not in a_report(unmet_ratio=0.0).to_text(120)


def test_without_a_cache_there_is_no_column_for_it():
    """A deficit that no policy has data for is left out of the table; of one policy it is a dash."""
    policies = {"ballonet": {**FULL, "cache_deficit_ratio": None}}
    assert "deficit" not in Report("x", GIB, GIB, 50, 1, policies).to_text(120)
    assert "  -  " in a_report(cache_deficit_ratio=None).to_text(120)


def test_a_curve_has_a_line_for_each_position():
    """The slider's positions stand in the first column, in their order."""
    lines = curve([a_report(slider=slider) for slider in (0, 50, 100)], "ballonet", 120).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["0", "50", "100"]


def test_a_curve_has_no_column_without_data():
    """As in the table, what no run knows is left out."""
    assert "deficit" not in curve([a_report(cache_deficit_ratio=None)], "ballonet", 120)
    assert "deficit" in curve([a_report()], "ballonet", 120)


def test_others_stand_once_beside_a_curve():
    """Whom the slider means nothing has one line, and without anybody there is no table."""
    (text,) = others([a_report(slider=slider) for slider in (0, 50, 100)], ["a-long-name-of-a-peer"], 120)
    assert text.count("a-long-name-of-a-peer") == 1
    assert others([a_report()], [], 120) == []


def test_a_frontier_has_a_column_for_each_budget():
    """Budgets stand over the columns as multiples of the oracle's need."""
    text = frontier([a_report(budget_gib=gib) for gib in (20, 30, 40)], 120)
    for word in ("1.00x", "1.50x", "2.00x", "some demand"):
        assert word in text
