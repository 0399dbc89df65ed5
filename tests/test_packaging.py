"""The three distributions as their users get them: versions, pins, wheels, commands."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from tests.matrix import environments

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = {
    "protocol": "ballonet_protocol",
    "guest_agent": "ballonet_guest_agent",
    "host_coord": "ballonet_host_coord",
}
PROJECTS = {
    member: tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"] for member in MEMBERS
}
# What each wheel must carry besides its modules: without them it installs, and then does not work.
DATA = {
    "protocol": ["vectors/*.json", "vectors/README.md"],
    "guest_agent": ["share/*.service", "share/*.rules", "share/*.sysusers", "share/*.conf"],
    "host_coord": ["share/*.service", "share/*.socket", "share/*.sysusers", "share/*.toml", "demo/share/*"],
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One wheel of each member, built from a copy so that the source tree stays clean."""
    copies, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for member in MEMBERS:
        shutil.copytree(
            ROOT / member,
            copies / member,
            ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"),
        )
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    done = subprocess.run(
        [*command, "--wheel-dir", str(built), *(str(copies / member) for member in MEMBERS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {member: next(built.glob(f"{package}-*.whl")) for member, package in MEMBERS.items()}


@pytest.fixture(scope="module")
def site(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three wheels installed and nothing else of ours."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), *map(str, wheels.values())], check=True)
    return target


def test_members_are_the_three_distributions() -> None:
    """The workspace names its members, and directory, distribution and import name follow one rule."""
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert workspace["tool"]["ballonet"]["members"] == list(MEMBERS)
    assert "project" not in workspace
    for member, package in MEMBERS.items():
        assert package == f"ballonet_{member}"
        assert PROJECTS[member]["name"] == package.replace("_", "-")


def test_versions_are_equal() -> None:
    """The three distributions are released together: one version."""
    assert len({project["version"] for project in PROJECTS.values()}) == 1


@pytest.mark.parametrize("member", MEMBERS)
def test_siblings_are_pinned_exactly(member: str) -> None:
    """A resolver must not prefer a stranger's newer ballonet-protocol: siblings name one exact version."""
    project = PROJECTS[member]
    wanted = [
        *project["dependencies"],
        *(r for extra in project.get("optional-dependencies", {}).values() for r in extra),
    ]
    siblings = [requirement for requirement in wanted if requirement.startswith("ballonet")]
    assert [s.partition("==")[2] for s in siblings] == [project["version"]] * len(siblings)
    if member != "protocol":
        assert any(s.startswith("ballonet-protocol==") for s in siblings)


@pytest.mark.parametrize("package", MEMBERS.values())
def test_a_version_in_the_code_is_the_distributions(package: str) -> None:
    """Where a package states its version as a constant (reading metadata costs 5 MB), it is the right one."""
    version = getattr(importlib.import_module(package), "__version__", importlib.metadata.version(package))
    assert version == PROJECTS[package.removeprefix("ballonet_")]["version"]


@pytest.mark.parametrize(("member", "package"), MEMBERS.items())
def test_import_comes_from_this_tree(member: str, package: str) -> None:
    """The tests test the source beside them, not a copy that happens to be installed."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve().is_relative_to(ROOT / member / "src")


@pytest.mark.slow
@pytest.mark.parametrize("member", MEMBERS)
def test_wheel_holds_the_package_and_no_tests(member: str, wheels: dict[str, Path]) -> None:
    """A wheel carries every module of its package, its data and its types, and nothing else."""
    package = MEMBERS[member]
    source = ROOT / member / "src" / package
    with zipfile.ZipFile(wheels[member]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(source.parent)) for path in source.rglob("*.py")}
    data = {str(path.relative_to(source.parent)) for pattern in DATA[member] for path in source.glob(pattern)}
    assert names == modules | data | {f"{package}/py.typed"}
    assert not any("test_" in name or "conftest" in name for name in names)


@pytest.mark.parametrize(("member", "pattern"), [(m, p) for m, patterns in DATA.items() for p in patterns])
def test_data_exists(member: str, pattern: str) -> None:
    """What a wheel is meant to carry is there to be carried."""
    assert list((ROOT / member / "src" / MEMBERS[member]).glob(pattern))


@pytest.mark.slow
@pytest.mark.parametrize(("member", "package"), MEMBERS.items())
def test_installed_wheel_imports_every_module(member: str, package: str, site: Path) -> None:
    """Installed from wheels, every module of a distribution imports, and only from the wheels."""
    source = ROOT / member / "src"
    modules = [
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((source / package).rglob("*.py"))
        if path.stem != "__main__" and path.parent.name != "share"
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*{m.__file__ for n, m in sys.modules.items() if n.startswith('ballonet')}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)}, cwd=site, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [file for file in done.stdout.splitlines() if not Path(file).is_relative_to(site)] == []


@pytest.mark.parametrize(
    ("command", "target"),
    [pair for project in PROJECTS.values() for pair in project.get("scripts", {}).items()],
)
def test_console_script_resolves(command: str, target: str) -> None:
    """Each command that an installation puts on the path answers --help."""
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name=command)
    assert entry.value == target
    done = subprocess.run(
        [str(Path(sys.executable).parent / command), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.parametrize("member", ["protocol", "guest_agent"])
def test_guests_code_parses_as_python_3_9(member: str) -> None:
    """Guests are older than hosts: their code uses no syntax newer than Python 3.9."""
    for path in (ROOT / member / "src").rglob("*.py"):
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 9))


def test_guests_code_imports_under_python_3_9(tmp_path: Path) -> None:
    """The guest's daemon path imports under a real Python 3.9: the fast half of what test_matrix.py tries."""
    try:
        python = environments.find("3.9").path
    except environments.CannotRun as why:
        pytest.skip(f"{why}; any build of CPython 3.9 will do")
    # msgpack without its compiled part, which is for our interpreter: the pure one is a part of the package.
    import msgpack

    shutil.copytree(
        Path(msgpack.__file__).parent, tmp_path / "msgpack", ignore=shutil.ignore_patterns("*.so")
    )
    sources = [str(ROOT / member / "src") for member in ("protocol", "guest_agent")]
    people = {"cli", "check", "uart", "__main__", "conform"}
    modules = [
        f"{package}.{path.stem}"
        for member, package in MEMBERS.items()
        if member != "host_coord"
        for path in sorted((ROOT / member / "src" / package).glob("*.py"))
        if path.stem not in people
    ]
    modules.append("ballonet_protocol.conform.cli")
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    done = subprocess.run(
        [python, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": ":".join([str(tmp_path), *sources]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
