"""Finds interpreters, makes an environment for each combination and runs the tests in it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .combinations import DEBIANS_OWN, Combination, Interpreter, Outcome, choose, key, places, read_junit

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "matrix"
MEMBERS = ("protocol", "guest_agent")
TESTS = tuple(f"tests/{member}" for member in MEMBERS)
NEEDED = ("ensurepip", "ssl", "venv", "zlib")

#: Prints [path, version, which of the modules named are missing].
PROBE = (
    "import importlib.util, json, platform, sys; "
    "lacks = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]; "
    "print(json.dumps([sys.executable, platform.python_version(), lacks]))"
)
#: Prints name -> version as imported; msgpack says whether it is its compiled part that works.
LIBRARIES = (
    "import importlib.metadata as m, json, msgpack; "
    "found = {n: m.version(n) for n in ('msgpack', 'click', 'pyserial')}; "
    "found['msgpack'] += ' (pure Python)' if 'fallback' in msgpack.Packer.__module__ else ' (compiled)'; "
    "print(json.dumps(found))"
)
#: How long pip may take for one environment.
INSTALL_S = 600
#: How long the tests of one combination may take; some forty seconds on one of two cores.
RUN_S = 900


class CannotRun(Exception):
    """The combination cannot be tried here; the text says why."""


def probe(path: Path) -> Interpreter | str:
    """Start an interpreter; or the last line of what it said instead."""
    try:
        done = subprocess.run(
            [path, "-c", PROBE, *NEEDED], capture_output=True, text=True, check=False, timeout=30, env=_clean()
        )
        executable, version, lacks = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        said = done.stderr.strip() if isinstance(error, ValueError) else str(error)
        return said.splitlines()[-1] if said else "it said nothing"
    return Interpreter(executable, version, tuple(lacks))


def find(python: str) -> Interpreter:
    """An interpreter of that version. Raises CannotRun."""
    here = [path for path in places(python, Path.home(), os.environ) if path.is_file()]
    found = choose(python, ((str(path), probe(path)) for path in here))
    if isinstance(found, str):
        raise CannotRun(found)
    return found


def build_wheels() -> list[Path]:
    """The two distributions as their users install them, built from copies so that the source tree stays clean."""
    wheels, copies = CACHE / "wheels", CACHE / "source"
    for folder in (wheels, copies):
        shutil.rmtree(folder, ignore_errors=True)
    for member in MEMBERS:
        ignored = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
        shutil.copytree(ROOT / member, copies / member, ignore=ignored)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(wheels)]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, *(str(copies / member) for member in MEMBERS)], check=True
    )
    return sorted(wheels.glob("*.whl"))


def environment(combination: Combination, interpreter: Interpreter, tools: tuple[str, ...], wheels: list[Path]) -> Path:
    """The folder of an environment with all that the tests need; made when it is not there yet. Raises CannotRun."""
    slug = combination.name.lower().replace(" ", "-")
    folder = CACHE / f"{slug}-{key(combination, interpreter, tools)}"
    ready = folder / ".ready"
    if not ready.exists():
        for old in CACHE.glob(f"{slug}-{'?' * 12}"):
            shutil.rmtree(old)
        _make([interpreter.path, "-m", "venv", str(folder)])
        _pip(folder, *tools, *combination.pins)
        if interpreter.path == DEBIANS_OWN and _system() == ("debian", "12"):
            for package in combination.debs:
                _unpack(folder, package)
        ready.touch()
    _pip(folder, "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels))
    return folder


def _system() -> tuple[str, str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "", ""
    return release.get("ID", ""), release.get("VERSION_ID", "")


def _pip(folder: Path, *words: str) -> None:
    _make([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words])


def _unpack(folder: Path, package: str) -> None:
    """Put a Debian package's modules into an environment. Without apt, or without Debian's archive, pip's stay."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return
    down = folder / "deb"
    down.mkdir()
    done = subprocess.run(["apt-get", "download", "-qq", package], cwd=down, capture_output=True, check=False)
    if done.returncode:
        return
    (deb,) = down.glob("*.deb")
    _make(["dpkg-deb", "-x", str(deb), str(down / "root")])
    (site,) = (folder / "lib").glob("python3*/site-packages")
    name = package.removeprefix("python3-")
    for pips in site.glob(f"{name}*"):
        shutil.rmtree(pips)
    for debians in (down / "root/usr/lib/python3/dist-packages").iterdir():
        (shutil.copytree if debians.is_dir() else shutil.copy)(debians, site / debians.name)


def _make(command: list[str]) -> None:
    """Run a step of an environment's making. Raises CannotRun with the last line of what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S, env=_clean())
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{' '.join(command[:4])} ... took longer than {INSTALL_S} s") from None
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.lower().startswith("error")] or said or ["it said nothing"]
        raise CannotRun(f"{' '.join(command[:4])} ... failed: {errors[-1]}")


def _clean() -> dict[str, str]:
    """Our environment without what leads an interpreter to another one's modules."""
    strange = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "__PYVENV_LAUNCHER__", "PYTEST_ADDOPTS"}
    return {name: value for name, value in os.environ.items() if name not in strange}


def run_tests(combination: Combination, interpreter: Interpreter, folder: Path, words: list[str]) -> Outcome:
    """Run the tests of the agent and of the protocol there. `words` go to pytest. Never raises for a red test."""
    python = str(folder / "bin/python")
    libraries = json.loads(subprocess.check_output([python, "-c", LIBRARIES], text=True, env=_clean()))
    outcome = Outcome(combination.name, interpreter.version, interpreter.path, libraries)
    junit, log = folder / "junit.xml", folder / "pytest.log"
    junit.unlink(missing_ok=True)
    command = [python, "-m", "pytest", *TESTS, "-q", "-p", "no:cacheprovider", "-m", "not slow or matrix"]
    command += ["--hypothesis-profile=matrix", f"--junit-xml={junit}", *words]
    began_s = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False, timeout=RUN_S, env=_clean()
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    outcome.duration_s = round(time.monotonic() - began_s, 1)
    if junit.exists():
        read_junit(junit.read_text(), outcome)
    if code and not outcome.failed:
        why = f"took longer than {RUN_S} s" if code == -1 else f"ended with {code}"
        outcome.failures.append(f"pytest {why}; {log.relative_to(ROOT)} has what it said")
        outcome.failed = 1
    return outcome
