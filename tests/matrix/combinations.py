"""What the matrix is: which Python with which libraries, where an interpreter may be, and what a run found, as text."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DEBIANS_OWN = "/usr/bin/python3"
"""Debian's packages are for this interpreter and no other."""

TEST_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
"""What the tests of the agent and of the protocol need; their versions are those of requirements-dev.txt."""

EXIT_FAILED = 1
EXIT_NOT_RUN = 2


@dataclass(frozen=True)
class Combination:
    """A Python and the libraries that guests with it have.

    `pins` are pip's requirements. `debs` are Debian packages whose files come on top where Debian's own interpreter
    runs: msgpack 1.0.3 has no wheel for Python 3.11, and its C code, which was generated in 2021, builds there no more;
    pip then installs the pure Python one without a word. Debian generates it anew.
    """

    name: str
    python: str
    pins: tuple[str, ...]
    debs: tuple[str, ...] = ()


# What distributions carry (their package pages, 2026-11): msgpack 1.0.3 everywhere.
LIBRARIES = {
    "EL9": ("msgpack==1.0.3", "click==8.0.3", "pyserial==3.4"),
    "Ubuntu 22.04": ("msgpack==1.0.3", "click==8.0.3", "pyserial==3.5"),
    "Debian 12": ("msgpack==1.0.3", "click==8.1.3", "pyserial==3.5"),
    "current": ("msgpack", "click", "pyserial"),
}
DISTRIBUTIONS = {
    "EL9": Combination("EL9", "3.9", LIBRARIES["EL9"]),
    "Ubuntu 22.04": Combination("Ubuntu 22.04", "3.10", LIBRARIES["Ubuntu 22.04"]),
    "Debian 12": Combination("Debian 12", "3.11", LIBRARIES["Debian 12"], ("python3-msgpack",)),
}
NEWER = tuple(Combination(f"current on {python}", python, LIBRARIES["current"]) for python in ("3.12", "3.13"))
USUAL = (*DISTRIBUTIONS.values(), *NEWER)


def every_combination() -> tuple[Combination, ...]:
    """The usual ones, and each Python from 3.9 to 3.13 with every distribution's libraries and the current ones."""
    usual = {(one.python, one.pins) for one in USUAL}
    others = (
        Combination(f"{name} on {python}", python, pins)
        for python in ("3.9", "3.10", "3.11", "3.12", "3.13")
        for name, pins in LIBRARIES.items()
        if (python, pins) not in usual
    )
    return (*USUAL, *others)


# ---- interpreters


def places(python: str, home: Path, environment: Mapping[str, str]) -> list[Path]:
    """Files that may be `python` ("3.9"), the likeliest first: the system's, on the path, version managers', the newest
    patch first. None of them need exist, and one that does need not start: a version manager puts stubs on the path."""
    found = [Path(DEBIANS_OWN), Path(f"/usr/bin/python{python}"), Path(f"/usr/local/bin/python{python}")]
    found += [Path(folder) / f"python{python}" for folder in environment.get("PATH", "").split(":") if folder]
    managed = [
        (Path(environment.get("PYENV_ROOT", home / ".pyenv")), f"versions/{python}*"),
        (Path(environment.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")), f"cpython-{python}*"),
        (Path(environment.get("ASDF_DATA_DIR", home / ".asdf")), f"installs/python/{python}*"),
        (home / ".local/share/mise", f"installs/python/{python}*"),
        (Path("/opt/python"), f"cp{python.replace('.', '')}-*"),
        (Path("/opt/hostedtoolcache/Python"), f"{python}*/x64"),
    ]
    for root, pattern in managed:
        versions = [folder for folder in root.glob(pattern) if _is_version(folder, python)]
        found += [folder / "bin" / f"python{python}" for folder in sorted(versions, key=_patch, reverse=True)]
    return list(dict.fromkeys(found))


def _is_version(folder: Path, python: str) -> bool:
    """3.1* is also 3.11: what follows must be no digit."""
    _, found, rest = str(folder).rpartition(python)
    return not found or not rest[:1].isdigit()


def _patch(folder: Path) -> list[int]:
    return [int(number) for number in "".join(c if c.isdigit() else " " for c in str(folder)).split()]


@dataclass(frozen=True)
class Interpreter:
    """One that started: its path, "3.9.18", and which of the modules that an environment needs it lacks."""

    path: str
    version: str
    lacks: tuple[str, ...] = ()


def choose(python: str, tried: Iterable[tuple[str, Interpreter | str]]) -> Interpreter | str:
    """The first usable interpreter of that version, or why there is none.

    `tried` are paths that exist, each with the interpreter or with what it said instead of starting.
    """
    complaints = []
    for path, found in tried:
        if isinstance(found, str):
            complaints.append(f"{path} does not start: {found}")
        elif ".".join(found.version.split(".")[:2]) != python:
            continue
        elif found.lacks:
            complaints.append(f"{path} has no {', '.join(found.lacks)}")
        else:
            return found
    return "; ".join([f"no usable Python {python} was found", *complaints])


def key(combination: Combination, interpreter: Interpreter, tools: Sequence[str]) -> str:
    """Names an environment: another requirement, another interpreter, another environment."""
    parts = (*combination.pins, *combination.debs, *tools, interpreter.path, interpreter.version)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def tools_of(requirements: str) -> tuple[str, ...]:
    """Of the lines of requirements-dev.txt those that the tests need. LookupError: one is not there."""
    lines = [line.strip() for line in requirements.splitlines()]
    found = tuple(line for tool in TEST_TOOLS for line in lines if line.split(">")[0].split("=")[0] == tool)
    if len(found) != len(TEST_TOOLS):
        raise LookupError(f"requirements-dev.txt names not all of {', '.join(TEST_TOOLS)}")
    return found


# ---- what was found


@dataclass
class Outcome:
    """One combination's run. `libraries` are name -> version as imported, `skips` reason -> how many."""

    name: str
    python: str
    interpreter: str
    libraries: dict[str, str]
    passed: int = 0
    skipped: int = 0
    failed: int = 0
    duration_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    skips: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NotRun:
    """A combination that could not be tried, and why."""

    name: str
    why: str


def read_junit(text: str, outcome: Outcome) -> Outcome:
    """Fills in what pytest's --junit-xml says. A test that errs in its setup or its teardown counts as failed."""
    skips: Counter[str] = Counter()
    for case in ET.fromstring(text).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            name = f"{case.get('classname')}::{case.get('name')}"
            if name not in outcome.failures:
                outcome.failures.append(name)
        elif skipped is not None:
            skips[skipped.get("message", "")] += 1
        else:
            outcome.passed += 1
    outcome.skips = dict(skips)
    outcome.skipped = sum(skips.values())
    outcome.failed = len(outcome.failures)
    return outcome


def exit_code(outcomes: Sequence[Outcome], not_run: Sequence[NotRun], in_ci: bool) -> int:
    """0, or 1: a test failed or an environment ran none; or 2: nothing ran, or in CI not even Debian 12's."""
    if any(outcome.failed or not outcome.passed for outcome in outcomes):
        return EXIT_FAILED
    if not outcomes or (in_ci and any(one.name == "Debian 12" for one in not_run)):
        return EXIT_NOT_RUN
    return 0


def as_json(outcomes: Sequence[Outcome], not_run: Sequence[NotRun]) -> dict[str, Any]:
    return {"combinations": [asdict(one) for one in outcomes], "not_run": [asdict(one) for one in not_run]}


def table(outcomes: Sequence[Outcome], not_run: Sequence[NotRun]) -> str:
    """For people: a row for each combination, then why tests were skipped, what failed and what was not run."""
    rows = [("combination", "Python", "libraries", "passed", "skipped", "failed", "seconds")]
    for one in outcomes:
        libraries = ", ".join(f"{name} {version}" for name, version in one.libraries.items())
        counts = (str(one.passed), str(one.skipped), str(one.failed), f"{one.duration_s:.0f}")
        rows.append((one.name, one.python, libraries, *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons: dict[str, list[str]] = {}
    for one in outcomes:
        for reason, count in one.skips.items():
            reasons.setdefault(reason, []).append(f"{one.name} {count}")
    lines += [f"skipped ({', '.join(counts)}): {reason}" for reason, counts in reasons.items()]
    lines += [f"failed: {one.name}: {failure}" for one in outcomes for failure in one.failures]
    lines += [f"not run: {one.name}: {one.why}" for one in not_run]
    return "\n".join(lines)
