"""The worked example of the coordinator's DESIGN.md, read out of its table and replayed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pytest

from ballonet_host_coord.arbiter import one_iteration
from ballonet_host_coord.model import Booking, GuestDecision

from .builders import MIB, make_guest, make_snapshot, make_vm

DESIGN = Path(__file__).resolve().parents[2] / "host_coord" / "DESIGN.md"
COLUMNS = "| case | slider | guest | weight | has | demand | want | target | rule |"
SETTING = re.compile(
    r"Budget (\d+) MiB,\s+headroom (\d+), overhead (\d+) each, so (\d+) are to share; "
    r"minimum (\d+), maximum (\d+) and buffer (\d+) %"
)


@dataclass(frozen=True)
class Row:
    """Sizes in MiB."""

    case: str
    slider: int
    guest: str
    weight: int
    has: int
    demand: int
    want: int
    target: int
    rule: str


def table() -> list[Row]:
    """The rows below the heading, in order."""
    text = DESIGN.read_text(encoding="utf-8")
    assert text.count(COLUMNS) == 1
    rows = []
    for line in text[text.index(COLUMNS) :].splitlines()[2:]:
        if not line.startswith("|"):
            break
        case, slider, guest, weight, has, demand, want, target, rule = line.strip("| ").split(" | ")
        rows.append(
            Row(case, int(slider), guest, int(weight), int(has), int(demand), int(want), int(target), rule)
        )
    return rows


def setting() -> list[int]:
    """The numbers that all cases share."""
    found = SETTING.search(DESIGN.read_text(encoding="utf-8"))
    assert found is not None
    return [int(number) for number in found.groups()]


CASES = {case: list(rows) for case, rows in groupby(table(), key=lambda row: row.case)}


def replayed(rows: list[Row]) -> list[GuestDecision]:
    budget, headroom, overhead, _, minimum, maximum, buffer = setting()
    guests = [
        make_guest(
            row.guest,
            row.has * MIB,
            row.demand * MIB,
            settings={
                "weight": row.weight,
                "minimum_kib": minimum * MIB,
                "maximum_kib": maximum * MIB,
                "buffer_percent": buffer,
            },
            vm=make_vm(ram_kib=maximum * MIB, actual_kib=row.has * MIB),
            booking=Booking(row.has * MIB, overhead * MIB, claimed=False),
        )
        for row in rows
    ]
    snapshot = make_snapshot(
        *guests, budget_kib=budget * MIB, headroom_kib=headroom * MIB, slider=rows[0].slider
    )
    return list(one_iteration(snapshot).guests)


@pytest.mark.parametrize("case", CASES)
def test_the_worked_example_is_what_is_decided(case: str) -> None:
    """Each row of the table: want, target and rule, to the MiB."""
    rows = CASES[case]
    told = [(row.guest, row.want, row.target, row.rule) for row in rows]
    decided = [
        (one.name, round(one.want_kib / MIB), round(one.target_kib / MIB), one.rule.value) for one in replayed(rows)
    ]
    assert decided == told


def test_the_example_has_every_rank() -> None:
    """Scarcity, headroom, buffers in part, surplus kept, handed out and given up, and a host that keeps the rest."""
    assert list(CASES) == ["short", "buffers", "surplus", "need", "middle", "density"]
    budget, headroom, overhead, shared, *_ = setting()
    assert shared == budget - headroom - 3 * overhead
    given = {case: sum(row.target for row in rows) for case, rows in CASES.items()}
    assert shared < given["short"] <= shared + headroom
    for case in ("buffers", "surplus", "need"):
        assert shared - 3 <= given[case] <= shared
    assert (shared - given["middle"], shared - given["density"]) == (1448, 1583)
    assert [row.target for row in CASES["surplus"]] == [row.has for row in CASES["need"]]
    assert all(row.target > row.has for row in CASES["surplus"])
