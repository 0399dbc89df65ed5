"""The Makefile installs what is missing when it may, and otherwise says the one line that does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ballonet_host_coord.demo import requirements

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()


def make(tmp_path: Path, *words: str, **fakes: str) -> tuple[str, str]:
    """Run make with some programs replaced by shell lines; return its output and what fakes wrote to $LOG."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    log.touch()
    for name, line in fakes.items():
        program = programs / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "LOG": str(log)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, log.read_text()


def vm_packages() -> str:
    """What the Makefile wants for real guests, as apt-get's arguments."""
    (packages,) = re.findall(r"^VM_PACKAGES := (.*)$", MAKEFILE, re.MULTILINE)
    return str(packages)


def test_make_and_the_demo_want_the_same_packages() -> None:
    """What make installs for real guests is what the demo and the tests look for."""
    assert set(vm_packages().split()) == set(requirements.TO_RUN | requirements.TO_BUILD)


def test_make_and_the_libvirt_tests_want_the_same_packages() -> None:
    """What make installs for the tests of the libvirt port is what they name when it is missing."""
    (packages,) = re.findall(r"^LIBVIRT_PACKAGES := (.*)$", MAKEFILE, re.MULTILINE)
    assert f'PACKAGES = "{packages}"' in (ROOT / "tests/libvirt/rig.py").read_text()


def test_make_installs_what_the_packages_are_built_with() -> None:
    """Each of the source package's Build-Depends is installed by make, under its own name or its provider's."""
    control = (ROOT / "packaging/debian/control").read_text()
    (field,) = re.findall(r"^Build-Depends: (.*?)^\w", control, re.MULTILINE | re.DOTALL)
    (packages,) = re.findall(r"^DEB_PACKAGES := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    providers = {
        "debhelper-compat": "debhelper", "dh-sequence-installsysusers": "debhelper", "dh-sequence-python3": "dh-python",
    }  # fmt: skip
    wanted = {name.split()[0] for name in field.split(",")}
    assert {providers.get(name, name) for name in wanted} <= set(packages.replace("\\\n", " ").split())


def test_a_user_is_told_the_apt_line(tmp_path: Path) -> None:
    """Without root make installs nothing, prints the command that would, and goes on."""
    said, ran = make(tmp_path, "vm-packages", id="echo 1000", dpkg_query="exit 1", apt_get='echo "$@" >>"$LOG"')
    assert ran == ""
    assert f"apt-get update && apt-get install -y --no-install-recommends {vm_packages()}" in said


def test_root_installs_what_is_missing(tmp_path: Path) -> None:
    """As root make refreshes the lists and installs every missing package, asking nothing."""
    ran = make(tmp_path, "vm-packages", id="echo 0", dpkg_query="exit 1", apt_get='echo "$@" >>"$LOG"')[1]
    update, install = ran.splitlines()
    assert update.startswith("update")
    assert install.endswith(f"-y --no-install-recommends {vm_packages()}")


def test_nothing_is_done_when_nothing_is_missing(tmp_path: Path) -> None:
    """With every package there make neither installs nor speaks."""
    said, ran = make(tmp_path, "vm-packages", id="echo 0", dpkg_query="echo installed", apt_get='echo "$@" >>"$LOG"')
    assert ran == ""
    assert "apt-get" not in said


def test_a_failed_install_does_not_end_the_run(tmp_path: Path) -> None:
    """Where apt-get cannot install, make says so and goes on: what needs the packages skips or fails by itself."""
    said, _ = make(tmp_path, "vm-packages", id="echo 0", dpkg_query="exit 1", apt_get="exit 100")
    assert "going on without" in said


def test_ci_runs_make_test() -> None:
    """CI runs the one command that a developer runs, and nothing else."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ['cd "$(dirname "$0")/.." && exec make test']


@pytest.mark.parametrize(("words", "seconds"), [((), "60"), (("SECONDS=7",), "7")])
def test_fuzzing_takes_the_time_it_is_given(tmp_path: Path, words: tuple[str, ...], seconds: str) -> None:
    """`make fuzz` runs for a minute, or for SECONDS."""
    said, _ = make(tmp_path, "--dry-run", "fuzz", *words)
    assert said.splitlines()[-1] == f".venv/bin/python tests/fuzz/run.py --seconds {seconds}"


def test_the_fuzzer_is_installed_only_when_asked(tmp_path: Path) -> None:
    """Its 35 MB are a requirement of `make fuzz` and of nothing that a developer or CI runs."""
    assert "atheris" in (ROOT / "requirements-fuzz.txt").read_text()
    said, _ = make(tmp_path, "--dry-run", "--always-make", "test", "test-fast", "bench", "demo", id="echo 1000")
    assert "requirements-dev.txt" in said
    assert "requirements-fuzz.txt" not in said


def test_clean_takes_away_what_the_tools_leave(tmp_path: Path) -> None:
    """Every folder that git is told to ignore is removed by `make clean`, the environment and the caches apart."""
    said, _ = make(tmp_path, "--dry-run", "clean")
    ignored = (ROOT / ".gitignore").read_text().split()
    for folder in set(ignored) - {".venv", ".cache/", "*.egg-info/"}:
        assert folder.rstrip("/") in said


@pytest.mark.parametrize(
    "target",
    ["venv", "demo", "test", "test-fast", "matrix", "bench", "bench-host", "fuzz", "image", "clean", "deb", "dist"],
)
def test_target_exists(target: str) -> None:
    """Every target that the documents promise has a rule."""
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)
