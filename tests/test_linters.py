"""The house rules that a machine can check: style, types, import contracts, forbidden names, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SOURCES = [f"{member}/src" for member in ("protocol", "guest_agent", "host_coord")]
IMPORT_CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

# What a reader can hold. Past it a file has two subjects.
MOST_LINES = 450

# Names that no source file may use, and why. Checked on the parsed code, so prose may explain them.
FORBIDDEN_NAMES = {
    "Unpacker": "msgpack's streaming reader: used after it raised it can crash the interpreter",
    "MultiError": "gone from newer trio; pass strict_exception_groups=True to trio.run instead",
    "pressure": "say commit_pressure, psi_some or psi_full",
    "desired": "the field's word is target",
    "priority": "the field's word is weight: it divides, it does not order",
}
# What every guest would pay for (0.3 to 4.9 MB each on CPython 3.11), so its daemon does without. That
# nothing else loads them is a test of the running daemon; the one here names the line that brought one in.
DEAR_IN_THE_GUEST = {
    "argparse", "asyncio", "click", "collections", "dataclasses", "datetime", "enum", "functools", "importlib",
    "inspect", "logging", "pathlib", "psutil", "selectors", "subprocess", "tomllib", "trio", "typing", "unittest",
}  # fmt: skip
# Run by people or by tests, never by the daemon.
NOT_IN_THE_DAEMON = {
    "ballonet_protocol.testing", "ballonet_protocol.conform",
    "ballonet_guest_agent.cli", "ballonet_guest_agent.check", "ballonet_guest_agent.check_kernel",
    "ballonet_guest_agent.finding", "ballonet_guest_agent.look", "ballonet_guest_agent.processes",
    "ballonet_guest_agent.service",
}  # fmt: skip


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def _python_files(*folders: str) -> list[Path]:
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if "build" not in path.parts
    )


def _modules(package: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of a distribution; neither __init__ files nor scripts in share/."""
    for source in SOURCES:
        top = ROOT / source / package
        if top.is_dir():
            return {
                ".".join(path.relative_to(top.parent).with_suffix("").parts): path
                for path in sorted(top.rglob("*.py"))
                if path.name != "__init__.py" and path.parent.name != "share"
            }
    raise LookupError(package)


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every identifier a file binds or uses, with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, line
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, line
            case ast.alias(name=name, asname=asname):
                yield name.rpartition(".")[2], line
                if asname:
                    yield asname, line
            case ast.keyword(arg=str(name)):
                yield name, line


def _imports_at_run_time(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    """Packages that running these statements brings in: not those inside functions or for type checkers."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0], node.lineno
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from _imports_at_run_time(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports_at_run_time(ast.iter_child_nodes(node))


def test_ruff() -> None:
    """Every Python file passes the lint rules of pyproject.toml."""
    _run(str(BIN / "ruff"), "check", "--quiet", "--output-format=concise", *SOURCES, "tests", "packaging")


def test_mypy() -> None:
    """All three distributions type-check under mypy --strict, and what makes their pages and completions."""
    _run(sys.executable, "-m", "mypy", *SOURCES)
    _run("env", "MYPYPATH=packaging", sys.executable, "-m", "mypy", "packaging/generate.py")


def test_import_contracts() -> None:
    """The pure parts stay pure, and agent and coordinator never import each other."""
    _run(str(BIN / "lint-imports"))


@pytest.mark.parametrize("package", ["ballonet_protocol", "ballonet_guest_agent", "ballonet_host_coord"])
def test_every_module_is_declared_pure_or_shell(package: str) -> None:
    """Each module stands in its distribution's purity contract on one side: a new one cannot slip past it."""
    (contract,) = [c for c in IMPORT_CONTRACTS if c["name"] == f"{package}: pure modules"]
    pure = set(contract["source_modules"])
    shell = {name for name in contract["forbidden_modules"] if name.startswith(f"{package}.")}
    declared = pure | shell
    modules = _modules(package)
    undeclared = {
        name for name in modules if not any(name == d or name.startswith(f"{d}.") for d in declared)
    }
    assert not undeclared, f"declare in pyproject.toml, as pure or as shell: {' '.join(sorted(undeclared))}"
    assert pure & shell == set()


@pytest.mark.parametrize("name", FORBIDDEN_NAMES)
def test_forbidden_name_is_not_used(name: str) -> None:
    """No source file binds or uses a name that the project has decided against."""
    uses = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in _python_files(*SOURCES)
        for used, line in _names(ast.parse(path.read_text()))
        if used == name
    ]
    assert not uses, f"{name}: {FORBIDDEN_NAMES[name]}: {' '.join(uses)}"


def test_names_are_found_wherever_python_has_them() -> None:
    """The search behind the forbidden names sees imports, attributes, calls, arguments and definitions."""
    code = """
import a.one as two
from b import three
four.five(six=seven)
def eight(nine): ...
class ten: ...
"""
    found = {name for name, _ in _names(ast.parse(code))}
    assert found == {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}


def test_the_guests_daemon_imports_nothing_dear() -> None:
    """No module on the guest daemon's path imports a library whose memory every guest would pay for."""
    dear = [
        f"{path.relative_to(ROOT)}:{line} imports {imported}"
        for package in ("ballonet_protocol", "ballonet_guest_agent")
        for module, path in _modules(package).items()
        if not any(module == name or module.startswith(f"{name}.") for name in NOT_IN_THE_DAEMON)
        for imported, line in _imports_at_run_time(ast.parse(path.read_text()).body)
        if imported in DEAR_IN_THE_GUEST
    ]
    assert not dear, "\n".join(dear)


def test_imports_for_type_checkers_and_in_functions_cost_nothing() -> None:
    """The search behind the dear imports counts what importing the module runs, and only that."""
    code = """
import one
if TYPE_CHECKING:
    import two
else:
    import three
try:
    from four.sub import x
except ImportError:
    pass
from .five import y
def lazy():
    import six
class Holder:
    import seven
"""
    assert {name for name, _ in _imports_at_run_time(ast.parse(code).body)} == {
        "one",
        "three",
        "four",
        "seven",
    }


def test_files_are_readable_in_one_sitting() -> None:
    """No Python file is longer than a reader can hold."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in _python_files(*SOURCES, "tests")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    """Every source module begins with a docstring whose first line is a whole sentence."""
    speechless = []
    for path in _python_files(*SOURCES):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].strip()
        if not first.endswith((".", ":", "?")):
            speechless.append(str(path.relative_to(ROOT)))
    assert not speechless, " ".join(speechless)


def test_a_test_directory_is_no_package() -> None:
    """tests/ holds no __init__.py; importmode=importlib keeps modules of the same name apart without."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
