"""Runs cases against one peer and says how each went."""

from __future__ import annotations

from typing import Callable, NamedTuple

from . import (  # noqa: F401  (each puts its cases into the table)
    cases_agent_consent,
    cases_agent_sessions,
    cases_coordinator,
    cases_coordinator_consent,
    cases_frames,
    cases_sessions,
    cases_values,
    watching,
)
from .as_agent import CoordinatorTalk
from .as_coordinator import AgentTalk
from .lines import Unreachable
from .table import ROOM, SETTLED, YOUNG, Case, Failed, Skipped
from .talk import Talk

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
#: Of the bytes that a case has exchanged a verdict shows the last ones.
SHOWN = 6


class Verdict(NamedTuple):
    """How one case went. `sent` and `came` are the last frames of it, as hex, the newest last."""

    case: Case
    outcome: str
    reason: str
    took_s: float
    sent: tuple[str, ...] = ()
    came: tuple[str, ...] = ()


def run(
    talk: AgentTalk | CoordinatorTalk,
    cases: list[Case],
    timeout_s: float = 30.0,
    progress: Callable[[Verdict], None] = lambda _verdict: None,
) -> list[Verdict]:
    """Every case once, in the order given; what watches them all comes last. Raises Unreachable without a peer."""
    try:
        talk.meet()
    except Failed as error:
        raise Unreachable(f"nobody speaks the protocol there: {error}") from error
    talk.case_ends_s = float("inf")
    verdicts = []
    for case in sorted(cases, key=_haste):
        if case.run is not None:
            verdicts.append(_try(talk, case, timeout_s))
            progress(verdicts[-1])
    rules = [case for case in cases if case.rule is not None]
    if rules and not verdicts:
        _converse(talk, timeout_s)
    for case in rules:
        verdicts.append(_judge(talk, case))
        progress(verdicts[-1])
    return verdicts


def _haste(case: Case) -> int:
    """A guest grows older, and smaller where memory is taken: first what wants it young, last what takes from it."""
    order = (YOUNG in case.needs, not {ROOM, SETTLED} & set(case.needs), ROOM not in case.needs, True)
    return order.index(True)


def _try(talk: AgentTalk | CoordinatorTalk, case: Case, timeout_s: float) -> Verdict:
    assert case.run is not None
    began_s = talk.now_s()
    try:
        talk.begin_case(timeout_s + case.slow_s)
        talk.case_ends_s = float("inf")  # a guest that has to settle takes longer than a case may
        missing = talk.lacks(case.needs)
        if missing:
            return Verdict(case, SKIPPED, f"needs {missing}", 0.0)
        talk.begin_case(timeout_s + case.slow_s)
        began_s = talk.now_s()
        case.run(talk)
    except Skipped as reason:
        return Verdict(case, SKIPPED, str(reason), talk.now_s() - began_s)
    except (Failed, Unreachable) as error:
        verdict = _failed(talk, case, error, talk.now_s() - began_s)
        _mend(talk)
        return verdict
    return Verdict(case, PASSED, "", talk.now_s() - began_s)


def _failed(talk: Talk, case: Case, error: Exception, took_s: float) -> Verdict:
    sent = tuple(wire[:4096].hex(" ") for wire in talk.sent[-SHOWN:])
    came = [frame.wire for frame in talk.came[-SHOWN:]]
    guilty = error.frame if isinstance(error, Failed) else None
    if guilty is not None and guilty.wire not in came:
        came.append(guilty.wire)
    return Verdict(case, FAILED, str(error), took_s, sent, tuple(wire.hex(" ") for wire in came))


def _mend(talk: AgentTalk | CoordinatorTalk) -> None:
    """After a failure nothing is taken for granted: the line is opened anew where it can be."""
    talk.is_open = False
    talk.case_ends_s = float("inf")
    if talk.line.can_reconnect:
        talk.reopen_line()


def _converse(talk: AgentTalk | CoordinatorTalk, timeout_s: float) -> None:
    """Nothing has been said yet: say a bit of everything, so that the rules have something to watch."""
    talk.begin_case(timeout_s)
    try:
        talk.converse()
    except Failed as error:
        talk.say_aloud(f"the talk for the rules has ended early: {error}")


def _judge(talk: Talk, case: Case) -> Verdict:
    broken = talk.seen.broken.get(case.id)
    if broken is not None:
        return Verdict(case, FAILED, f"expected {case.title} Got {broken.how}", 0.0, (), (broken.frame.wire.hex(" "),))
    if not talk.seen.applied.get(case.id):
        return Verdict(case, SKIPPED, "no frame came that it is about", 0.0)
    return Verdict(case, PASSED, "", 0.0)
