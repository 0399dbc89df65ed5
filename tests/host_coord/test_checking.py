"""The whole of `ballonet check` on a faked host: settings first, then host, then guests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from ballonet_host_coord.checking import as_json, as_text, check
from ballonet_host_coord.cli import cli
from ballonet_host_coord.finding import Finding, Level
from ballonet_host_coord.libvirt_link import LibvirtLink
from ballonet_host_coord.model import GuestSettings, HostSettings, Settings

from .fake_libvirt import FakeLibvirt, InlineThreads


def settings(folder: Path) -> Settings:
    host = HostSettings(control_path=str(folder / "control"), state_path=str(folder / "state"))
    guest = GuestSettings("web", 1 << 18, 1 << 18, 1 << 20, qmp_path=str(folder / "qmp"))
    return Settings(host, (guest,), "qemu:///system")


def test_everything_is_said_in_order(tmp_path: Path) -> None:
    """What is odd in the settings comes first, and the guests last, the domains among them."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n")

    async def main() -> None:
        fake = FakeLibvirt()
        fake.domain("db")
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads(), event_loop=lambda lib: None)
        found = await check(
            settings(tmp_path), ["odd"], proc_root=str(tmp_path), sys_root=str(tmp_path), link=link
        )  # fmt: skip
        assert (found[0].name, found[0].text, found[0].level) == ("settings", "odd", Level.HINT)
        assert next(finding.guest for finding in found if finding.guest) == "web"
        assert found[-1].guest == "db"
        assert [row["name"] for row in json.loads(as_json(found))["findings"]] == [finding.name for finding in found]
        assert as_text(found).startswith("hint     settings")

    trio.run(main)


def test_a_libvirt_that_is_away_is_one_finding(tmp_path: Path) -> None:
    """Host and other guests are judged all the same."""
    (tmp_path / "meminfo").write_text("MemTotal: 16777216 kB\nMemAvailable: 1048576 kB\n")

    async def main() -> None:
        fake = FakeLibvirt()
        fake.away = True
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads(), event_loop=lambda lib: None)
        found = await check(settings(tmp_path), [], proc_root=str(tmp_path), sys_root=str(tmp_path), link=link)
        said = [(finding.level, "Failed to connect" in finding.text) for finding in found if finding.name == "libvirt"]
        assert said == [(Level.PROBLEM, True)]
        assert any(finding.guest == "web" for finding in found)
        # What its domains hold is unknown, so the budget is not held against what is left.
        assert not any(finding.name == "available" for finding in found)

    trio.run(main)


def test_check_of_a_host_ends_with_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table and the JSON hold the same findings, and both end with the verdict's code."""

    async def judged(*_: object) -> list[Finding]:
        return [Finding("swap", Level.OK, "none"), Finding("balloon", Level.PROBLEM, "none", "add\nit", guest="web")]

    monkeypatch.setattr("ballonet_host_coord.checking.check", judged)
    config = tmp_path / "coordinator.toml"
    config.write_text("")
    table = CliRunner().invoke(cli, ["check", "--config", str(config)])
    assert table.exit_code == 1
    assert [line.split()[:2] for line in table.output.splitlines()] == [
        ["ok", "swap"], ["problem", "web"], ["->", "add"], ["it"],
    ]  # fmt: skip
    answer = json.loads(CliRunner().invoke(cli, ["check", "--json", "--config", str(config)]).stdout)
    assert (answer["verdict"], answer["exit_code"]) == ("mend", 1)
    assert [(row["name"], row["guest"]) for row in answer["findings"]] == [("swap", None), ("balloon", "web")]


def test_check_tells_faults_of_the_settings_as_json(tmp_path: Path) -> None:
    """With faulty settings nothing else is looked at: code 2, and each fault is a finding."""
    config = tmp_path / "coordinator.toml"
    config.write_text("[host]\nbugdet = 1\n")
    result = CliRunner().invoke(cli, ["check", "--json", "--config", str(config)])
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["exit_code"], answer["verdict"]) == (2, 2, "wrong settings")
    assert ["bugdet" in row["text"] for row in answer["findings"]] == [True]
