"""Writes protocol/src/ballonet_protocol/vectors: python -m tests.protocol.make_vectors, from the workspace's root.

The 37 oldest entries of frames.json are frozen, text and all; the rest is made here, the same each time.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from . import vector_script, vector_streams
from .vector_agent import agent_scripts
from .vector_bytes import entries
from .vector_consent import consent_scripts
from .vector_coordinator import coordinator_scripts
from .vector_frames import RULES, Cases, frame_cases, header_cases
from .vector_values import message_cases, value_cases

FOLDER = Path(__file__).resolve().parents[2] / "protocol/src/ballonet_protocol/vectors"
# frames.json up to the end of `edge`: golden frames that other implementations may have copied.
FROZEN_SHA256 = "64bbf20b771fa5e20d2ebbbb89a84f8418d298866a377444549e566906d20926"


def frozen_frames() -> str:
    """The part of frames.json that never changes. Raises ValueError when it has."""
    head = (FOLDER / "frames.json").read_text().partition(',\n "case_flags"')[0]
    if hashlib.sha256(head.encode()).hexdigest() != FROZEN_SHA256:
        raise ValueError("the golden and edge frames of frames.json have changed")
    return head


def make_frames() -> str:
    """frames.json."""
    cases = Cases()
    for part in (frame_cases, header_cases, value_cases, message_cases):
        part(cases)
    used = {flag for case in cases.all.values() for flag in case["flags"]}
    rules = {flag: rule for flag, rule in RULES.items() if flag in used}
    legend = json.dumps(rules, indent=1).replace("\n", "\n ")
    return f'{frozen_frames()},\n "case_flags": {legend},\n "cases": {entries(list(cases.all.values()))}\n}}\n'


def make_streams() -> str:
    """streams.json."""
    return listed("streams", vector_streams.RULES, vector_streams.stream_vectors())


def make_sessions() -> str:
    """sessions.json."""
    scripts = [*agent_scripts(), *consent_scripts(), *coordinator_scripts()]
    return listed("sessions", vector_script.RULES, [script.vector() for script in scripts])


def listed(name: str, rules: dict[str, str], vectors: list[dict[str, Any]]) -> str:
    """A file with a legend of its flags and one list of vectors."""
    used = {flag for vector in vectors for flag in vector["flags"]}
    legend = json.dumps({flag: rule for flag, rule in rules.items() if flag in used}, indent=1).replace("\n", "\n ")
    return (
        f'{{\n "protocol": "ballonet wire protocol 1",\n "session": "1122334455667788",\n "flags": {legend},\n'
        f' "{name}": {entries(vectors)}\n}}\n'
    )


FILES = {"frames.json": make_frames, "streams.json": make_streams, "sessions.json": make_sessions}


def main() -> None:
    for name, make in FILES.items():
        (FOLDER / name).write_text(make())


if __name__ == "__main__":
    main()
