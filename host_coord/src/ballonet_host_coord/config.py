"""The operator's settings: TOML and its drop-ins in, checked `model.Settings` out, or every fault at once.

Three steps, each complete before the next: *load* reads the files and merges them (a drop-in's key replaces the
same key of an earlier file, and each key remembers its file), *normalize* turns texts into values by the tables
below, *validate* checks values against each other. A fault never stops the search for further ones, and nothing
is touched before all three have passed.

    [host]        budget reserve headroom slider report_ms stop_policy control control_group state record
    [demand]      model
    [defaults]    what every guest has that does not say otherwise: any guest key but qmp and channel
    [guest.NAME]  qmp channel minimum startup maximum weight buffer overhead
                  shrink_without_deflate_on_oom start_when_it_fits

`startup` that nobody gives is the maximum: a guest then boots as it would without ballonet. A guest without
`channel` is judged by its balloon's statistics alone.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from ballonet_protocol.limits import REPORT_LEAST_MS, REPORT_MOST_MS
from ballonet_protocol.units import parse_size

from .booking import budget_kib, headroom_kib
from .model import DemandModel, GuestSettings, HostSettings, Settings, StopPolicy
from .ports import HostMemory
from .slider import MOST_SLIDER

DEFAULT_PATH = "/etc/ballonet/coordinator.toml"
MOST_SOCKET_PATH_BYTES = 107
"""sockaddr_un has 108 with the closing zero."""

SIZE = 'a size in quotes with its unit, such as "512M" or "2GiB"'
SOCKET = f"the absolute path of a socket, of 1 to {MOST_SOCKET_PATH_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what stands there, what may."""

    file: str
    key: str
    value: str
    allowed: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        stands = f" = {self.value}" if self.value else ""
        return f"{place}{stands}: {self.allowed}"


class ConfigError(Exception):
    """The settings cannot be used. `faults` holds everything that is wrong with them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class TomlSettings:
    """The settings port over `path` and, beside it, `NAME.d/*.toml` in alphabetic order."""

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_PATH, host: HostMemory | None = None) -> None:
        """With a `host`, a budget that the settings leave to it is checked like one that they name."""
        self.path = Path(path)
        self._host = host
        self.warnings: tuple[str, ...] = ()
        """What the last `load` found odd but usable."""

    def load(self) -> Settings:
        """Read everything anew. Raises ConfigError with all faults; then `warnings` is as it was. PortError where the
        host does not tell its memory."""
        files = [self.path, *sorted(self.path.with_suffix(".d").glob("*.toml"))]
        checker = _Checker()
        tree = _Tree(checker)
        for file in files:
            tree.merge(file)
        settings = _normalize(tree, checker)
        total_kib = settings.host.budget_kib
        if total_kib is None and self._host is not None:
            total_kib = budget_kib(settings.host, self._host.facts())
        _validate(settings, total_kib, tree, checker)
        if checker.faults:
            raise ConfigError(checker.faults)
        self.warnings = tuple(_odd(settings, total_kib))
        return settings


@dataclass(slots=True)
class _Checker:
    faults: list[Fault] = field(default_factory=list)

    def fault(self, file: str, key: str, value: object, allowed: str) -> None:
        self.faults.append(Fault(file, key, value if isinstance(value, str) else _toml(value), allowed))


# --- load -----------------------------------------------------------------------------------------------


class _Section(NamedTuple):
    kind: str
    guest: str = ""

    def __str__(self) -> str:
        return f"[{self.kind}.{_toml_key(self.guest)}]" if self.guest else f"[{self.kind}]"


HOST, DEMAND, DEFAULTS = _Section("host"), _Section("demand"), _Section("defaults")
SECTIONS = ("host", "demand", "defaults", "guest")


@dataclass(slots=True)
class _Tree:
    """All files as one: section -> key -> value, and the file that said it last."""

    checker: _Checker
    sections: dict[_Section, dict[str, Any]] = field(default_factory=lambda: {HOST: {}, DEMAND: {}, DEFAULTS: {}})
    said_by: dict[tuple[_Section, str], str] = field(default_factory=dict)
    first_file: str = ""

    def merge(self, path: Path) -> None:
        file = str(path)
        self.first_file = self.first_file or file
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.checker.fault(file, "", "", f"cannot be read: {error.strerror}")
            return
        except UnicodeDecodeError as error:
            self.checker.fault(file, "", "", f"is not UTF-8 text (byte {error.start}); TOML must be")
            return
        except tomllib.TOMLDecodeError as error:
            self.checker.fault(file, "", "", f"is not TOML: {error}")
            return
        for name, content in document.items():
            if name not in SECTIONS:
                hint = _did_you_mean(name, SECTIONS)
                allowed = f"unknown{hint}; sections are [host], [demand], [defaults], [guest.NAME]"
                self.checker.fault(file, name, "", allowed)
            elif not isinstance(content, dict):
                self.checker.fault(file, name, content, f"must be a section, written [{name}]")
            elif name != "guest":
                self._section(file, _Section(name), content)
            else:
                for guest, keys in content.items():
                    self._guest(file, guest, keys)

    def _guest(self, file: str, guest: str, keys: object) -> None:
        section = _Section("guest", guest)
        if not isinstance(keys, dict):
            self.checker.fault(file, f"[guest] {_toml_key(guest)}", keys, "must be a section, written [guest.NAME]")
        elif not guest.strip() or not guest.isprintable():
            allowed = "a name has at least one letter and no control characters"
            self.checker.fault(file, f"[guest.{_toml_key(guest)}]", "", allowed)
        else:
            self._section(file, section, keys)

    def _section(self, file: str, section: _Section, keys: Mapping[str, Any]) -> None:
        self.sections.setdefault(section, {}).update(keys)
        for key in keys:
            self.said_by[section, key] = file

    def file_of(self, section: _Section, key: str) -> str:
        """The file that said it, or the first file for what nobody said."""
        return self.said_by.get((section, key)) or next(
            (file for (name, _), file in self.said_by.items() if name == section), self.first_file
        )


# --- normalize ------------------------------------------------------------------------------------------


class _Wrong(Exception):
    """A value is not what its key allows. The text says what is."""


def _size(value: object, least_kib: int = 1) -> int:
    if not isinstance(value, str):
        raise _Wrong(f"allowed is {SIZE}")
    try:
        kib = parse_size(value)
    except ValueError as error:
        raise _Wrong(f"allowed is {SIZE}") from error
    if kib < least_kib:
        raise _Wrong(f"allowed is at least {least_kib} KiB")
    return kib


def _size_or_nothing(value: object) -> int:
    return _size(value, least_kib=0)


def _whole(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        # bool is an int in Python and is none in TOML.
        if type(value) is not int or not least <= value <= most:
            raise _Wrong(f"allowed is a whole number from {least} to {most}")
        return value

    return read


def _yes_or_no(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("allowed is true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Wrong("allowed is a text in quotes, not empty, without control characters")
    return value


def _path(value: object) -> str:
    text = _text(value)
    if not text.startswith("/"):
        raise _Wrong("allowed is an absolute path")
    return os.path.normpath(text)


def _socket(value: object) -> str:
    try:
        path = _path(value)
    except _Wrong as error:
        raise _Wrong(f"allowed is {SOCKET}") from error
    if len(os.fsencode(path)) > MOST_SOCKET_PATH_BYTES:
        raise _Wrong(f"allowed is {SOCKET}; this has {len(os.fsencode(path))}")
    return path


def _one_of(words: type[StrEnum]) -> Callable[[object], StrEnum]:
    def read(value: object) -> StrEnum:
        allowed = [word.value for word in words]
        if value not in allowed:
            raise _Wrong("allowed is " + " or ".join(f'"{word}"' for word in allowed))
        return words(value)

    return read


_Table = Mapping[str, tuple[str, Callable[[object], Any]]]

HOST_KEYS: _Table = {
    "budget": ("budget_kib", _size),
    "reserve": ("reserve_kib", _size_or_nothing),
    "headroom": ("headroom_kib", _size_or_nothing),
    "slider": ("slider", _whole(0, MOST_SLIDER)),
    "report_ms": ("report_ms", _whole(REPORT_LEAST_MS, REPORT_MOST_MS)),
    "stop_policy": ("stop_policy", _one_of(StopPolicy)),
    "control": ("control_path", _socket),
    "control_group": ("control_group", _text),
    "state": ("state_path", _path),
    "record": ("record_path", _path),
}
DEMAND_KEYS: _Table = {"model": ("demand_model", _one_of(DemandModel))}
DEFAULT_KEYS: _Table = {
    "minimum": ("minimum_kib", _size),
    "startup": ("startup_kib", _size),
    "maximum": ("maximum_kib", _size),
    "weight": ("weight", _whole(1, 10000)),
    "buffer": ("buffer_percent", _whole(0, 1000)),
    "overhead": ("overhead_kib", _size_or_nothing),
    "shrink_without_deflate_on_oom": ("shrink_without_deflate_on_oom", _yes_or_no),
    "start_when_it_fits": ("start_when_it_fits", _yes_or_no),
}
GUEST_KEYS: _Table = {"qmp": ("qmp_path", _socket), "channel": ("channel_path", _socket), **DEFAULT_KEYS}
NEEDED_GUEST_KEYS = ("qmp", "minimum", "maximum")


def _values(tree: _Tree, section: _Section, table: _Table, checker: _Checker) -> dict[str, Any]:
    """The section's keys as attributes of the model. What is at fault is left out."""
    values: dict[str, Any] = {}
    for key, raw in tree.sections[section].items():
        if key not in table:
            hint = _did_you_mean(key, table)
            allowed = f"unknown{hint}; keys are {', '.join(table)}"
            checker.fault(tree.file_of(section, key), f"{section} {key}", _toml(raw), allowed)
            continue
        attribute, read = table[key]
        try:
            values[attribute] = read(raw)
        except _Wrong as error:
            checker.fault(tree.file_of(section, key), f"{section} {key}", _toml(raw), str(error))
    return values


def _normalize(tree: _Tree, checker: _Checker) -> Settings:
    """Settings of everything that could be read; a guest that lacks something needed is left out."""
    host = replace(
        HostSettings(),
        **_values(tree, HOST, HOST_KEYS, checker),
        **_values(tree, DEMAND, DEMAND_KEYS, checker),
    )
    defaults = _values(tree, DEFAULTS, DEFAULT_KEYS, checker)
    guests = []
    for section in tree.sections:
        if section.kind != "guest":
            continue
        values = {**defaults, **_values(tree, section, GUEST_KEYS, checker)}
        given = {*tree.sections[section], *tree.sections[DEFAULTS]}
        for key in NEEDED_GUEST_KEYS:
            if key not in given:
                where = f"{section} or [defaults]" if key in DEFAULT_KEYS else section
                allowed = f"is missing; allowed is {SIZE if key in DEFAULT_KEYS else SOCKET}"
                checker.fault(tree.file_of(section, key), f"{where} {key}", "", allowed)
        if all(GUEST_KEYS[key][0] in values for key in NEEDED_GUEST_KEYS):
            values.setdefault("startup_kib", values["maximum_kib"])
            guests.append(GuestSettings(name=section.guest, **values))
    return Settings(host, tuple(guests))


# --- validate -------------------------------------------------------------------------------------------


def _validate(settings: Settings, total_kib: int | None, tree: _Tree, checker: _Checker) -> None:
    for guest in settings.guests:
        section = _Section("guest", guest.name)

        def said(key: str, section: _Section = section) -> tuple[str, str]:
            by = section if (section, key) in tree.said_by else DEFAULTS
            return tree.file_of(by, key), f"{section} {key}"

        if guest.minimum_kib > guest.maximum_kib:
            checker.fault(*said("minimum"), _exact(guest.minimum_kib), _at_most("maximum", guest.maximum_kib))
        elif guest.startup_kib < guest.minimum_kib:
            allowed = f"allowed is at least the minimum, {_exact(guest.minimum_kib)}"
            checker.fault(*said("startup"), _exact(guest.startup_kib), allowed)
        elif guest.startup_kib > guest.maximum_kib:
            checker.fault(*said("startup"), _exact(guest.startup_kib), _at_most("maximum", guest.maximum_kib))
    least_kib = least_budget_kib(settings)
    if total_kib is not None and total_kib < least_kib:
        allowed = (
            f"allowed is at least {_exact(least_kib)}: the headroom, and of each guest the minimum and the overhead"
        )
        stands = _exact(total_kib)
        if settings.host.budget_kib is None:
            stands += f" (not set: this host's memory less the reserve of {_exact(settings.host.reserve_kib)})"
        checker.fault(tree.file_of(HOST, "budget"), "[host] budget", stands, allowed)
    _validate_sockets(settings, tree, checker)


def _validate_sockets(settings: Settings, tree: _Tree, checker: _Checker) -> None:
    """No socket has two uses: a monitor and a channel each serve one client, and the second hears nothing."""
    used: dict[str, str] = {os.path.realpath(settings.host.control_path): "[host] control"}
    for guest in settings.guests:
        section = _Section("guest", guest.name)
        for key, path in (("qmp", guest.qmp_path), ("channel", guest.channel_path)):
            if not path:
                continue
            first = used.setdefault(os.path.realpath(path), f"{section} {key}")
            if first != f"{section} {key}":
                allowed = f"is the socket of {first} already; each needs its own"
                checker.fault(tree.file_of(section, key), f"{section} {key}", _toml(path), allowed)


def least_budget_kib(settings: Settings) -> int:
    """What the budget must hold at least: the headroom, and every guest's minimum and overhead."""
    guests_kib = sum(guest.minimum_kib + guest.overhead_kib for guest in settings.guests)
    return guests_kib + headroom_kib(settings.host, guests_kib)


def _odd(settings: Settings, total_kib: int | None) -> Iterable[str]:
    if not settings.guests:
        yield "no guest is named: there is nothing to do; add [guest.NAME] sections"
    if total_kib is None:
        return
    for guest in settings.guests:
        needs_kib = guest.maximum_kib + guest.overhead_kib + headroom_kib(settings.host, total_kib)
        if needs_kib > total_kib:
            yield (
                f"{_Section('guest', guest.name)} can never start where its RAM is its maximum: that, overhead and "
                f"headroom are {_exact(needs_kib)}, the budget is {_exact(total_kib)}"
            )


# --- words ----------------------------------------------------------------------------------------------


def _at_most(what: str, kib: int) -> str:
    return f"allowed is at most the {what}, {_exact(kib)}"


_UNITS = ((1024 * 1024, "GiB"), (1024, "MiB"), (1, "KiB"))


def _exact(kib: int) -> str:
    """A size that compares: 1025 MiB is not rounded to the 1 GiB that it exceeds."""
    unit_kib, unit = next((size, name) for size, name in _UNITS if kib % size == 0)
    return f"{kib // unit_kib} {unit}"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _toml(value: object) -> str:
    """The value as it may stand in the file, short enough for a line."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if not isinstance(value, str) else '"' + "".join(_visible(c) for c in value) + '"'
    return text if len(text) <= 60 else text[:57] + "..."


def _toml_key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _toml(name)


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
