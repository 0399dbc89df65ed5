"""What changed between two JSON values, as a JSON value that is small where little changed. Pure.

A difference is one of

* `null`: nothing changed;
* an object: descend into the members that changed, by key, or by the index as text in an array;
* a whole number: add it. Counters and clocks differ by little, so their differences repeat and compress;
* an array of one: here stands this instead.

An object or an array is descended into only where both sides have the same keys or the same length.
"""

from __future__ import annotations

from typing import Any


def difference(before: Any, after: Any) -> Any:
    """What `apply` makes `after` of `before` with. Values are JSON types; 1, 1.0 and true are three values."""
    if type(before) is dict and type(after) is dict and before.keys() == after.keys():
        return _changed((key, difference(before[key], item)) for key, item in after.items())
    if type(before) is list and type(after) is list and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return _changed((str(index), difference(old, new)) for index, (old, new) in pairs)
    if type(before) is type(after) and before == after:
        return None
    if type(before) is int and type(after) is int:
        return after - before
    return [after]


def apply(before: Any, untrusted_difference: Any) -> Any:
    """The value after the change; shares what did not change with `before`. Raises ValueError where it does not fit."""
    change = untrusted_difference
    if change is None:
        return before
    if type(change) is list and len(change) == 1:
        return change[0]
    if type(change) is int and type(before) is int:
        return before + change
    if type(change) is dict and type(before) is dict:
        if not change.keys() <= before.keys():
            raise ValueError("a difference names a member that is not there")
        return {**before, **{key: apply(before[key], item) for key, item in change.items()}}
    if type(change) is dict and type(before) is list:
        after = list(before)
        for key, item in change.items():
            if not key.isdecimal() or int(key) >= len(after):
                raise ValueError("a difference names an item that is not there")
            after[int(key)] = apply(after[int(key)], item)
        return after
    raise ValueError("a difference does not fit")


def _changed(changes: Any) -> dict[str, Any] | None:
    return {key: change for key, change in changes if change is not None} or None
