"""What the commands for guests ask the coordinator for."""

from __future__ import annotations

import io

import pytest

from ballonet_host_coord.cli_guests import _of_domain
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
    name, size, said = _of_domain(io.BytesIO(DOMAIN.format(backing).encode()))
    whole, settled = (f"{kib * 1024 + OVERHEAD_KIB}KiB" for kib in mib)
    assert (name, size, said) == ("web", whole, {"settled": settled})
