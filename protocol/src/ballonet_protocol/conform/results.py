"""Verdicts as text for people, as JSON for programs, as JUnit's XML for continuous integration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from .runner import FAILED, PASSED, SKIPPED

if TYPE_CHECKING:
    from ballonet_protocol import Role

    from .runner import Verdict
    from .table import Case


def as_line(case: Case) -> str:
    """A case in the list."""
    needs = f"  [needs {'; '.join(case.needs)}]" if case.needs else ""
    return f"{case.id:<7} {case.level:<6}  {case.title}{needs}"


def as_text(verdict: Verdict) -> str:
    """A verdict for people: one line, and for a failure the sentence that was broken, and the bytes."""
    case = verdict.case
    head = f"{verdict.outcome:<7} {case.id:<7} {case.title}"
    if verdict.outcome == SKIPPED:
        return f"{head}\n        {verdict.reason}"
    if verdict.outcome == PASSED:
        return head
    lines = [
        head,
        f"        section {case.id.partition('/')[0]}, {case.level}: {case.sentence}",
        f"        {verdict.reason}",
        *(f"        sent {wire}" for wire in verdict.sent),
        *(f"        came {wire}" for wire in verdict.came),
    ]
    return "\n".join(lines)


def as_summary(verdicts: list[Verdict]) -> str:
    """The last line."""
    counts = [(name, sum(one.outcome == name for one in verdicts)) for name in (PASSED, FAILED, SKIPPED)]
    return ", ".join(f"{count} {name}" for name, count in counts)


def as_json(role: Role, verdicts: list[Verdict]) -> str:
    """All verdicts, for programs."""
    return json.dumps(
        {
            "role": role.value,
            "cases": [
                {
                    "id": one.case.id,
                    "level": one.case.level,
                    "title": one.case.title,
                    "sentence": one.case.sentence,
                    "outcome": one.outcome,
                    "reason": one.reason,
                    "seconds": round(one.took_s, 3),
                    "sent": list(one.sent),
                    "came": list(one.came),
                }
                for one in verdicts
            ],
        },
        indent=2,
    )


def as_junit(role: Role, verdicts: list[Verdict]) -> str:
    """All verdicts, as JUnit writes them."""
    failures = sum(one.outcome == FAILED for one in verdicts)
    skipped = sum(one.outcome == SKIPPED for one in verdicts)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        (
            f'<testsuite name="ballonet-conform {role.value}" tests="{len(verdicts)}" failures="{failures}" '
            f'errors="0" skipped="{skipped}" time="{sum(one.took_s for one in verdicts):.3f}">'
        ),
    ]
    for one in verdicts:
        name = quoteattr(f"{one.case.id} {one.case.title}")
        lines.append(f'<testcase classname="{role.value}" name={name} time="{one.took_s:.3f}">')
        if one.outcome == FAILED:
            text = escape(as_text(one))
            lines.append(f"<failure message={quoteattr(one.reason)}>{text}</failure>")
        elif one.outcome == SKIPPED:
            lines.append(f"<skipped message={quoteattr(one.reason)}/>")
        lines.append("</testcase>")
    return "\n".join([*lines, "</testsuite>", ""])
