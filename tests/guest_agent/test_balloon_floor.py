"""balloon_floor.py: the floor is the table of its docstring, continuous and never above the RAM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ballonet_guest_agent.balloon_floor as module
from ballonet_guest_agent.balloon_floor import FLOOR_TABLE, computed_floor_kib

MIB = 1024


def test_code_is_the_table_of_the_docstring() -> None:
    """Each line of the comment's table says what the code does, at its upper end."""
    rows = [line.split("|")[1:-1] for line in (module.__doc__ or "").splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(FLOOR_TABLE)
    for (up_to, formula, _, at_end), (up_to_kib, constant_kib, divisor) in zip(rows, FLOOR_TABLE):
        constant, part = formula.replace(" ", "").split("+memory/")
        assert (int(constant) * MIB, int(part)) == (constant_kib, divisor)
        if up_to_kib is not None:
            assert int(up_to) * MIB == up_to_kib
            assert constant_kib + up_to_kib // divisor == int(at_end) * MIB


@pytest.mark.parametrize(("memory_mib", "floor_mib"), [(64, 40), (256, 104), (1024, 232), (4096, 488), (16384, 1000)])
def test_values(memory_mib: int, floor_mib: int) -> None:
    """Known sizes have known floors."""
    assert computed_floor_kib(memory_mib * MIB, memory_mib * MIB) == floor_mib * MIB


def test_reserve_comes_on_top() -> None:
    """What the kernel took before it counted is not available for anything: it raises the floor."""
    assert computed_floor_kib(1024 * MIB, 1100 * MIB) == (232 + 76) * MIB


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_bounds(total_kib: int, ram_kib: int) -> None:
    """The floor is between zero and the RAM whatever the sizes claim."""
    assert 0 <= computed_floor_kib(total_kib, ram_kib) <= ram_kib


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 20))
def test_monotone(total_kib: int, more_kib: int) -> None:
    """A larger guest never has a smaller floor, not even across a break point (rounding apart)."""
    here = computed_floor_kib(total_kib, 1 << 40) + total_kib
    there = computed_floor_kib(total_kib + more_kib, 1 << 40) + total_kib + more_kib
    assert there >= here - 1
