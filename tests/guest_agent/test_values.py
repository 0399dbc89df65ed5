"""values.py: records are immutable and compare by value; numbers are the kernel's or unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_guest_agent.values import Value, increase, parse_count, total_of


class Point(Value):
    """A record for the tests."""

    x: int
    y: int = 5


def test_construction() -> None:
    """Values may be given by place or name; class attributes are the defaults; both make equal records."""
    assert Point(1) == Point(x=1, y=5) == Point(1, 5)
    assert hash(Point(1)) == hash(Point(1, 5))
    assert Point(1) != Point(2)
    assert repr(Point(1)) == "Point(x=1, y=5)"
    assert Point(1) != (1, 5)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})])
def test_misuse(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    """A missing, surplus, repeated or unknown field is a TypeError, as with a function."""
    with pytest.raises(TypeError):
        Point(*args, **kwargs)


def test_immutable() -> None:
    """A record cannot be changed after it was made."""
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]


@given(st.text())
def test_parse_count_any_text(text: str) -> None:
    """No text raises; a number is never negative and fits the wire."""
    count = parse_count(text)
    assert count is None or 0 <= count < 2**53


@given(st.integers(0, 2**53 - 1))
def test_parse_count_numbers(number: int) -> None:
    """Every number of the wire's range is read as it is."""
    assert parse_count(str(number)) == number


def test_increase() -> None:
    """A counter that went back or is unknown has no increase; unknown is not zero."""
    assert increase(3, 5) == 2
    assert increase(5, 3) is None
    assert increase(None, 3) is None
    assert increase(3, None) is None
    assert total_of(1, 2) == 3
    assert total_of(1, None) is None
