"""Snapshots and decisions as plain JSON types, and back: what the recorder keeps and `explain` replays.

The JSON follows the dataclasses field by field, so a new field of the model needs no code here. `None` stays null,
enums are their values, bytes are hex. A snapshot of an unknown version is refused rather than half understood.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from enum import Enum
from typing import Any

from . import model
from .model import SNAPSHOT_VERSION, Decision, GuestDecision, Snapshot


def snapshot_to_json(snapshot: Snapshot) -> dict[str, Any]:
    """A dict of JSON types. Keys are the field names of `model.Snapshot`."""
    value = _plain(snapshot)
    assert isinstance(value, dict)
    return value


def decision_to_json(decision: Decision) -> dict[str, Any]:
    value = _plain(decision)
    assert isinstance(value, dict)
    return value


def snapshot_from_json(untrusted_value: object) -> Snapshot:
    """The snapshot again. Raises ValueError for another version or anything that is not a snapshot."""
    if not isinstance(untrusted_value, dict):
        raise ValueError("a snapshot is a JSON object")  # noqa: TRY004 - it is the text that is wrong
    version = untrusted_value.get("version")
    if version != SNAPSHOT_VERSION:
        raise ValueError(f"snapshot version {version!r}; this ballonet reads {SNAPSHOT_VERSION}")
    snapshot = _build(Snapshot, untrusted_value, "snapshot")
    assert isinstance(snapshot, Snapshot)
    return snapshot


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, GuestDecision):
        return {**{name: _plain(item) for name, item in value._asdict().items()}, "why": value.why}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _build(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
        return _build(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: a list is expected")
        item = typing.get_args(kind)[0]
        return tuple(_build(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _build_record(kind, value, where)
    if kind is bytes:
        return bytes.fromhex(_build(str, value, where))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where}: {value!r} is not a {kind.__name__}")
    return value


def _build_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: an object is expected")  # noqa: TRY004
    hints = _hints(kind)
    values = {name: _build(hints[name], item, f"{where}.{name}") for name, item in value.items() if name in hints}
    try:
        return kind(**values)
    except TypeError as exc:
        raise ValueError(f"{where}: {exc}") from exc


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of the record's fields, worked out once: a recording has thousands of each."""
    hints = typing.get_type_hints(kind, vars(model))
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
