"""table.py and the cases in it: each names a sentence that stands in SPEC.md, and has an id of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ballonet_protocol import AGENT, COORDINATOR, Role
from ballonet_protocol.conform import CASES, Case, select


@pytest.fixture(scope="module")
def sections(workspace: Path) -> dict[str, str]:
    """Number -> text of each section, its line breaks made spaces; a chapter's is what stands before its sections."""
    text = (workspace / "protocol" / "SPEC.md").read_text()
    found = re.split(r"^###? (\d+(?:\.\d+)?)\.? ", text, flags=re.MULTILINE)
    return {number: " ".join(body.split()) for number, body in zip(found[1::2], found[2::2])}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_sentence_stands_in_its_section(case: Case, sections: dict[str, str]) -> None:
    """What a case claims to check is what SPEC.md says, word for word, in the section that its id names."""
    assert " ".join(case.sentence.split()) in sections[case.id.partition("/")[0]]


def test_ids_count_from_one() -> None:
    """Within a section cases are numbered from 1, each once, so that an id stays what it was."""
    by_section: dict[str, list[int]] = {}
    for case in CASES:
        section, _, number = case.id.partition("/")
        by_section.setdefault(section, []).append(int(number))
    assert {name: sorted(n) for name, n in by_section.items()} == {
        name: list(range(1, len(n) + 1)) for name, n in by_section.items()
    }


def test_level_is_the_sentences() -> None:
    """A case is a SHOULD only where its sentence says so; MUST sentences are never left to --strict."""
    wrong = [case.id for case in CASES if case.level == "SHOULD" and " MUST " in case.sentence]
    assert not wrong


@pytest.mark.parametrize("role", [AGENT, COORDINATOR])
def test_enough_cases(role: Role) -> None:
    """There are at least sixty cases for each role, consent and leases among them."""
    cases = select(role, strict=True)
    assert len(cases) >= 60
    chapters = Counter(case.id.partition(".")[0] for case in cases)
    assert chapters["9"] >= 10


def test_selection() -> None:
    """`only` takes whole ids, sections and chapters; SHOULD cases come with `strict` alone."""
    assert [case.id for case in select(AGENT, only=("5.3/2",))] == ["5.3/2"]
    assert {case.id.partition("/")[0] for case in select(AGENT, only=("5.3",))} == {"5.3"}
    assert all(case.id.startswith("5.") for case in select(AGENT, only=("5",)))
    assert not select(AGENT, only=("5.",))
    assert {case.level for case in select(AGENT)} == {"MUST"}
    assert {case.level for case in select(AGENT, strict=True)} == {"MUST", "SHOULD"}


def test_every_case_says_what_it_does() -> None:
    """Each case has a title of one line that is a sentence."""
    assert [case.id for case in CASES if not case.title.endswith(".") or "\n" in case.title] == []


def test_a_list_that_is_cut_is_no_error() -> None:
    """`ballonet-conform agent --list | head -1` says nothing about a broken pipe."""
    command = [Path(sys.executable).with_name("ballonet-conform"), "agent", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as kit:
        assert kit.stdout is not None
        assert kit.stderr is not None
        kit.stdout.readline()
        kit.stdout.close()
        assert kit.stderr.read() == b""
