"""What many findings come to."""

from __future__ import annotations

import pytest

from ballonet_host_coord.finding import MEND, MOST_SHOWN, UNSURE, WELL, Finding, Level, exit_code, shown

OK = Finding("a", Level.OK, "")
HINT = Finding("a", Level.HINT, "")
UNSEEN = Finding("a", Level.HINT, "", unjudged=True)
PROBLEM = Finding("a", Level.PROBLEM, "")


@pytest.mark.parametrize(
    ("found", "code"), [((), WELL), ((OK, HINT), WELL), ((OK, UNSEEN), UNSURE), ((UNSEEN, PROBLEM, OK), MEND)]
)
def test_the_worst_finding_is_the_verdict(found: tuple[Finding, ...], code: int) -> None:
    """Hints are well, what could not be seen is unsure, and a problem outweighs both."""
    assert exit_code(found) == code


def test_strange_texts_fit_a_line() -> None:
    """Control characters and 200 letters of somebody else's cannot break the table."""
    assert shown("a\n\x1b[31mb") == "a??[31mb"
    assert len(shown("x" * 200)) == MOST_SHOWN
