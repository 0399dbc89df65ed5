"""Immutable records whose class body is the wire table: name, kind, bounds and order of each field.

Every guest pays for what this package imports. `dataclasses` costs 2.1 MB of private memory (it loads `inspect`) and
`typing` 1.0 MB, so the record type is these few lines instead. A class body reads like a dataclass to a person and to a
type checker:

    class Pong(Message, code=0x05, name="PONG", senders=BOTH, flags=RSP):
        re: int = integer("re")
        boottime_ms: int | None = integer("bt", "ms", default=None)

At run time the metaclass takes the `Field` values out of the body and keeps them in `FIELDS`, in the order of the body,
which is the order on the wire. A field without `default` is mandatory; an optional one is None when it is absent,
never 0. A record's `__dict__` holds what is present and the class the None of what is not, so that the codec can hand
over the dict that it has just checked: with slots, filling them took as long as msgpack needs to decode the frame.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, TypeVar, dataclass_transform

    T = TypeVar("T")
else:

    def dataclass_transform(**_options):
        """At run time the class stays as it is; only type checkers read this decorator."""
        return lambda cls: cls


MAX_INT = 2**53 - 1  # what a double holds exactly, so that a JavaScript or Lua agent can keep every number
MAX_TEXT = 128  # a frame is 4096 bytes; the longest text we know is an error's explanation
MAX_NAME = 64  # implementation, version, capability, event
MAX_BIN = 64
MAX_ITEMS = 64  # in one map or array: bounds what a decoder allocates for a declared length

INT, BOOL, TEXT, BIN, MAP, RANGE, TEXTS = "int", "bool", "str", "bin", "map", "[lo, hi]", "[str]"
_MANDATORY = object()


class Field:
    """One entry of a record's wire table."""

    __slots__ = ("attribute", "choices", "high", "key", "kind", "low", "mandatory", "record", "unit")

    def __init__(
        self,
        key: str,
        kind: str,
        unit: str,
        default: object,
        low: int = 0,
        high: int = MAX_INT,
        choices: type | None = None,
        record: type[Record] | None = None,
    ) -> None:
        self.key = key
        self.kind = kind
        self.unit = unit
        self.mandatory = default is _MANDATORY
        self.low = low  # least and greatest number; for text and bin the least and greatest length
        self.high = high
        self.choices = choices
        self.record = record
        self.attribute = ""


def integer(
    key: str,
    unit: str = "",
    *,
    low: int = 0,
    high: int = MAX_INT,
    choices: type | None = None,
    default: object = _MANDATORY,
) -> Any:
    """A number between `low` and `high`. `choices` names its values for people; others are accepted all the same."""
    return Field(key, INT, unit, default, low, high, choices)


def boolean(key: str, *, default: object = _MANDATORY) -> Any:
    """True or False, never a number."""
    return Field(key, BOOL, "", default)


def text(key: str, *, high: int = MAX_NAME, choices: type | None = None, default: object = _MANDATORY) -> Any:
    """Printable ASCII of at most `high` characters."""
    return Field(key, TEXT, "", default, 0, high, choices)


def octets(key: str, length: int, *, default: object = _MANDATORY) -> Any:
    """Exactly `length` bytes."""
    return Field(key, BIN, "", default, length, length)


def number_range(key: str, *, default: object = _MANDATORY) -> Any:
    """A pair (lowest, highest), both included."""
    return Field(key, RANGE, "", default)


def texts(key: str, *, default: object = _MANDATORY) -> Any:
    """A tuple of names."""
    return Field(key, TEXTS, "", default, 1, MAX_NAME)


def nested(key: str, record: type[Record], *, default: object = _MANDATORY) -> Any:
    """A record inside the record: a map inside the map."""
    return Field(key, MAP, "", default, record=record)


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(integer, boolean, text, octets, number_range, texts, nested),
)
class RecordType(type):
    """Turns the fields of a class body into `FIELDS`."""

    FIELDS: tuple[Field, ...]

    def __new__(
        mcls: type[RecordType], name: str, bases: tuple[type, ...], body: dict[str, object], /, **header: object
    ) -> RecordType:
        fields = []
        for attribute, value in list(body.items()):
            if isinstance(value, Field):
                value.attribute = attribute
                fields.append(value)
                if value.mandatory:
                    del body[attribute]
                else:
                    body[attribute] = None
        body["FIELDS"] = tuple(fields)
        return super().__new__(mcls, name, bases, body, **header)


class Record(metaclass=RecordType):
    """An immutable value, equal to another of the same class with the same fields, made from keywords alone."""

    if TYPE_CHECKING:
        FIELDS: ClassVar[tuple[Field, ...]]

    def __init__(self, **values: object) -> None:
        for field in self.FIELDS:
            if field.mandatory and field.attribute not in values:
                raise TypeError(f"{type(self).__name__} needs {field.attribute}")
        unknown = values.keys() - {field.attribute for field in self.FIELDS}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        self.__dict__.update(values)

    def replace(self: T, **changes: object) -> T:
        """A copy of this record in which the named fields have other values.

        Raises TypeError for a field that the record does not have.
        """
        values = {field.attribute: getattr(self, field.attribute) for field in type(self).FIELDS}  # type: ignore[attr-defined]
        return type(self)(**{**values, **changes})

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, f.attribute) == getattr(other, f.attribute) for f in self.FIELDS)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field.attribute) for field in self.FIELDS)))

    def __repr__(self) -> str:
        shown = [(field.attribute, getattr(self, field.attribute)) for field in self.FIELDS]
        fields = ", ".join(f"{attribute}={value!r}" for attribute, value in shown if value is not None)
        return f"{type(self).__name__}({fields})"
