"""The keys of the settings: which there are, what each allows, and how a fault names a value.

A reader takes what TOML gave and returns what the model holds; it raises `Wrong` with what is allowed. The same tables
read a libvirt domain's metadata and the command line, through `from_text`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from posixpath import normpath
from typing import Any

from ballonet_protocol.limits import REPORT_LEAST_MS, REPORT_MOST_MS
from ballonet_protocol.units import parse_size

from .model import DemandModel, Enforce, StopPolicy
from .slider import MOST_SLIDER

MOST_SOCKET_PATH_BYTES = 107
"""sockaddr_un has 108 with the closing zero."""

SIZE = 'a size in quotes with its unit, such as "512M" or "2GiB"'
SOCKET = f"the absolute path of a socket, of 1 to {MOST_SOCKET_PATH_BYTES} bytes"


class Wrong(Exception):
    """A value is not what its key allows. The text says what is."""


def read_size(value: object, least_kib: int = 1) -> int:
    if not isinstance(value, str):
        raise Wrong(f"allowed is {SIZE}")
    try:
        kib = parse_size(value)
    except ValueError as error:
        raise Wrong(f"allowed is {SIZE}") from error
    if kib < least_kib:
        raise Wrong(f"allowed is at least {least_kib} KiB")
    return kib


def read_size_or_nothing(value: object) -> int:
    return read_size(value, least_kib=0)


def whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        # bool is an int in Python and is none in TOML.
        if type(value) is not int or not least <= value <= most:
            raise Wrong(f"allowed is a whole number from {least} to {most}")
        return value

    return read


def read_yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong("allowed is true or false")
    return value


def read_text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Wrong("allowed is a text in quotes, not empty, without control characters")
    return value


def read_texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise Wrong('allowed is a list of texts, such as ["web*", "db1"]')
    return tuple(read_text(text) for text in value)


def read_path(value: object) -> str:
    text = read_text(value)
    if not text.startswith("/"):
        raise Wrong("allowed is an absolute path")
    return normpath(text)


def read_socket(value: object) -> str:
    try:
        path = read_path(value)
    except Wrong as error:
        raise Wrong(f"allowed is {SOCKET}") from error
    if len(path.encode()) > MOST_SOCKET_PATH_BYTES:
        raise Wrong(f"allowed is {SOCKET}; this has {len(path.encode())}")
    return path


def one_of(words: type[StrEnum]) -> Callable[[object], StrEnum]:
    def read(value: object) -> StrEnum:
        allowed = [word.value for word in words]
        if value not in allowed:
            raise Wrong("allowed is " + " or ".join(f'"{word}"' for word in allowed))
        return words(value)

    return read


Table = Mapping[str, tuple[str, Callable[[object], Any]]]
"""Key of the file -> attribute of the model and reader."""

HOST_KEYS: Table = {
    "budget": ("budget_kib", read_size),
    "reserve": ("reserve_kib", read_size_or_nothing),
    "headroom": ("headroom_kib", read_size_or_nothing),
    "slider": ("slider", whole(0, MOST_SLIDER)),
    "report_ms": ("report_ms", whole(REPORT_LEAST_MS, REPORT_MOST_MS)),
    "stop_policy": ("stop_policy", one_of(StopPolicy)),
    "observe": ("observe", read_yes_or_no),
    "control": ("control_path", read_socket),
    "control_group": ("control_group", read_text),
    "state": ("state_path", read_path),
    "record": ("record_path", read_path),
}
DEMAND_KEYS: Table = {"model": ("demand_model", one_of(DemandModel))}
LIBVIRT_KEYS: Table = {"uri": ("libvirt_uri", read_text), "domains": ("libvirt_domains", read_texts)}
DEFAULT_KEYS: Table = {
    "minimum": ("minimum_kib", read_size),
    "startup": ("startup_kib", read_size),
    "maximum": ("maximum_kib", read_size),
    "weight": ("weight", whole(1, 10000)),
    "buffer": ("buffer_percent", whole(0, 1000)),
    "overhead": ("overhead_kib", read_size_or_nothing),
    "shrink_without_deflate_on_oom": ("shrink_without_deflate_on_oom", read_yes_or_no),
    "start_when_it_fits": ("start_when_it_fits", read_yes_or_no),
    "enforce": ("enforce", one_of(Enforce)),
}
GUEST_KEYS: Table = {"qmp": ("qmp_path", read_socket), "channel": ("channel_path", read_socket), **DEFAULT_KEYS}


def from_text(table: Table, key: str, untrusted_text: str) -> Any:
    """A key's value from a text that knows no types: an XML attribute or a word of the command line. Raises Wrong."""
    if key not in table:
        raise Wrong(f"unknown{did_you_mean(key, table)}; keys are {', '.join(table)}")
    read = table[key][1]
    try:
        return read(untrusted_text)
    except Wrong as wrong:
        value: object = {"true": True, "false": False, "yes": True, "no": False}.get(untrusted_text)
        if value is None and untrusted_text.isascii() and untrusted_text.isdigit() and len(untrusted_text) <= 20:
            value = int(untrusted_text)
        if value is None:
            raise Wrong(str(wrong)) from None
        return read(value)


# --- words ----------------------------------------------------------------------------------------------


def at_most(what: str, kib: int) -> str:
    return f"allowed is at most the {what}, {exact(kib)}"


_UNITS = ((1024 * 1024, "GiB"), (1024, "MiB"), (1, "KiB"))


def exact(kib: int) -> str:
    """A size that compares: 1025 MiB is not rounded to the 1 GiB that it exceeds."""
    unit_kib, unit = next((size, name) for size, name in _UNITS if kib % size == 0)
    return f"{kib // unit_kib} {unit}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def as_toml(value: object) -> str:
    """The value as it may stand in the file, short enough for a line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        text = '"' + "".join(_visible(c) for c in value) + '"'
    else:
        try:
            text = repr(value)
        except ValueError:  # Python writes out no number of thousands of digits, and TOML reads one from 0x...
            text = "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."


def as_toml_key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else as_toml(name)


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
