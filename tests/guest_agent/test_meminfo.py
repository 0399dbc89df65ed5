"""meminfo.py: sizes come out by name, and what is not there or not a number is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.meminfo import MemInfo, parse_meminfo

FIXTURES = Path(__file__).parent / "fixtures"


def test_linux_6_1() -> None:
    """Every field of a 6.1 kernel is read; file cache is the sum of both file lists; `Balloon` is not there yet."""
    memory = parse_meminfo((FIXTURES / "linux-6.1/meminfo").read_text())
    assert memory == MemInfo(
        total_kib=2005444,
        free_kib=211468,
        available_kib=1530116,
        committed_kib=884340,
        commit_limit_kib=2051292,
        anon_kib=298496,
        file_kib=408576 + 803328,
        shmem_kib=20480,
        slab_unreclaimable_kib=46080,
        unevictable_kib=3072,
        swap_total_kib=1048572,
        swap_free_kib=1000444,
        balloon_kib=None,
    )


def test_a_running_machine() -> None:
    """A real 6.18 text leaves nothing unknown."""
    memory = parse_meminfo((FIXTURES / "linux-6.18/meminfo").read_text())
    assert [name for name in memory._fields if getattr(memory, name) is None] == []


@pytest.mark.parametrize(
    "line",
    [
        "MemTotal: 12 MB",
        "MemTotal: -1 kB",
        "MemTotal: 1e3 kB",
        "MemTotal: ²² kB",
        "MemTotal: 99999999999999999999999 kB",
        "MemTotal:",
        "MemTotal 12 kB",
        "XMemTotal: 12 kB",
        "MemTotal: 12 34 kB",
    ],
)
def test_absurd_line_is_unknown(line: str) -> None:
    """A line that the kernel would not print is unknown, not zero and not an error."""
    assert parse_meminfo(line).total_kib is None


def test_unknown_is_not_zero() -> None:
    """Nothing read means nothing known, also for the field that is a sum."""
    assert parse_meminfo("") == MemInfo()
    assert parse_meminfo("Active(file): 12 kB\n").file_kib is None


@given(st.text())
def test_any_text(text: str) -> None:
    """No text raises, and every field is unknown or a non-negative integer."""
    memory = parse_meminfo(text)
    for name in memory._fields:
        value = getattr(memory, name)
        assert value is None or (type(value) is int and value >= 0)


@given(st.lists(st.tuples(st.sampled_from(["MemTotal", "MemFree", "Shmem", "Balloon"]), st.text(max_size=30))))
def test_known_names_with_any_values(lines: list[tuple[str, str]]) -> None:
    """Known names with absurd values do not raise either."""
    parse_meminfo("\n".join(f"{name}:{value}" for name, value in lines))
