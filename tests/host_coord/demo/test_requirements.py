"""What real guests need is found, installed when we may, and named when we may not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ballonet_host_coord.demo import requirements

REAL_RUN = subprocess.run


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A host without any of the programs, apt-get apart; returns the apt-get calls, which install nothing."""
    (tmp_path / "apt-get").touch(mode=0o755)
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        calls.append(command[2:])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(requirements, "SEARCH_PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_user_gets_the_one_line(host, monkeypatch):
    """Without root nothing is run, and the error holds the command to paste."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    line = "apt-get update && apt-get install -y --no-install-recommends qemu-system-x86"
    with pytest.raises(requirements.RequirementsError, match=line):
        requirements.ensure(requirements.TO_RUN, print)
    assert host == []


def test_root_installs_only_what_is_missing(host, tmp_path, monkeypatch):
    """A program that is there is not installed again."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (tmp_path / "mke2fs").touch(mode=0o755)

    def install(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        host.append(command[2:])
        for program in ("mmdebstrap", "tar", "mkswap"):
            (tmp_path / program).touch(mode=0o755)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", install)
    requirements.ensure(requirements.TO_BUILD, lambda _: None)
    assert host == [["install", "--yes", "--no-install-recommends", "mmdebstrap", "tar", "util-linux"]]


def test_package_lists_are_fetched_when_the_first_try_fails(host, tmp_path, monkeypatch):
    """A fresh container has no package lists: they are fetched, and the installation tried again."""
    monkeypatch.setattr("os.geteuid", lambda: 0)

    def fails_until_updated(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        host.append(command[2:])
        updated = ["update"] in host
        if updated:
            (tmp_path / "qemu-system-x86_64").touch(mode=0o755)
        return subprocess.CompletedProcess(command, 0 if updated else 100)

    monkeypatch.setattr(subprocess, "run", fails_until_updated)
    requirements.ensure(requirements.TO_RUN, lambda _: None)
    assert [call[0] for call in host] == ["install", "update", "install"]


def test_an_installation_that_brings_nothing_is_an_error(host, monkeypatch):
    """apt-get's word is not enough: the program must be there."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(requirements.RequirementsError, match="not found on the PATH: qemu-system-x86"):
        requirements.ensure(requirements.TO_RUN, lambda _: None)
    assert host


def test_apts_last_words_are_the_reason(host, tmp_path, monkeypatch, capfd):
    """An installation that fails says why in the error's one line, with the command to paste, and nowhere else."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", REAL_RUN)
    script = "#!/bin/sh\necho trying\necho 'E: Unable to connect to the mirror' >&2\nexit 100\n"
    (tmp_path / "apt-get").write_text(script)
    with pytest.raises(requirements.RequirementsError) as error:
        requirements.ensure(requirements.TO_RUN, lambda _: None)
    assert "could not install qemu-system-x86: E: Unable to connect to the mirror; as root: apt-get" in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_nothing_missing_runs_nothing(host, tmp_path):
    """With everything there no command is run, root or not."""
    (tmp_path / "qemu-system-x86_64").touch(mode=0o755)
    requirements.ensure(requirements.TO_RUN, lambda _: None)
    assert host == []
