"""What the commands for guests ask the coordinator for: those of which test_cli.py shows nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ballonet_host_coord import cli_guests
from ballonet_host_coord.cli import cli
from ballonet_host_coord.settings import OVERHEAD_KIB

DOMAIN = """<domain type='qemu'><name>web</name><uuid>5b1f4c3e-9d1a-4a3b-8f0e-2c5d6e7f8a9b</uuid>
<memory unit='MiB'>1024</memory><currentMemory unit='MiB'>512</currentMemory>{}<devices/></domain>"""
HUGE = "<memoryBacking><hugepages>{}</hugepages></memoryBacking>"
CELLS = "<cpu><numa><cell id='0' memory='384' unit='MiB'/><cell id='1' memory='640' unit='MiB'/></numa></cpu>"


@pytest.mark.parametrize(
    ("backing", "mib"),
    [
        ("", (1024, 512)),
        (HUGE.format(""), (0, 0)),
        (CELLS + HUGE.format("<page size='2' unit='M' nodeset='1'/>"), (384, 384)),
    ],
)
def test_no_room_is_reserved_for_huge_pages(backing: str, mib: tuple[int, int]) -> None:
    """The hook asks for what may be in ordinary memory, and for QEMU's own, while it boots and after."""
    name, size, said = cli_guests._of_domain(io.BytesIO(DOMAIN.format(backing).encode()))
    whole, settled = (f"{kib * 1024 + OVERHEAD_KIB}KiB" for kib in mib)
    assert (name, size, said) == ("web", whole, {"settled": settled})


def test_unreserve_gives_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By name or by a domain's XML; nothing to give back is no error, no NAME and no XML are."""
    asked: list[tuple[str, Any]] = []

    def ask(socket_path: str | None, operation: str, arguments: dict[str, Any]) -> dict[str, int]:
        asked.append((operation, arguments["guest"]))
        return {"dropped_kib": 524288 if arguments["guest"] == "web" else 0}

    monkeypatch.setattr(cli_guests, "ask", ask)
    (tmp_path / "web.xml").write_text(DOMAIN.format(""))
    (tmp_path / "odd.xml").write_text("<domain>")
    said = {
        ("db",): (0, "db: nothing was reserved\n"),
        ("web",): (0, "web: 512 MiB are free again\n"),
        ("--domain-xml", str(tmp_path / "web.xml")): (0, "web: 512 MiB are free again\n"),
    }
    for words, expected in said.items():
        result = CliRunner().invoke(cli, ["unreserve", *words])
        assert (result.exit_code, result.output) == expected
    assert asked == [("unreserve", name) for name in ("db", "web", "web")]
    assert CliRunner().invoke(cli, ["unreserve"]).exit_code == 2
    assert CliRunner().invoke(cli, ["unreserve", "--domain-xml", str(tmp_path / "odd.xml")]).exit_code == 1
