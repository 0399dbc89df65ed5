"""The status table: everything is there, everything fits, and nothing from a guest disturbs the terminal."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.plain_text import columns
from ballonet_host_coord.status import COLUMNS, render

MIB = 1024


def host(**changes: Any) -> dict[str, Any]:
    return {
        "budget_kib": 1792 * MIB, "booked_kib": 1500 * MIB, "headroom_kib": 64 * MIB, "headroom_free_kib": 60 * MIB,
        "overdrawn_kib": 0, "overdrawn_cause": "", "available_kib": 9000 * MIB, "observe": False, "alarm": "",
    } | changes  # fmt: skip


def guest(**changes: Any) -> dict[str, Any]:
    return {
        "name": "alpha", "status": "Low", "assigned_kib": 701 * MIB, "actual_kib": 702 * MIB, "resident_kib": 703 * MIB,
        "overhead_kib": 104 * MIB, "use_kib": 605 * MIB, "demand_kib": 606 * MIB, "committed_kib": 807 * MIB,
        "commit_pressure_percent": 86, "psi_some_percent": 12.3, "psi_full_percent": 4.0, "target_kib": 708 * MIB,
        "want_kib": 709 * MIB, "state": "growing", "agent": "ballonet-guest-agent", "why": "demand 606 + 20 %",
    } | changes  # fmt: skip


UNKNOWN = {key: None for key in guest() if key.endswith(("_kib", "_percent"))} | {
    "name": "gone", "status": "-", "state": "absent", "agent": "none", "why": "its monitor does not answer",
}  # fmt: skip


def without_color(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_everything_that_operators_ask_for_is_there() -> None:
    """The host's budget, booked and headroom, and of each guest its figures and the reason."""
    text = render({"host": host(), "guests": [guest()]}, 160)
    for word in ("1792", "1500", "60 of 64", "9000", "alpha", "Low", "701", "605", "606", "807", "86", "12/4", "708",
                 "growing", "demand 606 + 20 %", "ballonet-guest-agent"):  # fmt: skip
        assert word in text
    for heading, _, _ in COLUMNS:
        assert heading in text


def test_columns_stand_under_their_headings() -> None:
    """Each figure of a guest ends where its heading ends."""
    _, headings, line, *_ = render({"host": host(), "guests": [guest()]}, 100).splitlines()
    for heading, figure in {"assigned": "701", "use": "605", "demand": "606", "commit": "807", "target": "708"}.items():
        assert headings.index(heading) + len(heading) == line.index(figure) + len(figure)


@pytest.mark.parametrize("name", ["größe-Ω", "雲の上", "e\u0301e\u0301", "n" * 200, "雲" * 70], ids=ascii)
def test_columns_stand_under_their_headings_whatever_a_guest_is_called(name: str) -> None:
    """Letters that take two columns or none move no figure."""
    _, headings, *rows = render({"host": host(), "guests": [guest(), guest(name=name)]}, 120).splitlines()
    lines = [line for line in rows if "701" in line]
    assert len(lines) == 2
    for line in lines:
        assert columns(line[: line.index("701")]) + len("701") == headings.index("assigned") + len("assigned")


def test_unknown_is_a_dash_and_never_zero() -> None:
    """A guest of which nothing is known shows dashes, and one that uses nothing a zero."""
    _, _, line, *_ = render({"host": host(), "guests": [UNKNOWN]}, 80).splitlines()
    assert line.split() == ["gone", "-", "-", "-", "-", "-", "-", "-", "-", "absent"]
    assert " 0 " in render({"host": host(), "guests": [guest(use_kib=0)]}, 80)


def test_reason_has_its_own_line_where_it_does_not_fit() -> None:
    """On a wide terminal the reason stands behind its guest, on a narrow one below it."""
    wide = render({"host": host(), "guests": [guest()]}, 160).splitlines()
    narrow = render({"host": host(), "guests": [guest()]}, 80).splitlines()
    assert len(wide) + 1 == len(narrow)
    assert narrow[-1].startswith("    demand 606")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overdrawn_kib": 512 * MIB, "overdrawn_cause": "alpha was reset"}, "OVERDRAWN by 512: alpha was reset"),
        ({"alarm": "overdrawn for 75 s"}, "ALARM: overdrawn for 75 s"),
        ({"observe": True}, "moves nothing"),
    ],
)
def test_what_an_operator_must_not_overlook(changes: dict[str, Any], words: str) -> None:
    """An excess, an alarm and observing each have a line of their own, and only then."""
    assert words in render({"host": host(**changes), "guests": [guest()]}, 100)
    assert words not in render({"host": host(), "guests": [guest()]}, 100)


def test_color_changes_nothing_but_color() -> None:
    """With colours taken away the coloured table is the plain one; each status word has its colour."""
    guests = [guest(status=word) for word in ("OK", "Low", "Warning")] + [UNKNOWN]
    status = {"host": host(), "guests": guests}
    colored = render(status, 90, color=True)
    assert without_color(colored) == render(status, 90)
    assert len(set(re.findall(r"\x1b\[([0-9;]+)m(?:OK|Low|Warning)", colored))) == 3
    assert "\x1b" not in render(status, 90)


def test_without_guests_the_host_is_shown() -> None:
    """A coordinator without guests has a status, too."""
    assert render({"host": host(), "guests": []}, 80).splitlines()[-1] == "no guests"


def test_text_from_a_guest_cannot_move_the_cursor() -> None:
    """Control characters in any text are shown as question marks."""
    text = render({"host": host(), "guests": [guest(agent="\x1b[2Jevil\n", why="a\x07b", name="x\ry")]}, 160)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "?[2Jevil?" in text


_SIZE = st.none() | st.integers(0, 64 * MIB * MIB)


@given(
    width=st.integers(80, 160),
    guests=st.lists(
        st.fixed_dictionaries(
            {"name": st.text(min_size=1, max_size=40), "status": st.sampled_from(["OK", "Low", "Warning", "-"]),
             "assigned_kib": _SIZE, "use_kib": _SIZE, "demand_kib": _SIZE, "committed_kib": _SIZE, "target_kib": _SIZE,
             "commit_pressure_percent": st.none() | st.integers(0, 999),
             "psi_some_percent": st.none() | st.floats(0, 100), "psi_full_percent": st.none() | st.floats(0, 100),
             "state": st.sampled_from(["steady", "migrating", "unreachable"]), "agent": st.text(max_size=60),
             "why": st.text(max_size=300)}
        ), max_size=4,
    ),
)  # fmt: skip
def test_table_fits_the_terminal(width: int, guests: list[dict[str, Any]]) -> None:
    """From 80 to 160 columns no line is longer than the terminal, whatever the guests are called and say."""
    for color in (False, True):
        for line in render({"host": host(), "guests": guests}, width, color=color).split("\n"):
            assert columns(without_color(line)) <= width
