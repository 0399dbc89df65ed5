"""zram.py: swap in the guest's own memory is found, and what a page costs there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.zram import Zram, parse_mm_stat, parse_swaps, zram_of

MIB = 1024
SWAPS = """Filename				Type		Size		Used		Priority
/dev/zram0                              partition	98300		5120		100
/dev/vda2                               partition	262140		146628		-2
/swap\\040file                           file		1024		0		-3
/dev/zram12                             partition	1020		0		-4
"""
sizes = st.integers(min_value=0, max_value=1 << 32)


def test_found_among_others() -> None:
    """Only zram devices are taken, by name, with their sizes."""
    assert parse_swaps(SWAPS) == {"zram0": 98300, "zram12": 1020}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/dev/zram0 file 1 0 -2",
        "/dev/zram partition 1 0 -2",
        "/dev/zram² partition 1 0 -2",
        "/dev/zram0/x partition 1 0 -2",
        "/dev/zram0 partition x 0 -2",
        "/dev/zram0 partition",
        "/mnt/dev/zram0 partition 1 0 -2",
    ],
)
def test_not_zram(text: str) -> None:
    """What is no zram device, or no line of the kernel's, is left out."""
    assert parse_swaps(text) == {}


def test_mm_stat() -> None:
    """The first and the third number are bytes before and after; what cannot be read is unknown, not zero."""
    assert parse_mm_stat(" 8192000  2048000 3072000  0  3072000  1  2  3  4\n") == (8000, 3000)
    assert parse_mm_stat(None) == parse_mm_stat("") == parse_mm_stat("1 2") == parse_mm_stat("x y z") == (None, None)


def test_devices_add_up() -> None:
    """Two devices are one sum; one that cannot be read makes its part of the sum unknown."""
    both = zram_of({"zram0": 100, "zram1": 50}, ["2048 1 1024", "4096 1 1024"])
    assert both == Zram(150, 6, 2)
    assert zram_of({"zram0": 100, "zram1": 50}, ["2048 1 1024", None]) == Zram(150, None, None)
    assert zram_of({}, []) == Zram(0, 0, 0)


def test_cost_is_measured() -> None:
    """A page costs what those before it cost; half of itself until there are some, never more than itself."""
    assert Zram(100 * MIB, 40 * MIB, 10 * MIB).cost() == 0.25
    assert Zram(100 * MIB, 1, 1).cost() == 0.5
    assert Zram(100 * MIB, None, None).cost() == 0.5
    assert Zram(100 * MIB, 40 * MIB, 41 * MIB).cost() == 1.0


def test_room() -> None:
    """zram fills first, the disk takes the rest, and what no swap has room for stays."""
    zram = Zram(100 * MIB, 40 * MIB, 10 * MIB)
    assert zram.room_kib(60 * MIB, 1000 * MIB) == 45 * MIB
    assert zram.room_kib(160 * MIB, 1000 * MIB) == 145 * MIB
    assert zram.room_kib(160 * MIB, 60 * MIB) == 45 * MIB
    assert Zram().room_kib(160 * MIB, 60 * MIB) == 60 * MIB


def test_missing() -> None:
    """Pages on disk come back at their full size, those in zram at what they did not hold already."""
    zram = Zram(100 * MIB, 40 * MIB, 10 * MIB)
    assert zram.missing_kib(40 * MIB, 40 * MIB) == 30 * MIB
    assert zram.missing_kib(40 * MIB, 80 * MIB) == 35 * MIB
    assert zram.missing_kib(40 * MIB, 20 * MIB) == 15 * MIB
    assert zram.missing_kib(40 * MIB, 0) == 0
    assert Zram().missing_kib(40 * MIB, 80 * MIB) == 40 * MIB


@given(sizes, st.none() | sizes, st.none() | sizes, sizes, sizes)
def test_never_out_of_bounds(size: int, stored: int | None, held: int | None, kib: int, swap: int) -> None:
    """With any numbers, both sizes lie between nothing and what they would be without zram."""
    zram = Zram(size, stored, held)
    assert 0 <= zram.room_kib(kib, swap) <= min(kib, swap)
    assert 0 <= zram.missing_kib(kib, swap) <= min(kib, swap)


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises."""
    parse_swaps(text)
    parse_mm_stat(text)


@given(st.lists(st.tuples(st.sampled_from(["/dev/zram0", "/dev/zram", "/dev/zram²"]), st.text(max_size=9))))
def test_known_names_with_any_values(lines: list[tuple[str, str]]) -> None:
    """Known names with absurd values do not raise."""
    parse_swaps("\n".join(f"{name} partition {size} 0 -2" for name, size in lines))
