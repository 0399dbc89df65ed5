"""cli.py: what people type."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ballonet_guest_agent.cli import main

FIXTURES = Path(__file__).parent / "fixtures/linux-6.1"


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "pressure").mkdir()
    for name in ("meminfo", "vmstat"):
        (tmp_path / name).write_text((FIXTURES / name).read_text())
    (tmp_path / "pressure/memory").write_text((FIXTURES / "pressure_memory").read_text())
    path = tmp_path / "agent.conf"
    path.write_text(f"proc_root = {tmp_path}\nsys_root = {tmp_path}\ndev_root = {tmp_path}\n")
    return str(path)


def test_sample(config: str) -> None:
    """A person sees sizes with units, and `unknown` for what the kernel does not say."""
    result = CliRunner().invoke(main, ["sample", "--config", config])
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split(None, 1)[1] for line in result.output.splitlines() if line.startswith("  ")}
    assert lines["balloon_kib"] == "410 MiB"
    assert lines["some_avg10_permyriad"] == "12.34 %"
    assert lines["deflate_on_oom"] == "unknown"
    assert lines["state"] == "present"


def test_sample_says_why(config: str, tmp_path: Path) -> None:
    """What is unknown because the kernel is too old says so, and PSI that is not there is one word, not an error."""
    vmstat = (FIXTURES.parent / "linux-4.4/vmstat").read_text()
    (tmp_path / "vmstat").write_text(vmstat)
    (tmp_path / "pressure/memory").unlink()
    result = CliRunner().invoke(main, ["sample", "--config", config])
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in result.output.splitlines()}
    assert lines["refaults_anon"] == "unknown (Linux 5.9 or later)"
    assert lines["refaults_file"] == "700"
    assert lines["state"] == "absent"
    assert lines["some_us"] == "unknown (Linux 4.20 or later)"


def test_sample_json(config: str) -> None:
    """A program sees numbers and null."""
    result = CliRunner().invoke(main, ["sample", "--json", "--config", config])
    values = json.loads(result.output)
    assert values["memory"]["committed_kib"] == 884340
    assert values["psi"]["full_us"] == 104512
    assert values["zram"] == {"size_kib": 0, "stored_kib": 0, "held_kib": 0}
    assert values["balloon"]["deflate_on_oom"] is None
    assert values["size"]["floor_kib"] == 232 * 1024 + values["memory"]["total_kib"] // 16
    assert values["size"]["floor_kib"] < values["size"]["want_kib"] < values["memory"]["total_kib"]


def test_check_fails_with_a_way_out(config: str) -> None:
    """Exit code 1 when something must be mended, and each complaint is followed by how."""
    result = CliRunner().invoke(main, ["check", "--config", config])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(("problem", "hint")):
            assert "->" in lines[number + 1]
    assert "no virtio port named org.ballonet.agent.0" in result.output


def test_check_json(config: str) -> None:
    """The same for programs."""
    result = CliRunner().invoke(main, ["check", "--json", "--config", config])
    said = json.loads(result.output)
    rows = said["findings"]
    assert (said["verdict"], said["exit_code"]) == ("mend", 1)
    caller = set() if os.geteuid() == 0 else {"caller"}
    assert {row["name"] for row in rows} == {"user", "port", "memory", "psi", "swap", "balloon"} | caller
    assert result.exit_code == 1


def test_check_is_well(config: str, monkeypatch, make_guest) -> None:
    """Exit code 0 when nothing must be mended, hints allowed."""
    from ballonet_guest_agent import cli, look

    guest = make_guest()
    guest.swap_total_kib = 0
    account = look.Account(900, (900,))
    access = look.Access(0, 900, 0o660)
    everybody = look.Access(0, 0, 0o666)
    facts = look.Facts("p", "/dev/p", access, None, False, guest.sample(), everybody, None, account, True)
    monkeypatch.setattr(cli, "look", lambda *_: facts)
    result = CliRunner().invoke(main, ["check", "--config", config])
    assert result.exit_code == 0
    assert "hint" in result.output


def test_check_quiet(config: str) -> None:
    """What is well is left out, and the exit code is the same."""
    result = CliRunner().invoke(main, ["check", "--quiet", "--config", config])
    assert result.exit_code == 1
    assert "problem" in result.output
    assert not any(line.startswith("ok") for line in result.output.splitlines())


def test_check_has_the_lines_to_paste(config: str) -> None:
    """The channel's XML is printed line by line, each below the other."""
    lines = CliRunner().invoke(main, ["check", "--config", config]).output.splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip() == "<channel type='unix'>")
    assert [line.strip() for line in lines[first : first + 4]] == [
        "<channel type='unix'>",
        "<source mode='bind'/>",
        "<target type='virtio' name='org.ballonet.agent.0'/>",
        "</channel>",
    ]


def test_wrong_port(config: str) -> None:
    """A port that is none is refused with what is allowed."""
    result = CliRunner().invoke(main, ["check", "--port", "a/b", "--config", config])
    assert result.exit_code == 2
    assert "unix:/PATH" in result.output


def test_version() -> None:
    """The command knows its version."""
    from ballonet_guest_agent import __version__

    assert __version__ in CliRunner().invoke(main, ["--version"]).output
