"""The timed scripts of sessions.json, played to our agent's core and our coordinator's session on virtual time."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ballonet_protocol.testing import load_vectors

from .needs import needs_coordinator
from .session_replay import Broken, replay_session
from .vector_bytes import TYPES, frame, unplain

VECTORS = load_vectors("sessions")
SCRIPTS = VECTORS["sessions"]
BY_ID = {script["id"]: script for script in SCRIPTS}



def _play(*values: Any, role: str) -> Any:
    """A test's parameters; what is played to the coordinator needs the coordinator."""
    return pytest.param(*values, marks=needs_coordinator if role == "coordinator" else ())


@pytest.mark.parametrize(
    "script", [_play(script, role=script["role"]) for script in SCRIPTS], ids=[script["id"] for script in SCRIPTS]
)
def test_sessions(script: dict[str, Any]) -> None:
    """Our own peer does what the script demands, and each frame of it is a good one."""
    replay_session(script)


def test_scripts_are_complete() -> None:
    """Ids are unique, flags explained and used, roles and results all there, every step of a known kind."""
    assert len(BY_ID) == len(SCRIPTS) >= 150
    assert {flag for script in SCRIPTS for flag in script["flags"]} == set(VECTORS["flags"])
    assert {script["role"] for script in SCRIPTS} == {"agent", "coordinator"}
    assert min(Counter(script["result"] for script in SCRIPTS).values()) >= 5
    for script in SCRIPTS:
        assert script["comment"]
        assert script["reason"]
        assert any("<" in step or "count" in step or step.get("#") for step in script["steps"])
        for step in script["steps"]:
            assert len(step.keys() & set("><.!#")) == 1


def test_wire_is_what_stands_beside_it() -> None:
    """Where a step has both a frame and bytes, they say the same."""
    checked = 0
    for script in SCRIPTS:
        for step in script["steps"]:
            if isinstance(step.get(">"), dict) and "wire" in step:
                parts = step[">"]
                header = {"flags": parts["flags"], "seq": parts["seq"], "session": int(parts["session"], 16)}
                assert frame(parts["type"], unplain(parts["payload"]), **header).hex() == step["wire"]
                checked += 1
    assert checked > 400


def test_every_message_of_the_wire_is_played() -> None:
    """Each of the sixteen types is sent or expected somewhere."""
    steps = [step for script in SCRIPTS for step in script["steps"]]
    sent = {step[">"]["type"] for step in steps if isinstance(step.get(">"), dict)}
    heard = {step["<"]["type"] for step in steps if isinstance(step.get("<"), dict)}
    assert sent | heard == set(TYPES)


def test_readme_counts_the_scripts() -> None:
    """The README beside the vectors says how many there are."""
    readme = (Path(__file__).parents[2] / "protocol/vectors/README.md").read_text()
    assert f"{len(SCRIPTS)} scripts" in readme


# --- the interpreter itself: each kind of broken rule is found -------------------------------------------------------


def _changed(name: str, step: int, **changes: Any) -> dict[str, Any]:
    script = copy.deepcopy(BY_ID[name])
    script["steps"][step].update(changes)
    return script


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (_changed("agent-ping", 4, **{"<": {"type": "PONG", "payload": {"t": 43}}}), "another PONG came"),
        (_changed("agent-ping", 4, **{"<": {"type": "EVENT"}}), "nothing of the kind"),
        (_changed("agent-ping", 4, **{"<": {"type": "PONG", "payload": {"t": {"min": 43}}}}), "another PONG came"),
        (_changed("agent-ping", 4, **{"<": {"type": "PONG", "payload": {"bt": None}}}), "another PONG came"),
        (_changed("agent-asks", 0, **{"<": {"type": "HELLO_REQ", "session": "1" * 16}}), "nothing of the kind"),
        (_changed("agent-reports", 3, count={"REPORT": [0, 3]}), "REPORT, not 0 to 3"),
        (_changed("agent-bad-storm", -3, **{"#": {"ERROR": [2, 2]}}), "1 ERROR, not 2 to 2"),
    ],
)
def test_the_interpreter_complains(script: dict[str, Any], complaint: str) -> None:
    """A demand that our peer does not fulfil breaks the script, at its step."""
    with pytest.raises(Broken, match=complaint):
        replay_session(script)


# --- the scripts: a peer with a fault is found -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "value", "script"),
    [
        _play(*fault, role=BY_ID[fault[-1]]["role"])
        for fault in [
            ("ballonet_guest_agent.session", "ERRORS_IN_A_ROW", 10**6, "agent-bad-sixteen"),
            ("ballonet_guest_agent.session", "ERROR_EVERY_S", 0.0, "agent-bad-storm"),
            ("ballonet_guest_agent.session", "RESYNC_EVERY_S", 0.0, "agent-foreign-storm"),
            ("ballonet_guest_agent.agent", "DEAD_MS_RANGE", (10**6, 10**6), "agent-silence"),
            ("ballonet_guest_agent.asking", "REPEAT_AFTER_S", 1e6, "consent-hurts-again"),
            ("ballonet_host_coord.session", "ERRORS_IN_A_ROW", 10**6, "coordinator-bad-sixteen"),
            ("ballonet_host_coord.session", "ERROR_EVERY_S", 0.0, "coordinator-bad-storm"),
            ("ballonet_host_coord.session", "RESYNC_EVERY_S", 0.0, "coordinator-hello-req-storm"),
            ("ballonet_host_coord.session", "HEARTBEAT_S", 5.0, "coordinator-heartbeat"),
            ("ballonet_host_coord.session", "DEAD_S", 60.0, "coordinator-silence"),
            ("ballonet_host_coord.session", "TRIES", 5, "coordinator-tries"),
            ("ballonet_host_coord.session", "HELLO_GROWTH", 1.0, "coordinator-asks"),
            ("ballonet_protocol._connection", "CRITICAL_FLAGS", 0, "agent-critical"),
        ]
    ],
)
def test_a_fault_breaks_its_script(
    module: str, name: str, value: Any, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one of its safeguards switched off, our own peer no longer passes the script that is about it."""
    replay_session(BY_ID[script])
    monkeypatch.setattr(f"{module}.{name}", value)
    with pytest.raises(Broken):
        replay_session(BY_ID[script])
