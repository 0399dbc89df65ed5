"""The README's table of faults is what the tests are marked with, and no required fault is without a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
README = Path(__file__).with_name("README.md")
REQUIRED = {*range(1, 32), 34, *range(36, 41), *range(47, 51)}
ROW = re.compile(r"^\| (\d+) \| (.+) \| (.*) \|$", re.MULTILINE)


def marked(source: str) -> Iterator[tuple[int, str]]:
    """Each number that a test of this source is marked with, and the test; nothing is imported or run."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                for number in decorator.args:
                    yield ast.literal_eval(number), node.name


def collect() -> dict[int, list[str]]:
    """The tests that show each fault, by number, as the table writes them."""
    found: dict[int, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for number, name in marked(path.read_text()):
            found.setdefault(number, []).append(f"`{path.relative_to(TESTS)}::{name}`")
    return {number: sorted(tests) for number, tests in found.items()}


def test_every_required_fault_has_its_test() -> None:
    """The marks of all test files together are exactly the required numbers: none is missing, none made up."""
    assert set(collect()) == REQUIRED


def test_the_readme_names_the_tests() -> None:
    """Each row has the tests that are marked with its number, and each number has one row, in order."""
    rows = {int(number): tests for number, _what, tests in ROW.findall(README.read_text())}
    assert list(rows) == sorted(REQUIRED)
    wrong = {number: ", ".join(tests) for number, tests in collect().items() if rows[number] != ", ".join(tests)}
    assert not wrong, "the rows should end so:\n" + "\n".join(f"| {n} | ... | {tests} |" for n, tests in wrong.items())


def test_each_fault_is_said_in_words() -> None:
    """No row is left without what it is about, and no two say the same."""
    said = [what for _number, what, _tests in ROW.findall(README.read_text())]
    assert len(set(said)) == len(REQUIRED)
    assert all(len(what) > 10 for what in said)


def test_marks_are_found_wherever_they_stand() -> None:
    """The search sees several numbers, other decorators and methods, and leaves what is no test or no call alone."""
    source = """
@pytest.mark.fault(1, 2)
@pytest.mark.slow
def test_a(): ...
class TestB:
    @pytest.mark.fault(3)
    async def test_c(self): ...
@pytest.mark.fault(4)
def helper(): ...
@pytest.mark.fault
def test_d(): ...
"""
    assert sorted(marked(source)) == [(1, "test_a"), (2, "test_a"), (3, "test_c")]
