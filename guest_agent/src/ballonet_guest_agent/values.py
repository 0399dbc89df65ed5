"""Immutable records and the one number parser that every /proc reader shares.

The standard library's dataclasses cost 2 MB of private memory in every guest (they load `inspect`), so records are
made from their annotations by the thirty lines below. Class attributes are the defaults.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, dataclass_transform

    record = dataclass_transform(frozen_default=True, eq_default=True)
else:

    def record(cls):
        return cls


@record
class Value:
    """A record that compares by value, prints itself and cannot be changed."""

    if TYPE_CHECKING:
        _fields: ClassVar[tuple[str, ...]]
        _mandatory: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        cls._fields = tuple(cls.__annotations__)
        cls._mandatory = tuple([name for name in cls._fields if not hasattr(cls, name)])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = self._fields
        if len(args) == len(names) and not kwargs:  # most of those that a sample makes, a dozen times a second
            self.__dict__.update(zip(names, args))
            return
        if len(args) > len(names):
            raise TypeError(f"{type(self).__name__} takes at most {len(names)} values")
        given = dict(zip(names, args))
        for name, value in kwargs.items():
            if name in given or name not in names:
                raise TypeError(f"{type(self).__name__}: unexpected or repeated field {name!r}")
            given[name] = value
        for name in self._mandatory:
            if name not in given:
                raise TypeError(f"{type(self).__name__}: missing field {name!r}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name!r} cannot be set")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._fields)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._fields)))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__name__}({inside})"


#: Digits of 2**64 - 1, the largest number that a /proc file can hold. Longer runs are not numbers of the kernel.
LONGEST_NUMBER = 20
#: Largest integer of the wire. A larger reading cannot be sent and is as good as unknown.
LARGEST_NUMBER = 2**53 - 1


def parse_count(text: str) -> int | None:
    """A non-negative decimal integer as the kernel prints it, None for anything else. Never raises."""
    if not text or len(text) > LONGEST_NUMBER or not (text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= LARGEST_NUMBER else None


def increase(before: int | None, after: int | None) -> int | None:
    """How far a counter went on; None when either reading is unknown or the counter went back."""
    if before is None or after is None or after < before:
        return None
    return after - before


def total_of(*parts: int | None) -> int | None:
    """The sum, or None when any part is unknown: half a sum is not a number to report."""
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total


def between(number: int, low: int, high: int) -> int:
    """The nearest to `number` from `low` to `high`."""
    return min(max(number, low), high)


def kib_up(size_bytes: int) -> int:
    """Bytes -> KiB that hold them."""
    return -(-size_bytes // 1024)
