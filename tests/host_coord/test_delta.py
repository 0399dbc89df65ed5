"""Differences of JSON values: what is applied gives what was there, and what does not fit is a ValueError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ballonet_host_coord.delta import apply, difference

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def typed(value: Any) -> Any:
    """The value with the type of each part, as Python takes 1, 1.0 and true for equal."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@given(JSON, JSON)
def test_difference_applied_gives_the_value_after(before: Any, after: Any) -> None:
    """Whatever two values are, and through JSON text, the second returns with every type as it was."""
    change = json.loads(json.dumps(difference(before, after)))
    assert typed(apply(before, change)) == typed(after)


@given(JSON)
def test_nothing_changed_is_nothing(value: Any) -> None:
    """Equal values have no difference."""
    assert difference(value, value) is None


def test_only_what_changed_is_said() -> None:
    """A change deep inside names its way and nothing beside it; whole numbers are said as sums."""
    before = {"now": 1.5, "guests": [{"name": "a", "kib": 100}, {"name": "b", "kib": 200}]}
    after = {"now": 2.5, "guests": [{"name": "a", "kib": 100}, {"name": "b", "kib": 190}]}
    assert difference(before, after) == {"now": [2.5], "guests": {"1": {"kib": -10}}}


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (0, False), ([1], [True]), ({"a": 0}, {"a": 0.0})])
def test_equal_is_not_the_same(before: Any, after: Any) -> None:
    """1, 1.0 and true are equal to Python and three values to JSON."""
    assert repr(apply(before, difference(before, after))) == repr(after)


@given(JSON, JSON)
def test_any_difference_applies_or_is_refused(before: Any, untrusted: Any) -> None:
    """A difference from who knows where gives a value or a ValueError."""
    try:
        apply(before, untrusted)
    except ValueError:
        return
