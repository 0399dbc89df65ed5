"""Source distributions and wheels: `make dist` makes all six, without network, and they say and hold the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
import tomllib
from packaging.metadata import Metadata

from .conftest import ROOT

MEMBERS = ("protocol", "guest_agent", "host_coord")
# Without a network a package index cannot help.
OFFLINE = {"PIP_NO_INDEX": "1", "PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What packaging/build-dist makes."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [str(ROOT / "packaging/build-dist"), str(folder)], env=OFFLINE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(folder.iterdir())) == 2 * len(MEMBERS)
    return folder


def wheel(dist: Path, member: str) -> zipfile.ZipFile:
    (path,) = dist.glob(f"ballonet_{member}-*.whl")
    return zipfile.ZipFile(path)


def sdist(dist: Path, member: str) -> dict[str, bytes]:
    """Path below the top folder -> content. Setuptools has both spellings of the name, by its age."""
    (path,) = [*dist.glob(f"ballonet_{member}-*.tar.gz"), *dist.glob(f"ballonet-{member.replace('_', '-')}-*.tar.gz")]
    with tarfile.open(path) as tar:
        found = {}
        for entry in tar.getmembers():
            assert entry.isfile() or entry.isdir(), f"{entry.name} is a link: it would lead nowhere"
            if entry.isfile():
                content = tar.extractfile(entry)
                assert content is not None
                found[entry.name.partition("/")[2]] = content.read()
    return found


def parsed(text: bytes) -> Metadata:
    """Checked metadata. Setuptools wrote License-File before metadata 2.4 had it, and every index takes that."""
    if b"\nMetadata-Version: 2.4\n" not in b"\n" + text:
        text = re.sub(rb"^License-File: .*\n", b"", text, flags=re.MULTILINE)
    return Metadata.from_email(text, validate=True)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_licence_is_in_each(member: str, dist: Path) -> None:
    """Source distribution and wheel carry the licence's text, that of the root."""
    text = (ROOT / "LICENSE").read_bytes()
    assert sdist(dist, member)["LICENSE"] == text
    with wheel(dist, member) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("LICENSE")]
        assert archive.read(name) == text


@pytest.mark.parametrize("member", MEMBERS)
def test_the_source_distribution_has_what_makes_the_wheel(member: str, dist: Path) -> None:
    """The wheel, which was built from it, has every module and datum of the source distribution, and of the tree."""
    source = {
        name.removeprefix("src/"): content
        for name, content in sdist(dist, member).items()
        if name.startswith("src/") and ".egg-info/" not in name
    }
    with wheel(dist, member) as archive:
        carried = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        str(path.relative_to(ROOT / member / "src")): path.read_bytes()
        for path in (ROOT / member / "src").rglob("*")
        if path.is_file() and not {"__pycache__"} & set(path.parts) and ".egg-info" not in str(path)
    }
    assert source == carried == tree


@pytest.mark.parametrize("member", MEMBERS)
def test_the_metadata_is_valid(member: str, dist: Path) -> None:
    """Both carry metadata that the packaging library accepts whole, alike, with a text that says what this is."""
    with wheel(dist, member) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        of_wheel = archive.read(name)
    checked, of_source = parsed(of_wheel), parsed(sdist(dist, member)["PKG-INFO"])
    project = tomllib.loads((ROOT / member / "pyproject.toml").read_text())["project"]
    for metadata in (checked, of_source):
        assert (metadata.name, str(metadata.version)) == (project["name"], project["version"])
        assert str(metadata.requires_python) == project["requires-python"]
    fields = HeaderParser().parsestr(of_wheel.decode())
    assert fields["Description-Content-Type"] == "text/markdown"
    assert fields.get_payload() == (ROOT / member / "README.md").read_text()


def test_equal_sources_give_equal_wheels(dist: Path, tmp_path: Path) -> None:
    """A second build gives the same wheel, byte for byte."""
    command = [str(ROOT / "packaging/build-dist"), str(tmp_path)]
    subprocess.run(command, env={**OFFLINE, "MEMBERS": "protocol"}, check=True, capture_output=True)
    (again,) = tmp_path.glob("*.whl")
    assert again.read_bytes() == (dist / again.name).read_bytes()
