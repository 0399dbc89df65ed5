"""One line of `ballonet check`, and the exit code that many of them come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from .plain_text import shown_name

MOST_SHOWN = 120
"""Characters of somebody else's text in a line."""


class Level(StrEnum):
    """A problem keeps the coordinator, or a guest, from working; a hint makes either worse."""

    OK = "ok"
    HINT = "hint"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and how to mend it."""

    name: str
    level: Level
    text: str
    mend: str = ""
    """Empty for what is well, else one or more lines."""
    guest: str = ""
    """Whose; empty for the host's."""
    unjudged: bool = False
    """It could not be seen, so nobody knows whether it is well."""


WELL, MEND, WRONG, UNSURE = 0, 1, 2, 3
VERDICTS = {WELL: "well", MEND: "mend", WRONG: "wrong settings", UNSURE: "unsure"}


def exit_code(found: Iterable[Finding]) -> int:
    """MEND: something must be mended. UNSURE: nothing as far as could be seen, which was not all. WELL allows hints.
    WRONG is for settings with faults, where nothing else is looked at."""
    found = list(found)
    if any(finding.level is Level.PROBLEM for finding in found):
        return MEND
    return UNSURE if any(finding.unjudged for finding in found) else WELL


def shown(untrusted_text: str) -> str:
    """Printable, in one line and short."""
    text = shown_name(untrusted_text) if untrusted_text else ""
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
