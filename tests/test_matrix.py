"""tests/matrix: the agent and the protocol under every Python and library that guests have, or named as not tried."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.matrix import environments
from tests.matrix.combinations import (
    DISTRIBUTIONS,
    EXIT_FAILED,
    EXIT_NOT_RUN,
    LIBRARIES,
    USUAL,
    Interpreter,
    NotRun,
    Outcome,
    choose,
    every_combination,
    exit_code,
    key,
    places,
    read_junit,
    table,
    tools_of,
)

ROOT = Path(__file__).resolve().parent.parent
TOOLS = tools_of((ROOT / "requirements-dev.txt").read_text())
GOOD = Outcome("EL9", "3.9.18", "/p", {"msgpack": "1.0.3"}, passed=7)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a fresh checkout on a slow index; half a minute of it is for each combination's tests
def test_matrix(tmp_path: Path) -> None:
    """Each combination's tests pass, or it is named with what keeps it from running; here, Debian 12's run."""
    found = tmp_path / "matrix.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.matrix.run", "--json", str(found)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(found.read_text())
    ran = {one["name"]: one for one in report["combinations"]}
    not_run = {one["name"]: one["why"] for one in report["not_run"]}
    assert ran.keys() | not_run.keys() == {one.name for one in USUAL}
    assert all(not_run.values())
    for combination in USUAL:
        if combination.name in ran:
            one = ran[combination.name]
            assert one["python"].startswith(f"{combination.python}.")
            assert (one["failed"], one["failures"]) == (0, [])
            assert one["passed"] > 1500
            pinned = dict(pin.split("==") for pin in combination.pins if "==" in pin)
            assert {name: one["libraries"][name].split()[0] for name in pinned} == pinned


# ---- what is in the matrix


@pytest.mark.parametrize("pins", LIBRARIES.values(), ids=LIBRARIES)
def test_the_distributions_libraries_are_what_ours_allow(pins: tuple[str, ...]) -> None:
    """No distribution's library is older than the floors that our two distributions declare."""
    floors = []
    for member in environments.MEMBERS:
        project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
        extras = [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
        floors += [Requirement(line) for line in [*project["dependencies"], *extras]]
    for pin in map(Requirement, pins):
        (allowed,) = {floor.specifier for floor in floors if floor.name == pin.name}
        for exact in pin.specifier:
            assert allowed.contains(exact.version)


def test_every_python_and_every_library_is_in_it() -> None:
    """From 3.9 to 3.13 no Python is left out of the usual run, and --every tries each with all libraries, once."""
    assert {one.python for one in USUAL} == {"3.9", "3.10", "3.11", "3.12", "3.13"}
    pairs = [(one.python, one.pins) for one in every_combination()]
    assert len(pairs) == len(set(pairs)) == 5 * len(set(LIBRARIES.values()))
    assert len({one.name for one in every_combination()}) == len(pairs)


# ---- finding interpreters


def test_interpreters_are_looked_for_where_they_are(tmp_path: Path) -> None:
    """Debian's own first, then the path, then version managers with the newest patch first; 3.1 is not 3.13."""
    for version in ("3.9.2", "3.9.18", "3.10.13", "3.9-dev"):
        (tmp_path / ".pyenv/versions" / version).mkdir(parents=True)
    (tmp_path / ".pyenv/versions/3.19.1").mkdir()
    found = [str(path) for path in places("3.9", tmp_path, {"PATH": f"{tmp_path}/bin::/usr/bin"})]
    assert found[0] == "/usr/bin/python3"
    assert found.index(f"{tmp_path}/bin/python3.9") < found.index(f"{tmp_path}/.pyenv/versions/3.9.18/bin/python3.9")
    managed = [path.split("/")[-3] for path in found if ".pyenv" in path]
    assert managed[:2] == ["3.9.18", "3.9.2"]
    assert set(managed) == {"3.9.18", "3.9.2", "3.9-dev"}
    assert not [path for path in places("3.1", tmp_path, {}) if ".pyenv" in str(path)]


def test_the_first_usable_interpreter_is_taken() -> None:
    """Another version is passed over, a stub that refuses and one without ensurepip too."""
    good = Interpreter("/c", "3.9.18")
    tried: list[tuple[str, Interpreter | str]] = [
        ("/a", Interpreter("/a", "3.11.2")),
        ("/b", "command not found"),
        ("/d", Interpreter("/d", "3.9.2", ("ensurepip",))),
        ("/c", good),
    ]
    assert choose("3.9", tried) is good
    why = choose("3.9", tried[:3])
    assert why == "no usable Python 3.9 was found; /b does not start: command not found; /d has no ensurepip"


def test_probing(tmp_path: Path) -> None:
    """A real interpreter says its version; a stub is quoted, and so is what is no program."""
    here = environments.probe(Path(sys.executable))
    assert isinstance(here, Interpreter)
    assert here.version == ".".join(map(str, sys.version_info[:3]))
    for line, said in (("#!/bin/sh\necho no such version >&2; exit 127\n", "no such version"), ("", "Exec format")):
        stub = tmp_path / "python3.9"
        stub.write_text(line)
        stub.chmod(0o755)
        assert said in str(environments.probe(stub))


def test_what_cannot_be_made_says_why() -> None:
    """A step that fails is quoted, so that the table names what keeps a combination from running."""
    with pytest.raises(environments.CannotRun, match="failed: ERROR: no such thing"):
        environments._make(["sh", "-c", "echo WARNING >&2; echo ERROR: no such thing >&2; echo hint >&2; exit 1"])
    with pytest.raises(environments.CannotRun, match=r"no usable Python 2\.0"):
        environments.find("2.0")


def test_environments_do_not_hear_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH would put this interpreter's modules before the pinned ones."""
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "PYTHONPATH" not in environments._clean()
    assert environments._clean()["PATH"] == os.environ["PATH"]


def test_an_environment_is_made_again_when_anything_changes() -> None:
    """Its key tells requirements, tools and interpreters apart."""
    el9, debian = DISTRIBUTIONS["EL9"], DISTRIBUTIONS["Debian 12"]
    one, two = Interpreter("/a", "3.9.18"), Interpreter("/a", "3.9.19")
    keys = [key(el9, one, TOOLS), key(debian, one, TOOLS), key(el9, two, TOOLS), key(el9, one, TOOLS[1:])]
    assert len(set(keys)) == 4
    assert key(el9, one, TOOLS) == keys[0]
    with pytest.raises(LookupError):
        tools_of("pytest>=8\npytest-timeout\n")


# ---- what a run found


def test_junit_is_counted() -> None:
    """Passed, skipped with its reason, failed, and an error in a teardown, which fails a test that had passed."""
    found = read_junit(
        '<testsuites><testsuite><testcase classname="a" name="1"/>'
        '<testcase classname="a" name="2"><skipped message="why"/></testcase>'
        '<testcase classname="a" name="3"><failure/></testcase><testcase classname="a" name="3"><error/></testcase>'
        '<testcase classname="a" name="4"><error/></testcase></testsuite></testsuites>',
        Outcome("x", "3", "/p", {}),
    )
    assert (found.passed, found.skipped, found.failed) == (1, 1, 2)
    assert (found.failures, found.skips) == (["a::3", "a::4"], {"why": 1})


@pytest.mark.parametrize(
    ("outcomes", "not_run", "in_ci", "code"),
    [
        ([GOOD], [], True, 0),
        ([GOOD], [NotRun("EL9", "no 3.9")], True, 0),
        ([GOOD], [NotRun("Debian 12", "no 3.11")], False, 0),
        ([GOOD], [NotRun("Debian 12", "no 3.11")], True, EXIT_NOT_RUN),
        ([], [NotRun("EL9", "no 3.9")], False, EXIT_NOT_RUN),
        ([GOOD, Outcome("b", "3", "/p", {}, passed=7, failed=1)], [], False, EXIT_FAILED),
        ([GOOD, Outcome("b", "3", "/p", {})], [], False, EXIT_FAILED),
    ],
)
def test_exit_codes(outcomes: list[Outcome], not_run: list[NotRun], in_ci: bool, code: int) -> None:
    """A failure, nothing run, or in CI not even Debian 12's: none of it is a success."""
    assert exit_code(outcomes, not_run, in_ci) == code


def test_table_names_what_was_not_run() -> None:
    """A row for each run; below it reasons of skips, what failed, and what was not run and why."""
    red = Outcome("b", "3.12.1", "/p", {"click": "8"}, passed=1, failed=1, failures=["t::x"], skips={"no trio": 3})
    lines = table([GOOD, red], [NotRun("c", "no usable Python 3.13 was found")]).splitlines()
    assert lines[1].split() == ["EL9", "3.9.18", "msgpack", "1.0.3", "7", "0", "0", "0"]
    assert lines[3:] == ["skipped (b 3): no trio", "failed: b: t::x", "not run: c: no usable Python 3.13 was found"]
