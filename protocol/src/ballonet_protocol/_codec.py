"""Message to msgpack map and back: the only place that knows msgpack, and the one place that trusts nothing.

A payload is decoded whole, after its CRC was checked, with limits on every declared length, and read once from the
tables of `_messages`. msgpack hands maps over as lists of pairs, so that a duplicate key is seen, and keys and text as
bytes, so that a peer cannot fill the interpreter's table of interned strings. What the wire has no use for (nil,
floats, extensions) is made and then refused like any other stranger. Nothing here keeps state between two payloads:
msgpack's stateful decoder goes on in mid-object after an error, and could crash before 1.2.1.
"""

from __future__ import annotations

from msgpack import packb, unpackb

from ._errors import LocalProtocolError, RemoteProtocolError
from ._messages import ErrorCode, Message
from ._records import BIN, BOOL, INT, MAP, MAX_BIN, MAX_INT, MAX_ITEMS, MAX_TEXT, RANGE, TEXT, TEXTS, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    from ._records import Field

    M = TypeVar("M", bound=Message)
    Reader = Callable[[object, int], Record]

MAX_DEPTH = 4  # payload, record, array: three today, one to spare
_KEY_FIRST = frozenset(b"abcdefghijklmnopqrstuvwxyz")
_KEY_REST = _KEY_FIRST | frozenset(b"0123456789_")
_MAX_KEY = 16


class _Refused(Exception):
    """Why an untrusted payload is not what it ought to be; leaves this module as RemoteProtocolError."""

    def __init__(self, detail: str, code: ErrorCode = ErrorCode.BAD_MESSAGE) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


def decode_message(message_type: type[M], seq: int, untrusted_payload: bytes) -> M:
    """The message in a payload whose frame was whole.

    Raises RemoteProtocolError: BAD_MESSAGE for what breaks the rules of the wire or lacks a mandatory key,
    OUT_OF_RANGE for a number outside its field's bounds.
    """
    try:
        untrusted_pairs = unpackb(
            untrusted_payload,
            raw=True,
            use_list=False,
            object_pairs_hook=list,
            max_map_len=MAX_ITEMS,
            max_array_len=MAX_ITEMS,
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_TEXT,
        )
    except Exception as error:  # a pure function of hostile bytes, with a dozen ways to object
        raise RemoteProtocolError(ErrorCode.BAD_MESSAGE, seq, "not one msgpack object") from error
    try:
        message = _READERS[message_type](untrusted_pairs, 1)
    except _Refused as refused:
        raise RemoteProtocolError(refused.code, seq, refused.detail) from None
    except TypeError as error:  # msgpack 1.0.3 without its C extension lets a map be a key, which cannot be looked up
        raise RemoteProtocolError(ErrorCode.BAD_MESSAGE, seq, "a key that is no short text") from error
    message.__dict__["seq"] = seq
    return message  # type: ignore[return-value]


def encode_message(message: Message) -> bytes:
    """The payload of a message: its fields in the order of the table, None left out.

    Raises LocalProtocolError for a value that the table does not allow.
    """
    return packb(_to_map(message), use_bin_type=True)  # type: ignore[no-any-return]


# --- reading ---------------------------------------------------------------------------------------------------------


def _make_reader(record_type: type[Record]) -> Reader:
    """The reader of one record type, laid out for its loop, which runs for each field of each frame of each guest.

    Nearly all values are numbers without narrower bounds, so these are read in place; what is anything else, and what
    is wrong, takes the longer way.
    """
    fields = {field.key.encode(): field for field in record_type.FIELDS}
    unbounded = (INT, 0, MAX_INT)
    numbers = {key: f.attribute for key, f in fields.items() if (f.kind, f.low, f.high) == unbounded}
    mandatory = [field for field in record_type.FIELDS if field.mandatory]
    find_number, find_field = numbers.get, fields.get
    new, set_attribute = object.__new__, object.__setattr__

    def read(untrusted_pairs: object, depth: int) -> Record:
        if type(untrusted_pairs) is not list:
            raise _Refused("not a map")
        values: dict[str, object] = {}
        unknown = {}
        for key, value in untrusted_pairs:
            attribute = find_number(key)
            if attribute is not None and type(value) is int and not value >> 53:  # negative numbers stay negative
                values[attribute] = value
                continue
            field = find_field(key)
            if field is not None:
                kind = field.kind
                if kind == INT:
                    values[field.attribute] = _read_number(field, value)
                elif kind == MAP:
                    values[field.attribute] = _READERS[field.record](value, depth + 1)
                else:
                    values[field.attribute] = _VALUE_READERS[kind](field, value)
            else:
                _check_unknown(key, value, depth)
                unknown[key] = True
        if len(values) + len(unknown) != len(untrusted_pairs):
            raise _Refused("duplicate key")
        for field in mandatory:
            if field.attribute not in values:
                raise _Refused(f"{field.key} is missing")
        record: Record = new(record_type)
        set_attribute(record, "__dict__", values)
        return record

    return read


def _read_number(field: Field, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INT:
        raise _Refused(f"{field.key} is no number of 0..2^53-1")
    if not field.low <= value <= field.high:
        raise _Refused(f"{field.key} is outside {field.low}..{field.high}", ErrorCode.OUT_OF_RANGE)
    return value


def _read_bool(field: Field, value: object) -> bool:
    if type(value) is not bool:
        raise _Refused(f"{field.key} is neither true nor false")
    return value


def _read_text(field: Field, value: object) -> str:
    if type(value) is bytes and field.low <= len(value) <= field.high and value.isascii():
        text = value.decode("ascii")
        if text.isprintable():
            return text
    raise _Refused(f"{field.key} is no printable ASCII of at most {field.high} characters")


def _read_bin(field: Field, value: object) -> bytes:
    if type(value) is bytes and field.low <= len(value) <= field.high:
        return value
    raise _Refused(f"{field.key} does not have {field.low} bytes")


def _read_range(field: Field, value: object) -> tuple[int, int]:
    if type(value) is tuple and len(value) == 2:
        low, high = value
        if type(low) is int and type(high) is int and 0 <= low <= high <= MAX_INT:
            return (low, high)
    raise _Refused(f"{field.key} is no pair of lowest and highest")


def _read_texts(field: Field, value: object) -> tuple[str, ...]:
    if type(value) is not tuple:
        raise _Refused(f"{field.key} is no array")
    return tuple([_read_text(field, item) for item in value])


_VALUE_READERS: dict[str, Callable[[Field, object], object]] = {
    BOOL: _read_bool,
    TEXT: _read_text,
    BIN: _read_bin,
    RANGE: _read_range,
    TEXTS: _read_texts,
}


def _check_unknown(key: object, value: object, depth: int) -> None:
    """An unknown key is ignored, but only when key and value are such as a later minor version may send."""
    if type(key) is not bytes or not 0 < len(key) <= _MAX_KEY:
        raise _Refused("a key that is no short text")
    if key[0] not in _KEY_FIRST or not _KEY_REST.issuperset(key):
        raise _Refused("a key with other characters than a-z, 0-9 and _")
    _check_value(value, depth + 1)


def _check_value(value: Any, depth: int) -> None:
    kind = type(value)
    if kind is int:
        if not 0 <= value <= MAX_INT:
            raise _Refused("a number outside 0..2^53-1")
    elif kind is bytes:
        # Text and bin look alike here: what is not printable has to fit into a bin.
        if len(value) > MAX_BIN and not (value.isascii() and value.decode("ascii").isprintable()):
            raise _Refused("text that is not printable, or a bin that is too long")
    elif kind is list or kind is tuple:
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH}")
        if kind is tuple:
            for item in value:
                _check_value(item, depth + 1)
            return
        for key, item in value:
            _check_unknown(key, item, depth)
        if len(dict(value)) != len(value):
            raise _Refused("duplicate key")
    elif kind is not bool:
        raise _Refused("a value of a type that is not on the wire")


# --- writing ---------------------------------------------------------------------------------------------------------


def _to_map(record: Record) -> dict[str, object]:
    fields: dict[str, object] = {}
    for field in record.FIELDS:
        value = getattr(record, field.attribute)
        if value is not None:
            fields[field.key] = _write_value(record, field, value)
        elif field.mandatory:
            raise _misuse(record, field, "is mandatory")
    return fields


def _write_value(record: Record, field: Field, value: Any) -> object:
    kind = field.kind
    if kind == INT:
        if isinstance(value, int) and not isinstance(value, bool) and field.low <= value <= field.high:
            return int(value)
        raise _misuse(record, field, f"takes a number of {field.low}..{field.high}, not {value!r}")
    if kind == MAP:
        if field.record is not None and isinstance(value, field.record):
            return _to_map(value)
        raise _misuse(record, field, f"takes {field.record}, not {value!r}")
    if kind == BOOL:
        if type(value) is bool:
            return value
        raise _misuse(record, field, f"takes True or False, not {value!r}")
    if kind == TEXT:
        return _write_text(record, field, value)
    if kind == BIN:
        if isinstance(value, bytes) and field.low <= len(value) <= field.high:
            return value
        raise _misuse(record, field, f"takes {field.low} bytes, not {value!r}")
    if kind == RANGE and isinstance(value, tuple) and len(value) == 2:
        low, high = value
        if type(low) is int and type(high) is int and 0 <= low <= high <= MAX_INT:
            return [low, high]
    if kind == TEXTS and isinstance(value, tuple) and len(value) <= MAX_ITEMS:
        return [_write_text(record, field, item) for item in value]
    rule = "(lowest, highest)" if kind == RANGE else f"a tuple of at most {MAX_ITEMS} names"
    raise _misuse(record, field, f"takes {rule}, not {value!r}")


def _write_text(record: Record, field: Field, value: Any) -> str:
    if isinstance(value, str) and value.isascii() and value.isprintable() and field.low <= len(value) <= field.high:
        return value
    raise _misuse(record, field, f"takes printable ASCII of {field.low}..{field.high} characters, not {value!r}")


def _misuse(record: Record, field: Field, rule: str) -> LocalProtocolError:
    return LocalProtocolError(f"{type(record).__name__}.{field.attribute} {rule}")


class _Readers(dict):  # type: ignore[type-arg]
    """Record type -> its reader, made when the first of its kind arrives: each end hears half of them."""

    def __missing__(self, record_type: type[Record]) -> Reader:
        reader = self[record_type] = _make_reader(record_type)
        return reader


_READERS: dict[Any, Reader] = _Readers()
