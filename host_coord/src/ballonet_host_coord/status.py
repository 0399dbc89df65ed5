"""The coordinator's status as a table for people: plain values in, lines that fit the terminal out. Pure.

Sizes are MiB, `cp%` is the commit pressure (demand over assigned), `psi` is psi_some/psi_full in percent of the last
report interval, and what is not known is `-`. The reason for a guest's target stands behind its line where that
fits, else below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .plain_text import cell, columns, printable, shown_name, wrapped

LEAST_WIDTH = 40
"""Below this nothing is worth wrapping; lines are as long as they are."""
LEAST_NAME = 8
UNKNOWN = "-"

COLORS = {"OK": "32", "Low": "33", "Warning": "1;31"}
"""ANSI: green, yellow, bold red."""


def _mib(value: Any) -> str:
    return UNKNOWN if value is None else f"{value / 1024:.0f}"


def _percent(value: Any) -> str:
    return UNKNOWN if value is None else f"{value:.0f}"


def _word(value: Any) -> str:
    return printable(str(value or "")) or UNKNOWN


def _stalls(guest: Mapping[str, Any]) -> str:
    some, full = (_percent(guest.get(key)) for key in ("psi_some_percent", "psi_full_percent"))
    return UNKNOWN if some == full == UNKNOWN else f"{some}/{full}"


# Heading, text of a guest's cell, whether it stands at the right.
COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str], bool], ...] = (
    ("guest", lambda guest: shown_name(str(guest.get("name", UNKNOWN))), False),
    ("status", lambda guest: _word(guest.get("status")), False),
    ("assigned", lambda guest: _mib(guest.get("assigned_kib")), True),
    ("use", lambda guest: _mib(guest.get("use_kib")), True),
    ("demand", lambda guest: _mib(guest.get("demand_kib")), True),
    ("commit", lambda guest: _mib(guest.get("committed_kib")), True),
    ("cp%", lambda guest: _percent(guest.get("commit_pressure_percent")), True),
    ("psi", _stalls, True),
    ("target", lambda guest: _mib(guest.get("target_kib")), True),
    ("state", lambda guest: _word(guest.get("state")), False),
)


def render(status: Mapping[str, Any], width: int = 80, *, color: bool = False) -> str:
    """The whole status as lines of at most `width` columns, colours not counted."""
    width = max(width, LEAST_WIDTH)
    guests = status.get("guests", [])
    lines = _host(status.get("host", {}), width)
    if not guests:
        return "\n".join([*lines, "no guests"])
    rows = [[text(guest) for _, text, _ in COLUMNS] for guest in guests]
    cells = [[heading for heading, _, _ in COLUMNS], *rows]
    widths = [max(columns(row[column]) for row in cells) for column in range(len(COLUMNS))]
    gap = 2 if sum(widths) + 2 * len(widths) <= width else 1
    spare = width - (sum(widths[1:]) + gap * (len(widths) - 1))
    widths[0] = min(widths[0], max(LEAST_NAME, spare))
    lines.append(_line(cells[0], widths, gap))
    for guest, row in zip(guests, rows, strict=True):
        plain = _line(row, widths, gap)
        reason = _reason(guest)
        fits = columns(plain) + gap + columns(reason) <= width
        line = _coloured(row, widths, gap) if color else plain
        if fits:
            lines.append(f"{line}{' ' * gap}{reason}".rstrip())
        else:
            lines.append(line)
            lines.extend(wrapped(reason, width, "    ", first="    "))
    return "\n".join(lines)


def _host(host: Mapping[str, Any], width: int) -> list[str]:
    facts = (
        f"budget {_mib(host.get('budget_kib'))}, booked {_mib(host.get('booked_kib'))}, "
        f"headroom {_mib(host.get('headroom_free_kib'))} of {_mib(host.get('headroom_kib'))}, "
        f"available on the host {_mib(host.get('available_kib'))} (MiB)"
        + (f", slider {host['slider']}" if "slider" in host else "")
    )
    said = [facts]
    if host.get("budget_why"):
        said.append(_word(host["budget_why"]))
    if host.get("state", "easy") != "easy":
        said.append(f"host memory is {_word(host.get('state')).upper()}: {_word(host.get('state_why'))}")
    if host.get("overdrawn_kib"):
        said.append(f"OVERDRAWN by {_mib(host['overdrawn_kib'])}: {_word(host.get('overdrawn_cause'))}")
    if host.get("alarm"):
        said.append(f"ALARM: {_word(host['alarm'])}")
    if host.get("settings_fault"):
        said.append(f"settings on disk not taken: {_word(host['settings_fault'])}")
    if host.get("discovery_fault"):
        said.append(f"libvirt's domains cannot be listed: {_word(host['discovery_fault'])}")
    if host.get("observe"):
        said.append("observing: decides and moves nothing")
    return [line for text in said for line in wrapped(text, width, "  ")]


def _reason(guest: Mapping[str, Any]) -> str:
    agent = _word(guest.get("agent"))
    why = _word(guest.get("why"))
    return why if agent == UNKNOWN else f"{why}; agent: {agent}"


def _line(row: list[str], widths: list[int], gap: int) -> str:
    return (" " * gap).join(_cell(row, widths, column) for column in range(len(COLUMNS))).rstrip()


def _coloured(row: list[str], widths: list[int], gap: int) -> str:
    cells = [_cell(row, widths, column) for column in range(len(COLUMNS))]
    code = COLORS.get(row[1])
    if code:
        cells[1] = f"\x1b[{code}m{cells[1]}\x1b[0m"
    return (" " * gap).join(cells).rstrip()


def _cell(row: list[str], widths: list[int], column: int) -> str:
    return cell(row[column], widths[column], right=COLUMNS[column][2])
