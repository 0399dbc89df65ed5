"""The kit finds what is wrong: each fault of the bad peers breaks exactly the cases that are about it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from ballonet_protocol import AGENT, COORDINATOR, Role
from ballonet_protocol.conform import (
    FAILED,
    PASSED,
    AgentTalk,
    CoordinatorTalk,
    Verdict,
    cases_coordinator_consent,
    run,
    select,
)
from ballonet_protocol.conform.table import YOUNG

from .bad_agent import BadAgent
from .bad_coordinator import BadCoordinator
from .bad_peer import StillLine

pytestmark = pytest.mark.slow

BROKEN_PAYLOADS = "4.3/1 4.3/2 4.3/3 4.3/4 4.3/5 4.3/6 4.3/7 4.3/8 4.3/9"
# Fault -> ids of the cases that it breaks: of either role, of an agent, of a coordinator.
OF_BOTH = {
    "answers damage": "3.4/3 3.4/4 3.4/5",
    "answers errors": "10.2/1",
    "answers overlong frames": "3.4/2",
    "answers zeros": "3.4/1",
    "any number of errors": "10.3/1 10.3/2",
    "any wire version": "10.1/1",
    "babbles": "3.1/1",
    "counts by two": "5.3/1",
    "counts the wrong direction": "5.6/1 10.3/4",
    "endless patience": "10.3/3",
    "fears unknown keys": "3.2/1 4.2/1 4.4/1",
    "floods": "11/1",
    "hears echoes": "5.6/4",
    "keys as bin": "4.2/2",
    "last key wins": "4.3/3",
    "leaves for echoes": "10.3/4",
    "loses the frame behind a cut": "2.1/2",
    "names session in errors": "5.4/1",
    "names what it cannot read": "10.1/1",
    "one zero per frame": "3.3/1",
    "pong without RSP": "3.5/1",
    "pongs without t": "6/1",
    "sends critical flags": "3.5/4",
    "sends types of its own": "5.6/6",
    "short numbers alone": "4.3/10",
    "silent to unknown requests": "5.6/2",
    "slow to answer": "5.8/1",
    "takes a ping without t": "4.3/1 10.3/2 10.3/3",
    "takes critical flags": "3.5/3",
    "takes floats": "4.3/2 4.3/7",
    "takes no gaps": "5.3/3",
    "takes what is repeated": "5.3/2",
    "talks after bye": "5.7/1",
    "text as bin": "4.3/11",
    "waits for half frames": "3.4/6",
}
OF_AGENTS = {
    "absent is default": "6.15/1 9.7/2",
    "another total": "7.2/1",
    "answers a hello once": "5.1/6",
    "answers strangers": "5.1/3 5.4/1 5.5/1 5.5/2 5.7/2 12.1/2",
    "answers twice": "9.3/1 12.2/1",
    "answers unknown statements": "5.6/3 12.2/1",
    "any major": "12.1/2",
    "arrives unseen": "9.3/4",
    "asks after bye": "5.5/3",
    "asks for each stranger": "5.5/2",
    "asks in haste": "5.2/1",
    "begins at two": "5.1/2 5.3/1",
    "blames nobody": "9.5/1",
    "can everything": "12.4/2",
    "counts anew": "5.1/6 5.3/1",
    "counts no unheard frames": "5.8/3",
    "deaf after bye": "5.1/4 5.5/3 5.7/2",
    "demands without end": "11/2",
    "duplicate with a new eff": "9.5/1 9.6/1",
    "events for all": "12.4/1",
    "fears low flags": "3.5/2 12.2/1",
    "forgets its gen": "6.3/1",
    "forgets leases": "9.6/5 9.9/2",
    "gen of the session before": "5.1/5",
    "gens have no gaps": "9.6/3",
    "goes the wrong way": "9.3/5",
    "grants without end": "9.10/1",
    "highest major": "12.1/1",
    "host lowers the floor": "9.7/1",
    "its clock stands still": "11/3",
    "its own period": "6.15/1 11/3",
    "keeps consent while it hurts": "9.5/1",
    "leases end once": "9.6/5",
    "minor 0 alone": "12.2/1",
    "names a refused hello": "5.4/2",
    "never asks": "5.2/1 5.5/2",
    "never settles": "9.3/6 9.8/1",
    "no floor": "9.3/7 9.7/1 9.7/2 9.7/3",
    "no floor by inflate": "9.7/3",
    "no floor by policy": "9.7/2",
    "no major is no drama": "12.1/2",
    "no psi": "12.4/3",
    "no report on request": "9.2/1",
    "nothing is a duplicate": "9.5/1 9.6/1 9.6/2 9.6/4",
    "one frame per read": "2.1/2 3.3/2 5.1/7 9.3/1",
    "one gen for all": "6.16/1 9.6/4",
    "pads its frames": "3.2/2 3.2/3",
    "policy twice": "6.16/1",
    "refuses with the target": "9.3/6",
    "reports in haste": "11/4",
    "reports to nobody": "5.8/2 5.8/3",
    "rounds eff": "9.3/2",
    "session ends with the line": "2.1/1",
    "silent to stale policy": "6.16/1",
    "stale with eff": "9.3/3",
    "stays after bye": "5.2/1 5.7/2",
    "takes stale commands": "9.3/3 9.4/1 9.6/2 9.6/4",
    "wrong code": f"3.5/3 {BROKEN_PAYLOADS} 4.3/12 4.3/13 5.4/2 5.6/1 5.6/2 9.9/1 10.1/1",
    "wrong re": "5.1/1",
    "young guests take nothing": "9.10/2",
}
OF_COORDINATORS = {
    "a new gen for each try": "9.6/6",
    "answers strangers": "5.4/1 5.5/1 5.5/4 5.7/2",
    "answers unknown statements": "5.6/3 12.2/2 12.4/4",
    "answers what is too early": "5.6/5",
    "any major": "12.1/3",
    "any nonce": "5.1/10",
    "any re": "5.1/11",
    "any report is fresh": "9.1/2",
    "asks after the answer": "9.6/7",
    "asks for ever": "9.6/6",
    "asks for more than there is": "4.6/1 9.3/9",
    "asks once": "9.6/6",
    "begins at two": "5.1/9 5.3/1",
    "checks numbers of session 0": "5.4/3",
    "commands before the answer": "5.1/12 9.6/6",
    "counts its sessions": "5.1/8",
    "deaf to requests": "5.2/3 5.4/3",
    "deaf to strangers": "5.5/4",
    "endless trust": "5.2/6",
    "fears low flags": "3.5/2 12.2/2",
    "few capabilities": "12.4/4",
    "gens fall": "9.6/6 9.6/8",
    "gives nothing back": "9.5/2",
    "goes by the status": "9.3/11",
    "goes for its target": "9.3/9 9.3/10 9.3/11",
    "impatient": "5.2/5 5.5/1 5.5/4",
    "minor 0 alone": "12.2/2",
    "moves before the answer": "9.3/8 9.3/10 9.3/11",
    "moves on after bye": "9.4/2",
    "moves on though it hurts": "9.4/3 9.5/2",
    "moves though refused": "9.3/10",
    "no bye to another major": "12.1/3",
    "no heartbeat": "5.8/4",
    "one frame per read": "2.1/2 3.3/2",
    "one nonce for all": "5.1/8",
    "opens after bye": "5.5/5",
    "opens for each stranger": "5.5/1",
    "pads its frames": "3.2/2 3.2/4",
    "repeats in haste": "5.2/4 5.2/5 12.1/3",
    "repeats in its session": "5.2/4",
    "stays after bye": "5.7/2",
    "steps without reports": "9.1/1 9.1/2",
    "tells the guest's time": "6.5/1",
    "waits before it opens": "5.2/2",
    "wrong code": f"3.5/3 {BROKEN_PAYLOADS} 5.6/1 5.6/2 10.1/1",
}
LEFT_OUT = "says no status"  # is no fault
FAULTS: dict[Role, dict[str, str]] = {AGENT: {**OF_BOTH, **OF_AGENTS}, COORDINATOR: {**OF_BOTH, **OF_COORDINATORS}}


def try_agent(*faults: str) -> list[Verdict]:
    """Every case, some of them with a guest that has just booted."""
    verdicts = []
    for age_s in (3600.0, 0.5):
        agent = BadAgent(*faults, age_s=age_s)
        cases = [case for case in select(AGENT, strict=True) if (YOUNG in case.needs) == (age_s < 1) or case.rule]
        verdicts += run(AgentTalk(StillLine(agent), hurt=agent.hurt), cases)
    return verdicts


def try_coordinator(*faults: str) -> list[Verdict]:
    """Every case; those that have memory moved with a coordinator of their own, which has moved none yet."""
    cases = select(COORDINATOR, strict=True)
    moving = [case for case in cases if case.run and case.run.__module__ == cases_coordinator_consent.__name__]
    verdicts = []
    for mine in ([case for case in cases if case not in moving], *([case] for case in moving)):
        coordinator = BadCoordinator(*faults)
        talk = CoordinatorTalk(StillLine(coordinator), size=functools.partial(getattr, coordinator, "size"))
        verdicts += run(talk, mine)
    return verdicts


TRY = {AGENT: try_agent, COORDINATOR: try_coordinator}


@pytest.mark.parametrize("role", [AGENT, COORDINATOR])
def test_without_a_fault_all_pass(role: Role) -> None:
    """The bad peers are good without their faults: every case passes, strict."""
    verdicts = TRY[role]()
    assert [verdict.case.id for verdict in verdicts if verdict.outcome == FAILED] == []
    passed = {verdict.case.id for verdict in verdicts if verdict.outcome == PASSED}
    assert passed == {case.id for case in select(role, strict=True)}


def test_a_young_guest_grows_old() -> None:
    """Begun right after a boot, one run tries what wants a young guest, waits, and then all else."""
    agent = BadAgent(age_s=0.5)
    verdicts = run(AgentTalk(StillLine(agent), hurt=agent.hurt), select(AGENT, strict=True))
    assert {verdict.outcome for verdict in verdicts} == {PASSED}


def test_a_small_agent_passes() -> None:
    """What 1.3 lets an agent leave out is no failure: without BALLOON_STATUS the cases about it are skipped."""
    verdicts = try_agent(LEFT_OUT)
    assert [verdict.case.id for verdict in verdicts if verdict.outcome == FAILED] == []
    passed = {verdict.case.id for verdict in verdicts if verdict.outcome == PASSED}
    assert {case.id for case in select(AGENT, strict=True)} - passed == {"9.3/4", "9.5/1", "9.6/5", "9.9/2"}


@pytest.mark.parametrize(("role", "fault"), [(role, fault) for role in FAULTS for fault in FAULTS[role]])
def test_a_fault_breaks_its_cases(role: Role, fault: str) -> None:
    """A peer with one fault fails the cases that are about it, and no other."""
    failed = {verdict.case.id for verdict in TRY[role](fault) if verdict.outcome == FAILED}
    assert failed == set(FAULTS[role][fault].split())


@pytest.mark.parametrize("role", [AGENT, COORDINATOR])
def test_every_case_can_fail(role: Role) -> None:
    """There is no case that no fault breaks: one that always passes would prove nothing."""
    broken = {case for cases in FAULTS[role].values() for case in cases.split()}
    assert {case.id for case in select(role, strict=True)} - broken == set()


def test_every_fault_is_tried() -> None:
    """The tables name every fault that the bad peers have."""
    folder = Path(__file__).parent
    code = "".join((folder / f"bad_{name}.py").read_text() for name in ("peer", "agent", "coordinator"))
    faults = set(re.findall(r'self\.has\(\s*"([^"]+)"', code))
    assert faults <= {*OF_BOTH, *OF_AGENTS, *OF_COORDINATORS, LEFT_OUT}


def test_a_failure_says_what_was_broken() -> None:
    """A verdict shows the sentence, what was expected, what came, and the bytes of both directions."""
    from ballonet_protocol.conform.results import as_text

    (verdict,) = [verdict for verdict in try_agent("wrong re") if verdict.outcome == FAILED]
    text = as_text(verdict)
    assert "failed  5.1/1" in text
    assert "section 5.1, MUST: A, in whatever state it is" in text
    assert "expected re 1, the HELLO's seq; got HelloAck(re=2" in text
    assert re.search(r"^ +sent 00 03 01 02 02 ", text, re.MULTILINE)
    assert re.search(r"^ +came 00 03 01 03 02 ", text, re.MULTILINE)
