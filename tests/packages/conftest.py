"""The packages as users get them: built once for the session, unpacked side by side, and run from there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.real_parts import cannot

ROOT = Path(__file__).resolve().parent.parent.parent
BINARIES = ("python3-ballonet-protocol", "ballonet-guest-agent", "ballonet-host-coord")
# What a person or a service has, and no more: the development environment must not help.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

Need = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What builds packages is left out of `make test-fast`."""
    for item in items:
        if Path(__file__).parent in item.path.parents and {"built", "dist"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def need() -> Need:
    """`need("lintian", ...)`: what is missing ends the test."""

    def look(*programs: str) -> None:
        if missing := [program for program in programs if shutil.which(program, path=SYSTEM_PATH) is None]:
            cannot(f"{', '.join(missing)} missing; as root: make deb-packages")

    return look


@pytest.fixture(scope="session")
def built(need: Need) -> Path:
    """The folder with the packages of this tree."""
    need("dpkg-buildpackage", "dh", "dh_python3", "flock", "xz")
    done = subprocess.run([str(ROOT / "packaging/build-deb")], cwd=ROOT, capture_output=True, text=True, check=False)
    if "Unmet build dependencies" in done.stdout + done.stderr:
        cannot(f"{(done.stdout + done.stderr).strip()}; as root: make deb-packages")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "dist/deb"


@pytest.fixture(scope="session")
def debs(built: Path) -> dict[str, Path]:
    """Package's name -> its file. There are three and no more."""
    found = {path.name.partition("_")[0]: path for path in built.glob("*.deb")}
    assert set(found) == set(BINARIES)
    return found


@pytest.fixture(scope="session")
def unpacked(debs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the files of all three packages, which share none."""
    root = tmp_path_factory.mktemp("unpacked")
    for deb in debs.values():
        subprocess.run(["dpkg-deb", "--extract", str(deb), str(root)], check=True)
    return root


@pytest.fixture(scope="session")
def environment(unpacked: Path) -> dict[str, str]:
    """The unpacked commands on the path, on Debian's Python and libraries."""
    return {
        "PATH": f"{unpacked}/usr/bin:{SYSTEM_PATH}",
        "PYTHONPATH": f"{unpacked}/usr/lib/python3/dist-packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
        "HOME": str(unpacked),
        "TERM": "xterm",
    }
