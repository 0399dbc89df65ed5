"""The whole of `ballonet check` on a faked host: settings first, then host, then guests."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from ballonet_host_coord.checking import as_json, as_text, check
from ballonet_host_coord.finding import Level
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

    async def main() -> None:
        fake = FakeLibvirt()
        fake.away = True
        link = LibvirtLink("qemu:///system", lib=fake, threads=InlineThreads(), event_loop=lambda lib: None)
        found = await check(settings(tmp_path), [], proc_root=str(tmp_path), sys_root=str(tmp_path), link=link)
        said = [(finding.level, "Failed to connect" in finding.text) for finding in found if finding.name == "libvirt"]
        assert said == [(Level.PROBLEM, True)]
        assert any(finding.guest == "web" for finding in found)

    trio.run(main)
